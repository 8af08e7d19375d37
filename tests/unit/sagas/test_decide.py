"""What each message does to a step's row, for every status a row can have."""

from dataclasses import dataclass, replace

import pytest

from tests.model.small_trade import CONFIRM, PLACE, SETTLE, small_trade
from tradesaga.sagas.decide import Action, Due, StepMessage, Transition, decide, give_up
from tradesaga.sagas.step import Retry
from tradesaga.sagas.step_state import ANSWERED, NO_ROW, OPEN, RowStatus

INTENT, RETRY, WAITING, *SETTLED = RowStatus
EVERY = (None, *RowStatus)
AGAIN = dict.fromkeys(SETTLED, Action.REPEAT_ANSWER)
STEP = replace(small_trade.steps[PLACE], retry=Retry(attempts=2))
WAITS = small_trade.steps[CONFIRM]
JOIN = replace(STEP, on=(*STEP.on, *WAITS.on))

TRIGGER = AGAIN | {
    None: Action.RUN,
    INTENT: Action.WAKE,
    RETRY: Action.NOTHING,
    WAITING: Action.NOTHING,
}
STORED = TRIGGER | dict.fromkeys((None, WAITING), Action.STORE_INPUT)
BAR = AGAIN | {
    None: Action.ANSWER,
    RETRY: Action.ANSWER,
    INTENT: Action.SETTLE,
    WAITING: Action.ANSWER,
}
BAR_WAITING = dict.fromkeys(EVERY, Action.BAR_FAR_SIDE) | AGAIN
BACK = dict.fromkeys(EVERY, Action.ANSWER_COMPENSATION) | {
    RowStatus.DONE: Action.COMPENSATE,
    RowStatus.COMPENSATING: Action.NOTHING,
    RowStatus.COMPENSATED: Action.REPEAT_COMPENSATION_ANSWER,
    RowStatus.COMPENSATION_FAILED: Action.REPEAT_COMPENSATION_ANSWER,
}
DUE = dict.fromkeys(EVERY, Action.SAVE) | {
    RETRY: Action.RUN,
    INTENT: Action.QUERY,
    WAITING: Action.POLL,
    RowStatus.COMPENSATING: Action.COMPENSATE,
}


@dataclass(frozen=True)
class Row:
    """A row in some state."""

    status: RowStatus | None
    attempt: int = 1
    back_attempt: int = 1
    round: int = 1
    back_round: int = 1
    bar_seen: bool = False


def after(decided: Transition) -> tuple[Action, RowStatus | None, int, int, Due]:
    """Return what a forward decision changes."""
    return decided.action, decided.status, decided.attempt, decided.round, decided.due


@pytest.mark.parametrize("status", EVERY)
def test_what_each_message_does(status: RowStatus | None) -> None:
    """Action, bar and compensation contend on the row; what was answered is answered again, never done again."""
    row = Row(status)
    assert decide(row, StepMessage.TRIGGER, STEP).action is TRIGGER[status]
    assert decide(row, StepMessage.TRIGGER, WAITS).action is STORED[status]
    assert decide(row, StepMessage.TRIGGER, JOIN).action is STORED[status]
    assert decide(row, StepMessage.BAR, STEP).action is BAR[status]
    assert decide(row, StepMessage.BAR, WAITS).action is BAR_WAITING[status]
    assert decide(row, StepMessage.COMPENSATE, STEP).action is BACK[status]
    assert decide(row, StepMessage.DUE, STEP).action is DUE[status]


@pytest.mark.parametrize("status", EVERY)
@pytest.mark.parametrize("message", [StepMessage.TRIGGER, StepMessage.BAR, StepMessage.RETRY, StepMessage.COMPENSATE])
def test_what_is_repeated_or_ignored_changes_nothing(message: StepMessage, status: RowStatus | None) -> None:
    """A message that came before finds the row as the first one left it."""
    row = Row(status, attempt=3, round=2, back_round=2, bar_seen=True)
    decided = decide(row, message, STEP, 2)
    if decided.action in {
        Action.NOTHING, Action.WAKE, Action.REPEAT_ANSWER, Action.REPEAT_COMPENSATION_ANSWER,
    }:  # fmt: skip
        assert decided[1:7] == (status, 3, 1, 2, 2, True)


