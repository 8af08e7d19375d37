"""The report of a recovery, its checks of topics and databases, and what it cannot restore."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.facts import FactRecovery
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.registry.sagas import RegisteredSaga
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.topics import events_topic


@dataclass
class Report:
    """The figures of a recovery. `left_out` has sentences on what was not recovered, and what to do about it."""

    kind: str
    incarnation: int = 0
    seconds: float = 0.0
    records: Counter[str] = field(default_factory=Counter[str])
    sagas: Counter[str] = field(default_factory=Counter[str])
    folded: int = 0
    parked: int = 0
    starts: int = 0
    adopted: Counter[str] = field(default_factory=Counter[str])
    restored: Counter[str] = field(default_factory=Counter[str])
    open_steps: Counter[str] = field(default_factory=Counter[str])
    owed: Counter[str] = field(default_factory=Counter[str])
    shortfalls: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    left_out: list[str] = field(default_factory=list[str])
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as text lines."""
        read = f"{self.records['events']} facts and {self.records['commands']} commands"
        dry = " (dry run: nothing written)" * self.dry_run
        lines = [
            f"{self.kind}: {read} in {self.seconds:.1f} s, incarnation {self.incarnation}{dry}",
            f"sagas: {_counted(self.sagas)}; {self.folded} facts folded, {self.parked} parked, {self.starts} starts",
            f"steps rebuilt: {_counted(self.adopted)}; unfinished: {_counted(self.open_steps)}",
            f"local effects restored: {_counted(self.restored)}",
        ]
        if self.owed:
            lines.append(f"published by the services when they start: {_counted(self.owed)}")
        lines += [f"shortfall: {' '.join(each.values())}" for each in self.shortfalls]
        return lines + [f"not recovered: {each}" for each in self.left_out]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()) if number) or "none"


_VERSIONS: Final = """
SELECT DISTINCT version FROM saga
WHERE name = $1 AND version <> ALL($2::int[]) AND state NOT IN ('COMPLETED', 'ABORTED')
"""

_SHOWN: Final = 5


def refused(code: str, what: str, where: str, do: str) -> CommandError:
    """Return the error of a recovery that is refused (exit 4)."""
    return CommandError(code, what, where, do, ExitCode.REFUSED)


def refuse_trimmed(cluster: Cluster, topics: Sequence[str], ranges: Mapping[Partition, tuple[int, int]]) -> None:
    """Refuse topics whose first records are gone, and an empty events topic."""
    trimmed = [
        f"{cluster.physical(topic)}[{number}]"
        for (topic, number), (first, _) in sorted(ranges.items())
        if first and topic in topics
    ]
    if trimmed:
        what = f"the first records of {', '.join(trimmed[:_SHOWN])} were removed"
        do = "restore a database backup and `tradesaga recover restored`; keep these topics for ever (retention.ms=-1)"
        raise refused("topic-trimmed", what, "Kafka", do)
    if not any(end for (topic, _), (_, end) in ranges.items() if topic == topics[0]):
        what = f"topic {cluster.physical(topics[0])} is empty"
        do = "correct TRADESAGA_KAFKA, or run `tradesaga recover topics` first"
        raise refused("topic-empty", what, "Kafka", do)


def refuse_beyond(lanes: Iterable[Lane], ranges: Mapping[Partition, tuple[int, int]]) -> None:
    """Refuse a database that has read beyond the end of a topic: then the topics were lost."""
    for lane in lanes:
        end = ranges[lane.topic, lane.partition][1]
        if lane.next_offset > end:
            where = f"{lane.topic}[{lane.partition}]"
            what = f"the database has read up to offset {lane.next_offset}, the topic ends at {end}"
            do = "if the topics were lost, create them again and run `tradesaga recover topics`"
            raise refused("topic-behind", what, where, do)


def refuse_partitions(known: Iterable[tuple[str, int]], wanted: Mapping[str, int]) -> None:
    """Refuse to create a topic with another number of partitions than the lanes of the database have seen."""
    for topic, number in known:
        if wanted.get(topic, number) != number:
            what = f"topic {topic} had {number} partitions and would be created with {wanted[topic]}: keys would move"
            raise refused("partitions-differ", what, "PostgreSQL", f"set TRADESAGA_PARTITIONS={number}")


async def refuse_versions(sql: Connection, saga: AnySaga) -> None:
    """Refuse unfinished sagas of a version that is not registered: nothing here can read them."""
    others = [row[0] for row in await sql.fetch(_VERSIONS, saga.name, list(saga.versions))]
    if others:
        what = f"open sagas of {saga.name!r} run under version {others[0]}; this installation knows {_known(saga)}"
        do = f"register version {others[0]} too, with `alongside`"
        raise refused("version-unknown", what, "PostgreSQL", do)


def refuse_unregistered(saga: AnySaga, versions: Mapping[int, int], *, allowed: bool) -> None:
    """Refuse facts of sagas whose version is not registered, unless they may be parked: no step could be rebuilt.

    `versions` counts the facts by version.
    """
    if versions and not allowed:
        version, number = min(versions.items())
        what = (
            f"{number} facts are of sagas of {saga.name!r} that run under version {version}; this installation knows "
            f"{_known(saga)}"
        )
        do = f"register version {version} too, with `alongside`; or --park-unknown, which rebuilds none of their steps"
        raise refused("version-unknown", what, "topics", do)


def _known(saga: AnySaga) -> str:
    return f"version {', '.join(map(str, sorted(saga.versions)))}"


def refuse_foreign(saga: AnySaga, facts: FactRecovery) -> None:
    """Refuse a topic without any record of this saga."""
    if facts.folded and facts.folded == facts.foreign:
        what = f"none of the {facts.folded} records is of saga {saga.name!r}"
        do = "correct TRADESAGA_KAFKA, or the topic that was copied here"
        raise refused("topic-foreign", what, events_topic(saga.name), do)


def refuse_unknown(types: Mapping[str, int], *, allowed: bool) -> None:
    """Refuse facts that this installation cannot read, unless they may be parked."""
    if types and not allowed:
        shown = ", ".join(f"{number} {name}" for name, number in sorted(types.items())[:_SHOWN])
        what, do = f"facts of unknown types: {shown}", "use the release that knows them, or run with --park-unknown"
        raise refused("type-unknown", what, "topics", do)


def describe_gaps(sagas: Sequence[RegisteredSaga[Participant]], *, rebuilt: bool, book: bool) -> list[str]:
    """Return sentences on what topics do not contain, and how to get it back."""
    gaps = [
        f"steps {', '.join(registered.unowned)} of {registered.saga.name!r}: no participant is registered for them"
        for registered in sagas
        if registered.unowned
    ]
    if rebuilt and not book:
        gaps += [
            "accounts, payments, instruments, subscriptions, pauses: load the file of `recover save` with --book",
            "the venue's cursor: its reports are read again from the first one, and known ones change nothing",
        ]
    if rebuilt:
        gaps += [
            "decisions on signals, and unread signals: the next signals of the strategies count as new",
            "starts that were stored and not yet published: clients have to repeat them under the same keys",
            "signed checkpoints of the audit log: they are on the checkpoints topic and in the witness file",
        ]
    return gaps
