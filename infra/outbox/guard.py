"""The guard halts a group whose database and topics do not belong together, before it joins and acquires lanes.

Collects the evidence that `tradesaga.infra.outbox.guard_rules` checks.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from tradesaga.infra.audit_log.seals import SealTrust, read_seals
from tradesaga.infra.clock import read_id
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.inspector import Committed, Inspector, TopicState
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.topic_reader import ReadLimit, read_back
from tradesaga.infra.outbox.guard_rules import (
    Evidence,
    KnownLane,
    Owner,
    check_evidence,
    check_owner,
    last_published,
    last_seen,
    no_claim,
    unproven_ranges,
)  # fmt: skip
from tradesaga.infra.outbox.ports import Brokers, cluster_of, make_inspector
from tradesaga.infra.outbox.processor import HaltError
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.postgres.installation import CLAIM, Identity, read_identity
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.schemas.envelope import ID
from tradesaga.schemas.topics import commands_topic, events_topic, installation_topic, starts_topic

GroupFilter = Callable[[str], bool]
"""Returns whether a group, named without its saga's prefix, uses the database that is checked."""

_OF_THE_LOG: Final = frozenset({"log", "intake", "signal-router"})
"""Groups that use the saga log's database; any other group uses its participant's."""


def group_filter_for(settings: Settings, service: str) -> GroupFilter:
    """Return a filter for the groups that use the database of `service`, as far as these settings show it."""
    return lambda group: settings.shares_database(service, SAGA_LOG if group in _OF_THE_LOG else group)


KNOWN: Final = """
SELECT "group", topic, partition, next_offset, topic_id, partitions, seen_offset, seen_crc
FROM lane WHERE starts_with(topic, $1) OR "group" = $2 ORDER BY "group", topic, partition
"""

# Rows are found by lane; the rows published last are the last rows of the lane, except for those still unpublished.
KEPT: Final = """
SELECT r.id FROM lane l CROSS JOIN LATERAL (
    SELECT o.id FROM outbox o WHERE o.lane = l.id ORDER BY o.seq DESC LIMIT 25000) r
WHERE l."group" = ANY($1::text[]) AND starts_with(l.topic, $2) AND r.id = ANY($3::uuid[])
"""

PIN: Final = """
UPDATE lane SET topic_id = t.topic_id, partitions = t.partitions
FROM unnest($2::text[], $3::uuid[], $4::int[]) AS t (topic, topic_id, partitions)
WHERE "group" = $1 AND lane.topic = t.topic AND lane.partitions IS NULL
"""

TAIL: Final = ReadLimit(300, 32 * 1024 * 1024)
"""Records at the end of each partition, and their bytes, that are searched for the group's own."""

CLAIM_WITHIN: Final = ReadLimit(1000, 8 * 1024 * 1024)
"""First records of `<saga>.installation`, and their bytes, that are searched for the claim."""


def saga_of(topics: Sequence[str]) -> str:
    """Return the saga whose topics these are."""
    return topics[0].rpartition(".")[0] or topics[0]


def watched_topics(saga: str) -> list[str]:
    """Return the topics whose change stops every group and every outbox writer of the saga."""
    return [events_topic(saga), commands_topic(saga), starts_topic(saga), installation_topic(saga)]


