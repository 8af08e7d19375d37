"""Rewrites the topics from the database: every fact at its own offset, with its time and headers, and the commands.

The audit log has every fact that was folded. Facts that were published and not folded yet are in the outboxes, and are
written after those, in the order of their creation. Commands come from the outbox, or are derived from the facts again.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

import asyncpg

from tradesaga.consumers.audit.log.rows import COLUMNS, to_row
from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.databases import Database, recovery
from tradesaga.consumers.recovery.facts import CommandKey, DerivedCommand, FactRecovery, command_key
from tradesaga.consumers.recovery.refusals import Report, refuse_partitions, refuse_versions, refused
from tradesaga.consumers.recovery.topic_loader import Advance, TopicLoader
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.admin import count_partitions
from tradesaga.infra.kafka.codec import Outgoing, Record, load_headers
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.names import physical_name
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.kafka.topic_reader import BATCH, TopicReader, TopicRewriter, TransactionWriter
from tradesaga.infra.kafka.topics import TopicPolicy, all_topics, check_topics, ensure_topics, set_clock
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.registry.sagas import RegisteredSaga
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.schemas.messages.lifecycle import Bar
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import commands_topic, dead_letters_topic, events_topic, saga_topics

_SPANS: Final = """
SELECT partition, min("offset"), max("offset") + 1, count(*) FROM saga_event WHERE topic = $1 GROUP BY partition
"""
# By partition the first record before a gap. The hash of a record covers the number of offsets skipped before it.
_GAPS: Final = """
SELECT DISTINCT ON (partition) partition, "offset", following FROM (
    SELECT partition, "offset", lead("offset" - coalesce(skipped, 0)) OVER (PARTITION BY partition ORDER BY "offset")
        AS following
    FROM saga_event WHERE topic = $1
) AS e WHERE following <> "offset" + 1 ORDER BY partition, "offset"
"""
_FACTS: Final = f"""
SELECT {COLUMNS},
    coalesce(lead(skipped) OVER (ORDER BY "offset"), 0) AS skipped_behind
FROM saga_event WHERE topic = $1 AND partition = $2 ORDER BY "offset"
"""
_SENT: Final = """
SELECT aggregatetype, aggregateid, id, type, headers, payload FROM outbox WHERE aggregatetype = $1
ORDER BY created_at, seq
"""
_UNFOLDED: Final = """
SELECT aggregatetype, aggregateid, id, type, headers, payload, created_at FROM outbox o
WHERE aggregatetype = $1 AND NOT id = ANY($2::uuid[]) ORDER BY created_at, lane, seq
"""
_SENT_IDS: Final = "SELECT id, aggregateid FROM outbox WHERE aggregatetype = $1"
# Read as text: a header may hold what no JSON type of PostgreSQL takes.
_FOLDED: Final = """
SELECT o.id FROM unnest($1::uuid[], $2::uuid[]) AS o (id, saga_id) WHERE EXISTS (
    SELECT FROM saga_event e WHERE e.saga_id = o.saga_id AND strpos(e.headers, '"ce_id":"' || o.id || '"') > 0)
"""
_RETIRED: Final = "SELECT EXISTS (SELECT FROM audit_retired_head WHERE topic = $1)"
_STEP_BACK: Final = """
UPDATE lane SET next_offset = t.following FROM unnest($1::text[], $2::int[], $3::bigint[]) AS t (topic, partition,
    following)
