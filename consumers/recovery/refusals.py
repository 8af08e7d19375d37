"""What a recovery will not work with, and what it cannot bring back."""

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
    """Figures for scripts; `left_out` says in sentences what topics do not hold, and what to do about it."""

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
        """Return all of it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Say it for people."""
        read = f"{self.records['events']} facts and {self.records['commands']} commands"
        dry = " (dry run: nothing written)" * self.dry_run
        told = [
            f"{self.kind}: {read} in {self.seconds:.1f} s, incarnation {self.incarnation}{dry}",
            f"sagas: {_counted(self.sagas)}; {self.folded} facts folded, {self.parked} parked, {self.starts} starts",
            f"steps made anew: {_counted(self.adopted)}; to be gone on with: {_counted(self.open_steps)}",
            f"local effects made anew: {_counted(self.restored)}",
        ]
        if self.owed:
            told.append(f"to be published by the services when they start: {_counted(self.owed)}")
        told += [f"shortfall: {' '.join(each.values())}" for each in self.shortfalls]
        return told + [f"left out: {each}" for each in self.left_out]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()) if number) or "none"


_VERSIONS: Final = """
SELECT DISTINCT version FROM saga
WHERE name = $1 AND version <> ALL($2::int[]) AND state NOT IN ('COMPLETED', 'ABORTED')
"""

_SHOWN: Final = 5


def refuse_trimmed(cluster: Cluster, topics: Sequence[str], ranges: Mapping[Partition, tuple[int, int]]) -> None:
    """Refuse topics whose beginning is gone, or that hold nothing at all."""
    trimmed = [
        f"{cluster.physical(topic)}[{number}]"
        for (topic, number), (first, _) in sorted(ranges.items())
        if first and topic in topics
    ]
    if trimmed:
        what = f"the first records are gone from {', '.join(trimmed[:_SHOWN])}: what they said, nobody can tell"
        do = "restore a database backup and `tradesaga recover restored`; keep these topics for ever (retention.ms=-1)"
        raise CommandError("topic-trimmed", what, "Kafka", do, ExitCode.REFUSED)
    if not any(end for (topic, _), (_, end) in ranges.items() if topic == topics[0]):
        what, do = (
            f"topic {cluster.physical(topics[0])} is empty",
            "correct TRADESAGA_KAFKA, or `tradesaga recover topics` first",
        )
        raise CommandError("topic-empty", what, "Kafka", do, ExitCode.REFUSED)


def refuse_beyond(lanes: Iterable[Lane], ranges: Mapping[Partition, tuple[int, int]]) -> None:
    """Refuse a database that has read further than the broker goes: then it is the topics that were lost."""
    for lane in lanes:
        end = ranges[lane.topic, lane.partition][1]
        if lane.next_offset > end:
            where = f"{lane.topic}[{lane.partition}]"
            what = f"the database has read up to offset {lane.next_offset}, the topic ends at {end}"
            do = "if the topics were lost, make them anew and run `tradesaga recover topics`"
            raise CommandError("topic-behind", what, where, do, ExitCode.REFUSED)


async def refuse_versions(sql: Connection, saga: AnySaga) -> None:
    """Refuse while sagas of a version that is not registered have not ended: nothing here can read them."""
    others = [row[0] for row in await sql.fetch(_VERSIONS, saga.name, list(saga.versions))]
    if others:
        what = f"open sagas of {saga.name!r} run under version {others[0]}; this installation knows {_known(saga)}"
        do = f"register version {others[0]} too, with `alongside`"
        raise CommandError("version-unknown", what, "PostgreSQL", do, ExitCode.REFUSED)


def refuse_unregistered(saga: AnySaga, versions: Mapping[int, int], *, allowed: bool) -> None:
    """Refuse facts of sagas whose version is not registered, unless they are to be parked: no step could be made anew.

    `versions` counts the facts by version.
    """
    if versions and not allowed:
        version, number = min(versions.items())
        what = (
            f"{number} facts are of sagas of {saga.name!r} that run under version {version}; this installation knows "
            f"{_known(saga)}"
        )
        do = f"register version {version} too, with `alongside`; or --park-unknown, which makes none of their steps"
        raise CommandError("version-unknown", what, "topics", do, ExitCode.REFUSED)


def _known(saga: AnySaga) -> str:
    return f"version {', '.join(map(str, sorted(saga.versions)))}"


def refuse_foreign(saga: AnySaga, facts: FactRecovery) -> None:
    """Refuse a topic on which nothing is of this saga."""
    if facts.folded and facts.folded == facts.foreign:
        what = f"none of {facts.folded} records is of saga {saga.name!r}"
        do = "correct TRADESAGA_KAFKA, or the topic that was copied here"
        raise CommandError("topic-foreign", what, events_topic(saga.name), do, ExitCode.REFUSED)


def refuse_unknown(types: Mapping[str, int], *, allowed: bool) -> None:
    """Refuse facts that this installation cannot read, unless they are to be parked."""
    if types and not allowed:
        told = ", ".join(f"{number} {name}" for name, number in sorted(types.items())[:_SHOWN])
        what, do = f"facts of unknown types: {told}", "run this with the release that knows them, or --park-unknown"
        raise CommandError("type-unknown", what, "topics", do, ExitCode.REFUSED)


def describe_gaps(sagas: Sequence[RegisteredSaga[Participant]], *, rebuilt: bool, book: bool) -> list[str]:
    """Return what topics do not hold at all, and how it comes back."""
    told = [
        f"steps {', '.join(registered.unowned)} of {registered.saga.name!r}: no participant is registered for them"
        for registered in sagas
        if registered.unowned
    ]
    if rebuilt and not book:
        told += [
            "accounts, payments, instruments, subscriptions, pauses: --book loads them from what `recover save` wrote",
            "the venue's cursor: its reports are read again from the first, and known ones change nothing",
        ]
    if rebuilt:
        told += [
            "decisions on signals, and signals that nobody had read: strategies' next signals are judged as new",
            "starts that were stored and not yet published: their clients repeat them under the same keys",
            "signed checkpoints of the audit log: they are on the checkpoints topic and with the witness",
        ]
    return told