class Guard:
    """Checks one group, or for a writer without a group (`group` empty) the database that it writes to.

    With a `trust` the database is compared with the sealed checkpoints too. Groups that `group_filter` rejects work
    with another database now, so their lanes here are ignored.
    """

    def __init__(
        self,
        brokers: Brokers,
        saga: str,
        group: str = "",
        topics: Collection[str] = (),
        *,
        trust: SealTrust | None = None,
        group_filter: GroupFilter | None = None,
    ) -> None:
        self._brokers = brokers
        self._cluster = cluster_of(brokers)
        self._saga = saga
        self.group = group
        self._topics = topics
        self._trust = trust
        self._group_filter = group_filter
        self._owner: tuple[UUID, Owner] | None = None
        self._found: Mapping[str, TopicState] = {}
        self.identity: Identity | None = None
        """The database's identity, once it has been checked."""

    async def check(self, sql: Connection) -> None:
        """Raise `HaltError` where database and topics do not belong together, `KafkaUnavailableError`."""
        async with make_inspector(self._brokers) as inspector:
            owner = await self._claim_topics(inspector, sql)
            here = await read_identity(sql)
            if owner is not None:
                check_owner(self._cluster.physical(self._saga), owner, here.identity, here.label)
            found = await self._collect(inspector, sql)
        check_evidence(found)
        if not here.claimed:
            await sql.execute(CLAIM, here.identity.installation)
        self.identity = found.here
        self._found = found.topics

    async def refusal(self, sql: Connection) -> str:
        """Return why the group would halt with this database, empty if it would not; claims and stores nothing.

        Raises `KafkaUnavailableError`, `CommandError` where the schema is of an earlier release.
        """
        try:
            owner = await read_owner(self._brokers, self._saga)
            here = await read_identity(sql)
            if owner is not None:
                check_owner(self._cluster.physical(self._saga), owner, here.identity, here.label)
            async with make_inspector(self._brokers) as inspector:
                check_evidence(await self._collect(inspector, sql))
        except HaltError as error:
            return str(error)
        return ""

    async def pin(self, sql: Connection) -> None:
        """Store the topic id and partition count of newly created lanes, as the last check found them."""
        states = {name: state for name, state in self._found.items() if name in self._topics}
        columns = [each.id for each in states.values()], [each.partitions for each in states.values()]
        await sql.execute(PIN, self.group, list(states), *columns)

    async def _claim_topics(self, inspector: Inspector, sql: Connection) -> Owner | None:
        """Return the owner of the topics; claim them for this database's installation if they have none."""
        topic = installation_topic(self._saga)
        state = (await inspector.topics([topic])).get(topic)
        if state is None:
            return None  # created by a platform for an earlier release; offsets are still compared
        if self._owner is None or self._owner[0] != state.id:
            owner = await _first_owner(inspector, topic, self._cluster)
            if owner is None:
                here = await read_identity(sql)
                since = datetime.now(UTC).isoformat(timespec="seconds")
                mine = Owner(here.identity.installation, here.label, since)
                await inspector.append(topic, self._saga.encode(), mine.to_wire())
                # Another process may have been faster.
                owner = await _first_owner(inspector, topic, self._cluster) or mine
            self._owner = state.id, owner
        return self._owner[1]

    async def _collect(self, inspector: Inspector, sql: Connection) -> Evidence:
        """Collect the evidence while groups and the sealer may be running.

        Of two positions, the one that must not be ahead is read first: committed offsets, seals and first offsets of
        the broker, then the database's offsets, then the ends of the partitions. The last record read is found by the
        database's offset, and a fact is in the outbox before it is on its topic.
        """
        known = await self._read_lanes(sql)
        committed = await inspector.committed(sorted({lane.group for lane in known} | ({self.group} - {""})))
        seals = await read_seals(inspector, self._saga, self._trust) if self._trust else {}
        begins = await self._begins(inspector, [lane for lane in known if lane.group == self.group])
        here = (await read_identity(sql)).identity
        lanes = await self._read_lanes(sql)
        topics = await inspector.topics(sorted({lane.topic for lane in lanes} | {*self._topics}))
        present = [lane for lane in lanes if _exists(lane.place, topics)]
        places = {lane.place for lane in present} | {place for place in seals if _exists(place, topics)}
        ranges = {
            place: (min(first, begins.get(place, first)), end)
            for place, (first, end) in (await inspector.ranges(sorted(places))).items()
        }
        last = last_seen(present)
        wanted = {
            place: (offset, ranges[place][1])
            for place, offset in last.items()
            if ranges[place][0] <= offset < ranges[place][1]
        }
        records = {place: found[0] for place, found in (await inspector.read(wanted, first=True)).items() if found}
        lost = await self._find_lost(inspector, sql, lanes, topics)
        passed = await self._find_passed(inspector, present, committed, ranges)
        return Evidence(self.group, here, lanes, committed, topics, ranges, records, lost, self._cluster, seals, passed)

    async def _begins(self, inspector: Inspector, lanes: Sequence[KnownLane]) -> dict[Partition, int]:
        """Return the broker's first offset of each lane's partition."""
        topics = await inspector.topics(sorted({lane.topic for lane in lanes})) if lanes else {}
        places = sorted(lane.place for lane in lanes if _exists(lane.place, topics))
        return {place: first for place, (first, _) in (await inspector.ranges(places)).items()}

    async def _find_passed(
        self,
        inspector: Inspector,
        lanes: Sequence[KnownLane],
        committed: Mapping[str, Mapping[Partition, Committed]],
        ranges: Mapping[Partition, tuple[int, int]],
    ) -> dict[Partition, Record]:
        """Return, by partition, the first record that an earlier release's saga log had read and this one has not."""
        unproven = unproven_ranges(f"{self._saga}-log", lanes, committed)
        held = {
            place: (max(begin, ranges[place][0]), min(end, ranges[place][1]))
            for place, (begin, end) in unproven.items()
        }
        return {place: found[0] for place, found in (await inspector.read(held, first=True)).items() if found}

    async def _find_lost(
        self, inspector: Inspector, sql: Connection, lanes: Sequence[KnownLane], topics: Mapping[str, TopicState]
    ) -> dict[str, Record]:
        """Return, by group, a fact of its own on the events topic that is in no outbox of this database.

        What a lost transaction has published lies at or after the offset at which the database continues, so the last
        fact of each group after its own offset is looked up.
        """
        events = events_topic(self._saga)
        if events not in topics:
            return {}
        behind = {
            (lane.group, lane.partition): lane.next_offset
            for lane in lanes
            if lane.topic == events and lane.partition < topics[events].partitions
        }
        ends = await inspector.ranges([(events, number) for number in {number for _, number in behind}])
        ranges = {
            place: (max(first, min(at for (_, n), at in behind.items() if n == place[1])), end)
            for place, (first, end) in ends.items()
        }
        published: dict[tuple[str, int], Record] = {}

        def take(records: Sequence[Record]) -> None:
            for key, record in last_published(self._saga, behind, records, inspector.now()).items():
                if key not in published or published[key].offset < record.offset:
                    published[key] = record

        await read_back(inspector, ranges, TAIL, take)
        if not published:
            return {}
        ids = {key: read_id(record.header(ID).decode()) for key, record in published.items()}
        rows: Sequence[Any] = await sql.fetch(KEPT, [group for group, _ in ids], f"{self._saga}.", list(ids.values()))
        kept = {row["id"] for row in rows}
        return {key[0]: record for key, record in published.items() if ids[key] not in kept}

    async def _read_lanes(self, sql: Connection) -> list[KnownLane]:
        rows: Sequence[Any] = await sql.fetch(KNOWN, f"{self._saga}.", self.group)
        lanes = [KnownLane(*(row[name] for name in KnownLane._fields)) for row in rows]
        return [lane for lane in lanes if lane.group == self.group or self._is_included(lane.group)]

    def _is_included(self, group: str) -> bool:
        return self._group_filter is None or self._group_filter(group.removeprefix(f"{self._saga}-"))