WHERE lane.topic = t.topic AND lane.partition = t.partition AND lane.next_offset > t.following
"""
_SPREADING: Final = 1.0
"""Seconds until every broker knows a changed setting; a record that proves otherwise stops the recovery."""


class _Span(NamedTuple):
    """The facts of one partition: the first offset, the offset after the last one, and the number of facts."""

    first: int
    end: int
    facts: int


class _Fact(NamedTuple):
    """A fact, and the number of offsets without a record after it."""

    record: Record
    skipped_behind: int


async def republish(
    settings: Settings,
    sagas: Sequence[RegisteredSaga[Participant]],
    operator: str,
    sized: Callable[[int], None],
    advance: Advance,
) -> Report:
    """Rewrite the topics, and move every lane to its place on them.

    Raises `CommandError` (exit 4) unless the topics are empty and get as many partitions as they had, the audit log has
    no gap, and each version is registered under which a saga is open; `KafkaUnavailableError`.
    """
    topics, policy = all_topics([registered.saga.name for registered in sagas]), TopicPolicy.of(settings)
    wanted = {topic.name: policy.partitions_of(topic) for topic in topics}
    async with recovery(settings, sagas, "republished", operator) as (databases, report):
        for database in dict.fromkeys(databases.values()):
            refuse_partitions(database.partitions, wanted)
        await ensure_topics(settings.brokers(), topics, policy)
        for registered in sagas:
            await refuse_versions(databases[SAGA_LOG].sql, registered.saga)
            await _write_saga(settings, databases, registered, report, (sized, advance))
    report.left_out += [
        "unread starts and signals: clients have to send them again under the same keys",
        "signed checkpoints of the audit log: they are in the database and in the witness file, not on their topic",
    ]
    return report


async def _write_saga(
    settings: Settings,
    databases: Mapping[str, Database],
    registered: RegisteredSaga[Participant],
    report: Report,
    progress: tuple[Callable[[int], None], Advance],
) -> None:
    name, brokers = registered.saga.name, settings.brokers()
    sized, advance = progress
    topics = [topic for topic in saga_topics(name) if topic.name != f"{name}.starts"]
    kept = [events_topic(name), commands_topic(name), dead_letters_topic(name)]
    # Not every broker knows a new topic at once; this waits for that.
    counts = await check_topics(brokers, [each for each in topics if each.name in kept], TopicPolicy.of(settings))
    async with TopicReader(brokers) as replay:
        ranges = await replay.ranges([(topic, number) for topic in kept for number in range(counts[topic])])
    _refuse_full(brokers, ranges)
    spans = await _refuse_gaps(databases[SAGA_LOG], kept[0], counts[kept[0]])
    sized(sum(span.facts for span in spans.values()))
    await set_clock(brokers, topics, "CreateTime")
    await asyncio.sleep(_SPREADING)
    try:
        async with TopicRewriter(brokers) as rewriter, TransactionWriter(brokers) as transactions:
            writer = _SagaWriter(registered, databases, counts, rewriter, transactions, report)
            await writer.write(spans, advance)
    finally:
        await set_clock(brokers, topics, "LogAppendTime")
    await _move_lanes(brokers, databases, registered, spans, report)


async def _move_lanes(
    brokers: str,
    databases: Mapping[str, Database],
    registered: RegisteredSaga[Participant],
    spans: Mapping[int, _Span],
    report: Report,
) -> None:
    """Move lanes back that are beyond the end of their topic, or beyond the last fact at its former offset."""
    events = events_topic(registered.saga.name)
    async with TopicReader(brokers) as replay:
        names = [topic.name for topic in all_topics([registered.saga.name])]
        counts = await count_partitions(brokers, names)
        ranges = await replay.ranges([(name, number) for name in names for number in range(counts[name])])
        ends = {place: end for place, (_, end) in ranges.items()}
        ends |= {(events, number): span.end for number, span in spans.items()}
        columns = [topic for topic, _ in ends], [number for _, number in ends], list(ends.values())
        for database in dict.fromkeys(databases.values()):
            await database.sql.execute(_STEP_BACK, *columns)
        facts = FactRecovery(Rules(registered.saga, counts[events]), databases[SAGA_LOG].sql, time.time_ns())
        loader = TopicLoader(registered, replay, databases, ranges, facts, report, restored=False, unknown=True)
        await loader.declare()
        for number in range(counts[events]):
            await loader.find_unanswered(number)


def _refuse_full(brokers: str, ranges: Mapping[Partition, tuple[int, int]]) -> None:
    full = sorted(f"{physical_name(brokers, topic)}[{number}]" for (topic, number), (_, end) in ranges.items() if end)
    if full:
        what = f"the topics are not empty: {', '.join(full[:5])} hold records"
        do = "delete these topics and run this again; intact topics need no recovery"
        raise refused("topics-not-empty", what, "Kafka", do)


async def _refuse_gaps(log: Database, topic: str, partitions: int) -> dict[int, _Span]:
    """Return the span of each partition; refuse gaps, because a missing fact would move all later ones.

    Offsets that transactions took are no gap: the hash of a record covers the number of offsets skipped before it. For
    those before the first record there is no such number; retirement removes records from there.
    """
    spans = dict.fromkeys(range(partitions), _Span(0, 0, 0))
    for number, *span in await log.sql.fetch(_SPANS, topic):
        if number >= partitions:
            raise _gap(topic, number, f"the audit log has records of this partition; the topic has {partitions}")
        spans[number] = _Span(*span)
    for number, offset, following in await log.sql.fetch(_GAPS, topic):
        what = f"the record after offset {offset} follows offset {following - 1}: records are missing"
        raise _gap(topic, number, what)
    retired = await log.sql.fetchval(_RETIRED, topic)
    for number, span in spans.items():
        if span.first and (retired or span.first == 1):
            raise _gap(topic, number, f"the audit log begins at offset {span.first}")
    return spans


def _gap(topic: str, number: int, what: str) -> CommandError:
    do = "use a copy of the topic: an incomplete audit log cannot be written back to its offsets"
    return refused("log-gap", what, f"{topic}[{number}]", do)


@dataclass
class _SagaWriter:
    """Writes the topics of one saga."""

    registered: RegisteredSaga[Participant]
    databases: Mapping[str, Database]
    counts: Mapping[str, int]
    rewriter: TopicRewriter
    transactions: TransactionWriter
    report: Report
    sent: dict[CommandKey, Outgoing] = field(default_factory=dict[CommandKey, Outgoing])

    async def write(self, spans: Mapping[int, _Span], advance: Advance) -> None:
        """Write facts and commands partition by partition, then the facts not folded yet, then the dead letters."""
        name = self.registered.saga.name
        bar = wire_type(name, Bar)
        for row in await self._fetch(_SENT, commands_topic(name)):
            record = _outgoing(row)
            self.sent[command_key(record.headers, bar=record.type == bar)] = record
        rules = Rules(self.registered.saga, self.counts[events_topic(name)])
        facts = FactRecovery(rules, self.databases[SAGA_LOG].sql, time.time_ns(), writes=False)
        for number, span in spans.items():
            facts.forget()
            skipped = span.first
            async for batch in self._facts(number):
                await self._skip((batch[0].record.topic, number), 0, skipped, batch[0].record.recorded_ms)
                await self._write_facts(facts, batch)
                advance(len(batch))
                skipped = 0
        await self._write_unfolded()
        for row in await self._fetch(_SENT, dead_letters_topic(name)):
            await self._append(_outgoing(row))
            self.report.records["dead letters"] += 1
        await self.rewriter.drain()

    async def _fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Read from every database."""
        found = [await database.sql.fetch(query, *arguments) for database in dict.fromkeys(self.databases.values())]
        return list(chain.from_iterable(found))

    async def _facts(self, number: int) -> AsyncGenerator[list[_Fact]]:
        batch: list[_Fact] = []
        async for row in self.databases[SAGA_LOG].sql.cursor(
            _FACTS, events_topic(self.registered.saga.name), number, prefetch=BATCH
        ):
            batch.append(_Fact(to_row(row).published(), row["skipped_behind"]))
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _write_facts(self, facts: FactRecovery, batch: Sequence[_Fact]) -> None:
        for record, skipped in batch:
            if skipped == 1:
                await self.rewriter.drain()
                await self.transactions.commit(record)
                self.report.records["skipped offsets"] += 1
            else:
                await self.rewriter.write(record, exact=True)
                place = record.topic, record.partition
                await self._skip(place, record.offset + 1, skipped, record.recorded_ms)
        self.report.records["events"] += len(batch)
        derived, _ = await facts.follow(_NO_LANE, [fact.record for fact in batch])
        for each in derived:
            await self._write_command(each)

    async def _skip(self, place: Partition, first: int, count: int, recorded_ms: int) -> None:
        """Leave offsets without a record, like those that transactions took."""
        if count:
            await self.rewriter.drain()
            await self.transactions.skip(place, first, count, recorded_ms)
            self.report.records["skipped offsets"] += count

    async def _write_command(self, made: DerivedCommand) -> None:
        """Write the command that was sent; one that the outbox no longer has gets a new id."""
        record = self.sent.pop(made.command_key, None)
        self.report.records["commands"] += 1
        self.report.adopted["commands made anew"] += record is None
        await self._append(record or made.record)

    async def _write_unfolded(self) -> None:
        """Write the facts of the outboxes that were not folded, in the order of their creation."""
        topic = events_topic(self.registered.saga.name)
        sent = await self._fetch(_SENT_IDS, topic)
        columns = [row["id"] for row in sent], [row["aggregateid"] for row in sent]
        folded = [row["id"] for row in await self.databases[SAGA_LOG].sql.fetch(_FOLDED, *columns)]
        unfolded = await self._fetch(_UNFOLDED, topic, folded)
        for row in sorted(unfolded, key=lambda row: row["created_at"]):
            await self._append(_outgoing(row))
            self.report.records["facts not folded yet"] += 1

    async def _append(self, record: Outgoing) -> None:
        key = record.key.encode()
        number, now = partition_of(key, self.counts[record.topic]), time.time_ns() // 1_000_000
        made = Record(record.topic, number, 0, now, key, record.value, record.headers)
        await self.rewriter.write(made, exact=False)


_NO_LANE: Final = Lane(0, "", 0, 0, 0, 0, 0)


def _outgoing(row: asyncpg.Record) -> Outgoing:
    headers = load_headers(row["headers"])
    return Outgoing(row["aggregatetype"], row["aggregateid"], row["id"], row["type"], headers, row["payload"])
