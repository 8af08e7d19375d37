"""A definition is changed while its sagas are under way, and changed back: each ends under its own version."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import orjson
import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.e2e.sagas import Kit
from tests.e2e.versions import FIRST, SECOND, AskedAgain, Weighed, make_versions
from tests.keys import KEYS
from tests.waiting import until
from tradesaga.consumers.audit.replay.auditor import Auditor
from tradesaga.consumers.audit.replay.comparison import Comparison, ReplayReport
from tradesaga.consumers.audit.replay.state import Identity, ReplayState, file_for
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.saga_queries import SagaFilter, read_page, start_events
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import VERSION
from tradesaga.schemas.identity import saga_id as identify
from tradesaga.schemas.messages.lifecycle import AbortRequested, CompensationFailed, RetryRequested
from tradesaga.schemas.topics import starts_topic

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="module")]

LOCAL = {"book", "weigh", "pay", "close"}
"""Steps whose effect is a row."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with nothing running on it."""
    async with open_bench(stack.kafka, module_database_url) as bench:
        yield bench


async def deploy(bench: Bench, kit: Kit) -> None:
    """Stop all services and start those of another release."""
    await bench.stop()
    bench.kit = kit
    await bench.serve_all()
    await bench.run(Intake(kit.saga, KEYS)).ready()


async def knock(bench: Bench, key: str, start: type[m.Asked] = m.Asked, **plan: str) -> UUID:
    """Ask for a saga at the front door."""
    value = start(idempotency_key=key, account=key, plan=plan).to_wire()
    await (await bench.producer.send(starts_topic(bench.saga.name), key.encode(), value, []))
    return identify(bench.saga.name, key, key)


async def ended(bench: Bench, saga_id: UUID, version: int, state: str) -> asyncpg.Record:
    """Wait until a saga has ended, under this version and in this state, and give its row."""
    row = await bench.settled(saga_id, state)
    assert row["version"] == version
    return row


async def replayed(bench: Bench, path: Path | None = None) -> ReplayReport:
    """Replay the topic beside the database."""
    rules = Rules(bench.saga)
    sql = await asyncpg.connect(bench.url)
    try:
        async with TopicReader(bench.kafka) as topics:
            with ReplayState(path, Identity.of(rules, "c", "comparison"), rules) as replay_state:
                return await Comparison(sql, topics, rules, replay_state).run()
    finally:
        await sql.close()


async def audited(bench: Bench, path: Path) -> list[object]:
    """Give what an auditor finds that goes on from its file."""
    rules = Rules(bench.saga)
    sql = await asyncpg.connect(bench.url)
    try:
        async with TopicReader(bench.kafka) as topics:
            identity = Identity.of(rules, "c", "auditor")
            with ReplayState(file_for(path, identity), identity, rules) as replay_state:
                auditor = Auditor(rules, replay_state, topics, lap=0)
                return [each for _ in range(6) for each in (await auditor.look(sql)).fresh]
    finally:
        await sql.close()


async def start_waiting(bench: Bench, name: str, start: type[m.Asked]) -> dict[str, UUID]:
    """Bring sagas to every place in which one can wait while releases change."""
    held = identify(bench.saga.name, f"{name}-held", f"{name}-held")
    hold = "INSERT INTO hold (scope, key, operator, reason) VALUES ('saga', $1, 'eve', 'looking')"
    await bench.pool.execute(hold, str(held))
    sagas = {
        "held": await knock(bench, f"{name}-held", start),
        "waiting": await knock(bench, f"{name}-waiting", start, confirm="wait"),
        "unknown": await knock(bench, f"{name}-unknown", start, ship="dark:8"),
        "aborted": await knock(bench, f"{name}-aborted", start, confirm="wait"),
        "stuck": await knock(bench, f"{name}-stuck", start, ship="refuse", unpay="impossible"),
    }
    await bench.reaches(held, "book", RowStatus.RETRY)
    await bench.reaches(sagas["waiting"], "confirm", RowStatus.WAITING)
    await bench.reaches(sagas["aborted"], "confirm", RowStatus.WAITING)
    await bench.settled(sagas["unknown"], "COMPENSATING", "ABORTED")
    await bench.settled(sagas["stuck"], "FAILED")
    return sagas


