"""Two versions of a definition in one topic: each saga is folded, rebuilt, replayed and gone on with under its own."""

import asyncio
from collections import Counter
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from tests.broker import delete_topics, read_topic
from tests.e2e import messages as m
from tests.e2e.sagas import Kit
from tests.e2e.steps import BUSY
from tests.e2e.versions import make_versions
from tests.recovery.ends import check_nothing_twice
from tests.recovery.stage import Stage, ignore
from tests.waiting import until
from tradesaga.consumers.audit.replay.comparison import Comparison, ReplayReport
from tradesaga.consumers.audit.replay.state import Identity, ReplayState
from tradesaga.consumers.recovery.comparison import compare
from tradesaga.consumers.recovery.rebuild import RebuildRequest
from tradesaga.consumers.recovery.topics import republish
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.topics import PARTITIONS, saga_topics

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

REBUILT = RebuildRequest("rebuilt", "tester")
RESTORED = RebuildRequest("restored", "tester")
FORWARD = {1: ["book", "pay", "close"], 2: ["book", "weigh", "pay"]}
"""The local effects of a completed saga, by its version."""
PLANS: list[tuple[dict[str, str], str]] = [
    ({}, "COMPLETED"),
    ({"pay": "fail:1"}, "COMPLETED"),
    ({"confirm": "lost"}, "ABORTED"),
    ({"ship": "lost"}, "COMPLETED"),
    ({"ship": "refuse", "unpay": "fail:1"}, "ABORTED"),
    ({"ship": "fail"}, "ABORTED"),
    ({"ship": "refuse", "unpay": "impossible"}, "FAILED"),
    ({"confirm": "wait"}, "COMPLETED"),
]
HASHES = 'SELECT partition, "offset", saga_id, seq, hash FROM saga_event ORDER BY partition, "offset"'
SAGAS = "SELECT saga_id, version, state, completed_steps::text, context::text, seq, head FROM saga ORDER BY saga_id"
WAITING = 7
"""The plan that waits for a report which the test gives."""


def kits(stage: Stage) -> dict[str, Kit]:
    """Return the saga as each release has it."""
    return make_versions(stage.bench.saga.name, stage.bench.far, patience=BUSY)


async def knock(stage: Stage, version: int, count: int = len(PLANS)) -> None:
    """Start sagas of every end; the running release starts them under `version`."""
    for number in range(count):
        await stage.knock(f"v{version}-{number}", **PLANS[number % len(PLANS)][0])
    await stage.counted("SELECT count(*) FROM start_request", len(stage.asked))


async def waiting(stage: Stage) -> None:
    """Wait until every saga has come as far as it goes by itself."""
    for key, saga_id in stage.asked.items():
        plan, end = PLANS[int(key.partition("-")[2]) % len(PLANS)]
        if plan.get("confirm") == "wait":
            await stage.bench.reaches(saga_id, "confirm", RowStatus.WAITING)
        else:
            await stage.bench.settled(saga_id, end)


async def confirm(stage: Stage) -> None:
    """Have the far side say what the waiting sagas wait for."""
    for key, saga_id in stage.asked.items():
        if int(key.partition("-")[2]) % len(PLANS) == WAITING:
            await stage.bench.say(saga_id, m.Report(report_id="r2", kind="done"), context=b"")


def effects(version: int, end: str, plan: dict[str, str]) -> Counter[tuple[str, str]]:
    """Return what a saga leaves behind; what could not be taken back stands."""
    forward = FORWARD[version]
    if end == "COMPLETED":
        return Counter((step, "forward") for step in forward)
    done = [step for step in forward if step != "close"]
    back = [step for step in done if not (step == "pay" and plan.get("unpay") == "impossible")]
    return Counter([*((step, "forward") for step in done), *((step, "back") for step in back)])


