"""The saga log's tables, made anew by its own fold; nothing is published, but what it owes is found."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from tradesaga.consumers.audit.log.fold import form_at
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.commands import command
from tradesaga.consumers.saga_log.fold import DeadLetter, FoldResult, fold_record
from tradesaga.consumers.saga_log.reading import Rules, awaited_version, saga_of
from tradesaga.consumers.saga_log.tracked_saga import NONE, Tracked
from tradesaga.infra.kafka.codec import Outgoing, Record, pack
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.dead_letters import RecordFault, dead_letter
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.starts.accept import StartInvalidError
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.machine import BarStep, StepCommand
from tradesaga.schemas.envelope import REQUEST, ROUND, SAGA_ID, STEP, TYPE
from tradesaga.schemas.identity import RequestKeys

Letter = tuple[str, int, int]
"""Topic, partition and offset of a record whose copy lies in the dead letters."""

_KNOWN: Final = "SELECT saga_id FROM start_request WHERE saga_id = ANY($1::uuid[])"


def open_intake(saga: AnySaga) -> Intake | None:
    """Return the intake of a saga that can be started from outside, None for another; it reads, and hashes nothing."""
    try:
        return Intake(saga, RequestKeys(()))
    except TypeError:
        return None


async def first_unanswered(
    intake: Intake, sql: Connection, records: Sequence[Record], letters: set[Letter]
) -> int | None:
    """Give the offset of the first of these starts that became no saga, no refusal and no dead letter, if there is one.

    A start of a known saga is answered, whoever has sent it: it is that saga, or it was refused in its favour.
    """
    wanted: dict[int, UUID] = {}
    unanswered: list[int] = []
    for record in records:
        try:
            wanted[record.offset] = intake.read(record).saga_id
        except StartInvalidError:
            if (record.topic, record.partition, record.offset) not in letters:
                unanswered.append(record.offset)
    known = {row[0] for row in await sql.fetch(_KNOWN, list(wanted.values()))}
    unanswered += [offset for offset, saga_id in wanted.items() if saga_id not in known]
    return min(unanswered, default=None)


CACHED: Final = 20_000

_START: Final = """
INSERT INTO start_request (saga_id, saga, request_hash, record)
SELECT saga_id, $2, request_hash, record
FROM unnest($1::uuid[], $3::text[], $4::bytea[]) AS t (saga_id, request_hash, record) ORDER BY saga_id
ON CONFLICT (saga_id) DO NOTHING
"""

CommandKey = tuple[bytes, bytes, bytes, bytes]
"""Saga, type, step and round of a command: what tells one order from another. A bar has no round."""


@dataclass(frozen=True, slots=True)
class DerivedCommand:
    """An order that a fact has brought about, and the command it makes; `command_key` tells it from others."""

    partition: int
    command_key: CommandKey
    record: Outgoing


@dataclass
class FactRecovery:
    """Folds the events topic of one saga into a database, in the caller's transaction; `now` is nanoseconds since 1970.

    With `writes` off it only says what the facts bring about: the rows are there already. `leaves_from` says of logs
    that were sealed from which offset on their hashes are of format 2; `letters` how many copies of each record the
    lost saga log put into the dead letters.
    """

    rules: Rules
    sql: Connection
    now: int
    writes: bool = True
    leaves_from: Mapping[Partition, int] = field(default_factory=dict[Partition, int])
    letters: Mapping[Letter, int] = field(default_factory=dict[Letter, int])
    folded: int = 0
    starts: int = 0
    parked: int = 0
    foreign: int = 0
    unknown: Counter[str] = field(default_factory=Counter[str])
    """Records by their type, which is not known here, but was to the saga log that read them."""
    versions: Counter[int] = field(default_factory=Counter[int])
    """Records by the version of the definition that is not registered here, under which their sagas run."""
    _attempts: Counter[Letter] = field(default_factory=Counter[Letter])
    _cache: OrderedDict[UUID, Tracked] = field(default_factory=OrderedDict[UUID, Tracked])

    @property
    def group(self) -> str:
        """Name the saga log's group."""
        return f"{self.rules.saga.name}-log"

    def forget(self) -> None:
        """Begin another partition: no saga has records on two."""
        self._cache.clear()

    async def follow(self, lane: Lane, records: Sequence[Record]) -> tuple[list[DerivedCommand], list[Outgoing]]:
        """Fold records of one partition; give the commands that they bring about, and the dead letters."""
        sagas = [saga_of(record) for record in records]
        known = await self._gather({saga for saga in sagas if saga})
        outcomes: list[FoldResult] = []
        orders: list[DerivedCommand] = []
        for saga_id, record in zip(sagas, records, strict=True):
            form = form_at(record.offset, self.leaves_from.get(record[:2], 0))
            outcome = fold_record(self.rules, known[saga_id] if saga_id is not None else None, record, form)
            outcomes.append(outcome)
            if outcome.tracked is not None:
                known[outcome.tracked.saga_id] = outcome.tracked
                orders += [self._order(outcome.tracked, order, record) for order in outcome.orders]
        self.folded += len(records)
        prefix = f"{self.rules.saga.name}."
        self.foreign += sum(not (outcome.entry.event_type or "").startswith(prefix) for outcome in outcomes)
        if self.writes:
            await self._write(lane, outcomes, known)
        self._keep(known)
        return orders, self._letters(outcomes)

    async def _gather(self, sagas: set[UUID]) -> dict[UUID, Tracked]:
        known = {saga_id: self._cache.pop(saga_id) for saga_id in sagas if saga_id in self._cache}
        unknown = sagas - known.keys()
        loads = bool(unknown) and self.writes
        checkpoints = await store.load(self.sql, self.rules, unknown) if loads else {}
        parked = await store.load_parked(self.sql, self.group, unknown) if loads else {}
        for saga_id in unknown:
            home = self.rules.home(saga_id)
            known[saga_id] = Tracked(saga_id, home, checkpoints.get(saga_id), parked.get(saga_id, NONE))
        return known

    async def _write(self, lane: Lane, outcomes: Sequence[FoldResult], known: dict[UUID, Tracked]) -> None:
        await store.write(self.sql, self.rules, [(lane.id, known[saga_id]) for saga_id in sorted(known)])
        await store.enter(self.sql, [(lane, outcome) for outcome in outcomes])
        set_aside = [(o.tracked.saga_id, o.parked) for o in outcomes if o.parked is not None and o.tracked is not None]
        await store.park(self.sql, self.group, set_aside)
        await store.release(self.sql, self.group, outcomes)
        self.parked += len(set_aside)
        begun = [
            (o.tracked.saga_id, o.tracked.snapshot.request_hash, pack(o.record.headers, o.record.value))
            for o in outcomes
            if o.before is None and o.entry.seq == 1 and o.tracked is not None and o.tracked.snapshot is not None
        ]
        if begun:
            sagas, hashes, packed = zip(*begun, strict=True)
            await self.sql.execute(_START, sagas, self.rules.saga.name, hashes, packed)
            self.starts += len(begun)

    def _keep(self, known: dict[UUID, Tracked]) -> None:
        """Remember sagas for the next batch; without a database to read them back from, all of the partition's."""
        self._cache.update(known)
        while self.writes and len(self._cache) > CACHED:
            self._cache.popitem(last=False)

    def _order(self, tracked: Tracked, order: StepCommand, record: Record) -> DerivedCommand:
        made = command(self.rules, tracked, order, record, self.now)
        return DerivedCommand(record.partition, command_key(made.headers, bar=isinstance(order, BarStep)), made)

    def _letters(self, outcomes: Iterable[FoldResult]) -> list[Outgoing]:
        name = self.rules.saga.name
        letters: list[Outgoing] = []
        for outcome in outcomes:
            for letter in outcome.dead:
                if _is_of_a_saga(outcome):
                    self._count_unknown(outcome, letter)
                fault = RecordFault(letter.kind, letter.reason)
                letters.append(dead_letter(name, self.group, letter.record, fault, self.now))
        return letters

    def _count_unknown(self, outcome: FoldResult, letter: DeadLetter) -> None:
        """Count what another release may have read; what the lost saga log could not read either is nobody's fact."""
        if letter.kind == "version":
            self.versions[awaited_version(letter.reason)] += 1
        if letter.kind == "unknown-type":
            place = letter.record.topic, letter.record.partition, letter.record.offset
            self._attempts[place] += 1
            if self._attempts[place] > self.letters.get(place, 0):
                self.unknown[(outcome.entry.event_type or "")[:200]] += 1


def _is_of_a_saga(outcome: FoldResult) -> bool:
    """Return whether the start of the record's saga has been read, or is this record or the first one that is parked.

    Anybody can write records of sagas that do not exist: whatever those name, nothing is lost with them.
    """
    tracked = outcome.tracked
    if tracked is None:
        return False
    starts = tracked.snapshot is not None or _is_start(outcome.record)
    return starts or (bool(tracked.parked) and _is_start(tracked.parked[0].record))


def _is_start(record: Record) -> bool:
    """Return whether a record of whatever type has what starts have: a request's hash, and no step."""
    return bool(record.header(REQUEST)) and not record.header(STEP)


def command_key(headers: Iterable[tuple[str, bytes]], *, bar: bool) -> CommandKey:
    """Tell a command from others by its headers."""
    found = dict(headers)
    return found.get(SAGA_ID) or b"", found[TYPE], found.get(STEP) or b"", b"" if bar else found.get(ROUND) or b"1"
