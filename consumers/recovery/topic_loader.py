"""One saga's topics read into databases: the saga log's tables, its participants' rows and effects, and their lanes."""

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
    Letter,
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
    """Return, of each sealed log of a topic, the first offset whose hash is of format 2.

    The witness and the topic of checkpoints are asked; a false answer makes rows that do not fit what was sealed, which
    the sealer finds. Raises `CommandError` (exit 5) for a witness that cannot be read, `KafkaUnavailableError`.
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
        do = "see to it that the file can be read, and is the one that TRADESAGA_AUDIT_WITNESS names"
        raise unavailable("witness-invalid", str(error), "witness", do) from error


async def _published(settings: Settings, replay: TopicReader, saga: str) -> list[Checkpoint]:
    name = checkpoints_topic(saga)
    try:
        counts = await count_partitions(settings.brokers(), [name])
    except CommandError:
        return []  # an installation that has never had the topic
    found: list[Checkpoint] = []
    for place, (begin, end) in (await replay.ranges([(name, number) for number in range(counts[name])])).items():
        newest: dict[bytes | None, str] = {}
        async for batch in replay.read_remaining(place, begin, end):
            newest |= {record.key: record.value.decode("utf-8", "replace") for record in batch}
        found += _read(newest.values())
    return found


def _read(notes: Iterable[str]) -> list[Checkpoint]:
    """Read checkpoints; what is none is passed over."""
    found: list[Checkpoint] = []
    for note in notes:
        with suppress(NoteError):
            checkpoint = parse_unverified(note)
            Origin.parse(checkpoint.origin)
            found.append(checkpoint)
    return found


Advance = Callable[[int], None]

Letters = Counter[tuple[str, Letter]]
"""Copies in the dead letters, by the group that put them there and where the records lie of which they are."""


@dataclass
class TopicLoader:
    """Reads every partition once. `ranges` gives the first and the next offset of each, when the recovery began.

    `places` gives the database of each service by name; `restored` that the rows there are of an earlier moment.
    """

    registered: RegisteredSaga[Participant]
    replay: TopicReader
    places: Mapping[str, Database]
    ranges: Mapping[Partition, tuple[int, int]]
    facts: FactRecovery
    report: Report
    restored: bool
    unknown: bool
    steps: list[StepRecovery] = field(default_factory=list[StepRecovery])
    log_lanes: dict[int, Lane] = field(default_factory=dict[int, Lane])
    owed: list[tuple[Lane, Outgoing]] = field(default_factory=list[tuple[Lane, Outgoing]])
    contradicted: set[Letter] = field(default_factory=set[Letter])

    @property
    def size(self) -> int:
        """Return the number of facts to read."""
        return sum(end for (topic, _), (_, end) in self.ranges.items() if topic == self.events)

    @property
    def events(self) -> str:
        """Name the topic of facts."""
        return events_topic(self.registered.saga.name)

    @property
    def commands(self) -> str:
        """Name the topic of commands."""
        return commands_topic(self.registered.saga.name)

    async def declare(self) -> None:
        """Have all lanes exist; refuse a database that has read further than the topics go."""
        log, count = self.places[SAGA_LOG], self._count(self.events)
        self.log_lanes = await declare_lanes(log.sql, self.facts.group, self.events, count, log.incarnation)
        known = list(self.log_lanes.values())
        for participant in self.registered.participants:
            place = self.places[participant.name]
            mine = await declare_lanes(place.sql, participant.group, self.events, count, place.incarnation)
            theirs = await declare_lanes(place.sql, participant.group, self.commands, count, place.incarnation)
            known += [*mine.values(), *theirs.values()]
            numbers = {number: lane.id for number, lane in mine.items()}
            recovery = StepRecovery(self.registered.saga, participant, place.sql, count, numbers, self.facts.now)
            if self.restored:
                await recovery.doubt()
            self.steps.append(recovery)
        # Effects rest on those of earlier steps, which other participants restore.
        self.steps.sort(key=lambda each: each.first_step)
        refuse_beyond(known, self.ranges)

    def _count(self, topic: str) -> int:
        return sum(1 for name, _ in self.ranges if name == topic)

    async def run(self, advance: Advance) -> None:
        """Read everything, and leave the lanes where reading goes on."""
        letters = await self._letters()
        self.facts.letters = {place: number for (group, place), number in letters.items() if group == self.facts.group}
        for recovery in self.steps:
            recovery.contradicted = self.contradicted
        for number in range(self._count(self.events)):
            given = await self._commands(number)
            await self._facts(number, given, letters, advance)
            await self.find_unanswered(number)
        refuse_foreign(self.registered.saga, self.facts)
        refuse_unknown(self.facts.unknown, allowed=self.unknown)
        refuse_unregistered(self.registered.saga, self.facts.versions, allowed=self.unknown)
        await self._starts(letters)
        await self._owe()
        self._report()

    async def _read(self, topic: str, number: int, start: int = 0) -> AsyncGenerator[list[Record]]:
        first, end = self.ranges[topic, number]
        async for batch in self.replay.read((topic, number), max(first, start), end):
            yield batch

    async def _letters(self) -> Letters:
        """Count the copies of records in the dead letters, by the group that put them there."""
        topic = dead_letters_topic(self.registered.saga.name)
        found = Letters()
        for number in range(self._count(topic)):
            async for batch in self._read(topic, number):
                for record in batch:
                    if (letter := origin(record.headers)) is not None:
                        found[letter] += 1
                        if record.header("ts_dlt_error_type") == CONTRADICTION.encode():
                            self.contradicted.add(letter[1])
        return found

    async def _commands(self, number: int) -> set[CommandKey]:
        """Return which orders have become commands on this partition."""
        bar, given = wire_type(self.registered.saga.name, Bar).encode(), set[CommandKey]()
        async for batch in self._read(self.commands, number):
            self.report.records["commands"] += len(batch)
            for record in batch:
                found = dict(record.headers)
                if TYPE in found:
                    given.add(command_key(record.headers, bar=found[TYPE] == bar))
        return given

    async def _facts(self, number: int, given: Collection[CommandKey], letters: Letters, advance: Advance) -> None:
        lane, orders = self.log_lanes[number], list[DerivedCommand]()
        self.facts.forget()
        async for batch in self._read(self.events, number):
            self.report.records["events"] += len(batch)
            for recovery in self.steps:
                await recovery.follow_events(batch)
            unfolded = [record for record in batch if record.offset >= lane.next_offset]
            if unfolded:
                made, dead = await self.facts.follow(lane, unfolded)
                orders += made
                missing = [letter for letter in dead if origin(letter.headers) not in letters]
                self.owed += [(lane, letter) for letter in missing]
                self.report.owed["dead letters"] += len(missing)
            advance(len(batch))
        commands = [made.record for made in orders if made.command_key not in given]
        self.owed += [(lane, record) for record in commands]
        self.report.owed["commands"] += len(commands)
        end = self.ranges[self.events, number][1]
        await move_lanes(self.places[SAGA_LOG].sql, self.facts.group, self.events, {number: end})
        for recovery in self.steps:
            await move_lanes(recovery.sql, recovery.participant.group, self.events, {number: end})

    async def find_unanswered(self, number: int) -> None:
        """Have each participant go on from the first command of a partition that nobody has answered."""
        firsts: dict[str, int] = {}
        async for batch in self._read(self.commands, number):
            for recovery in self.steps:
                first, name = await recovery.follow_commands(batch), recovery.participant.group
                if first is not None:
                    firsts[name] = min(first, firsts.get(name, first))
        end = self.ranges[self.commands, number][1]
        for recovery in self.steps:
            group = recovery.participant.group
            first = firsts.get(group, end)
            await move_lanes(recovery.sql, group, self.commands, {number: first})
            self.report.owed["commands to be read again"] += end - first

    async def _starts(self, letters: Letters) -> None:
        """Have the intake go on from the first start that nobody has answered."""
        intake, log = open_intake(self.registered.saga), self.places[SAGA_LOG]
        if intake is None:
            return
        topic = starts_topic(self.registered.saga.name)
        here = await declare_lanes(log.sql, intake.group, topic, self._count(topic), log.incarnation)
        mine = {place for group, place in letters if group == intake.group}
        for number in range(self._count(topic)):
            following = self.ranges[topic, number][1]
            async for batch in self._read(topic, number, here[number].next_offset):
                self.report.records["starts"] += len(batch)
                first = await first_unanswered(intake, log.sql, batch, mine)
                following = following if first is None else min(first, following)
            await move_lanes(log.sql, intake.group, topic, {number: following})

    async def _owe(self) -> None:
        """Put what was never published into the outbox: the saga log publishes it when it starts."""
        rows: list[OutboxRow] = []
        for lane, record in self.owed:
            lane.last_seq += 1
            rows.append(OutboxRow(lane.id, lane.last_seq, record))
        if rows:
            await outbox_rows.insert(self.places[SAGA_LOG].sql, rows)

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
                report.left_out.append(f"{number} local effects of {owner}: nothing is bound that makes them anew")


def origin(headers: Sequence[Header]) -> tuple[str, Letter] | None:
    """Read from a dead letter's headers which group put it there, and where the record itself lies."""
    found = {name: (value or b"").decode("utf-8", "replace") for name, value in headers}
    try:
        place = found["ts_dlt_topic"], int(found["ts_dlt_partition"]), int(found["ts_dlt_offset"])
    except (KeyError, ValueError):
        return None
    return found.get("ts_dlt_group", ""), place
