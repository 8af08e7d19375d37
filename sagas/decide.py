"""Transitions of step rows: what each message changes, and what the owner does then. Pure.

The runtime applies these decisions to the database; recovery, the in-memory run and the model apply the same ones to
rows of their own. Decisions depend on the state alone, so a repeated message never repeats its effect.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial
from typing import Final, NamedTuple

from tradesaga.sagas.step import AnyStep, StepKind
from tradesaga.sagas.step_state import ANSWERED, OPEN, RowStatus, StepState


class StepMessage(Enum):
    """Inputs of a step row: a record, a due time, the outcome of an attempt, or a fact read back from the topic."""

    TRIGGER = auto()
    INPUTS_COMPLETE = auto()
    """A join, or a waiting step, has all of its triggers."""
    BAR = auto()
    RETRY = auto()
    COMPENSATE = auto()
    REPORT = auto()
    DUE = auto()

    SUCCEEDED = auto()
    REFUSED = auto()
    FAILED = auto()
    """The attempt is known not to have happened."""
    FAILED_FOR_GOOD = auto()
    """The same, and every further attempt would fail too."""
    UNKNOWN = auto()
    """The attempt may have happened."""
    STILL_UNKNOWN = auto()
    DEFERRED = auto()
    """The attempt was not started: the step is paused, or there is no room or time for it now."""
    POLLED = auto()
    """The remote system has answered a poll or a bar of a waiting step."""

    COMPENSATED = auto()
    COMPENSATION_ATTEMPT_FAILED = auto()
    COMPENSATION_FAILED_FOR_GOOD = auto()
    COMPENSATION_DEFERRED = auto()

    RECORDED_ATTEMPT = auto()
    RECORDED_DONE = auto()
    RECORDED_REFUSED = auto()
    RECORDED_FAILED = auto()
    RECORDED_BARRED = auto()
    RECORDED_COMPENSATED = auto()
    RECORDED_COMPENSATION_FAILED = auto()

    # The default hashes the name, in Python code.
    __hash__ = object.__hash__


class Action(Enum):
    """What the owner does in the transaction that writes the row."""

    NOTHING = "leave the row as it is: it has a due time, or the message is out of date"
    SAVE = "write the row"
    RUN = "start an attempt"
    COMPENSATE = "start an attempt at the compensation"
    WAKE = "make the row due now, unless its call is in flight"
    SETTLE = "find out the attempt's outcome now, unless its call is in flight"
    QUERY = "query the remote system for the call's outcome"
    POLL = "poll the remote system for reports"
    BAR_FAR_SIDE = "ask the remote system to end what the step waits for"
    STORE_INPUT = "store the trigger until all of them are there"
    STORE_REPORT = "store the report, and answer if all is there"
    CHECK_REPORT = "compare the report with the answer that was given"
    CONCLUDE = "answer if trigger and reports suffice"
    ANSWER = "publish the step's answer, and store it"
    ANSWER_COMPENSATION = "publish the compensation's answer, and store it"
    REPEAT_ANSWER = "publish the stored answer again, under the same id"
    REPEAT_COMPENSATION_ANSWER = "publish the compensation's stored answer again, under the same id"
    REPORT_ATTEMPT = "publish that an attempt has failed and another follows"
    REPORT_UNKNOWN = "publish that the attempt's outcome is unknown"

    __hash__ = object.__hash__


class Due(Enum):
    """When the row is due."""

    NEVER = "never"
    NOW = "at once"
    CALL = "after the step's timeout and a margin"
    TIMEOUT = "after the step's timeout"
    BACKOFF = "after the retry's delay"
    QUERY = "within a second"
    BARRING = "within half a second"


class Transition(NamedTuple):
    """A decision: the row's next state, when it is due again, and the owner's action.

    With `Action.NOTHING`, and the two that repeat an answer, the row is not written.
    """

    action: Action
    status: RowStatus | None
    attempt: int
    back_attempt: int
    round: int
    back_round: int
    bar_seen: bool
    due: Due


def decide(state: StepState, message: StepMessage, step: AnyStep, round_: int = 1, attempt: int = 1) -> Transition:
    """Return the transition that `message` causes in `state`.

    `round_` is the round of a retry, a compensation or a recorded fact, `attempt` that of a recorded fact.
    """
    rule = _RULES.get(message)
    return rule(state, step) if rule is not None else _OF_A_ROUND[message](state, step, round_, attempt)


def give_up(state: StepState, decided: Transition) -> Transition:
    """Return the transition instead of `decided` if its message cannot be read."""
    match decided.action:
        case Action.STORE_INPUT if state.bar_seen:
            return _ignored(state)
        case Action.RUN | Action.STORE_INPUT | Action.CONCLUDE:
            attempt = state.attempt if decided.round == state.round else 0
            return decided._replace(action=Action.ANSWER, status=RowStatus.FAILED, attempt=attempt, due=Due.NEVER)
        case Action.COMPENSATE | Action.ANSWER_COMPENSATION:
            failed = _unchanged(state, Action.ANSWER_COMPENSATION, RowStatus.COMPENSATION_FAILED)
            return failed._replace(back_round=decided.back_round)
        case _:
            return _ignored(state)


def _unchanged(state: StepState, action: Action, status: RowStatus | None, due: Due = Due.NEVER) -> Transition:
    """Return a transition that leaves attempts and rounds as they are."""
    return Transition(
        action, status, state.attempt, state.back_attempt, state.round, state.back_round, state.bar_seen, due
    )


def _ignored(state: StepState, action: Action = Action.NOTHING) -> Transition:
    return _unchanged(state, action, state.status)


_FIRST_ATTEMPT: Final = Transition(Action.RUN, RowStatus.INTENT, 1, 0, 1, 0, bar_seen=False, due=Due.CALL)


def _on_trigger(state: StepState, step: AnyStep) -> Transition:
    status = state.status
    if status in {None, RowStatus.WAITING} and (step.waits_for is not None or len(step.on) > 1):
        return _unchanged(state, Action.STORE_INPUT, RowStatus.WAITING)
    match status:
        case None:
            return _FIRST_ATTEMPT
        case RowStatus.INTENT:
            return _ignored(state, Action.WAKE)
        case RowStatus.RETRY | RowStatus.WAITING:
            return _ignored(state)
        case _:
            return _ignored(state, Action.REPEAT_ANSWER)


def _on_inputs_complete(state: StepState, step: AnyStep) -> Transition:
    if step.waits_for is not None:
        return _unchanged(state, Action.CONCLUDE, RowStatus.WAITING, Due.TIMEOUT)
    return _unchanged(state, Action.RUN, RowStatus.INTENT, Due.CALL)._replace(attempt=1)


def _on_bar(state: StepState, step: AnyStep) -> Transition:
    """Settle the step for the saga log. A waiting step asks the remote system first, even without a row."""
    if state.status in ANSWERED:
        return _ignored(state, Action.REPEAT_ANSWER)
    if step.waits_for is not None:
        barring = _unchanged(state, Action.BAR_FAR_SIDE, RowStatus.WAITING, Due.CALL)
        return barring._replace(bar_seen=True)
    if state.status is RowStatus.INTENT:
        return _unchanged(state, Action.SETTLE, RowStatus.INTENT, Due.NOW)._replace(bar_seen=True)
    return _unchanged(state, Action.ANSWER, RowStatus.BARRED)


def _on_retry(state: StepState, step: AnyStep, round_: int, _attempt: int = 1) -> Transition:
    """Run a failed step again in a later round, for an operator."""
    if state.status is RowStatus.FAILED and round_ > state.round:
        waiting = step.waits_for is not None
        action, status = (Action.CONCLUDE, RowStatus.WAITING) if waiting else (Action.RUN, RowStatus.INTENT)
        again = _unchanged(state, action, status, Due.TIMEOUT if waiting else Due.CALL)
        return again._replace(attempt=0 if waiting else 1, round=round_, bar_seen=False)
    return _ignored(state, Action.REPEAT_ANSWER if state.status in ANSWERED else Action.NOTHING)


def _on_compensate(state: StepState, _step: AnyStep, round_: int, _attempt: int) -> Transition:
    """Compensate the step, in `round_`.

    A step that is not done has nothing to compensate: the compensation fails, which is an alert.
    """
    match state.status:
        case RowStatus.COMPENSATING:
            return _ignored(state)
        case RowStatus.COMPENSATED:
            return _ignored(state, Action.REPEAT_COMPENSATION_ANSWER)
        case RowStatus.COMPENSATION_FAILED if round_ <= state.back_round:
            return _ignored(state, Action.REPEAT_COMPENSATION_ANSWER)
        case RowStatus.DONE | RowStatus.COMPENSATION_FAILED:
            begun = _unchanged(state, Action.COMPENSATE, RowStatus.COMPENSATING, Due.CALL)
            return begun._replace(back_attempt=1, back_round=round_)
        case _:
            failed = _unchanged(state, Action.ANSWER_COMPENSATION, RowStatus.COMPENSATION_FAILED)
            return failed._replace(back_round=round_)


def _on_report(state: StepState, _step: AnyStep) -> Transition:
    if state.status in {None, RowStatus.WAITING}:
        return _unchanged(state, Action.STORE_REPORT, RowStatus.WAITING)
    return _ignored(state, Action.CHECK_REPORT)


def _on_due(state: StepState, _step: AnyStep) -> Transition:
    match state.status:
        case RowStatus.RETRY:
            return _unchanged(state, Action.RUN, RowStatus.INTENT, Due.CALL)._replace(attempt=state.attempt + 1)
        case RowStatus.INTENT:
            return _unchanged(state, Action.QUERY, RowStatus.INTENT, Due.CALL)
        case RowStatus.WAITING:
            action = Action.BAR_FAR_SIDE if state.bar_seen else Action.POLL
            return _unchanged(state, action, RowStatus.WAITING, Due.CALL)
        case RowStatus.COMPENSATING:
            again = _unchanged(state, Action.COMPENSATE, RowStatus.COMPENSATING, Due.CALL)
            return again._replace(back_attempt=state.back_attempt + 1)
        case _:
            return _ignored(state, Action.SAVE)


def _on_succeeded(state: StepState, _step: AnyStep) -> Transition:
    return _unchanged(state, Action.ANSWER, RowStatus.DONE)


def _on_refused(state: StepState, step: AnyStep) -> Transition:
    """Answer with the rejection, or with barred if a waiting step was barred."""
    barred = state.bar_seen and step.waits_for is not None
    return _unchanged(state, Action.ANSWER, RowStatus.BARRED if barred else RowStatus.REFUSED)


def _on_failed(state: StepState, step: AnyStep, *, final: bool) -> Transition:
    """Retry, or answer: barred if a bar waits, failed if no attempt is left."""
    if state.bar_seen:
        return _unchanged(state, Action.ANSWER, RowStatus.BARRED)
    if final or state.attempt >= step.retry.attempts:
        return _unchanged(state, Action.ANSWER, RowStatus.FAILED)
    return _unchanged(state, Action.REPORT_ATTEMPT, RowStatus.RETRY, Due.BACKOFF)


def _on_unknown(state: StepState, step: AnyStep) -> Transition:
    """Report it, so that the saga log can bar the step; a retriable step is only queried."""
    silent = state.bar_seen or step.kind is StepKind.RETRIABLE
    return _unchanged(state, Action.SAVE if silent else Action.REPORT_UNKNOWN, state.status, Due.QUERY)


def _on_still_unknown(state: StepState, _step: AnyStep) -> Transition:
    return _unchanged(state, Action.SAVE, state.status, Due.QUERY)


def _on_deferred(state: StepState, _step: AnyStep) -> Transition:
    return _unchanged(state, Action.SAVE, RowStatus.RETRY, Due.NOW)._replace(attempt=state.attempt - 1)


def _on_polled(state: StepState, _step: AnyStep) -> Transition:
    return _unchanged(state, Action.CONCLUDE, RowStatus.WAITING, Due.BARRING if state.bar_seen else Due.TIMEOUT)


def _on_compensation_failed(state: StepState, step: AnyStep, *, final: bool) -> Transition:
    if final or state.back_attempt >= step.retry_of_compensation.attempts:
        return _unchanged(state, Action.ANSWER_COMPENSATION, RowStatus.COMPENSATION_FAILED)
    return _unchanged(state, Action.REPORT_ATTEMPT, RowStatus.COMPENSATING, Due.BACKOFF)


def _on_compensated(state: StepState, _step: AnyStep) -> Transition:
    return _unchanged(state, Action.ANSWER_COMPENSATION, RowStatus.COMPENSATED)


def _on_compensation_deferred(state: StepState, _step: AnyStep) -> Transition:
    deferred = _unchanged(state, Action.SAVE, RowStatus.COMPENSATING, Due.NOW)
    return deferred._replace(back_attempt=state.back_attempt - 1)


def _on_recorded_attempt(state: StepState, step: AnyStep, round_: int, attempt: int) -> Transition:
    """Restore that an attempt was in flight, perhaps in a later round."""
    if state.status is RowStatus.FAILED and round_ > state.round:
        return _on_retry(state, step, round_)._replace(action=Action.SAVE, attempt=attempt, due=Due.NOW)
    if state.status not in OPEN or round_ < state.round:
        return _ignored(state)
    return _unchanged(state, Action.SAVE, state.status, Due.NOW)._replace(attempt=max(state.attempt, attempt))


def _on_recorded_answer(status: RowStatus, state: StepState, _step: AnyStep, round_: int, attempt: int) -> Transition:
    """Restore an answer: the first one counts, and after a failure one of a later round."""
    again = state.status is RowStatus.FAILED and round_ > state.round
    if state.status in ANSWERED and not again:
        return _ignored(state)
    return _unchanged(state, Action.ANSWER, status)._replace(attempt=attempt, round=round_)


def _on_recorded_compensation(
    status: RowStatus, state: StepState, _step: AnyStep, round_: int, attempt: int
) -> Transition:
    known = state.status is status and round_ <= state.back_round
    if state.status is RowStatus.COMPENSATED or known:
        return _ignored(state)
    recorded = _unchanged(state, Action.ANSWER_COMPENSATION, status)
    return recorded._replace(back_attempt=attempt, back_round=round_)


_RULES: Final[Mapping[StepMessage, Callable[[StepState, AnyStep], Transition]]] = {
    StepMessage.TRIGGER: _on_trigger,
    StepMessage.INPUTS_COMPLETE: _on_inputs_complete,
    StepMessage.BAR: _on_bar,
    StepMessage.REPORT: _on_report,
    StepMessage.DUE: _on_due,
    StepMessage.SUCCEEDED: _on_succeeded,
    StepMessage.REFUSED: _on_refused,
    StepMessage.FAILED: partial(_on_failed, final=False),
    StepMessage.FAILED_FOR_GOOD: partial(_on_failed, final=True),
    StepMessage.UNKNOWN: _on_unknown,
    StepMessage.STILL_UNKNOWN: _on_still_unknown,
    StepMessage.DEFERRED: _on_deferred,
    StepMessage.POLLED: _on_polled,
    StepMessage.COMPENSATED: _on_compensated,
    StepMessage.COMPENSATION_ATTEMPT_FAILED: partial(_on_compensation_failed, final=False),
    StepMessage.COMPENSATION_FAILED_FOR_GOOD: partial(_on_compensation_failed, final=True),
    StepMessage.COMPENSATION_DEFERRED: _on_compensation_deferred,
}
_OF_A_ROUND: Final[Mapping[StepMessage, Callable[[StepState, AnyStep, int, int], Transition]]] = {
    StepMessage.RETRY: _on_retry,
    StepMessage.COMPENSATE: _on_compensate,
    StepMessage.RECORDED_ATTEMPT: _on_recorded_attempt,
    StepMessage.RECORDED_DONE: partial(_on_recorded_answer, RowStatus.DONE),
    StepMessage.RECORDED_REFUSED: partial(_on_recorded_answer, RowStatus.REFUSED),
    StepMessage.RECORDED_FAILED: partial(_on_recorded_answer, RowStatus.FAILED),
    StepMessage.RECORDED_BARRED: partial(_on_recorded_answer, RowStatus.BARRED),
    StepMessage.RECORDED_COMPENSATED: partial(_on_recorded_compensation, RowStatus.COMPENSATED),
    StepMessage.RECORDED_COMPENSATION_FAILED: partial(_on_recorded_compensation, RowStatus.COMPENSATION_FAILED),
}
