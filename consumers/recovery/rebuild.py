"""Rebuilds the database from the topics. Nothing is published.

A database that was restored from a backup reads, as facts, what was published after the backup, so that no effect
happens twice. For an empty database this is everything.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.databases import Database, declare_lanes, move_lanes, recovery
from tradesaga.consumers.recovery.facts import FactRecovery
from tradesaga.consumers.recovery.refusals import Report, describe_gaps, refuse_trimmed, refuse_versions, refused
from tradesaga.consumers.recovery.topic_loader import Advance, TopicLoader, find_leaf_formats
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import count_partitions
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.ledger.recovery import TABLES, unknown_accounts, write_rows
from tradesaga.infra.outbox.guard import read_owner
from tradesaga.infra.outbox.processor import HaltError
from tradesaga.infra.postgres.installation import choose_installation, read_identity, set_installation
from tradesaga.infra.postgres.partitions import create_month_partitions
from tradesaga.infra.registry.sagas import RegisteredSaga
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.topics import SIGNALS, commands_topic, dead_letters_topic, events_topic, starts_topic

Ranges = Mapping[Partition, tuple[int, int]]
_STATES: Final = "SELECT state, count(*) FROM saga GROUP BY state"
_OPEN: Final = "SELECT status, count(*) FROM step_execution WHERE due IS NOT NULL GROUP BY status"


@dataclass(frozen=True, slots=True)
class RebuildRequest:
    """The options of a rebuild. With `unknown`, records of unknown types are parked, as the saga log would park them.

    `book` has the rows that no topic contains, by table, as `tradesaga.infra.ledger.recovery` reads them from a file.
    """

    kind: Literal["rebuilt", "restored"]
    operator: str
    unknown: bool = False
    dry_run: bool = False
    book: Mapping[str, list[str]] | None = None


async def rebuild(
    settings: Settings,
    sagas: Sequence[RegisteredSaga[Participant]],
    request: RebuildRequest,
    sized: Callable[[int], None],
    advance: Advance,
) -> Report:
    """Rebuild an empty database, or catch up a restored one.

    `sized` is called with the number of facts, `advance` with the number of further facts that have been read.

    Raises `CommandError` (exit 4) for a database or topics that do not fit, `KafkaUnavailableError`.
    """
    rebuilt = request.kind == "rebuilt"
    async with (
        TopicReader(settings.brokers()) as replay,
        recovery(settings, sagas, request.kind, request.operator, dry_run=request.dry_run) as (databases, report),
    ):
        log = databases[SAGA_LOG]
        await _take_over(settings, sagas, dict.fromkeys(databases.values()))
        for table, rows in (request.book or {}).items():
            await write_rows(databases.get(TABLES[table][0], log).sql, table, rows)
        for registered in sagas:
            events = events_topic(registered.saga.name)
            ranges = await _read_ranges(settings, replay, registered.saga.name)
            await refuse_versions(log.sql, registered.saga)
            await _create_months(replay, log, ranges, events)
            rules = Rules(registered.saga, sum(topic == events for topic, _ in ranges))
            facts = FactRecovery(rules, log.sql, time.time_ns())
            facts.leaves_from = await find_leaf_formats(settings, replay, events)
            loader = TopicLoader(
                registered, replay, databases, ranges, facts, report, restored=not rebuilt, unknown=request.unknown
            )
            await loader.declare()
            sized(loader.size)
            await loader.run(advance)
            if rebuilt:
                await _skip_signals(settings, replay, log, registered.saga.name)
        for database in dict.fromkeys(databases.values()):
            await _count_open(database, report)
        report.left_out += describe_gaps(sagas, rebuilt=rebuilt, book=request.book is not None)
    return report


async def _take_over(
    settings: Settings, sagas: Sequence[RegisteredSaga[Participant]], databases: Collection[Database]
) -> None:
    """Assign the databases to the installation that owns the topics, as the lost ones were.

    Raises `CommandError` (exit 4) for a database of another installation, or topics that cannot be claimed.
    """
    try:
        owners = [await read_owner(settings.brokers(), registered.saga.name) for registered in sagas]
    except HaltError as error:
        do = "create that topic again, then rerun this command"
        raise refused("topics-unclaimable", str(error), "Kafka", do) from error
    for owner in filter(None, owners):
        for database in databases:
            here = await read_identity(database.sql)
            if choose_installation([here], owner.installation) != here.identity.installation:
                await set_installation(database.sql, owner.installation, claimed=True)


async def _create_months(replay: TopicReader, log: Database, ranges: Ranges, topic: str) -> None:
    """Create the partitions of the audit log for the months of the topic's records."""
    first: list[datetime] = []
    for place, (begin, end) in ranges.items():
        if place[0] == topic and begin < end:
            first += [record.recorded_at async for batch in replay.read(place, begin, begin + 1) for record in batch]
    if first:
        await create_month_partitions(log.sql, min(first))


async def _read_ranges(settings: Settings, replay: TopicReader, name: str) -> Ranges:
    """Return the first and the next offset of each partition of the saga's topics; refuse trimmed topics."""
    topics = [events_topic(name), commands_topic(name), dead_letters_topic(name), starts_topic(name)]
    counts = await count_partitions(settings.brokers(), topics)
    ranges = await replay.ranges([(topic, number) for topic in topics for number in range(counts[topic])])
    refuse_trimmed(Cluster.parse(settings.brokers()), topics[:2], ranges)
    return ranges


async def _skip_signals(settings: Settings, replay: TopicReader, log: Database, saga: str) -> None:
    """Skip the existing signals: the decisions on them are lost, and deciding again could trade twice."""
    group, topic = f"{saga}-signal-router", SIGNALS.name
    try:
        counts = await count_partitions(settings.brokers(), [topic])
    except CommandError as error:
        if error.exit_code is ExitCode.UNAVAILABLE and error.code == "topic-missing":
            return
        raise
    await declare_lanes(log, group, topic, counts[topic])
    ranges = await replay.ranges([(topic, number) for number in range(counts[topic])])
    await move_lanes(log.sql, group, topic, {number: end for (_, number), (_, end) in ranges.items()})


async def _count_open(database: Database, report: Report) -> None:
    report.left_out += [
        f"account {name} is known only from facts: it is closed; set its limits and open it"
        for name in await unknown_accounts(database.sql)
    ]
    report.sagas.update({row[0]: row[1] for row in await database.sql.fetch(_STATES)})
    report.open_steps.update({RowStatus(row[0]).name: row[1] for row in await database.sql.fetch(_OPEN)})
