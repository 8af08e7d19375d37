"""Loads the topics of one saga into databases: the saga log's tables, step rows, local effects, and lanes."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.databases import Database, declare_lanes, move_lanes
from tradesaga.consumers.recovery.facts import (
    CommandKey,
    DerivedCommand,
    FactRecovery,
    RecordPosition,
    command_key,
    first_unanswered,
    open_intake,
)
from tradesaga.consumers.recovery.refusals import (
    Report,
    refuse_beyond,
    refuse_foreign,
    refuse_unknown,
    refuse_unregistered,
)
from tradesaga.consumers.recovery.steps import StepRecovery
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, leaves_from, parse_unverified
from tradesaga.infra.audit_log.note import NoteError
from tradesaga.infra.audit_log.witness import WitnessError, WitnessFile
from tradesaga.infra.errors import CommandError, unavailable
from tradesaga.infra.kafka.admin import count_partitions
from tradesaga.infra.kafka.codec import Outgoing, Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.dead_letters import CONTRADICTION
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.outbox import outbox_rows
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.registry.sagas import RegisteredSaga
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.schemas.envelope import TYPE, Header
from tradesaga.schemas.messages.lifecycle import Bar
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import checkpoints_topic, commands_topic, dead_letters_topic, events_topic, starts_topic


async def find_leaf_formats(settings: Settings, replay: TopicReader, topic: str) -> dict[Partition, int]:
    """Return, for each sealed log of a topic, the first offset whose hash is of format 2.

    This is read from the witness file and the checkpoints topic. Wrong checkpoints would give rows that do not match
    the seals, which the sealer finds. Raises `CommandError` (exit 5) for an unreadable witness file,
    `KafkaUnavailableError`.
    """
    known: dict[Partition, list[Checkpoint]] = {}
    for checkpoint in [*_witnessed(settings), *await _published(settings, replay, topic.removesuffix(".events"))]:
        origin = Origin.parse(checkpoint.origin)
        if origin.log_id == settings.audit_log_id and origin.topic == topic:
            known.setdefault((topic, origin.partition), []).append(checkpoint)
    return {place: leaves_from(checkpoints) for place, checkpoints in known.items()}


def _witnessed(settings: Settings) -> list[Checkpoint]:
    try:
        return _read(each.note for each in WitnessFile(settings.audit_witness_file()).last().values())
    except WitnessError as error:
        do = "make the file readable, and check that TRADESAGA_AUDIT_WITNESS names the right one"
        raise unavailable("witness-invalid", str(error), "witness", do) from error


async def _published(settings: Settings, replay: TopicReader, saga: str) -> list[Checkpoint]:
    name = checkpoints_topic(saga)
    try:
        counts = await count_partitions(settings.brokers(), [name])
    except CommandError:
        return []  # the installation has never had the topic
    found: list[Checkpoint] = []
    for place, (begin, end) in (await replay.ranges([(name, number) for number in range(counts[name])])).items():
        newest: dict[bytes | None, str] = {}
        async for batch in replay.read_remaining(place, begin, end):
            newest |= {record.key: record.value.decode("utf-8", "replace") for record in batch}
        found += _read(newest.values())
    return found


def _read(notes: Iterable[str]) -> list[Checkpoint]:
    """Parse checkpoints; invalid ones are skipped."""
    found: list[Checkpoint] = []
    for note in notes:
        with suppress(NoteError):
            checkpoint = parse_unverified(note)
            Origin.parse(checkpoint.origin)
            found.append(checkpoint)
    return found


Advance = Callable[[int], None]

DeadLetterCounts = Counter[tuple[str, RecordPosition]]
"""Number of dead letters by the group that wrote them and the position of the record."""


@dataclass
class TopicLoader:
    """Reads every partition once. `ranges` has the first and the next offset of each at the start of the recovery.

    `databases` has the database of each service by name. `restored` means that their rows are those of a backup;
    `unknown` allows facts of unknown types and versions.
    """

    registered: RegisteredSaga[Participant]
    replay: TopicReader
    databases: Mapping[str, Database]
    ranges: Mapping[Partition, tuple[int, int]]
    facts: FactRecovery
    report: Report
    restored: bool
    unknown: bool
    steps: list[StepRecovery] = field(default_factory=list[StepRecovery])
    log_lanes: dict[int, Lane] = field(default_factory=dict[int, Lane])
    owed: list[tuple[Lane, Outgoing]] = field(default_factory=list[tuple[Lane, Outgoing]])
    contradicted: set[RecordPosition] = field(default_factory=set[RecordPosition])

    @property
    def size(self) -> int:
        """Return the number of facts to read."""
        return sum(end for (topic, _), (_, end) in self.ranges.items() if topic == self.events)

    @property
    def events(self) -> str:
        """Return the events topic."""
        return events_topic(self.registered.saga.name)

    @property
    def commands(self) -> str:
        """Return the commands topic."""
        return commands_topic(self.registered.saga.name)

    async def declare(self) -> None:
        """Create all lanes; refuse a database that has read beyond the ends of the topics."""
        log, count = self.databases[SAGA_LOG], self._count(self.events)
        self.log_lanes = await declare_lanes(log, self.facts.group, self.events, count)
        known = list(self.log_lanes.values())
        for participant in self.registered.participants:
            database = self.databases[participant.name]
            events = await declare_lanes(database, participant.group, self.events, count)
            commands = await declare_lanes(database, participant.group, self.commands, count)
            known += [*events.values(), *commands.values()]
            lanes = {number: lane.id for number, lane in events.items()}
            recovery = StepRecovery(self.registered.saga, participant, database.sql, count, lanes, self.facts.now)
            if self.restored:
                await recovery.mark_unknown()
            self.steps.append(recovery)
        # Effects depend on those of earlier steps, which other participants restore.
        self.steps.sort(key=lambda each: each.first_step)
        refuse_beyond(known, self.ranges)

    def _count(self, topic: str) -> int:
        return sum(1 for name, _ in self.ranges if name == topic)

    async def run(self, advance: Advance) -> None:
        """Read all topics, and set the next offset of every lane."""
        letters = await self._count_dead_letters()
        own = {place: number for (group, place), number in letters.items() if group == self.facts.group}
        self.facts.dead_letters = own
        for recovery in self.steps:
            recovery.contradicted = self.contradicted
        for number in range(self._count(self.events)):
            sent = await self._read_commands(number)
            await self._read_facts(number, sent, letters, advance)
            await self.find_unanswered(number)
        refuse_foreign(self.registered.saga, self.facts)
        refuse_unknown(self.facts.unknown, allowed=self.unknown)
        refuse_unregistered(self.registered.saga, self.facts.versions, allowed=self.unknown)
        await self._read_starts(letters)
        await self._write_owed()
        self._report()

    async def _read(self, topic: str, number: int, start: int = 0) -> AsyncGenerator[list[Record]]:
        first, end = self.ranges[topic, number]
        async for batch in self.replay.read((topic, number), max(first, start), end):
            yield batch

    async def _count_dead_letters(self) -> DeadLetterCounts:
        """Count the dead letters by group and record, and collect the contradicted records."""
        topic = dead_letters_topic(self.registered.saga.name)
        found = DeadLetterCounts()
        for number in range(self._count(topic)):
            async for batch in self._read(topic, number):
                for record in batch:
                    if (letter := origin(record.headers)) is not None:
                        found[letter] += 1
                        if record.header("ts_dlt_error_type") == CONTRADICTION.encode():
                            self.contradicted.add(letter[1])
        return found

    async def _read_commands(self, number: int) -> set[CommandKey]:
        """Return the keys of the commands on this partition."""
        bar, sent = wire_type(self.registered.saga.name, Bar).encode(), set[CommandKey]()
        async for batch in self._read(self.commands, number):
            self.report.records["commands"] += len(batch)
            for record in batch:
                found = dict(record.headers)
                if TYPE in found:
                    sent.add(command_key(record.headers, bar=found[TYPE] == bar))
        return sent

    async def _read_facts(
        self, number: int, sent: Collection[CommandKey], letters: DeadLetterCounts, advance: Advance
    ) -> None:
        lane, derived = self.log_lanes[number], list[DerivedCommand]()
        self.facts.forget()
        async for batch in self._read(self.events, number):
            self.report.records["events"] += len(batch)
            for recovery in self.steps:
                await recovery.follow_events(batch)
            unfolded = [record for record in batch if record.offset >= lane.next_offset]
            if unfolded:
                following, dead = await self.facts.follow(lane, unfolded)
                derived += following
                missing = [letter for letter in dead if origin(letter.headers) not in letters]
                self.owed += [(lane, letter) for letter in missing]
                self.report.owed["dead letters"] += len(missing)
            advance(len(batch))
        commands = [each.record for each in derived if each.command_key not in sent]
        self.owed += [(lane, record) for record in commands]
        self.report.owed["commands"] += len(commands)
        end = self.ranges[self.events, number][1]
        await move_lanes(self.databases[SAGA_LOG].sql, self.facts.group, self.events, {number: end})
        for recovery in self.steps:
            await move_lanes(recovery.sql, recovery.participant.group, self.events, {number: end})

    async def find_unanswered(self, number: int) -> None:
        """Set each participant's next offset to the first command of a partition without an answer."""
        firsts: dict[str, int] = {}
        async for batch in self._read(self.commands, number):
            for recovery in self.steps:
                first, group = await recovery.follow_commands(batch), recovery.participant.group
                if first is not None:
                    firsts[group] = min(first, firsts.get(group, first))
        end = self.ranges[self.commands, number][1]
        for recovery in self.steps:
            group = recovery.participant.group
            first = firsts.get(group, end)
            await move_lanes(recovery.sql, group, self.commands, {number: first})
            self.report.owed["commands to be read again"] += end - first

    async def _read_starts(self, letters: DeadLetterCounts) -> None:
        """Set the intake's next offset to the first start without an answer."""
        intake, log = open_intake(self.registered.saga), self.databases[SAGA_LOG]
        if intake is None:
            return
        topic = starts_topic(self.registered.saga.name)
        here = await declare_lanes(log, intake.group, topic, self._count(topic))
        mine = {place for group, place in letters if group == intake.group}
        for number in range(self._count(topic)):
            following = self.ranges[topic, number][1]
            async for batch in self._read(topic, number, here[number].next_offset):
                self.report.records["starts"] += len(batch)
                first = await first_unanswered(intake, log.sql, batch, mine)
                following = following if first is None else min(first, following)
            await move_lanes(log.sql, intake.group, topic, {number: following})

    async def _write_owed(self) -> None:
        """Write the unpublished records to the outbox; the saga log publishes them when it starts."""
        rows: list[OutboxRow] = []
        for lane, record in self.owed:
            lane.last_seq += 1
            rows.append(OutboxRow(lane.id, lane.last_seq, record))
        if rows:
            await outbox_rows.insert(self.databases[SAGA_LOG].sql, rows)

    def _report(self) -> None:
        report, facts = self.report, self.facts
        report.folded, report.parked = report.folded + facts.folded, report.parked + facts.parked
        report.starts += facts.starts
        report.left_out += [
            f"steps and local effects of sagas under version {version}, which is not registered: {number} of their "
            f"facts are parked"
            for version, number in sorted(facts.versions.items())
        ]
        for recovery in self.steps:
            report.adopted += recovery.adopted
            report.restored += recovery.restored
            for name, number in recovery.unrestored.items():
                owner = f"{recovery.participant.name}'s {name}"
                report.left_out.append(f"{number} local effects of {owner}: no function is bound that restores them")


def origin(headers: Sequence[Header]) -> tuple[str, RecordPosition] | None:
    """Return the group that wrote a dead letter and the position of the record, None if the headers lack them."""
    found = {name: (value or b"").decode("utf-8", "replace") for name, value in headers}
    try:
        place = found["ts_dlt_topic"], int(found["ts_dlt_partition"]), int(found["ts_dlt_offset"])
    except (KeyError, ValueError):
        return None
    return found.get("ts_dlt_group", ""), place