def test_a_new_round_runs_what_has_failed_and_nothing_else() -> None:
    """Retry and a compensation of a higher round start anew from FAILED; the same round again answers again."""
    failed = Row(RowStatus.FAILED, attempt=2, bar_seen=True)
    again = decide(failed, StepMessage.RETRY, STEP, 2)
    assert (*after(again), again.bar_seen) == (Action.RUN, INTENT, 1, 2, Due.CALL, False)
    assert after(decide(failed, StepMessage.RETRY, WAITS, 2)) == (Action.CONCLUDE, WAITING, 0, 2, Due.TIMEOUT)
    assert decide(Row(RowStatus.FAILED, round=2), StepMessage.RETRY, STEP, 2).action is Action.REPEAT_ANSWER
    assert decide(Row(RowStatus.DONE), StepMessage.RETRY, STEP, 2).action is Action.REPEAT_ANSWER
    assert decide(Row(RETRY), StepMessage.RETRY, STEP, 2).action is Action.NOTHING
    assert decide(NO_ROW, StepMessage.RETRY, STEP, 2).action is Action.NOTHING

    back = decide(Row(RowStatus.COMPENSATION_FAILED, back_attempt=9), StepMessage.COMPENSATE, STEP, 2)
    assert (back.action, back.back_attempt, back.back_round) == (Action.COMPENSATE, 1, 2)
    assert decide(Row(RowStatus.COMPENSATED), StepMessage.COMPENSATE, STEP, 2).action is (
        Action.REPEAT_COMPENSATION_ANSWER
    )


def test_an_attempt_that_failed_is_followed_by_another_until_none_is_left() -> None:
    """A bar that waits for the outcome is answered instead."""
    first, last = Row(INTENT, attempt=1), Row(INTENT, attempt=2)
    assert after(decide(first, StepMessage.FAILED, STEP)) == (Action.REPORT_ATTEMPT, RETRY, 1, 1, Due.BACKOFF)
    assert after(decide(Row(RETRY, attempt=1), StepMessage.DUE, STEP)) == (Action.RUN, INTENT, 2, 1, Due.CALL)
    for state, message in ((last, StepMessage.FAILED), (first, StepMessage.FAILED_FOR_GOOD)):
        assert decide(state, message, STEP)[:2] == (Action.ANSWER, RowStatus.FAILED)
        barred = replace(state, bar_seen=True)
        assert decide(barred, message, STEP)[:2] == (Action.ANSWER, RowStatus.BARRED)


def test_an_attempt_that_was_not_made_does_not_count() -> None:
    """The step is paused, or there is no room: the row waits for its turn with the attempts it has made."""
    begun = decide(NO_ROW, StepMessage.TRIGGER, STEP)
    deferred = decide(Row(begun.status, begun.attempt), StepMessage.DEFERRED, STEP)
    assert after(deferred) == (Action.SAVE, RETRY, 0, 1, Due.NOW)
    back = decide(Row(RowStatus.COMPENSATING, back_attempt=3), StepMessage.COMPENSATION_DEFERRED, STEP)
    assert (back.status, back.back_attempt) == (RowStatus.COMPENSATING, 2)


def test_an_unknown_outcome_is_reported_where_the_saga_can_go_another_way() -> None:
    """Not twice, not to a bar that waits for it, and not for a step that must succeed."""
    assert decide(Row(INTENT), StepMessage.UNKNOWN, STEP).action is Action.REPORT_UNKNOWN
    for row, message, step in (
        (Row(INTENT), StepMessage.STILL_UNKNOWN, STEP),
        (Row(INTENT, bar_seen=True), StepMessage.UNKNOWN, STEP),
        (Row(INTENT), StepMessage.UNKNOWN, small_trade.steps[SETTLE]),
    ):
        decided = decide(row, message, step)
        assert (decided.action, decided.status, decided.due) == (Action.SAVE, INTENT, Due.QUERY)


