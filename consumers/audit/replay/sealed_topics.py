"""Verifies topics by themselves: every record's hash from Kafka's bytes, the trees against what was signed."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from tradesaga.consumers.audit.replay.chains import Chains
from tradesaga.consumers.audit.retention.actions import TOPIC as ACTIONS
from tradesaga.consumers.audit.verify.verification import LogCheck, Report, Verdict, check_chain, read_notes
from tradesaga.consumers.saga_log.chain import FORMAT
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.infra.audit_log.checkpoint import Checkpoint, leaves_from
from tradesaga.infra.audit_log.note import Verifier
from tradesaga.infra.audit_log.origin import Origin
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.schemas.envelope import TYPE

Known = dict[str, dict[int, tuple[Checkpoint, str]]]
"""Checkpoints and their notes, by origin and size."""


@dataclass
class TopicVerifier:
    """Verifies the events topics of some sagas.

    The partitions `noted`, of topics of checkpoints, are read first, then `sources`, which returns notes by where they
    were found: a place that gets a checkpoint earlier than another is read after it. `cluster` is the id of the cluster
    that is read; `removals` says of topics from which the broker removes records by which rule. `alone` leaves
    checkpoints of other topics out of account.
    """

    topics: TopicReader
    sagas: Sequence[Rules]
    log_id: str
    cluster: str
    trusted: Mapping[bytes, Verifier]
    sources: Callable[[], Awaitable[Mapping[str, Iterable[str]]]]
    noted: Sequence[Place] = ()
    sized: Callable[[int], object] = lambda _: None
    progress: Callable[[int], object] = lambda _: None
    types: frozenset[str] | None = None
    alone: bool = False
    removals: Mapping[str, str] = field(default_factory=dict[str, str])
    report: Report = field(default_factory=Report)

    async def run(self) -> Report:
        """Verify; raises `KafkaUnavailableError`."""
        self.report.types = self.types
        known = await self._collect()
        self.report.checkpoints = sum(len(checkpoints) for checkpoints in known.values())
        places = {(rules.topic, number): rules for rules in self.sagas for number in range(rules.partitions)}
        held = await self.topics.ranges(places)
        self.sized(sum(end - begin for begin, end in held.values()))
        for place, rules in places.items():
            checkpoints = known.pop(str(Origin(self.log_id, *place)), {})
            if checkpoints or held[place][1]:
                await self._verify(place, rules, held[place], {size: each[0] for size, each in checkpoints.items()})
        self.report.remarks += [
            f"the broker removes records from {topic}: {why}" for topic, why in self.removals.items()
        ]
        mine = {rules.topic for rules in self.sagas}
        for origin, checkpoints in known.items():
            if not self.alone or Origin.parse(origin).topic in mine:
                self._tell_unknown(Origin.parse(origin), len(checkpoints))
        return self.report

    async def _collect(self) -> Known:
        """Bring together what was signed, wherever it was kept, and tell where it contradicts itself."""
        noted = {f"{place[0]}[{place[1]}]": [note async for note in self._notes(place)] for place in self.noted}
        sources = {**await self.sources(), **noted}
        known: Known = {}
        for where, notes in sources.items():
            for origin, checkpoints in read_notes(self.report, where, notes, self.trusted).items():
                mine = known.setdefault(origin, {})
                for size, found in checkpoints.items():
                    if mine.setdefault(size, found)[0].root != found[0].root:
                        what = f"{where} has another root of its first {size} records"
                        self.report.add(Verdict.ALTERED, origin, what)
        for checkpoints in known.values():
            check_chain(self.report, [checkpoints[size] for size in sorted(checkpoints)])
        return {origin: found for origin, found in known.items() if Origin.parse(origin).topic != ACTIONS}

    async def _notes(self, place: Place) -> AsyncGenerator[str]:
        begin, end = (await self.topics.ranges([place]))[place]
        async for batch in self.topics.read_remaining(place, begin, end):
            for record in batch:
                yield record.value.decode("utf-8", "replace")

    async def _verify(
        self, place: Place, rules: Rules, held: tuple[int, int], checkpoints: Mapping[int, Checkpoint]
    ) -> None:
        """Verify one partition."""
        origin, where = Origin(self.log_id, *place), f"{place[0]}[{place[1]}]"
        check = LogCheck(self.report, origin, checkpoints)
        chains = Chains(rules, leaves_from(checkpoints.values()))
        if held[0]:
            what = f"the topic begins at offset {held[0]}: what was before it has been removed, by retention or by hand"
            self.report.add(Verdict.INCOMPLETE, f"{where} offset 0", what)
        # Where the broker removes records, none can tell their offsets from those that transactions leave.
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
                f" sealed (this is cluster {self.cluster}), or it was made anew"
            )
            self.report.add(Verdict.INCOMPLETE, where, what)

    def _is_readable(self, event_type: bytes, value: bytes) -> bool:
        """Say whether a payload is a JSON object of a known type."""
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
            why = "the topic has no such partition: it is another cluster's, or was made anew"
        self.report.add(Verdict.INCOMPLETE, str(origin), f"{count} checkpoints of a log that is not here: {why}")
