"""Process a participant's batches: the step path."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from tradesaga.consumers.context import Claim, StepContext
from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime import dead_letters, dispatch, waiting_steps
from tradesaga.consumers.runtime.batch_context import BatchContext, ParticipantRuntime
from tradesaga.consumers.runtime.event_factory import Check, Completion, EventFactory, Trigger
from tradesaga.consumers.runtime.held_steps import HeldSteps, PauseSet
from tradesaga.consumers.runtime.local_handlers import LoopWatch
from tradesaga.consumers.runtime.message import Bindings, Message, Router, StrayError, UnknownVersionError
from tradesaga.consumers.runtime.remote_calls import IN_FLIGHT_LIMIT, Calls
from tradesaga.consumers.runtime.step_rows import (
    HELD,
    HELD_FROM,
    HeldPage,
    Key,
    Row,
    load,
    load_due,
    load_held,
    next_due,
    save,
)
from tradesaga.consumers.runtime.waiting_steps import mark_counted, read_reports, stores_of
from tradesaga.consumers.saga_log.tracked_saga import Parked, RecordPosition
from tradesaga.infra.clock import Clock, SystemClock, elapsed
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.dead_letters import READING_ERRORS, RecordFault
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Pace, Received, Transaction
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import StepMessage
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import EnvelopeError, Header
from tradesaga.schemas.messages.message import Message as Payload
from tradesaga.schemas.topics import PARTITIONS, commands_topic, events_topic


def claim_message(message: Message, row: Row | None) -> Claim:
    """Return the claim of a message about its step, whose row is `row`."""
    begun = row is not None and not (row.status is RowStatus.WAITING and row.input is None)
    status = row.status if row is not None else None
    return Claim(message.kind, message.key[1], message.saga_id, message.envelope, message.value, status, begun)


def claim_due(row: Row, payloads: Mapping[str, type[Payload]], check: Check) -> Claim | None:
    """Return the claim that a due row's next attempt relies on, or None if it starts none.

    Raises `ValueError` or `LookupError` for a stored record that cannot be read.
    """
    kind = StepMessage.TRIGGER if row.status is RowStatus.RETRY else StepMessage.COMPENSATE
    framed = row.input if kind is StepMessage.TRIGGER else row.back_input
    if row.status not in {RowStatus.RETRY, RowStatus.COMPENSATING} or framed is None:
        return None
    trigger = Trigger.stored(framed, payloads, check)
    return Claim(kind, row.step, row.saga_id, trigger.envelope, trigger.value, row.status, begun=False)


def claim_batch(
    messages: Sequence[Message], due: Sequence[Row], payloads: Mapping[str, type[Payload]], check: Check
) -> list[Claim]:
    """Return all claims of a batch, so that their evidence can be read at once."""
    claims = [claim_message(message, None) for message in messages]
    for row in due:
        try:
            claim = claim_due(row, payloads, check)
        except (ValueError, LookupError):
            continue  # reported when the row is processed
        if claim is not None:
            claims.append(claim)
    return claims


DUE_LIMIT = 250
"""Due rows that a batch processes at most."""

SKEW_NS = 1_000_000_000
"""Clock skew of a remote system up to which "not found" is reliable after the attempt's expiry."""

Aside = dict[RecordPosition, Parked]
"""Records to park until their saga's version is registered, by topic, partition and offset, with the reason."""

PAUSES = "SELECT scope, key FROM hold"
CHECK_PAUSES = 1.0
"""Seconds without a batch after which a participant with held steps reads the pauses."""


