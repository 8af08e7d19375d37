"""Verifies events topics: hashes every record from Kafka's bytes and compares the trees with the checkpoints."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import orjson
import uvloop

from tradesaga.consumers.audit.log.action_log import TOPIC as ACTIONS
from tradesaga.consumers.audit.log.checkpoints import read_stored_notes
from tradesaga.consumers.audit.log.fold import Fold, form_at
from tradesaga.consumers.audit.log.log_check import (
    Checkpoints,
    LogCheck,
    Report,
    Verdict,
    by_size,
    check_chain,
    merge_checkpoints,
    read_notes,
)
from tradesaga.consumers.audit.options import audit_session, progress_bar
from tradesaga.consumers.saga_log.chain import FORMAT, link_as
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, leaves_from
from tradesaga.infra.audit_log.note import Verifier
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.kafka.admin import count_partitions, read_cluster_id
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.kafka.topics import read_removals
from tradesaga.infra.registry.sagas import find_saga, registered_sagas
from tradesaga.infra.settings import Settings
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.envelope import SAGA_ID, TYPE
from tradesaga.schemas.topics import checkpoints_topic, events_topic


class Chains:
    """The sagas' hash chains on one partition, in about 200 bytes of memory per saga.

    Until a saga has started, only a fold shows whether a record is part of its chain; after that, all records are.
    Hashes are of format 2 from the offset `leaves_from`.
    """

    def __init__(self, rules: Rules, leaves_from: int = 0) -> None:
        self._leaves_from = leaves_from
        self._fold = Fold(rules, self)
        self._heads: dict[bytes, bytes] = {}
        self._early: dict[UUID, Tracked] = {}

    def form_of(self, record: Record) -> int:
        """Return the format of a record's hash."""
        return form_at(record.offset, self._leaves_from)

    def take(self, record: Record) -> bytes:
        """Return the hash of the next record, in offset order."""
        said, form = record.header(SAGA_ID), self.form_of(record)
        head = self._heads.get(said)
        if head is not None and record.key == said:
            found = self._heads[said] = link_as(form, head, record)
            return found
        return self._fold.take(record, form).entry.hash

    def get(self, saga_id: UUID) -> Tracked | None:
        """Return a saga that has parked records and has not started."""
        return self._early.get(saga_id)

    def keep(self, tracked: Tracked) -> None:
        """Store the last hash of a saga that has started, or all of one that has not."""
        if tracked.snapshot is None:
            self._early[tracked.saga_id] = tracked
            return
        self._heads[str(tracked.saga_id).encode()] = tracked.snapshot.head
        self._early.pop(tracked.saga_id, None)