async def check_ends(stage: Stage) -> None:
    """Hold each saga to its version, its end, and its effects, each once."""
    for key, saga_id in stage.asked.items():
        version, number = (int(part) for part in key.removeprefix("v").split("-"))
        plan, end = PLANS[number % len(PLANS)]
        found = await stage.bench.settled(saga_id, end)
        assert found["version"] == version, key
        told = Counter(await stage.bench.effects(saga_id))
        assert told == effects(version, end, plan), (key, told, stage.bench.tail.names(saga_id))
        assert await stage.far_taken(saga_id) <= 1


async def replayed(stage: Stage) -> ReplayReport:
    """Replay the topic beside the database in use."""
    rules = Rules(stage.bench.saga)
    sql = await asyncpg.connect(stage.url)
    try:
        async with TopicReader(stage.bench.kafka) as topics:
            with ReplayState(None, Identity.of(rules, "c", "comparison"), rules) as replay_state:
                return await Comparison(sql, topics, rules, replay_state).run()
    finally:
        await sql.close()


async def lose_topics(stage: Stage) -> None:
    """Delete every topic of the saga, and wait until they are gone."""
    names = [topic.name for topic in saga_topics(stage.bench.saga.name)]
    await asyncio.to_thread(delete_topics, stage.bench.kafka, names)


async def refused(stage: Stage, wish: RebuildRequest) -> CommandError:
    """Return what a recovery is refused with."""
    with pytest.raises(CommandError) as caught:
        await stage.rebuild(wish)
    assert caught.value.exit_code is ExitCode.REFUSED
    return caught.value


async def check_new_topics(stage: Stage) -> None:
    """Have the topics made anew from the database in use: one that is rebuilt from them is the same again."""
    here = stage.url
    await lose_topics(stage)
    await republish(stage.settings, stage.sagas, "tester", ignore, ignore)
    again = await stage.new_database()
    await stage.rebuild(REBUILT)
    assert (found := await compare(here, again)).equal, found.lines()


async def test_a_rebuilt_database_equals_the_lost_one(stage: Stage) -> None:
    """Sagas of both versions, ended and waiting: the database from their topics is the same, and so from new topics."""
    made = kits(stage)
    await stage.deploy(made["old"])
    await knock(stage, 1)
    await waiting(stage)
    await stage.deploy(made["both"])
    await knock(stage, 2)
    await waiting(stage)
    await stage.stop()
    assert (await replayed(stage)).differences == []
    lived = stage.url
    rebuilt = await stage.new_database()
    await stage.rebuild(REBUILT)
    found = await compare(lived, rebuilt)
    assert found.equal, found.lines()
    assert found.rows["saga"] == len(stage.asked)
    assert found.open_steps == (2, 2)
    assert (await replayed(stage)).differences == []

    await check_new_topics(stage)

    await stage.deploy(made["back"])
    before = dict(stage.asked)
    await stage.knock("v2-0", **PLANS[0][0])
    assert stage.asked == before
    await confirm(stage)
    await check_ends(stage)
    assert await stage.bench.pool.fetchval("SELECT count(*) FROM saga") == len(before)
    await stage.stop()
    assert (await replayed(stage)).differences == []


async def test_unfinished_sagas_of_both_versions_go_on(stage: Stage) -> None:
    """The database vanishes under sagas of both versions in mid-flight; rebuilt, each ends under its own."""
    made = kits(stage)
    await stage.deploy(made["old"])
    await knock(stage, 1, 12)
    await stage.deploy(made["both"])
    await knock(stage, 2, 16)
    await stage.reached(8)
    await stage.lose_database()
    await stage.stop()
    await stage.new_database()
    done = await stage.rebuild(REBUILT)
    assert done.open_steps.total() + done.owed.total() > 0
    await stage.serve()
    await confirm(stage)
    await check_ends(stage)
    await check_nothing_twice(stage)
    await stage.stop()
    assert (await replayed(stage)).differences == []


