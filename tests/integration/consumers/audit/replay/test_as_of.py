"""What was known at a moment, or in a range, and a replay that goes on where it was killed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.integration.consumers.saga_log.rig import PARTITIONS, Rig, open_rig
from tests.sagas import Filled, Held, HoldRefused, OrderAsked, Placed, Settled
from tradesaga.consumers.audit.replay.as_of import AsOfReplay, AsOfResult, describe_sagas
from tradesaga.consumers.audit.replay.comparison import Comparison, ReplayReport
from tradesaga.consumers.audit.replay.request import AsOf, Range, TimeSource
from tradesaga.consumers.audit.replay.state import Identity, ReplayState
from tradesaga.infra.clock import format_time
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import read_cluster_id
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.topic_reader import TopicReader

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

HOUR = 3600 * 1_000_000_000
STORY = (OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled(), Settled())


class Told:
    """A rig on which stories have been told; `late` is a saga whose fill happened an hour before it was recorded."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.late = uuid4()
        self.records: list[Record] = []
        self.happened = 0

    async def tell(self) -> None:
        """Tell the stories, and have the saga log take them in."""
        rig = self.rig
        async with rig.running():
            for _ in range(8):
                saga_id = uuid4()
                for event in STORY:
                    await rig.say(saga_id, event)
            await rig.say(saga_id := uuid4(), STORY[0])
            await rig.say(saga_id, HoldRefused())
            for event in STORY[:3]:
                self.records.append(await rig.say(self.late, event))
            await asyncio.sleep(0.02)
            self.happened = self.records[-1].recorded_ms * 1_000_000 - HOUR
            time = format_time(self.happened)
            self.records += [await rig.say(self.late, event, time=time) for event in STORY[3:]]
            await rig.recorded(8 * 5 + 2 + 5)

    async def at(self, moment: AsOf) -> tuple[AsOfResult, list[dict[str, object]]]:
        """Look back."""
        rules = self.rig.rules
        async with TopicReader(self.rig.kafka) as topics:
            with ReplayState(None, Identity.of(rules, "c", str(moment)), rules) as replay_state:
                known = await AsOfReplay(topics, rules, replay_state, moment).run()
                return known, list(describe_sagas(rules, replay_state))

    async def compared(self, asked: Range, path: Path | None = None) -> ReplayReport:
        """Compare a range."""
        rules = self.rig.rules
        identity = Identity.of(rules, await read_cluster_id(self.rig.kafka), "comparison")
        sql = await asyncpg.connect(self.rig.url)
        try:
            async with TopicReader(self.rig.kafka) as topics:
                with ReplayState(path, identity, rules) as replay_state:
                    return await Comparison(sql, topics, rules, replay_state, asked=asked).run()
        finally:
            await sql.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def told(stack: Stack, module_database_url: str) -> AsyncIterator[Told]:
    """Give the stories."""
    async with open_rig(stack.kafka, module_database_url) as rig:
        told = Told(rig)
        await told.tell()
        yield told


async def test_what_was_known_is_not_what_had_happened(told: Told) -> None:
    """At the end of the third record nobody knew of the fill; by event time it had happened an hour ago."""
    before = told.records[2].recorded_ms * 1_000_000
    _, recorded = await told.at(AsOf(before, TimeSource.RECORDED, told.late))
    _, happened = await told.at(AsOf(before, TimeSource.EVENT, told.late))
    assert [saga["state"] for saga in recorded] == ["RUNNING"]
    assert recorded[0]["steps"] == {"hold": "done", "place": "done", "fill": "open", "settle": "open"}
    assert [saga["steps"] for saga in happened] != [saga["steps"] for saga in recorded]


async def test_the_end_of_time_is_what_the_database_has(told: Told) -> None:
    """Each saga's state, context included, from the topics alone."""
    known, sagas = await told.at(AsOf(told.records[-1].recorded_ms * 1_000_000, TimeSource.RECORDED))
    rows = await told.rig.pool.fetch("SELECT saga_id, state, context, seq FROM saga")
    assert {saga["saga_id"]: (saga["state"], saga["records"]) for saga in sagas} == {
        str(row["saga_id"]): (row["state"], row["seq"]) for row in rows
    }
    assert (known.records, known.later, known.sagas) == (47, 0, len(rows))
    assert known.states == {"COMPLETED": 9, "ABORTED": 1}


async def test_the_moment_itself_is_in_it(told: Told) -> None:
    """A record of this very millisecond was known, one of a later one was not."""
    third = told.records[2].recorded_ms * 1_000_000
    assert told.records[3].recorded_ms > told.records[2].recorded_ms
    for moment, seq in ((third, 3), (third + 999_999, 3), (third - 1, None)):
        known, sagas = await told.at(AsOf(moment, TimeSource.RECORDED, told.late))
        assert known.records + known.later == 5
        assert seq is None or sagas[0]["records"] == seq
        assert seq is not None or known.records < 3