def test_a_waiting_step_tells_a_bar_that_nothing_will_come() -> None:
    """Without a bar the same reports are a refusal, and while it is open the far side is asked soon or in time."""
    asked = Row(WAITING, bar_seen=True)
    assert decide(asked, StepMessage.REFUSED, WAITS).status is RowStatus.BARRED
    assert decide(Row(WAITING), StepMessage.REFUSED, WAITS).status is RowStatus.REFUSED
    assert decide(asked, StepMessage.SUCCEEDED, WAITS).status is RowStatus.DONE
    assert decide(asked, StepMessage.POLLED, WAITS).due is Due.BARRING
    assert decide(Row(WAITING), StepMessage.POLLED, WAITS).due is Due.TIMEOUT
    assert decide(asked, StepMessage.DUE, WAITS).action is Action.BAR_FAR_SIDE


def test_a_compensation_is_tried_until_its_attempts_are_out() -> None:
    """Its rounds and attempts are its own."""
    attempts = STEP.retry_of_compensation.attempts
    row = Row(RowStatus.COMPENSATING, back_attempt=attempts - 1)
    again = decide(row, StepMessage.COMPENSATION_ATTEMPT_FAILED, STEP)
    assert (again.action, again.status, again.due) == (Action.REPORT_ATTEMPT, RowStatus.COMPENSATING, Due.BACKOFF)
    for state, message in (
        (replace(row, back_attempt=attempts), StepMessage.COMPENSATION_ATTEMPT_FAILED),
        (row, StepMessage.COMPENSATION_FAILED_FOR_GOOD),
    ):
        assert decide(state, message, STEP)[:2] == (Action.ANSWER_COMPENSATION, RowStatus.COMPENSATION_FAILED)


@pytest.mark.parametrize("status", EVERY)
def test_what_cannot_be_read_ends_only_what_it_would_have_begun(status: RowStatus | None) -> None:
    """A step that has answered, or whose call is under way, is left as it is."""
    row = NO_ROW if status is None else Row(status)
    for message in StepMessage.TRIGGER, StepMessage.RETRY, StepMessage.COMPENSATE, StepMessage.DUE, StepMessage.BAR:
        decided = decide(row, message, STEP, 2)
        ended = give_up(row, decided)
        begins = {Action.RUN: RowStatus.FAILED, Action.COMPENSATE: RowStatus.COMPENSATION_FAILED}
        if decided.action in begins:
            assert ended.status is begins[decided.action]
        elif decided.action is not Action.ANSWER_COMPENSATION:
            assert ended.action is Action.NOTHING
    assert give_up(Row(WAITING, bar_seen=True), decide(Row(WAITING), StepMessage.TRIGGER, WAITS)).action is (
        Action.NOTHING
    )


@pytest.mark.parametrize("status", EVERY)
def test_a_recorded_answer_counts_once(status: RowStatus | None) -> None:
    """The first one is the step's; only after a failure does one of a later round replace it."""
    first = decide(Row(status), StepMessage.RECORDED_DONE, STEP, 1, 3)
    later = decide(Row(status), StepMessage.RECORDED_DONE, STEP, 2, 3)
    takes = (Action.ANSWER, RowStatus.DONE, 3)
    ignores = (Action.NOTHING, status, 1)
    assert first[:3] == (ignores if status in ANSWERED else takes)
    assert later[:3] == (ignores if status in ANSWERED - {RowStatus.FAILED} else takes)
    attempted = decide(Row(status), StepMessage.RECORDED_ATTEMPT, STEP, 1, 3)
    assert attempted[:3] == ((Action.SAVE, status, 3) if status in OPEN else ignores)


def test_rows_with_something_under_way_are_driven_and_numbers_are_as_stored() -> None:
    """The database keeps these numbers; a changed one would read every old row wrongly."""
    assert [status for status in RowStatus if status.driven] == [
        RowStatus.INTENT,
        RowStatus.RETRY,
        RowStatus.WAITING,
        RowStatus.COMPENSATING,
    ]
    assert {status.name: status.value for status in RowStatus} == {
        "INTENT": 1, "RETRY": 2, "WAITING": 3, "DONE": 4, "REFUSED": 5, "FAILED": 6, "BARRED": 7,
        "COMPENSATING": 8, "COMPENSATED": 9, "COMPENSATION_FAILED": 10,
    }  # fmt: skip
