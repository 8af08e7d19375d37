"""Rebuilds the saga log's tables with its own fold; publishes nothing, but finds what was not published yet."""

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

RecordPosition = tuple[str, int, int]
"""Topic, partition and offset of a record."""


def position_of(record: Record) -> RecordPosition:
    """Return the position of a record."""
    return record.topic, record.partition, record.offset


_KNOWN: Final = "SELECT saga_id FROM start_request WHERE saga_id = ANY($1::uuid[])"


def open_intake(saga: AnySaga) -> Intake | None:
    """Return an intake to read starts with, None for a saga that cannot be started from outside."""
    try:
        return Intake(saga, RequestKeys(()))
    except TypeError:
        return None


async def first_unanswered(
    intake: Intake, sql: Connection, records: Sequence[Record], dead_letters: set[RecordPosition]
) -> int | None:
    """Return the offset of the first start without a saga, a refusal and a dead letter; None if all have one.

    A start of a known saga is answered: it has started that saga, or it was refused because of it.
    """
    wanted: dict[int, UUID] = {}
    unanswered: list[int] = []
    for record in records:
        try:
            wanted[record.offset] = intake.read(record).saga_id
        except StartInvalidError:
            if position_of(record) not in dead_letters:
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
"""Saga, type, step and round of a command, which identify it. A bar has no round."""


@dataclass(frozen=True, slots=True)
class DerivedCommand:
    """A command that follows from a fact; `command_key` identifies it."""

    partition: int
    command_key: CommandKey
    record: Outgoing


@dataclass
class FactRecovery:
    """Folds the events topic of one saga into a database, in the caller's transaction; `now` is nanoseconds since 1970.

    With `writes` off it only derives what follows from the facts: the rows exist already. `leaves_from` has, for sealed
    logs, the first offset whose hash is of format 2; `dead_letters` the number of copies of each record that the lost
    saga log put into the dead letters.
    """

    rules: Rules
    sql: Connection
    now: int
    writes: bool = True
    leaves_from: Mapping[Partition, int] = field(default_factory=dict[Partition, int])
    dead_letters: Mapping[RecordPosition, int] = field(default_factory=dict[RecordPosition, int])
    folded: int = 0
    starts: int = 0
    parked: int = 0
    foreign: int = 0
    unknown: Counter[str] = field(default_factory=Counter[str])
    """Records by type, for types that are unknown here but were known to the saga log that read them."""
    versions: Counter[int] = field(default_factory=Counter[int])
    """Records by the version of their sagas, for versions that are not registered here."""
    _attempts: Counter[RecordPosition] = field(default_factory=Counter[RecordPosition])
    _cache: OrderedDict[UUID, Tracked] = field(default_factory=OrderedDict[UUID, Tracked])

    @property
    def group(self) -> str:
        """Return the consumer group of the saga log."""
        return f"{self.rules.saga.name}-log"

    def forget(self) -> None:
        """Empty the cache before the next partition: no saga has records on two."""
        self._cache.clear()

    async def follow(self, lane: Lane, records: Sequence[Record]) -> tuple[list[DerivedCommand], list[Outgoing]]:
        """Fold records of one partition; return the commands and the dead letters that follow from them."""
        sagas = [saga_of(record) for record in records]
        known = await self._gather({saga for saga in sagas if saga})
        outcomes: list[FoldResult] = []
        commands: list[DerivedCommand] = []
        for saga_id, record in zip(sagas, records, strict=True):
            form = form_at(record.offset, self.leaves_from.get(record[:2], 0))
            outcome = fold_record(self.rules, known[saga_id] if saga_id is not None else None, record, form)
            outcomes.append(outcome)
            if outcome.tracked is not None:
                known[outcome.tracked.saga_id] = outcome.tracked
                commands += [self._command(outcome.tracked, order, record) for order in outcome.orders]
        self.folded += len(records)
        prefix = f"{self.rules.saga.name}."
        self.foreign += sum(not (outcome.entry.event_type or "").startswith(prefix) for outcome in outcomes)
        if self.writes:
            await self._write(lane, outcomes, known)
        self._store_in_cache(known)
        return commands, self._dead_letters(outcomes)

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

    def _store_in_cache(self, known: dict[UUID, Tracked]) -> None:
        """Cache sagas for the next batch; all of the partition, if they cannot be read back from the database."""
        self._cache.update(known)
        while self.writes and len(self._cache) > CACHED:
            self._cache.popitem(last=False)

    def _command(self, tracked: Tracked, order: StepCommand, record: Record) -> DerivedCommand:
        made = command(self.rules, tracked, order, record, self.now)
        return DerivedCommand(record.partition, command_key(made.headers, bar=isinstance(order, BarStep)), made)

    def _dead_letters(self, outcomes: Iterable[FoldResult]) -> list[Outgoing]:
        found: list[Outgoing] = []
        for outcome in outcomes:
            for letter in outcome.dead:
                if _belongs_to_saga(outcome):
                    self._count_unknown(outcome, letter)
                fault = RecordFault(letter.kind, letter.reason)
                found.append(dead_letter(self.rules.saga.name, self.group, letter.record, fault, self.now))
        return found

    def _count_unknown(self, outcome: FoldResult, letter: DeadLetter) -> None:
        """Count records that another release can perhaps read; not those that the lost saga log could not read."""
        if letter.kind == "version":
            self.versions[awaited_version(letter.reason)] += 1
        if letter.kind == "unknown-type":
            place = position_of(letter.record)
            self._attempts[place] += 1
            if self._attempts[place] > self.dead_letters.get(place, 0):
                self.unknown[(outcome.entry.event_type or "")[:200]] += 1


def _belongs_to_saga(outcome: FoldResult) -> bool:
    """Return whether the start of the record's saga was read, or is this record or the first parked one.

    Anyone can write records of sagas that do not exist; nothing is lost with those.
    """
    tracked = outcome.tracked
    if tracked is None:
        return False
    starts = tracked.snapshot is not None or _is_start(outcome.record)
    return starts or (bool(tracked.parked) and _is_start(tracked.parked[0].record))


def _is_start(record: Record) -> bool:
    """Return whether a record, of any type, has a request hash and no step, like every start."""
    return bool(record.header(REQUEST)) and not record.header(STEP)


def command_key(headers: Iterable[tuple[str, bytes]], *, bar: bool) -> CommandKey:
    """Return the key of a command from its headers."""
    found = dict(headers)
    return found.get(SAGA_ID) or b"", found[TYPE], found.get(STEP) or b"", b"" if bar else found.get(ROUND) or b"1"
