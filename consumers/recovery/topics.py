"""The topics from the database: every fact at its own place again, time and headers included, and what followed it.

The audit log holds every fact that was folded; what had been published and not folded yet lies in the outboxes, and is
written behind it, in the order in which it was said. Commands are those of the outbox, or made anew from the facts.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import asyncpg

from tradesaga.consumers.audit.log.rows import COLUMNS, to_row
from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.databases import Database, transactions
from tradesaga.consumers.recovery.facts import CommandKey, DerivedCommand, FactRecovery, command_key
from tradesaga.consumers.recovery.refusals import Report, refuse_versions
from tradesaga.consumers.recovery.topic_loader import Advance, TopicLoader
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import count_partitions
from tradesaga.infra.kafka.codec import Outgoing, Record, load_headers
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.names import physical_name
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.kafka.topic_reader import BATCH, TopicReader, TopicRewriter, TransactionWriter
from tradesaga.infra.kafka.topics import Durability, all_topics, check_topics, ensure_topics, set_clock
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.registry.sagas import RegisteredSaga
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.schemas.messages.lifecycle import Bar
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import commands_topic, dead_letters_topic, events_topic, saga_topics

_SPANS: Final = """
SELECT partition, min("offset"), max("offset") + 1, count(*) FROM saga_event WHERE topic = $1 GROUP BY partition
"""
# The first record of each partition behind which one is missing: its hash says how many offsets have held none.
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
"""Seconds until every broker knows of a changed setting; a record that proves otherwise stops the recovery."""


class _Span(NamedTuple):
    """The facts of one partition: the first one's offset, the offset behind the last one, and how many there are."""

    first: int
    end: int
    facts: int


class _Fact(NamedTuple):
    """A fact, and how many offsets behind it hold no record."""

    record: Record
    skipped_behind: int


async def republish(
    settings: Settings,
    sagas: Sequence[RegisteredSaga[Participant]],
    operator: str,
    sized: Callable[[int], None],
    advance: Advance,
) -> Report:
    """Write the topics anew, and have every lane go on where that leaves it.

    Raises `CommandError` (exit 4) unless the topics are empty, the audit log has no gap, and each version is registered
    under which a saga is open; `KafkaUnavailableError`.
    """
    began, report = time.monotonic(), Report("republished")
    names = {SAGA_LOG, *(each.name for registered in sagas for each in registered.participants)}
    urls = {name: settings.database_for(name) for name in names}
    brokers = settings.brokers()
    async with transactions(urls.values(), dry_run=False) as opened:
        for database in opened.values():
            await database.begin("republished", operator)
        await ensure_topics(
            brokers, all_topics([registered.saga.name for registered in sagas]), Durability.of(settings)
        )
        places = {name: opened[url] for name, url in urls.items()}
        for registered in sagas:
            await refuse_versions(places[SAGA_LOG].sql, registered.saga)
            await _write_saga(settings, places, registered, report, (sized, advance))
        for database in opened.values():
            await database.end()
        report.incarnation = max(database.incarnation.number for database in opened.values())
    report.left_out += [
        "starts and signals that nobody had read: their clients send them again under the same keys",
        "signed checkpoints of the audit log: they are in the database and with the witness, not on their topic",
    ]
    report.seconds = time.monotonic() - began
    return report


async def _write_saga(
    settings: Settings,
    places: Mapping[str, Database],
    registered: RegisteredSaga[Participant],
    report: Report,
    told: tuple[Callable[[int], None], Advance],
) -> None:
    name, brokers = registered.saga.name, settings.brokers()
    topics = [topic for topic in saga_topics(name) if topic.name != f"{name}.starts"]
    kept = [events_topic(name), commands_topic(name), dead_letters_topic(name)]
    # Brokers learn of topics that were created just now one after the other; this waits for that.
    counts = await check_topics(brokers, [each for each in topics if each.name in kept], Durability.of(settings))
    async with TopicReader(brokers) as replay:
        ranges = await replay.ranges([(topic, number) for topic in kept for number in range(counts[topic])])
    _refuse_full(brokers, ranges)
    spans = await _refuse_gaps(places[SAGA_LOG], kept[0], counts[kept[0]])
    told[0](sum(span.facts for span in spans.values()))
    await set_clock(brokers, topics, "CreateTime")
    await asyncio.sleep(_SPREADING)
    try:
        async with TopicRewriter(brokers) as rewriter, TransactionWriter(brokers) as transactions:
            writing = _Writing(registered, places, counts, rewriter, transactions, report)
            await writing.write(spans, told[1])
    finally:
        await set_clock(brokers, topics, "LogAppendTime")
    await _leave_lanes(brokers, places, registered, spans, report)


async def _leave_lanes(
    brokers: str,
    places: Mapping[str, Database],
    registered: RegisteredSaga[Participant],
    spans: Mapping[int, _Span],
    report: Report,
) -> None:
    """Have no lane stand beyond its topic, nor beyond what is certain to be where it was."""
    async with TopicReader(brokers) as replay:
        names = [topic.name for topic in all_topics([registered.saga.name])]
        counts = await count_partitions(brokers, names)
        ranges = await replay.ranges([(name, number) for name in names for number in range(counts[name])])
        ends = {place: end for place, (_, end) in ranges.items()}
        ends |= {(events_topic(registered.saga.name), number): span.end for number, span in spans.items()}
        columns = [topic for topic, _ in ends], [number for _, number in ends], list(ends.values())
        for database in {id(each): each for each in places.values()}.values():
            await database.sql.execute(_STEP_BACK, *columns)
        facts = FactRecovery(
            Rules(registered.saga, counts[events_topic(registered.saga.name)]), places[SAGA_LOG].sql, time.time_ns()
        )
        loader = TopicLoader(registered, replay, places, ranges, facts, report, restored=False, unknown=True)
        await loader.declare()
        for number in range(counts[events_topic(registered.saga.name)]):
            await loader.find_unanswered(number)