async def finish(bench: Bench, sagas: dict[str, UUID], version: int) -> None:
    """Bring them to their ends, in which the release that runs now has no say."""
    steps = FIRST if version == 1 else SECOND
    await bench.pool.execute("DELETE FROM hold WHERE key = $1", str(sagas["held"]))
    await bench.say(sagas["waiting"], m.Report(report_id="r1", kind="done"), context=b"")
    for name in ("held", "waiting"):
        row = await ended(bench, sagas[name], version, "COMPLETED")
        assert orjson.loads(row["completed_steps"]) == list(steps)
        assert row["current_step_index"] == len(steps)
        assert [step for step, _ in await bench.effects(sagas[name])] == [s for s in steps if s in LOCAL]

    await bench.far.move(f"{sagas['aborted']}:ship", "lost")
    await bench.say(sagas["aborted"], AbortRequested(operator="eve", reason="a test"), context=b"")
    for name in ("aborted", "unknown"):
        await ended(bench, sagas[name], version, "ABORTED")
        undone = [step for step, direction in await bench.effects(sagas[name]) if direction == "back"]
        assert undone == [step for step in reversed(steps) if step in LOCAL and step != "close"]

    await bench.say(sagas["stuck"], RetryRequested(operator="eve", reason="again", step="pay"), context=b"")
    await bench.heard(sagas["stuck"], CompensationFailed, 2)
    await ended(bench, sagas["stuck"], version, "FAILED")


async def check_nothing_differs(bench: Bench, folder: Path) -> None:
    """See that a replay, one that goes on from before, and the auditor come to what the database has."""
    assert (await replayed(bench, folder / "replay.db")).differences == []
    assert (await replayed(bench)).differences == []
    assert await audited(bench, folder / "auditor.db") == []


async def check_nothing_was_parked(bench: Bench) -> None:
    """See that no record waited, was refused, or became a dead letter."""
    assert await bench.pool.fetchval("SELECT count(*) FROM parked") == 0
    assert await bench.pool.fetch("SELECT event_type, error FROM saga_event WHERE error IS NOT NULL") == []
    assert not [heard for heard in bench.tail.records if heard.topic.endswith(".dead-letters")]


async def test_a_release_with_a_second_version_and_the_way_back(bench: Bench, tmp_path: Path) -> None:
    """Sagas of both versions wait at every place while releases come and go: each ends under its own."""
    kits = make_versions(bench.saga.name, bench.far)
    await deploy(bench, kits["old"])
    first = await start_waiting(bench, "first", m.Asked)
    before = await knock(bench, "before")
    await ended(bench, before, 1, "COMPLETED")
    await check_nothing_differs(bench, tmp_path)

    await deploy(bench, kits["both"])
    second = await start_waiting(bench, "second", AskedAgain)
    assert await knock(bench, "before", AskedAgain) == before
    await finish(bench, first, 1)
    await check_nothing_differs(bench, tmp_path)

    await deploy(bench, kits["back"])
    await finish(bench, second, 2)
    await ended(bench, await knock(bench, "after"), 1, "COMPLETED")
    await check_nothing_differs(bench, tmp_path)

    await check_nothing_was_parked(bench)
    starts = await bench.pool.fetch("SELECT headers FROM saga_event WHERE event_type LIKE '%.asked.v_'")
    named = [orjson.loads(row["headers"])[VERSION] for row in starts]
    assert (named.count("1"), named.count("2")) == (8, 5)
    assert await bench.heard(second["aborted"], Weighed)
    assert not bench.tail.of(first["aborted"], Weighed)
    async with bench.pool.acquire() as sql:
        page = await read_page(sql, start_events([bench.saga]), SagaFilter(account="second-waiting"), 5)
    assert [row["saga_id"] for row in page] == [second["waiting"]]


async def test_a_release_that_does_not_know_a_version_loses_nothing_of_it(bench: Bench, tmp_path: Path) -> None:
    """What comes for its sagas meanwhile is set aside; once the version is registered again, all of them go on."""
    kits = make_versions(bench.saga.name, bench.far)
    await deploy(bench, kits["both"])
    sagas = await start_waiting(bench, "third", AskedAgain)
    await check_nothing_differs(bench, tmp_path)

    await deploy(bench, kits["old"])
    await bench.pool.execute("DELETE FROM hold WHERE key = $1", str(sagas["held"]))
    await bench.say(sagas["waiting"], m.Report(report_id="r1", kind="done"), context=b"")
    await bench.say(sagas["aborted"], AbortRequested(operator="eve", reason="a test"), context=b"")
    await ended(bench, await knock(bench, "meanwhile"), 1, "COMPLETED")

    async def set_aside() -> bool:
        groups = await bench.pool.fetch('SELECT DISTINCT "group" FROM parked WHERE released IS NULL')
        waiting = await bench.row(sagas["waiting"], "confirm")
        # The report needs no version to be kept in its step's row; the answer that it gives does.
        return any(row["group"].endswith("-log") for row in groups) and bool(waiting and waiting["reports"])

    await until(set_aside)
    held = await bench.row(sagas["held"], "book")
    assert held is not None
    assert held["status"] == RowStatus.RETRY
    assert held["attempt"] == 0
    assert await audited(bench, tmp_path / "auditor.db") == []
    assert (await replayed(bench)).differences == []

    await deploy(bench, kits["both"])
    await finish(bench, sagas, 2)
    assert await bench.pool.fetchval("SELECT count(*) FROM parked WHERE released IS NULL") == 0
    assert await bench.pool.fetchval("SELECT count(*) FROM parked") > 0
    await check_nothing_differs(bench, tmp_path)
