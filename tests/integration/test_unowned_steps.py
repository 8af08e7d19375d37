"""A saga that waits past its deadline for a step that nobody owns is FAILED, and goes on once somebody answers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from unittest.mock import Mock, patch
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from consumers import Participant
from consumers.saga_log import owner_watch
from consumers.saga_log.owner_watch import OwnerWatch
from consumers.saga_log.processor import SagaLog
from consumers.saga_log.rules import Rules
from consumers.viewing import diagnosis
from infra.kafka_clients import MappedConsumer
from infra.settings import Settings
from sagas.trade import trade
from schemas.lifecycle import SkipRequested, StepBarred, StepUnowned
from schemas.message import Event
from tests.integration.saga_log_rig import Rig, open_rig, ready
from tests.integration.test_deadlines import replayed
from tests.sagas import Filled, Held, OrderAsked, Placed, Unheld, Unplaced
from tests.waiting import until

pytestmark = pytest.mark.stack
START = OrderAsked(idempotency_key="k", account="A")
ALL = ("hold", "place", "fill", "settle")


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

    async def look(self) -> None:
        """Look once for steps without an owner."""
        with patch.object(owner_watch, "registered_owners", return_value=[self.owner]):
            await self.watch.look()

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
                patch.object(diagnosis, "registered_owners", return_value=[watched.owner]),
            ):
                async with rig.pool.acquire() as sql:
                    found = await diagnosis.diagnose(sql, watched.settings, row)
            assert "unanswered, and owned by nobody: place" in found["summary"]
            assert [(each["step"], each["service"]) for each in found["waits_for"]] == [("place", None)]
            await watched.look()
            await rig.say(saga_id, StepBarred(step="place"))
            await rig.reached(saga_id, "COMPENSATING")
            await rig.say(saga_id, Unheld())
            await rig.reached(saga_id, "ABORTED")
            assert await watched.told(saga_id) == 1
    alerts = [each for each in logs if each["event"] == "saga failed: a person is needed"]
    assert ["owned by nobody: place" in each["stands"] for each in alerts] == [True]
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


@pytest.mark.parametrize("known", ["here", "by a lane", "by its offsets"])
async def test_a_step_that_may_have_an_owner_is_waited_for(rig: Rig, known: str) -> None:
    """Registered here, or a group that is not and has worked on the commands: it may be down, and the saga waits."""
    watched = Watched(rig, ALL if known == "here" else ["hold"])
    group, topic = f"{rig.saga.name}-stranger", rig.topic("commands")
    if known == "by a lane":
        await rig.pool.execute('INSERT INTO lane ("group", topic, partition) VALUES ($1, $2, 0)', group, topic)
    if known == "by its offsets":
        consumer = MappedConsumer(rig.kafka, group=group, enable_auto_commit=False)
        await consumer.start()
        consumer.assign([(topic, 0)])
        await consumer.commit({(topic, 0): 0}, "")
        await consumer.stop()
    async with rig.running(watched.log) as worker:
        await ready(worker)
        saga_id = await watched.overdue(Held())
        await watched.look()
        await rig.say(saga_id, Held())
        await rig.recorded(4)
        await rig.reached(saga_id, "COMPENSATING")
        assert await watched.told(saga_id) == 0


async def test_every_step_of_the_trade_has_an_owner(rig: Rig) -> None:
    """The shipped participants are found as they are installed, without a venue or a stack."""
    rules = Rules(trade)
    settings = Settings(kafka=rig.kafka, database_url=SecretStr(rig.url))
    assert await OwnerWatch(settings, rig.pool, rules, SagaLog(rules)).find_unowned() == ()


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

    monkeypatch.setattr(owner_watch, "INTERVAL", 0.0)
    monkeypatch.setattr(watched.watch, "look", look)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await watched.watch.run()
    assert [each["event"] for each in logs] == ["owners of steps cannot be looked for"]
