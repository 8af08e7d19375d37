"""A saga that waits past its deadline for a step that nobody owns is FAILED, and goes on once somebody answers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any
from unittest.mock import Mock, patch
from uuid import UUID, uuid4

import pytest
from aiokafka.abc import ConsumerRebalanceListener
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.integration.consumers.saga_log.rig import Rig, open_rig, ready
from tests.integration.consumers.saga_log.test_deadlines import replayed
from tests.sagas import Filled, Held, OrderAsked, Placed, Settled, Unheld, Unplaced, headers_of
from tests.waiting import until
from tradesaga.consumers import Participant
from tradesaga.consumers.queries import diagnosis
from tradesaga.consumers.saga_log import service, store
from tradesaga.consumers.saga_log.commands import UnownedSteps
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.service import OwnerWatch
from tradesaga.infra.kafka.connections import MappedConsumer
from tradesaga.infra.settings import Settings
from tradesaga.sagas.definition import saga
from tradesaga.sagas.step import step
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages.lifecycle import ParkReleased, SkipRequested, StepBarred, StepUnowned
from tradesaga.schemas.messages.message import Event

pytestmark = pytest.mark.stack
START = OrderAsked(idempotency_key="k", account="A")
ALL = ("hold", "place", "fill", "settle")
MANY = 2200


@pytest.fixture
async def rig(kafka: str, database_url: str) -> AsyncIterator[Rig]:
    """Give a saga with topics and a database of its own, and a second to end."""
    async with open_rig(kafka, database_url, timedelta(seconds=1)) as rig:
        yield rig


class Watched:
    """A saga log, and a watch that knows of owners for these steps alone."""

    def __init__(self, rig: Rig, owned: Sequence[str], grace: float = 0) -> None:
        self.rig = rig
        self.log = SagaLog(rig.rules)
        self.settings = Settings(kafka=rig.kafka, database_url=SecretStr(rig.url), unowned_seconds=grace)
        self.owner = Participant("owner", rig.saga)
        self.owner.bindings |= dict.fromkeys(owned, Mock())
        self.watch = OwnerWatch(self.settings, rig.pool, rig.rules, self.log)

    async def look(self, times: int = 1) -> None:
        """Look for steps without an owner, so often at once."""
        with patch.object(service, "registered_participants", return_value=[self.owner]):
            await asyncio.gather(*(self.watch.look() for _ in range(times)))

    async def overdue(self, *said: Event) -> UUID:
        """Start a saga that comes as far as this, and wait for its deadline."""
        saga_id = uuid4()
        for event in (START, *said):
            await self.rig.say(saga_id, event)

        async def elapsed() -> bool:
            row = await self.rig.saga_row(saga_id)
            return row is not None and b'"overdue":true' in row["progress"]

        await until(elapsed)
        return saga_id

    async def told(self, saga_id: UUID) -> int:
        """Return how many facts say that a step has no owner."""
        named = f"{self.rig.saga.name}.step-unowned.v1"
        return sum(each["event_type"] == named for each in await self.rig.events(saga_id))


async def test_a_saga_that_waits_for_nobody_fails_with_an_alert_and_goes_on_when_answered(rig: Rig) -> None:
    """The alert and `why` name the step; nothing is taken back before it is settled; an owner that comes is heard."""
    watched = Watched(rig, ["hold", "fill", "settle"])
    with capture_logs() as logs:
        async with rig.running(watched.log) as worker:
            await ready(worker)
            saga_id = await watched.overdue(Held())
            await rig.reached(saga_id, "COMPENSATING")
            await watched.look()
            row = await rig.reached(saga_id, "FAILED")
            assert [each.headers["ts_step"] for each in await rig.read("commands", 1)] == [b"place"]
            with (
                patch.object(diagnosis, "find_saga", return_value=rig.saga),
                patch.object(diagnosis, "registered_participants", return_value=[watched.owner]),
            ):
                async with rig.pool.acquire() as sql:
                    found = await diagnosis.diagnose(sql, watched.settings, row)
            assert "unanswered and unowned: place" in found["summary"]
            assert [(each["step"], each["service"]) for each in found["waits_for"]] == [("place", None)]
            await watched.look()
            await rig.say(saga_id, StepBarred(step="place"))
            await rig.reached(saga_id, "COMPENSATING")
            await rig.say(saga_id, Unheld())
            await rig.reached(saga_id, "ABORTED")
            assert await watched.told(saga_id) == 1
    alerts = [each for each in logs if each["event"] == "saga failed: a person is needed"]
    assert ["unowned: place" in each["stands"] for each in alerts] == [True]
    assert (await replayed(rig)).differing == 0


async def test_a_late_success_of_such_a_step_is_taken_back(rig: Rig) -> None:
    """FAILED forgets nothing: what was done after all is compensated before what it stands on."""
    watched = Watched(rig, ["hold"])
    async with rig.running(watched.log) as worker:
        await ready(worker)
        saga_id = await watched.overdue(Held())
        await watched.look()
        await rig.reached(saga_id, "FAILED")
        await rig.say(saga_id, Placed())
        await rig.reached(saga_id, "COMPENSATING")
        for answer in (StepBarred(step="fill"), Unplaced(), Unheld()):
            await rig.say(saga_id, answer)
        await rig.reached(saga_id, "ABORTED")
        kinds = [each.headers["ce_type"].split(b".")[1] for each in await rig.read("commands", 4)]
        assert kinds == [b"bar", b"bar", b"unplace", b"unhold"]
    assert (await replayed(rig)).differing == 0


async def test_past_the_pivot_a_step_that_must_succeed_fails_its_saga_until_it_does(rig: Rig) -> None:
    """Nobody is barred; a saga whose last step has an owner goes on beside it."""
    watched = Watched(rig, ["hold", "place", "fill"])
    async with rig.running(watched.log) as worker:
        await ready(worker)
        saga_id = await watched.overdue(Held(), Placed(), Filled())
        waiting = await watched.overdue(Held(), Placed())
        await watched.look()
        await rig.reached(saga_id, "FAILED")
        assert (await rig.reached(waiting, "COMPENSATING"))["state"]
        assert await watched.told(waiting) == 0


async def test_a_person_may_go_on_without_it(rig: Rig) -> None:
    """`skip` vouches that the step has not happened; what was done is taken back, and nothing is left for a person."""
    watched = Watched(rig, ["hold"])
    async with rig.running(watched.log) as worker:
        await ready(worker)
        saga_id = await watched.overdue(Held())
        await watched.look()
        await rig.reached(saga_id, "FAILED")
        await rig.say(saga_id, SkipRequested(operator="ann", reason="never deployed", step="place"))
        await rig.reached(saga_id, "COMPENSATING")
        await rig.say(saga_id, Unheld())
        await rig.reached(saga_id, "ABORTED")
    assert (await replayed(rig)).differing == 0


@asynccontextmanager
async def stranger(rig: Rig, trace: str) -> AsyncGenerator[None]:
    """Leave a trace on the commands of a group that is not registered, while the context is open."""
    group, topic = f"{rig.saga.name}-stranger", rig.topic("commands")
    if trace not in OFFSETS:
        days, offset = LANES[trace]
        await rig.pool.execute(
            'INSERT INTO lane ("group", topic, partition, next_offset, claimed_at)'
            " VALUES ($1, $2, 0, $3, now() - make_interval(days => $4))",
            group, topic, offset, days,
        )  # fmt: skip
        yield
        return
    consumer = MappedConsumer(rig.kafka, group=group)
    await consumer.start()

    async def assigned() -> bool:
        return bool(consumer.assignment())

    try:
        consumer.subscribe([topic], Mock(spec=ConsumerRebalanceListener))
        await until(assigned)
        await consumer.commit({(topic, 0): OFFSETS[trace]}, "")
        if trace == "a member":
            yield
    finally:
        await consumer.stop()
    if trace != "a member":
        yield


LANES = {"a new lane": (0, 0), "a lane that moved": (2, 1), "an old lane": (2, 0)}
"""Days since it was claimed, and its offset."""
OFFSETS = {"a member": 0, "offsets that moved": 1, "old offsets": 0}
AT_WORK = ("a new lane", "a lane that moved", "a member", "offsets that moved")
GONE = ("an old lane", "old offsets")


@pytest.mark.parametrize("known", ["here", *AT_WORK])
async def test_a_step_that_may_have_an_owner_is_waited_for(rig: Rig, known: str) -> None:
    """Registered here, or a group that is not and is at work on the commands: it may be down, and the saga waits."""
    watched = Watched(rig, ALL if known == "here" else ["hold"])
    await rig.put(rig.topic("commands"), await _key_of_partition(rig, 0), b"", [])
    trace = nullcontext() if known == "here" else stranger(rig, known)
    async with rig.running(watched.log) as worker, trace:
        await ready(worker)
        saga_id = await watched.overdue(Held())
        with capture_logs() as logs:
            await watched.look()
        named = [each["groups"] for each in logs if "groups" in each]
        assert named == ([] if known == "here" else [f"{rig.saga.name}-stranger"])
        await rig.say(saga_id, Held())
        await rig.recorded(4)
        await rig.reached(saga_id, "COMPENSATING")
        assert await watched.told(saga_id) == 0


@pytest.mark.parametrize("left", GONE)
async def test_what_a_removed_service_or_a_stranger_left_long_ago_is_no_owner(rig: Rig, left: str) -> None:
    """Neither a lane nor offsets hold a saga back once nobody has been at work for a day."""
    watched = Watched(rig, ["hold"])
    async with rig.running(watched.log) as worker, stranger(rig, left):
        await ready(worker)
        saga_id = await watched.overdue(Held())
        await watched.look()
        await rig.reached(saga_id, "FAILED")


async def _key_of_partition(rig: Rig, partition: int) -> bytes:
    return next(str(each).encode() for each in iter(uuid4, None) if rig.rules.home(each) == partition)


async def test_where_every_step_is_bound_no_saga_is_looked_for(rig: Rig) -> None:
    """A healthy system pays nothing for the watch, however many sagas are open."""
    watched = Watched(rig, ALL)
    with patch.object(store, "find_late", side_effect=AssertionError):
        await watched.look()


async def test_a_saga_of_steps_that_must_succeed_fails_though_nothing_of_it_has_happened(
    kafka: str, database_url: str
) -> None:
    """It is past its pivot from the start, and IDLE while nobody owns its first step."""
    name = f"small-{uuid4().hex[:8]}"
    firm = (
        saga(name, version=1, deadline=timedelta(seconds=1))
        .then(step("hold", on=OrderAsked, emits=Held))
        .then(step("settle", on=Held, emits=Settled))
    )
    async with open_rig(kafka, database_url, saga=firm) as rig:
        watched = Watched(rig, ["settle"])
        async with rig.running(watched.log) as worker:
            await ready(worker)
            saga_id = await watched.overdue()
            assert (await rig.reached(saga_id, "IDLE"))["state"]
            await watched.look()
            await rig.reached(saga_id, "FAILED")
            await rig.say(saga_id, Held())
            await rig.reached(saga_id, "RUNNING")


async def test_a_saga_whose_records_wait_is_not_told_again_and_again(rig: Rig) -> None:
    """The fact would wait behind them; once they are released the saga is told, once."""
    watched = Watched(rig, ["hold"])
    async with rig.running() as worker:
        await ready(worker)
        saga_id = await watched.overdue(Held())
    # As a release left it in which a deadline let no record pass: what comes now waits behind one that is parked.
    progress = (await rig.reached(saga_id, "COMPENSATING"))["progress"]
    blocked = progress.replace(b',"unblocked":true', b"")
    assert blocked != progress
    await rig.pool.execute("UPDATE saga SET progress = $1", blocked)
    async with rig.running(watched.log) as worker:
        await ready(worker)
        await rig.put(rig.topic("events"), str(saga_id).encode(), b"x", headers_of(rig.saga, Placed(), saga_id))
        await rig.recorded(4)
        row = await rig.pool.fetchrow('SELECT topic, partition, "offset" FROM parked')
        assert row is not None
        for _ in range(3):
            await watched.look()
        assert await rig.pool.fetchval("SELECT count(*) FROM parked") == 1
        assert await watched.told(saga_id) == 0
        await rig.say(saga_id, ParkReleased(operator="ann", reason="damaged", action="discard", **dict(row)))
        await rig.recorded(5)
        for _ in range(2):
            await watched.look()
        await rig.reached(saga_id, "FAILED")
        assert await watched.told(saga_id) == 1
        assert await rig.pool.fetchval("SELECT count(*) FROM parked") == 1


async def test_many_late_sagas_are_told_a_page_at_a_time_and_each_once(rig: Rig) -> None:
    """No batch publishes more than a page, another saga begins meanwhile, and looks side by side repeat nothing."""
    watched = Watched(rig, ["hold"])
    sizes: list[int] = []
    emit = UnownedSteps.committed

    def committed(self: UnownedSteps, taken: Mapping[UUID, Sequence[str]], published: Any) -> None:
        sizes.append(len(taken))
        emit(self, taken, published)

    async with rig.running(watched.log) as worker:
        await ready(worker)
        first = await watched.overdue(Held())
        await copied(rig, first, MANY - 1)
        with patch.object(UnownedSteps, "committed", committed), capture_logs():
            looking = asyncio.create_task(watched.look(times=2))
            other = uuid4()
            await until(lambda: _reached(sizes, 1))
            await rig.say(other, START)
            await rig.reached(other, "IDLE")
            waiting = "SELECT count(*) FROM saga WHERE state = 'COMPENSATING' AND saga_id <> $1"
            assert await rig.pool.fetchval(waiting, other) > 0
            await looking
        assert await rig.pool.fetchval(waiting, other) == 0
        assert max(sizes) <= service.PAGE
        assert worker.health.restarts == 0
        named = f"{rig.saga.name}.step-unowned.v1"
        told = "SELECT count(*), count(DISTINCT saga_id) FROM saga_event WHERE event_type = $1 AND saga_id <> $2"
        assert tuple(await rig.pool.fetchrow(told, named, other) or ()) == (MANY, MANY)


async def _reached(sizes: Sequence[int], number: int) -> bool:
    return sum(map(bool, sizes)) >= number


async def copied(rig: Rig, saga_id: UUID, number: int) -> None:
    """Have so many more sagas stand as this one does."""
    lanes = "SELECT partition, id FROM lane WHERE topic = $1"
    homes = {row["partition"]: row["id"] for row in await rig.pool.fetch(lanes, rig.topic("events"))}
    columns = (
        "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns"
        " WHERE table_name = 'saga' AND column_name NOT IN ('saga_id', 'lane')"
    )
    names = await rig.pool.fetchval(columns)
    made = [uuid4() for _ in range(number)]
    await rig.pool.execute(
        f"INSERT INTO saga (saga_id, lane, {names}) SELECT k.id, k.lane, {names} FROM saga,"
        " unnest($2::uuid[], $3::int[]) AS k (id, lane) WHERE saga_id = $1",
        saga_id, made, [homes[rig.rules.home(each)] for each in made],
    )  # fmt: skip


async def test_every_step_of_the_trade_has_an_owner(rig: Rig) -> None:
    """The shipped participants are found as they are installed, without a venue or a stack."""
    rules = Rules(trade)
    settings = Settings(kafka=rig.kafka, database_url=SecretStr(rig.url))
    assert await OwnerWatch(settings, rig.pool, rules, SagaLog(rules)).find_unbound() == []


async def test_a_saga_waits_for_the_grace_after_its_deadline(rig: Rig) -> None:
    """And a word that comes before the deadline, whoever says it, is recorded and does not count."""
    watched = Watched(rig, ["hold"], grace=60)
    async with rig.running(watched.log) as worker:
        await ready(worker)
        early = uuid4()
        await rig.say(early, START)
        await rig.say(early, StepUnowned(step="hold", reason="x"), step="hold")
        saga_id = await watched.overdue(Held())
        await watched.look()
        await rig.say(saga_id, Held())
        await rig.recorded(7)
        assert await watched.told(saga_id) == 0
        forged = [each["error"] for each in await rig.events(early) if each["event_type"].endswith("step-unowned.v1")]
        assert [bool(error) for error in forged] == [True]
        await rig.reached(early, "COMPENSATING")


@pytest.mark.parametrize("failure", [ConnectionRefusedError("away"), ValueError("a team's own")])
async def test_the_watch_goes_on_after_what_fails(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """A server that is away, or a participant that cannot be made, is told; the next look comes all the same."""
    watched = Watched(rig, ["hold"])
    looks: list[BaseException | None] = [failure, None, asyncio.CancelledError()]

    async def look() -> None:
        if (raised := looks.pop(0)) is not None:
            raise raised

    monkeypatch.setattr(service, "INTERVAL", 0.0)
    monkeypatch.setattr(watched.watch, "look", look)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await watched.watch.run()
    assert [each["event"] for each in logs] == ["cannot look for the owners of steps"]
