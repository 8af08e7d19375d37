"""A participant as the step path runs it."""

import random
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog
from pydantic import ValidationError

from consumers.context import StepContext
from consumers.participant import Participant
from consumers.runtime import judgement
from consumers.runtime.calls import Calls
from consumers.runtime.cause import Cause
from consumers.runtime.docket import Docket, Surroundings
from consumers.runtime.message import Kind, Message, Router
from consumers.runtime.outcome import Completion, Failed
from consumers.runtime.row import Key, load, load_due, next_due, save
from consumers.runtime.settlement import fail_undo, settle
from consumers.runtime.speaker import Speaker
from infra.clock import Clock, SystemClock
from infra.database import Connection
from infra.lanes.processor import Received, Transaction
from infra.lanes.store import Lane
from sagas.row import RowStatus
from schemas.envelope import EnvelopeError, Header
from schemas.topics import commands_topic, events_topic

DUE_LIMIT = 500
"""Rows whose time has come that a batch takes at most."""
SKEW_NS = 1_000_000_000
"""How far a venue's clock may be off before "not found" could deceive."""

_HOLDS = "SELECT scope, key FROM hold"


class StepProcessor:
    """Judges the records, timers and call results of one participant, a batch at a time."""

    def __init__(
        self,
        participant: Participant,
        *,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        skew_ns: int = SKEW_NS,
    ) -> None:
        participant.check()
        saga = participant.saga
        clock = clock or SystemClock()
        self.group = participant.group
        self.topics: Sequence[str] = (events_topic(saga.name), commands_topic(saga.name))
        self._participant = participant
        self._router = Router(participant)
        self._calls = Calls()
        self._steps = list(participant.bindings)
        self._speaker = Speaker(saga.name, participant.name, clock)
        self._around = Surroundings(
            saga=saga.name,
            bindings=participant.bindings,
            payloads=dict(saga.registry.items()),
            speaker=self._speaker,
            calls=self._calls,
            now=clock.now,
            chance=chance,
            skew_ns=skew_ns,
            held=self._held,
        )
        self._log = structlog.get_logger("participant").bind(participant=participant.name)
        self._holds: set[tuple[str, str]] = set()
        self._lanes: list[int] = []
        self._due_at: float | None = None
        self._judged: Docket | None = None
        self._completions: list[Completion] = []
        self._upcoming: tuple[bool, float | None] = (False, None)

    def wants(self, topic: str, headers: Sequence[Header]) -> bool:  # noqa: ARG002 - types tell topics apart
        """Say whether a record concerns any step of the participant."""
        return self._router.wants(headers)

    async def open(self, sql: Connection, lanes: Sequence[Lane], wake: Callable[[], None]) -> None:
        """Take over lanes: calls of before are abandoned, their rows are found again by their due times."""
        await self._calls.open(wake)
        self._judged, self._completions = None, []
        self._lanes = [lane.id for lane in lanes]
        self._plan(await next_due(sql, self._lanes, self._steps))

    async def close(self) -> None:
        """Abandon the calls under way."""
        await self._calls.close()

    def due_in(self) -> float | None:
        """Give the seconds until a row is due, 0 if a call has ended."""
        if self._calls.completions:
            return 0
        return None if self._due_at is None else max(0.0, self._due_at - time.monotonic())

    def full(self) -> bool:
        """Say whether the calls under way are as many as may be."""
        return self._calls.full

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Judge a batch: what ended, what is due, what came; then write all rows at once."""
        sql = transaction.sql
        timers = self._due_at is not None and self._due_at <= time.monotonic()
        completions = list(self._calls.completions)
        messages = self._read(transaction, received)
        due = await load_due(sql, list(transaction.lanes), self._steps, DUE_LIMIT) if timers else []
        due = [row for row in due if row.key not in self._calls]
        keys: set[Key] = {message.key for message in messages} | {completion.key for completion in completions}
        rows = {row.key: row for row in due} | await load(sql, keys)
        if self._participant.holds is not None:
            self._holds = {(row["scope"], row["key"]) for row in await sql.fetch(_HOLDS)}
        docket = Docket(self._around, transaction, rows, holding=bool(self._holds))
        for completion in completions:
            await judgement.take_completion(docket, completion)
        for row in due:
            if row.key not in docket.dirty:
                judgement.take_due(docket, rows[row.key])
        for message in messages:
            await self._take(docket, message)
        await judgement.flush(docket)
        await save(sql, docket.dirty.values())
        upcoming = await next_due(sql, list(transaction.lanes), self._steps) if timers else None
        self._judged, self._completions, self._upcoming = docket, completions, (timers, upcoming)

    async def _take(self, docket: Docket, message: Message) -> None:
        try:
            await judgement.take(docket, message)
        except (ValidationError, LookupError, ValueError, TypeError, ArithmeticError) as error:
            self._poison(docket, message, error)

    def _poison(self, docket: Docket, message: Message, error: Exception) -> None:
        """Answer for a message that cannot be judged: its bytes are kept, its step fails, its saga alone is stopped."""
        reason = f"{message.payload.NAME} cannot be judged: {type(error).__name__}: {error}"[:1000]
        docket.transaction.emit(message.lane, self._speaker.bury(message.record, self.group, reason))
        if message.kind is Kind.COMPENSATE:
            row = docket.rows.get(message.key) or docket.open_row(message, RowStatus.COMPENSATION_FAILED)
            fail_undo(docket, row, Cause.of(message), reason, message.lane)
        elif message.kind is Kind.TRIGGER:
            row = docket.rows.get(message.key) or docket.open_row(message, RowStatus.FAILED)
            settle(docket, row, Cause.of(message), Failed(reason, final=True), message.lane)
        self._log.error("poison", saga_id=str(message.saga_id), why=reason)

    def _read(self, transaction: Transaction, received: Sequence[Received]) -> list[Message]:
        messages: list[Message] = []
        for each in received:
            try:
                messages += self._router.read(each.lane, each.record)
            except EnvelopeError as error:
                transaction.emit(each.lane, self._speaker.bury(each.record, self.group, str(error)))
                self._log.error("unreadable headers", why=str(error), offset=each.record.offset)
        return messages

    def _held(self, ctx: StepContext) -> bool:
        if self._participant.holds is None:
            return False
        saga_id: UUID = ctx.saga_id
        return ("saga", str(saga_id)) in self._holds or any(
            pair in self._holds for pair in self._participant.holds(ctx)
        )

    def committed(self) -> None:
        """Count, forget the calls that were judged, start those that were decided, and note the next due time."""
        docket, self._judged = self._judged, None
        if docket is None:
            return
        for completion in self._completions:
            self._calls.judged(completion)
        for child, number in docket.counts.items():
            child.inc(number)
        for child, seconds in docket.seconds:
            child.observe(seconds)
        for call in docket.calls:
            self._calls.start(call)
        timers, upcoming = self._upcoming
        if timers:
            self._due_at = None
            self._plan(upcoming)
        for row in docket.dirty.values():
            self._plan(row.wait)

    def _plan(self, wait: float | None) -> None:
        if wait is None:
            return
        # Never at once: a row that is due and still under way must not keep the loop busy.
        at = time.monotonic() + max(0.005, wait)
        if self._due_at is None or at < self._due_at:
            self._due_at = at
