"""Run remote calls concurrently, after their intent is committed, outside any transaction, each with a timeout."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from tradesaga.consumers.context import StepContext
from tradesaga.consumers.participant import Binding, CompensationImpossibleError
from tradesaga.consumers.runtime.event_factory import (
    Answered,
    CallKind,
    Completion,
    Failed,
    NotFound,
    Outcome,
    Reported,
    Trigger,
    Unknown,
    WrongAnswerError,
    check_size,
    write_answer,
)
from tradesaga.consumers.runtime.local_handlers import being_cancelled
from tradesaga.infra.clock import elapsed
from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.errors import OutcomeUnknownError

IN_FLIGHT_LIMIT = 4096
"""Calls in flight at which fetching pauses and fetched messages wait in their rows."""
BYTES_LIMIT = 64 * 1024 * 1024
"""Bytes of messages, contexts and answers that the calls in flight may hold."""
COMPLETIONS_LIMIT = 1000
"""Finished calls that one batch processes."""
COMPLETIONS_BYTES = 8 * 1024 * 1024
CLOSING = 5.0
"""Seconds that a cancelled call has to end; after that it is abandoned."""

_FUNCTIONS = {CallKind.COMPENSATE: "compensate_remotely"}
"""Functions of a `Binding` that are not named as the kind of call."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a participant's remote function."""

    kind: CallKind
    binding: Binding
    saga_id: UUID
    attempt: int
    ctx: StepContext
    trigger: Trigger | None
    lane: int

    @property
    def key(self) -> tuple[UUID, str]:
        """Return the key of the call's row."""
        return self.saga_id, self.binding.step.name

    @property
    def size(self) -> int:
        """Return the bytes of the trigger and its context."""
        return len(self.trigger.value) + len(self.trigger.envelope.context) if self.trigger is not None else 0