async def test_a_database_of_before_the_second_version_takes_in_its_sagas(stage: Stage) -> None:
    """The backup knows version 1 alone; what was published since is taken in, under version 2 too."""
    made = kits(stage)
    await stage.deploy(made["old"])
    await knock(stage, 1)
    await waiting(stage)
    await stage.stop()
    lived = stage.url
    stage.hang_up()
    backup = await stage.new_database(lived.rsplit("/", 1)[1])
    await stage.use(lived)
    await stage.deploy(made["both"])
    await knock(stage, 2)
    await stage.reached(6)
    await stage.lose_database()
    await stage.stop()
    await stage.use(backup)
    stage.bench.kit = made["old"]
    assert (await refused(stage, RESTORED)).code == "version-unknown"
    stage.bench.kit = made["both"]
    await stage.rebuild(RESTORED)
    await stage.serve()
    await confirm(stage)
    await check_ends(stage)
    await check_nothing_twice(stage)


async def test_a_version_that_is_not_registered_is_refused(stage: Stage) -> None:
    """Nobody could go on with its sagas: neither database nor topics are made anew without it."""
    made = kits(stage)
    await stage.deploy(made["both"])
    await knock(stage, 2)
    await waiting(stage)
    await stage.stop()
    lived = stage.url
    await stage.new_database()
    stage.bench.kit = made["old"]
    why = await refused(stage, REBUILT)
    assert why.code == "version-unknown"
    assert "run under version 2; this installation knows version 1" in why.what
    report = await stage.rebuild(replace(REBUILT, unknown=True, dry_run=True))
    assert report.parked > 0
    assert any("under version 2, which is not registered" in each for each in report.left_out)
    stage.hang_up()
    await stage.use(lived)
    await lose_topics(stage)
    with pytest.raises(CommandError) as caught:
        await republish(stage.settings, stage.sagas, "tester", ignore, ignore)
    assert caught.value.code == "version-unknown"


async def copied(stage: Stage) -> int:
    """Return how many copies the saga log has put into the dead letters."""
    topic = f"{stage.bench.saga.name}.dead-letters"
    found = await asyncio.to_thread(read_topic, stage.bench.kafka, topic, 0, PARTITIONS)
    return sum(each.headers["ts_dlt_group"] == f"{stage.bench.saga.name}-log".encode() for each in found)


async def test_forged_records_keep_nobody_from_rebuilding(stage: Stage) -> None:
    """A version of no saga, and a type that the saga log did not know either: they are parked as they were."""
    made = kits(stage)
    await stage.deploy(made["old"])
    saga_id = await stage.knock("v1-0", **PLANS[0][0])
    await stage.bench.settled(saga_id, "COMPLETED")
    unknown = f"{stage.bench.saga.name}.anything.v1"
    await stage.bench.say(uuid4(), m.Booked(amount="1"), type=unknown, version=99)
    await stage.bench.say(saga_id, m.Booked(amount="1"), type=unknown)

    async def told() -> bool:
        return await copied(stage) == 2

    await until(told)
    await stage.stop()
    lived = stage.url
    rebuilt = await stage.new_database()
    report = await stage.rebuild(REBUILT)
    assert (report.parked, report.owed["dead letters"]) == (2, 0)
    assert (found := await compare(lived, rebuilt)).equal, found.lines()


async def test_what_once_waited_for_its_version_is_rebuilt_as_it_was(stage: Stage) -> None:
    """Records that a release without version 2 parked, and one with it took in: the hashes are the same again."""
    made = kits(stage)
    await stage.deploy(made["both"])
    await stage.knock("v2-7", **PLANS[WAITING][0])
    await stage.bench.reaches(stage.asked["v2-7"], "confirm", RowStatus.WAITING)
    await stage.stop()
    await stage.deploy(made["old"])
    await confirm(stage)
    await stage.bench.reaches(stage.asked["v2-7"], "confirm", RowStatus.WAITING)
    await stage.counted("SELECT count(*) FROM parked WHERE \"group\" LIKE '%-log'", 1)
    await stage.deploy(made["both"])
    await check_ends(stage)
    await stage.stop()
    lived = [await stage.bench.pool.fetch(query) for query in (HASHES, SAGAS)]
    await stage.new_database()
    await stage.rebuild(REBUILT)
    assert [await stage.bench.pool.fetch(query) for query in (HASHES, SAGAS)] == lived
    assert (await replayed(stage)).differences == []