async def test_a_range_names_the_sagas_that_began_before_it(told: Told) -> None:
    """Their rows are compared record by record, those of the others together with their state."""
    rig = told.rig
    place = rig.topic("events"), told.records[0].partition
    whole = await told.compared(Range(offsets={place: (-1, -1)}))
    assert (whole.differing, whole.partial, whole.gone_on) == (0, 0, 0)

    inside = await told.compared(Range(offsets={place: (told.records[1].offset, told.records[3].offset)}))
    assert (inside.differing, inside.partial, inside.partial_sagas) == (0, 1, [told.late])
    first = await told.compared(Range(offsets={place: (-1, told.records[2].offset)}))
    assert (first.differing, first.partial, first.gone_on) == (0, 0, 1)
    assert first.records == told.records[2].offset


async def test_a_range_by_time_begins_and_ends_where_it_says(told: Told) -> None:
    """From the first record of that millisecond, up to the first one of the other."""
    bounds = (told.records[0].recorded_ms, told.records[3].recorded_ms)
    report = await told.compared(Range(bounds[0] * 1_000_000, bounds[1] * 1_000_000))
    time = "(extract(epoch FROM recorded_at) * 1000)::bigint"
    expected = f"SELECT count(*) FROM saga_event WHERE {time} >= $1 AND {time} < $2"
    assert report.records == await told.rig.pool.fetchval(expected, *bounds)
    assert report.differing == 0


@pytest.mark.parametrize("column", ["value", "hash", "event_type", "context_added"])
async def test_an_altered_row_in_a_range_is_told(told: Told, column: str) -> None:
    """Bytes, hash and columns of a saga that is only partly in it too; what only the fold can tell, of one that is."""
    record = told.records[2]
    start = -1 if column == "context_added" else told.records[1].offset
    asked = Range(offsets={(record.topic, record.partition): (start, -1)})
    value = "'\\xff'::bytea" if column in {"value", "hash"} else "'altered'"
    change = f'UPDATE saga_event SET {column} = {{}} WHERE (topic, partition, "offset") = ($1, $2, $3)'
    async with told.rig.pool.acquire() as sql:
        await sql.execute("SET session_replication_role = replica")
        kept = await sql.fetchval(
            f'SELECT {column} FROM saga_event WHERE (topic, partition, "offset") = ($1, $2, $3)', *record[:3]
        )
        await sql.execute(change.format(value), *record[:3])
        report = await told.compared(asked)
        await sql.execute(change.format("$4"), *record[:3], kept)
        await sql.execute("SET session_replication_role = origin")
    assert column in {each.field for each in report.differences}
    assert (await told.compared(asked)).differing == 0


async def test_a_range_that_the_topic_has_not_is_refused(told: Told) -> None:
    """Beyond the last record there is nothing to compare."""
    place = told.rig.topic("events"), 0
    with pytest.raises(CommandError, match="before offset") as raised:
        await told.compared(Range(offsets={place: (0, 100_000)}))
    assert raised.value.exit_code is ExitCode.USAGE


async def test_a_replay_that_was_killed_goes_on_and_comes_to_the_same(told: Told, tmp_path: Path) -> None:
    """By SIGKILL, behind a batch that was read and not saved: what was saved is whole."""
    path = tmp_path / "resume.db"
    child = await killed(told.rig, path)
    assert child == -signal.SIGKILL
    whole = await told.compared(Range())
    read_before: list[int] = []
    with ReplayState(
        path, Identity.of(told.rig.rules, await read_cluster_id(told.rig.kafka), "comparison"), told.rig.rules
    ) as half:
        read_before.append(half.counts["records"])
    assert 0 < read_before[0] < whole.records
    assert await told.compared(Range(), path) == whole
    assert await told.compared(Range(), path) == whole, "once more, with nothing left to read"


async def killed(rig: Rig, path: Path) -> int:
    """Run a replay that kills itself behind its second batch; give its exit code."""
    environment = {**os.environ, "TRADESAGA_KAFKA": rig.kafka, "TRADESAGA_DATABASE_URL": rig.url}
    arguments = (rig.saga.name, str(path), "2", str(PARTITIONS))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.consumers.audit.replay.child", *arguments, env=environment
    )
    return await process.wait()


async def test_a_resumed_replay_sees_that_the_topic_is_another(told: Told, tmp_path: Path) -> None:
    """The last record that was read lies there no more, or the topic ends before it."""
    path, topic = tmp_path / "resume.db", told.rig.topic("events")
    await told.compared(Range(), path)
    identity = Identity.of(told.rig.rules, await read_cluster_id(told.rig.kafka), "comparison")
    for changes, what in (({"last": b"other"}, "is not the record"), ({"next_offset": 10_000}, "ends at")):
        with ReplayState(path, identity, told.rig.rules) as replay_state:
            place = (topic, told.records[0].partition)
            kept = replay_state.watermarks[place]
            replay_state.watermarks[place] = kept._replace(**changes)
            replay_state.save()
        with pytest.raises(CommandError, match=what) as raised:
            await told.compared(Range(), path)
        assert raised.value.exit_code is ExitCode.REFUSED
        with ReplayState(path, identity, told.rig.rules) as replay_state:
            replay_state.watermarks[place] = kept
            replay_state.save()


async def test_a_saga_of_which_nothing_is_known_yet(told: Told) -> None:
    """An unknown saga, and a moment before everything, come to nothing, not to an error."""
    known, sagas = await told.at(AsOf(HOUR, TimeSource.RECORDED, UUID(int=7)))
    assert (known.records, known.later, known.sagas, sagas) == (0, 0, 0, [])