class Calls:
    """Calls in flight, at most one a row, and finished ones that no committed batch has processed yet.

    Both limits include the finished ones; `group` labels the gauge.
    """

    def __init__(self, limit: int = IN_FLIGHT_LIMIT, size: int = BYTES_LIMIT, group: str = "") -> None:
        self._limit = limit
        self._bytes_limit = size
        self._gauge = metrics.IN_FLIGHT.labels(group)
        self._tasks: dict[tuple[UUID, str], asyncio.Task[None]] = {}
        self._sizes: dict[tuple[UUID, str], int] = {}
        self._bytes = 0
        self._epoch = 0
        self._opened = elapsed()
        self._begun: dict[tuple[UUID, str], float] = {}
        self._wake: Callable[[], None] = lambda: None
        self.completions: deque[Completion] = deque()

    def __contains__(self, key: tuple[UUID, str]) -> bool:
        """Return whether a call for this row is in flight, or finished and not yet processed."""
        return key in self._tasks

    @property
    def room(self) -> int:
        """Return the number of calls that may be started."""
        return max(0, self._limit - len(self._tasks)) if self._bytes < self._bytes_limit else 0

    def admits(self, calls: int, size: int) -> bool:
        """Return whether one more call fits besides `calls` that start with it; together they hold `size` bytes."""
        return len(self._tasks) + calls < self._limit and self._bytes + size < self._bytes_limit

    def ended(self) -> list[Completion]:
        """Return finished calls, oldest first, up to a batch's limits."""
        found: list[Completion] = []
        size = 0
        for completion in islice(self.completions, COMPLETIONS_LIMIT):
            found.append(completion)
            size += self._sizes.get(completion.key, 0)
            if size > COMPLETIONS_BYTES:
                break
        return found

    async def open(self, wake: Callable[[], None]) -> None:
        """Forget all calls; `wake` is called at each completion."""
        await self.close()
        self._wake, self._opened = wake, elapsed()

    async def close(self) -> None:
        """Abandon the calls in flight: their outcomes are unknown, as after a crash."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSING)
        self._epoch += 1
        self._tasks.clear()
        self._begun.clear()
        self._sizes.clear()
        self._bytes = 0
        self.completions.clear()
        self._gauge.set(0)

    def age(self, key: tuple[UUID, str]) -> float:
        """Return the monotonic seconds since the row's last attempt started, at least.

        An attempt that a former owner started counts from when the lanes were taken over.
        """
        return elapsed() - self._begun.get(key, self._opened)

    def forget(self, key: tuple[UUID, str]) -> None:
        """Forget the age of a finished attempt."""
        self._begun.pop(key, None)

    def start(self, call: Call) -> None:
        """Start a call, unless one is in flight for the same row."""
        if call.key not in self._tasks:
            run = self._run(call, self._epoch)
            self._tasks[call.key] = asyncio.create_task(run, name=f"{call.kind.value} {call.key}")
            self._weigh(call.key, call.size)
            if call.kind is CallKind.CALL:
                self._begun[call.key] = elapsed()

    def processed(self, completion: Completion) -> None:
        """Forget a completion that a committed batch has processed."""
        self.completions.remove(completion)
        self._tasks.pop(completion.key, None)
        if isinstance(completion.outcome, Answered | Failed):
            self.forget(completion.key)
        self._bytes -= self._sizes.pop(completion.key, 0)
        self._gauge.set(len(self._tasks))

    def _weigh(self, key: tuple[UUID, str], size: int) -> None:
        self._sizes[key] = self._sizes.get(key, 0) + size
        self._bytes += size
        self._gauge.set(len(self._tasks))

    async def _run(self, call: Call, epoch: int) -> None:
        reach(Failpoint.BEFORE_CALL)
        outcome = await _attempt(call)
        reach(Failpoint.AFTER_CALL)
        if epoch != self._epoch:
            return
        step = call.binding.step.name
        self.completions.append(Completion(call.saga_id, step, call.kind, call.attempt, outcome, call.lane))
        self._weigh(call.key, _size(outcome))
        self._wake()


def _size(outcome: Outcome) -> int:
    match outcome:
        case Answered(value=value):
            return len(value)
        case Reported(reports):
            return sum(len(report.to_wire()) for report in reports)
        case _:
            return 0


async def _attempt(call: Call) -> Outcome:
    limit = call.binding.step.timeout.total_seconds()
    try:
        async with asyncio.timeout(limit):
            return await _ask(call)
    except asyncio.CancelledError:
        if being_cancelled():
            raise
        return _unknown(call, "the call was cancelled from inside")
    except TimeoutError:
        return _unknown(call, f"no answer within {limit:g} s")
    except OutcomeUnknownError as error:
        return _unknown(call, str(error))
    except CompensationImpossibleError as error:
        return Failed(str(error), final=True)
    except Exception as error:
        call.ctx.log.warning("attempt failed", call=call.kind.value, exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        return Failed(reason) if call.kind in {CallKind.CALL, CallKind.COMPENSATE} else _unknown(call, reason)


def _unknown(call: Call, reason: str) -> Unknown:
    """Return an unknown outcome; only the call itself makes it unknown for the first time, not an unanswered query."""
    return Unknown(reason, first_report=call.kind is CallKind.CALL)


async def _ask(call: Call) -> Outcome:
    event = call.trigger.event if call.trigger is not None else None
    function: Callable[..., Awaitable[Any]] | None = getattr(call.binding, _FUNCTIONS.get(call.kind, call.kind.value))
    if function is None:
        raise RuntimeError("a function of this step is not bound; Participant.check was not called")
    if call.kind in {CallKind.POLL, CallKind.BAR}:
        return Reported(await function(call.ctx))
    answer = await function(event, call.ctx)
    return NotFound() if call.kind is CallKind.QUERY and answer is None else _answered(call, answer)


def _answered(call: Call, event: Any) -> Answered:
    """Return the answer. A wrong event leaves the outcome unknown: the effect may have happened."""
    try:
        value = write_answer(call.binding.step, event, back=call.kind is CallKind.COMPENSATE)
        check_size(event, value)
    except (WrongAnswerError, ValueError) as error:
        call.ctx.log.warning("wrong answer", why=str(error))
        raise OutcomeUnknownError(str(error)) from error
    return Answered(event, value)