def _exists(place: Partition, topics: Mapping[str, TopicState]) -> bool:
    return place[0] in topics and place[1] < topics[place[0]].partitions


async def read_owner(brokers: Brokers, saga: str) -> Owner | None:
    """Return the owner of a saga's topics, None where they are not claimed.

    Raises `HaltError` where they cannot be claimed, `KafkaUnavailableError`.
    """
    topic = installation_topic(saga)
    async with make_inspector(brokers) as inspector:
        if not await inspector.topics([topic]):
            return None
        return await _first_owner(inspector, topic, cluster_of(brokers))


async def _first_owner(inspector: Inspector, topic: str, cluster: Cluster) -> Owner | None:
    """Return the owner named by the first record that is a claim; later claims are ignored.

    Everybody reads the same records: a claim after `CLAIM_WITHIN` does not count. Raises `HaltError` where other
    records fill that range, `KafkaUnavailableError`.
    """
    place = (topic, 0)
    first, end = (await inspector.ranges([place]))[place]
    size, last = 0, first + CLAIM_WITHIN.records
    async with aclosing(inspector.scan({place: (first, min(end, last))})) as pages:
        async for page in pages:
            for record in page:
                if (owner := Owner.read(record.value)) is not None:
                    return owner
                size += record.size + len(record.key or b"")
                if size >= CLAIM_WITHIN.size:
                    raise HaltError(no_claim(cluster.physical(topic)))
    if end >= last:
        raise HaltError(no_claim(cluster.physical(topic)))
    return None
