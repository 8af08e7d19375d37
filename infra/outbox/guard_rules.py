"""The guard's rules: whether a group's database and topics belong together, decided from evidence without I/O.

The database commits before Kafka's committed offset, so a committed offset beyond the database's means that the
database was set back. Each committed offset carries the identity of its database, and the first record of
`<saga>.installation` names the owner of the topics. Each lane stores the topic's id, its partition count and the last
record read, and the sealer has signed up to where the saga log had read. docs/decisions/0014 has the reasons.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self
from uuid import UUID

import orjson

from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.seals import find_sealed_ahead
from tradesaga.infra.clock import parse_time
from tradesaga.infra.kafka.codec import Record, RecordChecksum, record_checksum
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.inspector import NO_ID, Committed, TopicState
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.outbox.processor import HaltError
from tradesaga.infra.postgres.installation import Identity
from tradesaga.schemas.envelope import ID

_RECOVER: Final = "stop every service and run `tradesaga recover restored`"
_TOPICS: Final = (
    "stop every service, delete the saga's events, commands and dead-letters topics and run `tradesaga recover topics`"
)


_KEPT_NS: Final = 24 * 3600 * 1_000_000_000
"""Nanoseconds for which the outbox certainly keeps a fact; it keeps at least two days."""


class KnownLane(NamedTuple):
    """A lane row. `topic_id` and `partitions` are those of the topic when the lane was created."""

    group: str
    topic: str
    partition: int
    next_offset: int
    topic_id: UUID | None
    partitions: int | None
    seen_offset: int | None
    seen_crc: int | None

    @property
    def place(self) -> Partition:
        """Return the partition."""
        return self.topic, self.partition

    @property
    def seen(self) -> RecordChecksum | None:
        """The checksum of the last record read."""
        if self.seen_offset is None or self.seen_crc is None:
            return None
        return RecordChecksum(self.seen_offset, self.seen_crc)


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a saga's topics, as the `installation` topic names it."""

    installation: UUID
    database: str
    since: str

    @classmethod
    def read(cls, value: bytes) -> Self | None:
        """Parse a record's value; return None if it is not a claim."""
        try:
            found = orjson.loads(value)
            return cls(UUID(found["installation"]), str(found["database"]), str(found["since"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def to_wire(self) -> bytes:
        """Return the record's value."""
        return orjson.dumps(
            {"installation": str(self.installation), "database": self.database, "since": self.since},
        )

    def __str__(self) -> str:
        """Describe the installation in an error message."""
        return f"installation {self.installation} (database {self.database}, since {self.since})"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read from the database and Kafka for one group.

    `lanes` and `topics` are those of every group in the database, `committed` the offsets by group. `ranges` has the
    first and the next offset of their partitions, `records` the last record that any group has read of each. `lost`
    are facts by group that no outbox of the database has, `seals` the last signed checkpoint of each partition.
    """

    group: str
    here: Identity
    lanes: Sequence[KnownLane]
    committed: Mapping[str, Mapping[Partition, Committed]]
    topics: Mapping[str, TopicState]
    ranges: Mapping[Partition, tuple[int, int]]
    records: Mapping[Partition, Record]
    lost: Mapping[str, Record]
    cluster: Cluster
    """Translates to the names that people see in Kafka."""
    seals: Mapping[Partition, Checkpoint] = field(default_factory=dict[Partition, Checkpoint])
    passed: Mapping[Partition, Record] = field(default_factory=dict[Partition, Record])
    """Records that an earlier release's saga log had passed, and the database has not."""

    def named(self, name: str) -> str:
        """Return the physical name of a topic or a group."""
        return self.cluster.physical(name)

    def located(self, place: Partition) -> str:
        """Return the physical name of a partition."""
        return f"{self.named(place[0])}[{place[1]}]"

    @property
    def own(self) -> list[KnownLane]:
        """The lanes of the group itself."""
        return [lane for lane in self.lanes if lane.group == self.group]


def check_owner(saga: str, owner: Owner, here: Identity, label: str) -> None:
    """Raise `HaltError` where the topics belong to another installation."""
    if owner.installation != here.installation:
        raise HaltError(
            f"the topics of {saga} belong to {owner}; database {label} is of installation {here.installation}, which "
            f"must not join their groups or write to them: {_elsewhere(owner.installation)}"
        )


def no_claim(topic: str) -> str:
    """Return the message for topics whose claim cannot be found or written."""
    return (
        f"the first records of {topic} name no installation, and a claim after them does not count: another producer "
        f"wrote there before the first start; deny it access, stop every service, delete only that topic and create it "
        f"again (`tradesaga schema topics`, or `tradesaga up`): the next start claims it"
    )


def check_evidence(found: Evidence) -> None:
    """Raise `HaltError` where the evidence shows that records must not be handled."""
    for group, offsets in found.committed.items():
        _check_identity(found, group, offsets)
    _check_history(found)
    for group, offsets in found.committed.items():
        _check_offsets(found, group, offsets)
    for place, record in found.passed.items():
        raise HaltError(
            f"an earlier release had the saga log past the record at offset {record.offset} of {found.located(place)}, "
            f"and the database does not know it: it was set back to an earlier moment, by a backup that was restored "
            f"or a standby that lacked the last commits; {_RECOVER}"
        )
    for lane in found.lanes:
        _check_topic(found, lane)
    for group, record in found.lost.items():
        where = found.located((record.topic, record.partition))
        raise HaltError(
            f"{where} has a fact of {group} at offset {record.offset} that the database does not know: it was set back "
            f"to an earlier moment, by a backup that was restored or a standby that lacked the last commits; {_RECOVER}"
        )
    _check_seals(found)
    for lane in found.lanes:
        _check_records(found, lane)


def sealed_ahead(where: str, sealed: int, read: int) -> str:
    """Return the message for a partition that is sealed further than the database has read it."""
    if not read:
        return (
            f"{where} is sealed up to offset {sealed}, and the database knows nothing of it: rebuild it with "
            f"`tradesaga recover database`, or name the right one in TRADESAGA_DATABASE_URL"
        )
    return (
        f"{where} is sealed up to offset {sealed}, and the database has read it up to {read}: it was set back to an "
        f"earlier moment, by a backup that was restored or a standby that lacked the last commits; {_RECOVER}"
    )


def _check_seals(found: Evidence) -> None:
    """Compare with the checkpoints, where the database has the saga log's lanes."""
    for topic in {topic for topic, _ in found.seals}:
        log = f"{topic.rpartition('.')[0]}-log"
        read = {lane.place: lane.next_offset for lane in found.lanes if (lane.group, lane.topic) == (log, topic)}
        if not read and found.group != log:
            continue
        seals = {place: seal for place, seal in found.seals.items() if place[0] == topic}
        ahead = find_sealed_ahead(seals, read, {place: end for place, (_, end) in found.ranges.items()})
        if ahead is not None:
            place, sealed = ahead
            raise HaltError(sealed_ahead(found.located(place), sealed, read.get(place, 0)))


def _check_history(found: Evidence) -> None:
    """Reject a database without lanes for a group that has worked before: everything would be handled again."""
    passed = {place: each.offset for place, each in found.committed.get(found.group, {}).items() if each.offset}
    if passed and not found.own:
        place, offset = min(passed.items())
        raise HaltError(
            f"the database knows nothing of {found.named(found.group)}, yet Kafka has it at offset {offset} of "
            f"{found.located(place)}: it has worked with another database; name that one, or rebuild this one with "
            f"`tradesaga recover database`; only if every record is to be handled again, delete the group "
            f"{found.named(found.group)} in Kafka"
        )


def _check_identity(found: Evidence, group: str, offsets: Mapping[Partition, Committed]) -> None:
    """Compare the database identity stored with committed offsets; earlier releases did not store one."""
    here, name = found.here, found.named(group)
    for there in filter(None, {Identity.parse(each.metadata) for each in offsets.values()}):
        if there.installation != here.installation:
            raise HaltError(
                f"the group {name} belongs to installation {there.installation}, and this database is of "
                f"installation {here.installation}: {_elsewhere(there.installation)}"
            )
        if there.incarnation > here.incarnation:
            raise HaltError(
                f"the group {name} has worked with incarnation {there.incarnation} of the database, and this one is "
                f"incarnation {here.incarnation}: it was set back to before a recovery; {_RECOVER}"
            )


def _check_offsets(found: Evidence, group: str, offsets: Mapping[Partition, Committed]) -> None:
    """Compare offsets of the same incarnation; those of an earlier release could be ahead of its database."""
    stored = {lane.place: lane.next_offset for lane in found.lanes if lane.group == group}
    for place, committed in sorted(offsets.items()):
        if Identity.parse(committed.metadata) == found.here and committed.offset > stored.get(place, 0):
            raise HaltError(
                f"the database is at offset {stored.get(place, 0)} of {found.located(place)}, yet Kafka has "
                f"{found.named(group)} at {committed.offset}: the database was set back to an earlier moment, by a "
                f"backup that was restored or a standby that lacked the last commits; {_RECOVER}"
            )


def _check_topic(found: Evidence, lane: KnownLane) -> None:
    """Compare a topic with the one that the lane was created for."""
    if lane.partitions is None:
        return
    topic, name = found.topics.get(lane.topic), found.named(lane.topic)
    if topic is None:
        raise HaltError(
            f"the topic {name}, which {lane.group} has read, is gone: name the right broker in TRADESAGA_KAFKA, "
            f"or {_TOPICS}"
        )
    if lane.topic_id and NO_ID not in (lane.topic_id, topic.id) and lane.topic_id != topic.id:
        raise HaltError(
            f"the topic {name} was deleted and recreated: its id is {topic.id}, and {lane.group} has read "
            f"{lane.topic_id}; name the right broker in TRADESAGA_KAFKA, or {_TOPICS}"
        )
    if topic.partitions != lane.partitions:
        raise HaltError(
            f"the topic {name} has {topic.partitions} partitions and had {lane.partitions}: keys are on other "
            f"partitions now, and partitions cannot be removed; {_TOPICS}, which creates the topics with "
            f"{lane.partitions}"
        )


def _check_records(found: Evidence, lane: KnownLane) -> None:
    """Compare the broker's records with the lane's next offset and with the last record that it has read.

    A truncated topic halts every group in the database; one that has lost unread records halts only their reader.
    """
    where = found.located(lane.place)
    if lane.place in found.ranges:
        first, following = found.ranges[lane.place]
        if lane.next_offset > following or (lane.next_offset < first and lane.group == found.group):
            raise HaltError(
                f"{where}: the database is at offset {lane.next_offset}, the broker holds {first} to {following}; if "
                f"the broker has lost records, {_TOPICS}; if retention removed unread records, move the lane of "
                f"{lane.group} by hand (docs/operations.md)"
            )
    record = found.records.get(lane.place)
    if record is None or lane.seen is None or record.offset != lane.seen.offset:
        return
    if record_checksum(record) != lane.seen:
        raise HaltError(
            f"{where} has another record at offset {record.offset} than the one that {lane.group} has read: the "
            f"topic was truncated and written to again, as by an unclean leader election; {_TOPICS}"
        )


def unproven_ranges(
    log: str, lanes: Iterable[KnownLane], committed: Mapping[str, Mapping[Partition, Committed]]
) -> dict[Partition, tuple[int, int]]:
    """Return the ranges between the database's offsets and those an earlier release committed for the saga log.

    That release stored no identity, and committed offsets after unwanted records before the database had them. The
    saga log wants every record, so a record in such a range was lost by the database.
    """
    offsets = committed.get(log, {})
    return {
        lane.place: (lane.next_offset, offsets[lane.place].offset)
        for lane in lanes
        if lane.group == log
        and lane.place in offsets
        and not offsets[lane.place].metadata
        and lane.next_offset < offsets[lane.place].offset
    }


def last_seen(lanes: Iterable[KnownLane]) -> dict[Partition, int]:
    """Return the offset of the last record of each partition that any group has read."""
    found: dict[Partition, int] = {}
    for lane in lanes:
        if lane.seen is not None:
            found[lane.place] = max(found.get(lane.place, 0), lane.seen.offset)
    return found


def last_published(
    saga: str, behind: Mapping[tuple[str, int], int], records: Iterable[Record], now: int
) -> dict[tuple[str, int], Record]:
    """Return the last fact that each group has published on each partition at or after its offset there.

    A group's facts have `/<saga>/<name>` as their source, where `<saga>-<name>` is the group. Facts older than the
    outbox's retention are left out. `now` is in nanoseconds since 1970.
    """
    found: dict[tuple[str, int], Record] = {}
    for record in records:
        name = record.header("ce_source").decode("utf-8", "replace").rpartition("/")[2]
        key = (f"{saga}-{name}", record.partition)
        if key in behind and record.offset >= behind[key] and _is_ours(record, now - _KEPT_NS):
            found[key] = record
    return found


def _is_ours(record: Record, since: int) -> bool:
    """Return whether a record has an id and a time in our formats and is no older than `since` (nanoseconds)."""
    try:
        UUID(record.header(ID).decode())
        return parse_time(record.header("ce_time").decode()) >= since
    except ValueError:
        return False


def _elsewhere(installation: UUID) -> str:
    return (
        f"name the servers that belong together in TRADESAGA_KAFKA and TRADESAGA_DATABASE_URL; a database that "
        f"replaces a lost one is rebuilt by `tradesaga recover database`, a further one of that installation joins it "
        f"by `tradesaga migrate --installation {installation}`"
    )