class StepProcessor:
    """Processes the records, due rows and finished calls of one participant, a batch at a time."""

    def __init__(
        self,
        participant: Participant,
        *,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        skew_ns: int = SKEW_NS,
        partitions: int = PARTITIONS,
        calls: int = IN_FLIGHT_LIMIT,
    ) -> None:
        participant.check()
        saga = participant.saga
        clock = clock or SystemClock()
        self.group = participant.group
        self.topics: Sequence[str] = (events_topic(saga.name), commands_topic(saga.name))
        self._participant = participant
        self._router = Router(participant, partitions)
        self._calls = Calls(min(calls, participant.in_flight or calls), group=participant.group)
        self._steps = list(participant.bindings)
        self._stores = stores_of(participant)
        self.watch = LoopWatch(participant.group)
        self._runtime = ParticipantRuntime(
            saga=saga.name,
            group=participant.group,
            bindings=Bindings(participant),
            payloads=saga.message_types,
            events=EventFactory(saga.name, participant.name, clock),
            calls=self._calls,
            now=clock.now,
            chance=chance,
            skew_ns=skew_ns,
            is_paused=self._is_paused,
            watch=self.watch,
        )
        self._pauses: PauseSet = frozenset()
        self._held = self._next_held = HeldSteps()
        self._check_at: float | None = None
        self._lanes: list[int] = []
        self._due_at: float | None = None
        self._has_moved = False
        self._batch: BatchContext | None = None
        self._completions: list[Completion] = []
        self._returning: list[Received] = []
        self._following: list[Received] = []
        self._upcoming: tuple[bool, float | None] = (False, None)

    def wants(self, topic: str, headers: Sequence[Header]) -> bool:
        """Return whether a record is for a step of the participant, or is a stray that this participant reports."""
        return self._router.wants(headers) or self._router.reports_stray(topic, headers)

    async def open(self, sql: Connection, lanes: Sequence[Lane], wake: Callable[[], None]) -> None:
        """Take over lanes: earlier calls are abandoned, and their rows are found by their due times."""
        await self._calls.open(wake)
        self._batch, self._completions, self._has_moved = None, [], False
        self._lanes = [lane.id for lane in lanes]
        self._returning = await dead_letters.find_parked(sql, self.group, self._participant.saga.versions, lanes)
        held = await load_held(sql, dict.fromkeys(self._lanes, HELD_FROM), self._steps, len(self._lanes))
        self._held, self._check_at = HeldSteps(unchecked=dict.fromkeys(held.following, HELD_FROM)), None
        self._plan(await next_due(sql, self._lanes, self._steps))

    async def close(self) -> None:
        """Abandon the calls in flight."""
        await self._calls.close()

    def due_in(self) -> float | None:
        """Return the seconds until there is work: 0 if a call has finished, None if there is no room for calls."""
        if self._calls.completions or self._returning:
            return 0
        if not self._calls.room:
            return None
        if self._held.unchecked:
            return 0
        times = [at for at in (self._due_at, self._check_at) if at is not None]
        return max(0.0, min(times) - elapsed()) if times else None

    def full(self) -> bool:
        """Return whether there is no room for another call."""
        return not self._calls.room

    def other_lanes(self) -> Collection[int] | None:
        """Return the lanes of finished calls and of held rows to be checked; None if rows are due or records return."""
        if self._returning or self._has_moved or self._is_due():
            return None
        return {completion.lane for completion in self._calls.ended()}.union(self._held.unchecked)

    def _is_due(self) -> bool:
        return self._calls.room > 0 and self._due_at is not None and self._due_at <= elapsed()

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Process finished calls, due rows and messages; then write all rows at once."""
        sql = transaction.sql
        timers = transaction.has_all_lanes and self._is_due()
        ended = self._calls.ended()
        aside: Aside = {}
        returned = [each for each in self._returning if each.lane in transaction.lanes]
        wanted = [each for each in returned if self.wants(each.record.topic, each.record.headers)]
        messages, unreadable = self._read([*wanted, *received], aside)
        held = await self._read_pauses(transaction)
        page, due = await self._load_due(transaction, held, timers=timers)
        keys: set[Key] = {message.key for message in messages} | {completion.key for completion in ended}
        rows = {row.key: row for row in due} | await load(sql, keys)
        completions = [each for each in ended if not self._has_moved_away(rows.get(each.key), transaction)]
        batch = await self._open_batch(transaction, rows, due, messages, completions)
        for lane, record, fault in unreadable:
            dead_letters.dead_letter(batch, lane, record, fault)
        for completion in completions:
            self._guard(batch, completion.key, lambda ended=completion: dispatch.handle_completion(batch, ended))
        for row in due:
            if row.key not in batch.dirty:
                self._guard(batch, row.key, lambda due=rows[row.key]: self._process_due(batch, due))
        pace = Pace()
        for message in messages:
            if pace.is_due():
                await pace.turn()
            await self._process(batch, message, aside)
        for key in list(batch.concluding):
            self._conclude(batch, key)
        await dispatch.flush(batch)
        self._following = await self._follow(batch, returned, aside) if returned or aside else []
        await self._save(batch)
        upcoming = await next_due(sql, list(transaction.lanes), self._steps) if timers else None
        self._batch, self._completions, self._upcoming = batch, completions, (timers, upcoming)
        self._has_moved = len(completions) < len(ended)
        self._next_held = held.checked(page, batch.held)

    def _has_moved_away(self, row: Row | None, transaction: Transaction) -> bool:
        """Return whether a finished call's row is now on another lane of this owner: it needs a batch of all lanes."""
        return row is not None and row.lane not in transaction.lanes and row.lane in self._lanes

    async def _read_pauses(self, transaction: Transaction) -> HeldSteps:
        """Read the pauses for this batch, and find out whether one has ended since the last one."""
        self._pauses = frozenset([(row["scope"], row["key"]) for row in await transaction.sql.fetch(PAUSES)])
        return self._held.read(self._pauses)

    async def _load_due(self, transaction: Transaction, held: HeldSteps, *, timers: bool) -> tuple[HeldPage, list[Row]]:
        """Read due rows and a page of the held rows to be checked; return the page, and both together."""
        sql, limit = transaction.sql, min(DUE_LIMIT, self._calls.room)
        due = await load_due(sql, list(transaction.lanes), self._steps, limit) if timers else []
        page = await load_held(sql, held.of(transaction.lanes), self._steps, limit - len(due))
        return page, [*(row for row in due if row.key not in self._calls), *page.rows]

    async def _open_batch(
        self,
        transaction: Transaction,
        rows: dict[Key, Row],
        due: Sequence[Row],
        messages: Sequence[Message],
        completions: Sequence[Completion],
    ) -> BatchContext:
        """Read evidence and stored reports, and create the batch's context."""
        sql = transaction.sql
        batch = BatchContext(self._runtime, transaction, rows, bool(self._pauses))
        batch.evidence = await self._evidence(sql, messages, rows, due)
        if self._stores:
            batch.reports, batch.late = await read_reports(self._stores, sql, messages, completions, rows)
        return batch

    async def _save(self, batch: BatchContext) -> None:
        sql = batch.transaction.sql
        waiting_steps.write_reports(batch)
        if batch.counted:
            await mark_counted(self._stores, sql, batch.counted)
        await save(sql, batch.dirty.values())

    async def _follow(self, batch: BatchContext, returned: Sequence[Received], aside: Aside) -> list[Received]:
        """Park records of unknown versions, mark the processed ones as released, and return the next to process."""
        sql, lanes = batch.transaction.sql, batch.transaction.lanes
        if aside:
            batch.counts[metrics.PARKED.labels(self.group)] += len(aside)
            why = next(iter(aside.values())).reason
            structlog.get_logger("participant").warning(
                "records set aside", group=self.group, count=len(aside), why=why
            )
        await dead_letters.park(sql, self.group, list(aside.values()))
        await dead_letters.release_parked(sql, self.group, [each.record for each in returned], datetime.now(UTC))
        if not returned:
            return []
        return await dead_letters.find_parked(sql, self.group, self._participant.saga.versions, lanes.values())

    async def _process(self, batch: BatchContext, message: Message, aside: Aside) -> None:
        if message.key in batch.local:
            await dispatch.flush(batch)
        if message.kind is not StepMessage.REPORT and message.key in batch.concluding:
            self._conclude(batch, message.key)
        try:
            reason = self._contradiction(batch, message)
            if reason is None:
                dispatch.handle_message(batch, message)
            else:
                dead_letters.dead_letter_contradiction(batch, message, reason)
        except UnknownVersionError as error:
            parked = Parked(message.record, str(error))
            aside[parked.place] = parked
        except READING_ERRORS as error:
            dead_letters.fail_step(batch, message, error)

    def _process_due(self, batch: BatchContext, row: Row) -> None:
        """Process a due row, unless the database now contradicts the record that its next attempt relies on."""
        runtime, evidence = self._runtime, self._participant.evidence
        claim = claim_due(row, runtime.payloads, runtime.bindings.check) if evidence is not None else None
        if claim is not None and (reason := self._refute(batch, claim)) is not None:
            raise ValueError(f"contradiction: {reason}")
        dispatch.handle_due(batch, row)

    async def _evidence(
        self, sql: Connection, messages: Sequence[Message], rows: Mapping[Key, Row], due: Sequence[Row]
    ) -> Mapping[UUID, Any]:
        """Read the evidence for a batch; empty for a participant without `Evidence`."""
        evidence = self._participant.evidence
        sagas = {saga_id for saga_id, _ in rows} | {message.saga_id for message in messages}
        if evidence is None or not sagas:
            return {}
        claims = claim_batch(messages, due, self._runtime.payloads, self._runtime.bindings.check)
        return await evidence.load(sql, claims, sorted(sagas))

    def _contradiction(self, batch: BatchContext, message: Message) -> str | None:
        """Return how the database contradicts a record, or None."""
        if self._participant.evidence is None:
            return None
        return self._refute(batch, claim_message(message, batch.rows.get(message.key)))

    def _refute(self, batch: BatchContext, claim: Claim) -> str | None:
        evidence = self._participant.evidence
        return None if evidence is None else evidence.refute(claim, batch.evidence.get(claim.saga_id))

    def _conclude(self, batch: BatchContext, key: Key) -> None:
        self._guard(batch, key, lambda: waiting_steps.conclude_reported(batch, key))

    def _guard(self, batch: BatchContext, key: Key, process: Callable[[], None]) -> None:
        try:
            process()
        except READING_ERRORS as error:
            dead_letters.skip_row(batch, key, error)

    def _read(
        self, received: Sequence[Received], aside: Aside
    ) -> tuple[list[Message], list[tuple[int, Record, RecordFault]]]:
        """Return the messages, and the records that are strays or have invalid headers."""
        messages: list[Message] = []
        unreadable: list[tuple[int, Record, RecordFault]] = []
        for each in received:
            try:
                messages += self._router.read(each.lane, each.record)
            except UnknownVersionError as error:
                parked = Parked(each.record, str(error))
                aside[parked.place] = parked
            except StrayError as error:
                unreadable.append((each.lane, each.record, RecordFault("stray", str(error))))
            except EnvelopeError as error:
                unreadable.append((each.lane, each.record, RecordFault("headers", str(error))))
        return messages, unreadable

    def _is_paused(self, ctx: StepContext) -> bool:
        """Return whether an operator has paused the step; if the participant's `pauses` fails, it counts as paused."""
        if ("saga", str(ctx.saga_id)) in self._pauses:
            return True
        if self._participant.pauses is None:
            return False
        try:
            return not self._pauses.isdisjoint(self._participant.pauses(ctx))
        except Exception as error:
            ctx.log.exception("cannot find out whether the step is paused", exc_info=error)
            return True

    def committed(self) -> None:
        """Update metrics, forget processed calls, start scheduled ones, and compute the next due time."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        for completion in self._completions:
            self._calls.processed(completion)
        for child, number in batch.counts.items():
            child.inc(number)
        for child, seconds in batch.seconds:
            child.observe(seconds)
        for call in batch.calls:
            self._calls.start(call)
        self._returning = self._following
        self._held = self._next_held
        self._check_at = elapsed() + CHECK_PAUSES if self._held.held else None
        timers, upcoming = self._upcoming
        if timers:
            self._due_at = None
            self._plan(upcoming)
        for row in batch.dirty.values():
            self._plan(row.wait)

    def _plan(self, wait: float | None) -> None:
        if wait is None or wait >= HELD:
            return
        # Never at once: a due row whose call is in flight must not keep the loop busy.
        at = elapsed() + max(0.005, wait)
        if self._due_at is None or at < self._due_at:
            self._due_at = at