@dataclass
class TopicVerifier:
    """Verifies the events topics of some sagas.

    The partitions `noted` of checkpoints topics are read first, then `sources`, which returns notes by their source: a
    source that gets checkpoints earlier is read later. `cluster` is the id of the cluster; `removals` has the rule by
    which the broker removes records, by topic. `alone` ignores checkpoints of other topics.
    """

    topics: TopicReader
    sagas: Sequence[Rules]
    log_id: str
    cluster: str
    trusted: Mapping[bytes, Verifier]
    sources: Callable[[], Awaitable[Mapping[str, Iterable[str]]]]
    noted: Sequence[Partition] = ()
    sized: Callable[[int], object] = lambda _: None
    progress: Callable[[int], object] = lambda _: None
    types: frozenset[str] | None = None
    alone: bool = False
    removals: Mapping[str, str] = field(default_factory=dict[str, str])
    report: Report = field(default_factory=Report)

    async def run(self) -> Report:
        """Verify all partitions. Raises `KafkaUnavailableError`."""
        self.report.types = self.types
        known = await self._collect()
        self.report.checkpoints = sum(len(checkpoints) for checkpoints in known.values())
        places = {(rules.topic, number): rules for rules in self.sagas for number in range(rules.partitions)}
        held = await self.topics.ranges(places)
        self.sized(sum(end - begin for begin, end in held.values()))
        for place, rules in places.items():
            checkpoints = known.pop(str(Origin(self.log_id, *place)), {})
            if checkpoints or held[place][1]:
                await self._verify(place, rules, held[place], by_size(checkpoints))
        self.report.remarks += [
            f"the broker removes records from {topic}: {why}" for topic, why in self.removals.items()
        ]
        mine = {rules.topic for rules in self.sagas}
        for origin, checkpoints in known.items():
            if not self.alone or Origin.parse(origin).topic in mine:
                self._tell_unknown(Origin.parse(origin), len(checkpoints))
        return self.report

    async def _collect(self) -> Checkpoints:
        """Return the checkpoints of all sources, and report contradictions."""
        noted = {f"{place[0]}[{place[1]}]": [note async for note in self._notes(place)] for place in self.noted}
        sources = {**await self.sources(), **noted}
        known: Checkpoints = {}
        for where, notes in sources.items():
            merge_checkpoints(self.report, known, where, read_notes(self.report, where, notes, self.trusted))
        for checkpoints in known.values():
            check_chain(self.report, checkpoints)
        return {origin: found for origin, found in known.items() if Origin.parse(origin).topic != ACTIONS}

    async def _notes(self, place: Partition) -> AsyncGenerator[str]:
        begin, end = (await self.topics.ranges([place]))[place]
        async for batch in self.topics.read_remaining(place, begin, end):
            for record in batch:
                yield record.value.decode("utf-8", "replace")

    async def _verify(
        self, place: Partition, rules: Rules, held: tuple[int, int], checkpoints: Mapping[int, Checkpoint]
    ) -> None:
        """Verify one partition."""
        origin, where = Origin(self.log_id, *place), f"{place[0]}[{place[1]}]"
        check = LogCheck(self.report, origin, checkpoints)
        chains = Chains(rules, leaves_from(checkpoints.values()))
        if held[0]:
            what = f"the topic begins at offset {held[0]}: what was before it has been removed, by retention or by hand"
            self.report.add(Verdict.INCOMPLETE, f"{where} offset 0", what)
        # Offsets of records that compaction removed look like those of transaction markers.
        whole = "compact" not in self.removals.get(place[0], "")
        following = held[0]
        async for batch in self.topics.read_remaining(place, *held):
            for record in batch:
                skipped = record.skipped if whole and chains.form_of(record) == FORMAT else 0
                check.take_hash(record.offset, chains.take(record), skipped)
                self.report.unreadable += not self._is_readable(record.header(TYPE), record.value)
            self.progress(len(batch))
            following = batch[-1].offset + 1
        if following < held[1] and not whole:
            what = f"offsets {following} to {held[1] - 1} are missing"
            self.report.add(Verdict.INCOMPLETE, f"{where} offset {following}", what)
        check.finish()
        if checkpoints and not check.agreed:
            what = (
                f"not one of {len(checkpoints)} checkpoints fits: this is another cluster's topic than the one that was"
                f" sealed (this is cluster {self.cluster}), or it was recreated"
            )
            self.report.add(Verdict.INCOMPLETE, where, what)

    def _is_readable(self, event_type: bytes, value: bytes) -> bool:
        """Return whether a payload is a JSON object of a known type."""
        if self.types is not None and event_type.decode("utf-8", "replace") not in self.types:
            return False
        try:
            return isinstance(orjson.loads(value), dict)
        except orjson.JSONDecodeError:
            return False

    def _tell_unknown(self, origin: Origin, count: int) -> None:
        if origin.log_id != self.log_id:
            why = f"they are of another installation than {self.log_id!r}: TRADESAGA_AUDIT_LOG_ID"
        elif origin.topic not in {rules.topic for rules in self.sagas}:
            why = "no saga of that topic is known here: name its module in TRADESAGA_APP"
        else:
            why = "the topic has no such partition: it is another cluster's, or was recreated"
        self.report.add(Verdict.INCOMPLETE, str(origin), f"{count} checkpoints of an unknown log: {why}")


def verify_topics(
    settings: Settings,
    trusted: Mapping[bytes, Verifier],
    witnesses: Sequence[WitnessFile],
    *,
    database: bool,
    saga: str | None = None,
) -> Report:
    """Verify the events topics of all registered sagas, or of one; `database` includes the database's checkpoints.

    Raises `CommandError` for an unknown saga, an unavailable server or a missing topic, and `WitnessError`.
    """
    known = registered_sagas(settings.app)
    sagas = known if saga is None else {saga: find_saga(saga, settings.app)}
    return uvloop.run(_verify(settings, trusted, witnesses, sagas, database=database, alone=saga is not None))


async def _verify(
    settings: Settings,
    trusted: Mapping[bytes, Verifier],
    witnesses: Sequence[WitnessFile],
    sagas: Mapping[str, AnySaga],
    *,
    database: bool,
    alone: bool,
) -> Report:
    brokers = settings.brokers()
    counts = await count_partitions(
        brokers, [topic(name) for name in sagas for topic in (events_topic, checkpoints_topic)]
    )

    async def read_sources() -> dict[str, list[str]]:
        # The database last: checkpoints are written there first, so it has all that the other sources have.
        sources = {
            f"witness {number}": [each.note for each in witness.read()] for number, witness in enumerate(witnesses, 1)
        }
        if database:
            async with audit_session(settings) as sql:
                sources["database"] = [note for *_, note in await read_stored_notes(sql)]
        return sources

    async with TopicReader(brokers) as topics:
        with progress_bar() as progress:
            task = progress.add_task("verifying", total=None)
            return await TopicVerifier(
                topics=topics,
                sagas=[Rules(saga, counts[events_topic(name)]) for name, saga in sagas.items()],
                log_id=settings.audit_log_id,
                cluster=await read_cluster_id(brokers),
                trusted=trusted,
                sources=read_sources,
                noted=[(topic, number) for topic in map(checkpoints_topic, sagas) for number in range(counts[topic])],
                sized=lambda total: progress.update(task, total=total),
                progress=lambda count: progress.advance(task, count),
                alone=alone,
                types=frozenset(kind for saga in sagas.values() for kind, _ in saga.registry.items()),
                removals=await read_removals(brokers, [events_topic(name) for name in sagas]),
            ).run()