def _refuse_full(brokers: str, ranges: Mapping[Partition, tuple[int, int]]) -> None:
    full = sorted(f"{physical_name(brokers, topic)}[{number}]" for (topic, number), (_, end) in ranges.items() if end)
    if full:
        what = f"the topics are not empty: {', '.join(full[:5])} hold records"
        do = "delete these topics and run this again; topics that are whole need no recovery"
        raise CommandError("topics-not-empty", what, "Kafka", do, ExitCode.REFUSED)


async def _refuse_gaps(log: Database, topic: str, partitions: int) -> dict[int, _Span]:
    """Return the facts of each partition; one that is missing would move all that follow it to other offsets.

    What transactions took is not missing: each record's hash covers how many offsets before it held none. Those before
    the first record are told by none; retirement takes records from there.
    """
    spans = dict.fromkeys(range(partitions), _Span(0, 0, 0))
    for number, *span in await log.sql.fetch(_SPANS, topic):
        if number >= partitions:
            raise _gap(topic, number, f"the audit log has records of this partition; the topic has {partitions}")
        spans[number] = _Span(*span)
    for number, offset, following in await log.sql.fetch(_GAPS, topic):
        what = f"the record behind offset {offset} is one that follows offset {following - 1}: records are missing"
        raise _gap(topic, number, what)
    retired = await log.sql.fetchval(_RETIRED, topic)
    for number, span in spans.items():
        if span.first and (retired or span.first == 1):
            raise _gap(topic, number, f"the audit log begins at offset {span.first}")
    return spans


def _gap(topic: str, number: int, what: str) -> CommandError:
    do = "use a copy of the topic: a log that lacks records cannot be written back to its offsets"
    return CommandError("log-gap", what, f"{topic}[{number}]", do, ExitCode.REFUSED)


@dataclass
class _Writing:
    """One saga's topics while they are written."""

    registered: RegisteredSaga[Participant]
    places: Mapping[str, Database]
    counts: Mapping[str, int]
    rewriter: TopicRewriter
    transactions: TransactionWriter
    report: Report
    sent: dict[CommandKey, Outgoing] = field(default_factory=dict[CommandKey, Outgoing])

    async def write(self, spans: Mapping[int, _Span], advance: Advance) -> None:
        """Write facts and commands partition by partition, then what had not been folded, then the dead letters."""
        name = self.registered.saga.name
        bar = wire_type(name, Bar)
        for row in await self._fetch(_SENT, commands_topic(name)):
            record = _outgoing(row)
            self.sent[command_key(record.headers, bar=record.type == bar)] = record
        rules = Rules(self.registered.saga, self.counts[events_topic(name)])
        facts = FactRecovery(rules, self.places[SAGA_LOG].sql, time.time_ns(), writes=False)
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

    async def _fetch(self, query: str, topic: str, *more: object) -> list[asyncpg.Record]:
        """Read from every database."""
        found: list[asyncpg.Record] = []
        for database in {id(each): each for each in self.places.values()}.values():
            found += await database.sql.fetch(query, topic, *more)
        return found

    async def _facts(self, number: int) -> AsyncGenerator[list[_Fact]]:
        batch: list[_Fact] = []
        async for row in self.places[SAGA_LOG].sql.cursor(
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
        made, _ = await facts.follow(_NOWHERE, [fact.record for fact in batch])
        for each in made:
            await self._write_command(each)

    async def _skip(self, place: Partition, first: int, count: int, recorded_ms: int) -> None:
        """Have offsets hold no record, as those were that transactions took."""
        if count:
            await self.rewriter.drain()
            await self.transactions.skip(place, first, count, recorded_ms)
            self.report.records["skipped offsets"] += count

    async def _write_command(self, made: DerivedCommand) -> None:
        """Write the command that had been sent; one that the outbox has forgotten is made anew, under a new id."""
        record = self.sent.pop(made.command_key, None)
        self.report.records["commands"] += 1
        self.report.adopted["commands made anew"] += record is None
        await self._append(record or made.record)

    async def _write_unfolded(self) -> None:
        """Write what had been said, or was about to be, and had not been folded: in the order in which it was said."""
        topic = events_topic(self.registered.saga.name)
        sent = await self._fetch(_SENT_IDS, topic)
        columns = [row["id"] for row in sent], [row["aggregateid"] for row in sent]
        folded = [row["id"] for row in await self.places[SAGA_LOG].sql.fetch(_FOLDED, *columns)]
        unfolded = await self._fetch(_UNFOLDED, topic, folded)
        for row in sorted(unfolded, key=lambda row: row["created_at"]):
            await self._append(_outgoing(row))
            self.report.records["facts not folded yet"] += 1

    async def _append(self, record: Outgoing) -> None:
        key = record.key.encode()
        number = partition_of(key, self.counts[record.topic])
        made = Record(record.topic, number, 0, _now(), key, record.value, record.headers)
        await self.rewriter.write(made, exact=False)


_NOWHERE: Final = Lane(0, "", 0, 0, 0, 0, 0)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _outgoing(row: asyncpg.Record) -> Outgoing:
    headers = load_headers(row["headers"])
    return Outgoing(row["aggregatetype"], row["aggregateid"], row["id"], row["type"], headers, row["payload"])
