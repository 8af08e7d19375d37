"""The step rows and local effects of one participant, made anew from what its saga's topics hold."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tradesaga.consumers.context import Claim, StepContext, Work
from tradesaga.consumers.participant import Binding, Participant
from tradesaga.consumers.recovery.facts import Letter
from tradesaga.consumers.recovery.row_rebuild import FactReader, Mention, MentionKind, begin_round, rebuild_row
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
_EFFECTS: Final = {MentionKind.DONE, MentionKind.COMPENSATED}
# What a restored row says of a call was true when it was written; what was called after that, nobody can tell.
_DOUBT: Final = """
UPDATE step_execution SET status = $2, started = $3, due = clock_timestamp()
WHERE step = ANY($1::text[]) AND status IN ($2, $4)
"""


@dataclass
class StepRecovery:
    """Follows the topics on behalf of one participant, in the caller's transaction.

    `lanes` gives the lane row of each partition of the events topic; `now` is nanoseconds since 1970. Records in
    `contradicted` were refuted when they were first read, and are passed by.
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
    contradicted: Collection[Letter] = ()

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

    async def doubt(self) -> None:
        """Take every call that a restored row speaks of for unknown."""
        remote = [name for name, binding in self.participant.bindings.items() if binding.remote]
        await self.sql.execute(_DOUBT, remote, int(RowStatus.INTENT), self.now, int(RowStatus.RETRY))

    async def follow_events(self, records: Sequence[Record]) -> None:
        """Take in what records of one partition say, and make anew the local effects that they tell of."""
        mentions = [
            mention
            for record in records
            if (record.topic, record.partition, record.offset) not in self.contradicted
            for mention in self._reader.read(record)
        ]
        rows = await load(self.sql, {mention.key for mention in mentions})
        changed: dict[Key, Row] = {}
        effects: list[Mention] = []
        for mention in mentions:
            try:
                row = rebuild_row(rows.get(mention.key), mention, self.lanes[mention.record.partition], self.now)
            except ValueError:
                continue  # its owner could not read it either, and has answered for that
            if row is None:
                continue
            rows[row.key] = changed[row.key] = row
            if mention.kind in _EFFECTS:
                effects.append(mention)
        await save(self.sql, changed.values())
        await self._restore(effects)

    async def follow_commands(self, records: Iterable[Record]) -> int | None:
        """Return the offset of the first command of the batch that has no answer; None if all have."""
        messages = [message for record in records for message in self._read(record)]
        rows = await load(self.sql, {message.key for message in messages})
        first: int | None = None
        for message in messages:
            row = rows.get(message.key)
            if _answered(message, row):
                continue
            first = message.record.offset if first is None else first
            round_ = message.envelope.round
            if row is not None and _begun_again(message, row):
                begin_round(row, message.binding, round_, self.now)
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

    async def _restore(self, effects: Sequence[Mention]) -> None:
        """Restore forward effects in the order of the steps, then those that take back, the last step first.

        So each saga's come in their own order, which its version decides; those of different sagas are made so as to
        commute.
        """
        groups: dict[tuple[bool, int, int], list[Mention]] = {}
        for mention in effects:
            back = mention.kind is MentionKind.COMPENSATED
            version = mention.envelope.version or self._unversioned
            position = self._order[version, mention.binding.step.name]
            groups.setdefault((back, version, -position if back else position), []).append(mention)
        for (back, *_), group in sorted(groups.items()):
            await self._restore_step(group[0].binding, group, back=back)

    async def _restore_step(self, binding: Binding, group: Sequence[Mention], *, back: bool) -> None:
        name = binding.step.name
        self.adopted[f"{name}{' back' if back else ''}"] += len(group)
        restore = binding.restore_back if back else binding.restore
        if restore is not None:
            works = [_work(mention, back=back) for mention in group]
            await self._prove(works, group, back=back)
            await restore(works, self.sql)
            self.restored[name] += len(group)
        elif (binding.compensate or binding.compensate_batch) if back else (binding.handle or binding.handle_batch):
            self.unrestored[name] += len(group)

    async def _prove(self, works: Sequence[Work[Event]], group: Sequence[Mention], *, back: bool) -> None:
        """Hand the works what the database holds by now, if the participant judges by that."""
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


def _work(mention: Mention, *, back: bool) -> Work[Event]:
    envelope, step = mention.envelope, mention.binding.step
    said = step.back[1] if back and step.back is not None else step.emits
    key = f"{mention.saga_id}:{step.name}{':back' if back else ''}"
    context = StepContext(mention.saga_id, step.name, envelope.attempt, key, envelope.started, envelope.context)
    return Work(said.read(mention.record.value), context)


def _answered(message: Message, row: Row | None) -> bool:
    """Say whether what a command asked for is on the topic; one that asks in vain is answered by whoever reads it."""
    if row is None or row.status not in _SETTLED:
        return False
    match message.kind:
        case StepMessage.COMPENSATE:
            return row.back_answer is not None and row.back_round >= message.envelope.round
        case StepMessage.RETRY:
            return row.round >= message.envelope.round
        case _:
            return True


def _begun_again(message: Message, row: Row) -> bool:
    """Return whether a retry of a remote step may be under way: it is to be asked after, not called."""
    later = message.envelope.round > row.round
    return message.kind is StepMessage.RETRY and message.binding.remote and row.status is RowStatus.FAILED and later
