"""Rebuilds the step rows and local effects of one participant from the topics of its saga."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tradesaga.consumers.context import Claim, StepContext, Work
from tradesaga.consumers.participant import Binding, Participant
from tradesaga.consumers.recovery.facts import RecordPosition, position_of
from tradesaga.consumers.recovery.row_rebuild import FactReader, StepFact, begin_round, rebuild_row
from tradesaga.consumers.runtime.message import Bindings, Message, Router
from tradesaga.consumers.runtime.step_rows import Key, Row, load, save
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.decide import StepMessage
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import EnvelopeError
from tradesaga.schemas.messages.message import Event

_SETTLED: Final = frozenset({
    RowStatus.DONE, RowStatus.REFUSED, RowStatus.FAILED, RowStatus.BARRED, RowStatus.COMPENSATED,
    RowStatus.COMPENSATION_FAILED,
})  # fmt: skip
_EFFECTS: Final = {StepMessage.RECORDED_DONE, StepMessage.RECORDED_COMPENSATED}
# A restored row is older than the loss: calls that were made after it was written are unknown.
_MARK_UNKNOWN: Final = """
UPDATE step_execution SET status = $2, started = $3, due = clock_timestamp()
WHERE step = ANY($1::text[]) AND status IN ($2, $4)
"""


@dataclass
class StepRecovery:
    """Reads the topics for one participant, in the caller's transaction.

    `lanes` has the lane id of each partition of the events topic; `now` is nanoseconds since 1970. Records in
    `contradicted` were refuted when they were first read, and are skipped.
    """

    saga: AnySaga
    participant: Participant
    sql: Connection
    partitions: int
    lanes: dict[int, int]
    now: int
    adopted: Counter[str] = field(default_factory=Counter[str])
    restored: Counter[str] = field(default_factory=Counter[str])
    unrestored: Counter[str] = field(default_factory=Counter[str])
    contradicted: Collection[RecordPosition] = ()

    @property
    def first_step(self) -> int:
        """Return the position of the participant's first step."""
        return min((at for (_, name), at in self._order.items() if name in self.participant.bindings), default=0)

    def __post_init__(self) -> None:
        self._reader = FactReader(self.participant, self.partitions)
        self._router = Router(self.participant, self.partitions)
        self._order = {
            (version, step.name): number
            for version, definition in self.saga.versions.items()
            for number, step in enumerate(definition.steps)
        }
        self._unversioned = Bindings(self.participant).unversioned

    async def mark_unknown(self) -> None:
        """Mark every call of a restored row as unknown."""
        remote = [name for name, binding in self.participant.bindings.items() if binding.remote]
        await self.sql.execute(_MARK_UNKNOWN, remote, int(RowStatus.INTENT), self.now, int(RowStatus.RETRY))

    async def follow_events(self, records: Sequence[Record]) -> None:
        """Apply records of one partition to the step rows, and restore the local effects that they report."""
        facts = [
            fact
            for record in records
            if position_of(record) not in self.contradicted
            for fact in self._reader.read(record)
        ]
        rows = await load(self.sql, {fact.key for fact in facts})
        changed: dict[Key, Row] = {}
        effects: list[StepFact] = []
        for fact in facts:
            try:
                row = rebuild_row(rows.get(fact.key), fact, self.lanes[fact.record.partition], self.now)
            except ValueError:
                continue  # its owner could not read it either, and has handled that
            if row is None:
                continue
            rows[row.key] = changed[row.key] = row
            if fact.kind in _EFFECTS:
                effects.append(fact)
        await save(self.sql, changed.values())
        await self._restore(effects)

    async def follow_commands(self, records: Iterable[Record]) -> int | None:
        """Return the offset of the first command of the batch that has no answer; None if all have."""
        messages = [message for record in records for message in self._read(record)]
        rows = await load(self.sql, {message.key for message in messages})
        first: int | None = None
        for message in messages:
            row = rows.get(message.key)
            if _is_answered(message, row):
                continue
            first = message.record.offset if first is None else first
            if row is not None and _is_open_retry(message, row):
                begin_round(row, message.binding, message.envelope.round, self.now)
                await save(self.sql, [row])
                row.known = (int(row.status), row.attempt, row.back_attempt)
        return first

    def _read(self, record: Record) -> list[Message]:
        if not self._router.wants(record.headers):
            return []
        try:
            return self._router.read(0, record)
        except EnvelopeError:
            return []

    async def _restore(self, effects: Sequence[StepFact]) -> None:
        """Restore forward effects in the order of the steps, then compensations, the last step first.

        So the effects of each saga keep the order of its version. Effects of different sagas commute.
        """
        groups: dict[tuple[bool, int, int], list[StepFact]] = {}
        for fact in effects:
            back = fact.kind is StepMessage.RECORDED_COMPENSATED
            version = fact.envelope.version or self._unversioned
            index = self._order[version, fact.binding.step.name]
            groups.setdefault((back, version, -index if back else index), []).append(fact)
        for (back, *_), group in sorted(groups.items()):
            await self._restore_step(group[0].binding, group, back=back)

    async def _restore_step(self, binding: Binding, group: Sequence[StepFact], *, back: bool) -> None:
        name = binding.step.name
        self.adopted[f"{name}{' back' if back else ''}"] += len(group)
        restore = binding.restore_back if back else binding.restore
        if restore is not None:
            works = [_work(fact, back=back) for fact in group]
            await self._load_evidence(works, group, back=back)
            await restore(works, self.sql)
            self.restored[name] += len(group)
        elif (binding.compensate or binding.compensate_batch) if back else (binding.handle or binding.handle_batch):
            self.unrestored[name] += len(group)

    async def _load_evidence(self, works: Sequence[Work[Event]], group: Sequence[StepFact], *, back: bool) -> None:
        """Pass the works what the database holds by now, if the participant checks its evidence."""
        evidence = self.participant.evidence
        if evidence is None:
            return
        kind = StepMessage.COMPENSATE if back else StepMessage.TRIGGER
        claims = [
            Claim(kind, each.binding.step.name, each.saga_id, each.envelope, each.record.value, None, begun=False)
            for each in group
        ]
        found = await evidence.load(self.sql, claims, sorted({each.saga_id for each in group}))
        for work in works:
            work.ctx.evidence = found.get(work.saga_id)


def _work(fact: StepFact, *, back: bool) -> Work[Event]:
    envelope, step = fact.envelope, fact.binding.step
    answer = step.back[1] if back and step.back is not None else step.emits
    key = f"{fact.saga_id}:{step.name}{':back' if back else ''}"
    context = StepContext(fact.saga_id, step.name, envelope.attempt, key, envelope.started, envelope.context)
    return Work(answer.read(fact.record.value), context)


def _is_answered(message: Message, row: Row | None) -> bool:
    """Return whether the answer to a command is on the topic. One without effect is answered when it is read again."""
    if row is None or row.status not in _SETTLED:
        return False
    match message.kind:
        case StepMessage.COMPENSATE:
            return row.back_answer is not None and row.back_round >= message.envelope.round
        case StepMessage.RETRY:
            return row.round >= message.envelope.round
        case _:
            return True


def _is_open_retry(message: Message, row: Row) -> bool:
    """Return whether a retry of a remote step may have begun: its outcome is queried, and it is not called again."""
    later = message.envelope.round > row.round
    return message.kind is StepMessage.RETRY and message.binding.remote and row.status is RowStatus.FAILED and later
