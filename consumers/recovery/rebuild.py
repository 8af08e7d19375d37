"""The database from the topics: empty or restored, it comes to know all that was published, and publishes nothing.

A database that was restored to an earlier moment takes in, as facts, what was published after it, so that no effect is
made a second time; an empty one is the same, with everything after that moment.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.databases import Database, declare_lanes, move_lanes, transactions
from tradesaga.consumers.recovery.facts import FactRecovery
from tradesaga.consumers.recovery.refusals import Report, describe_gaps, refuse_trimmed, refuse_versions
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
    """What is asked for; `unknown` lets records of unknown types be parked, as the saga log would park them.

    `book` holds what no topic carries, by table, as `tradesaga.infra.ledger.recovery` reads it from its file.
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
    """Rebuild or catch up; `sized` is told the number of facts, `advance` how many more have been read.

    Raises `CommandError` (exit 4) for a database or topics that do not fit, `KafkaUnavailableError`.
    """
    began, report = time.monotonic(), Report(request.kind, dry_run=request.dry_run)
    names = {SAGA_LOG, *(each.name for registered in sagas for each in registered.participants)}
    urls = {name: settings.database_for(name) for name in names}
    async with (
        TopicReader(settings.brokers()) as replay,
        transactions(urls.values(), dry_run=request.dry_run) as opened,
    ):
        for database in opened.values():
            await database.begin(request.kind, request.operator)
        await _take_over(settings, sagas, opened.values())
        places = {name: opened[url] for name, url in urls.items()}
        for table, rows in (request.book or {}).items():
            await write_rows(places.get(TABLES[table][0], places[SAGA_LOG]).sql, table, rows)
        for registered in sagas:
            ranges = await _look(settings, replay, registered)
            await refuse_versions(places[SAGA_LOG].sql, registered.saga)
            await _make_months(replay, places[SAGA_LOG], ranges, events_topic(registered.saga.name))
            loader = _catch_up(replay, places, registered, request, (ranges, report))
            loader.facts.leaves_from = await find_leaf_formats(settings, replay, events_topic(registered.saga.name))
            await loader.declare()
            sized(loader.size)
            await loader.run(advance)
            if request.kind == "rebuilt":
                await _skip_signals(settings, replay, places[SAGA_LOG], registered)
        for database in opened.values():
            await _sum_up(database, report)
        report.left_out += describe_gaps(sagas, rebuilt=request.kind == "rebuilt", book=request.book is not None)
        report.incarnation = max(database.incarnation.number for database in opened.values())
    report.seconds = time.monotonic() - began
    return report


async def _take_over(
    settings: Settings, sagas: Sequence[RegisteredSaga[Participant]], databases: Collection[Database]
) -> None:
    """Make databases those of the installation whose the topics are, as the lost ones were.

    Raises `CommandError` (exit 4) for a database that is in use by another installation, or topics that cannot be
    claimed.
    """
    try:
        owners = [await read_owner(settings.brokers(), registered.saga.name) for registered in sagas]
    except HaltError as error:
        do = "make that topic anew, then run this again"
        raise CommandError("topics-unclaimable", str(error), "Kafka", do, ExitCode.REFUSED) from error
    for owner in filter(None, owners):
        for database in databases:
            here = await read_identity(database.sql)
            if choose_installation([here], owner.installation) != here.identity.installation:
                await set_installation(database.sql, owner.installation, claimed=True)


async def _make_months(replay: TopicReader, log: Database, ranges: Ranges, topic: str) -> None:
    """Make a partition of the audit log for each month of which the topic has records."""
    first: list[datetime] = []
    for place, (begin, end) in ranges.items():
        if place[0] == topic and begin < end:
            first += [record.recorded_at async for batch in replay.read(place, begin, begin + 1) for record in batch]
    if first:
        await create_month_partitions(log.sql, min(first))


async def _look(settings: Settings, replay: TopicReader, registered: RegisteredSaga[Participant]) -> Ranges:
    """Look at the saga's topics before anything is read."""
    name = registered.saga.name
    topics = [events_topic(name), commands_topic(name), dead_letters_topic(name), starts_topic(name)]
    counts = await count_partitions(settings.brokers(), topics)
    ranges = await replay.ranges([(topic, number) for topic in topics for number in range(counts[topic])])
    refuse_trimmed(Cluster.parse(settings.brokers()), topics[:2], ranges)
    return ranges


def _catch_up(
    replay: TopicReader,
    places: Mapping[str, Database],
    registered: RegisteredSaga[Participant],
    request: RebuildRequest,
    told: tuple[Ranges, Report],
) -> TopicLoader:
    ranges, report = told
    partitions = sum(1 for topic, _ in ranges if topic == events_topic(registered.saga.name))
    facts = FactRecovery(Rules(registered.saga, partitions), places[SAGA_LOG].sql, time.time_ns())
    restored = request.kind == "restored"
    return TopicLoader(registered, replay, places, ranges, facts, report, restored=restored, unknown=request.unknown)


async def _skip_signals(
    settings: Settings, replay: TopicReader, log: Database, registered: RegisteredSaga[Participant]
) -> None:
    """Leave signals of before alone: what was decided on them is lost, and acting on them now could trade twice."""
    group, topic = f"{registered.saga.name}-signal-router", SIGNALS.name
    try:
        counts = await count_partitions(settings.brokers(), [topic])
    except CommandError as error:
        if error.exit_code is ExitCode.UNAVAILABLE and error.code == "topic-missing":
            return
        raise
    await declare_lanes(log.sql, group, topic, counts[topic], log.incarnation)
    ranges = await replay.ranges([(topic, number) for number in range(counts[topic])])
    await move_lanes(log.sql, group, topic, {number: end for (_, number), (_, end) in ranges.items()})


async def _sum_up(database: Database, report: Report) -> None:
    for each in await database.end():
        report.shortfalls.append({"account": each.account, "amount": f"{each.amount:f}", "asset": each.asset})
    report.left_out += [
        f"account {name} is known from facts alone: it is closed; set its limits and open it"
        for name in await unknown_accounts(database.sql)
    ]
    report.sagas.update({row[0]: row[1] for row in await database.sql.fetch(_STATES)})
    report.open_steps.update({RowStatus(row[0]).name: row[1] for row in await database.sql.fetch(_OPEN)})
