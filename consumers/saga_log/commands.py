"""Make the saga log's commands and facts, and track reports of unowned steps."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final
from uuid import UUID

from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.store import Waiting
from tradesaga.consumers.saga_log.tracked_saga import SagaSnapshot, Tracked
from tradesaga.infra.clock import format_time, new_id
from tradesaga.infra.kafka.codec import Outgoing, Record
from tradesaga.infra.kafka.facts import make_fact
from tradesaga.infra.telemetry.tracing import next_traceparent
from tradesaga.sagas.machine import BarStep, CompensateStep, RetryStep, State, StepCommand
from tradesaga.schemas.envelope import ID, OVERTAKES, Envelope
from tradesaga.schemas.messages.lifecycle import Bar, DeadlineElapsed, ParkReleased, Retry, StepUnowned
from tradesaga.schemas.messages.message import Command, wire_type
from tradesaga.schemas.topics import commands_topic

_REASON_LIMIT: Final = 2000
_TEXT_LIMIT: Final = 512
"""Characters of an id, or of a `tracestate`, that a command passes on."""


def command(rules: Rules, tracked: Tracked, order: StepCommand, record: Record, now: int) -> Outgoing:
    """Return the command for an order; `record` is what brought it about, `now` nanoseconds since 1970.

    Raises `ValueError` for a saga whose start is not known: it has no orders.
    """
    snapshot = tracked.snapshot
    if snapshot is None:
        raise ValueError(f"saga {tracked.saga_id} has not started; it has no orders")
    rules = rules.under(snapshot.version)
    message, round_ = _message(rules, snapshot, order)
    envelope = Envelope(
        type=wire_type(rules.saga.name, type(message)),
        id=str(new_id()),
        source=source(rules),
        saga_id=str(tracked.saga_id),
        time=format_time(now),
        causation=_text(record, ID),
        traceparent=(trace := next_traceparent(_text(record, "traceparent"))),
        tracestate=_text(record, "tracestate") if trace else "",
        step=rules.saga.steps[order.step].name,
        round=round_,
        context=snapshot.context,
        version=snapshot.version if snapshot.version > 1 else 0,
    )
    return Outgoing.of(commands_topic(rules.saga.name), envelope, message.to_wire())


def deadline_elapsed(rules: Rules, saga_id: UUID, snapshot: SagaSnapshot, now: int) -> Outgoing:
    """Return the fact that the saga's deadline has passed; it is folded when its record is read."""
    elapsed = DeadlineElapsed(deadline=format_time(snapshot.deadline_ms * 1_000_000))
    record = make_fact(rules.saga.name, saga_id, elapsed, source(rules), now=now)
    record.headers.append((OVERTAKES, b"1"))
    return record


def step_unowned(rules: Rules, saga_id: UUID, step: str, now: int) -> Outgoing:
    """Return the fact that a saga waits past its deadline for a step without a known owner."""
    unowned = StepUnowned(step=step, reason="no participant that is registered here, and no group at work, owns it")
    return make_fact(rules.saga.name, saga_id, unowned, source(rules), step, now=now)


def version_registered(rules: Rules, waiting: Waiting, version: int, now: int) -> Outgoing:
    """Return the fact that releases records that were parked for a version of their definition."""
    released = ParkReleased(
        operator="saga-log", reason=f"version {version} of the definition is registered", topic=waiting.topic,
        partition=waiting.partition, offset=waiting.offset, action="retry",
    )  # fmt: skip
    return make_fact(rules.saga.name, waiting.saga_id, released, source(rules), now=now)


def source(rules: Rules) -> str:
    """Return the `ce_source` of the saga log's records."""
    return f"/{rules.saga.name}/saga-log"


def _message(rules: Rules, snapshot: SagaSnapshot, order: StepCommand) -> tuple[Command, int]:
    step = rules.saga.steps[order.step]
    match order:
        case BarStep():
            return Bar(step=step.name), snapshot.state.rounds[order.step]
        case RetryStep(round=round_):
            return Retry(step=step.name, round=round_), round_
        case CompensateStep(round=round_):
            if step.back is None:
                raise ValueError(f"{step.name!r} cannot be compensated")
            return step.back[0](reason=rules.cause(snapshot.state)[:_REASON_LIMIT]), round_


def _text(record: Record, header: str) -> str:
    """Return a header, which anybody may have written, cleaned and cut for use in a command."""
    return record.header(header).decode("utf-8", "replace").replace("\0", "")[:_TEXT_LIMIT]


Steps = Collection[str]


class UnownedSteps:
    """Sagas that wait for unowned steps: those to publish, and those whose facts are not folded yet."""

    def __init__(self) -> None:
        self.pending: Mapping[UUID, Steps] = {}
        self._published: dict[UUID, Steps] = {}
        self._settled = asyncio.Event()
        self._settled.set()

    def clear(self) -> None:
        """Forget everything, when lanes change owners; unowned steps are found again."""
        self.pending = {}
        self._published.clear()
        self._settled.set()

    def report(self, found: Mapping[UUID, Steps]) -> None:
        """Replace the pending sagas, to be published with the next batch; published facts are not repeated."""
        self.pending = {each: found[each] for each in found.keys() - self._published.keys()}
        self._settle()

    async def settled(self, seconds: float) -> None:
        """Wait until all reported facts are published and folded, or until `seconds` have passed."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return  # a lane that is far behind delays its own sagas alone

    def committed(self, taken: Mapping[UUID, Steps], published: Mapping[UUID, Steps]) -> None:
        """Remove the sagas that a batch has taken from `pending`, and note those that it published."""
        if not taken:
            return
        self.pending = {saga: steps for saga, steps in self.pending.items() if saga not in taken}
        self._published.update(published)
        self._settle()

    def folded(self, rules: Rules, sagas: Mapping[UUID, Tracked], touched: Iterable[UUID]) -> None:
        """Forget published facts of sagas that no longer wait for them, after records of these sagas were folded."""
        if not self._published:
            return
        for saga_id in self._published.keys() & touched:
            if not awaited_of(rules, sagas[saga_id], self._published[saga_id]):
                del self._published[saga_id]
        self._settle()

    def _settle(self) -> None:
        if self.pending or self._published:
            self._settled.clear()
        else:
            self._settled.set()


def awaited_of(rules: Rules, tracked: Tracked, unowned: Steps) -> set[str]:
    """Call `awaited_unowned` for a tracked saga."""
    snapshot = tracked.snapshot
    if snapshot is None or snapshot.sealed:
        return set()
    return awaited_unowned(rules, snapshot.version, snapshot.state, unowned, parked=bool(tracked.parked))


def awaited_unowned(rules: Rules, version: int, state: State | None, unowned: Steps, *, parked: bool) -> set[str]:
    """Return the unowned steps that a saga waits for past its deadline, and for which none has been published.

    Empty where the fact would have no effect: `state` cannot be read (None), it would be parked (`parked`), or an
    operator has resolved the saga.
    """
    own = rules.versions.get(version)
    if own is None or state is None or not state.overdue or state.resolved is not None:
        return set()
    if parked and not state.unblocked:
        return set()
    return {*own.machine.names(own.machine.awaited(state) & ~state.unowned)} & {*unowned}
