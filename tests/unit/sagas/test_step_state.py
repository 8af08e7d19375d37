"""What a message meets at its owner, for every status a row can have."""

import pytest

from tradesaga.sagas.step_state import Reaction, RowStatus, meet_bar, meet_compensation, meet_retry, meet_trigger

INTENT, RETRY, WAITING, *SETTLED = RowStatus
EVERY = (None, *RowStatus)
AGAIN = dict.fromkeys(SETTLED, Reaction.EMIT_AGAIN)

TRIGGER = AGAIN | {
    None: Reaction.RUN,
    INTENT: Reaction.QUERY,
    RETRY: Reaction.NOTHING,
    WAITING: Reaction.STORE,
}
BAR = AGAIN | {
    None: Reaction.CLOSE,
    RETRY: Reaction.CLOSE,
    INTENT: Reaction.SETTLE,
    WAITING: Reaction.SETTLE,
}
BAR_WAITING = dict.fromkeys(EVERY, Reaction.ASK_FAR_SIDE) | AGAIN
BACK = dict.fromkeys(EVERY, Reaction.ALERT) | {
    RowStatus.DONE: Reaction.COMPENSATE,
    RowStatus.COMPENSATING: Reaction.NOTHING,
    RowStatus.COMPENSATED: Reaction.EMIT_BACK_AGAIN,
    RowStatus.COMPENSATION_FAILED: Reaction.EMIT_BACK_AGAIN,
}


@pytest.mark.parametrize("status", EVERY)
def test_what_each_message_meets(status: RowStatus | None) -> None:
    """Action, bar and compensation contend on the row; what was answered is answered again, never done again."""
    assert meet_trigger(status) is TRIGGER[status]
    assert meet_bar(status, waiting_step=False) is BAR[status]
    assert meet_bar(status, waiting_step=True) is BAR_WAITING[status]
    assert meet_compensation(status, round_=1, row_round=1) is BACK[status]


def test_a_new_round_runs_what_has_failed_and_nothing_else() -> None:
    """Retry and a compensation of a higher round start anew from FAILED; the same round again answers again."""
    assert meet_compensation(RowStatus.COMPENSATION_FAILED, round_=2, row_round=1) is Reaction.COMPENSATE
    assert meet_compensation(RowStatus.COMPENSATED, round_=2, row_round=1) is Reaction.EMIT_BACK_AGAIN
    assert meet_retry(RowStatus.FAILED, round_=2, row_round=1) is Reaction.RUN
    assert meet_retry(RowStatus.FAILED, round_=2, row_round=2) is Reaction.EMIT_AGAIN
    assert meet_retry(RowStatus.DONE, round_=2, row_round=1) is Reaction.EMIT_AGAIN
    assert meet_retry(RowStatus.RETRY, round_=2, row_round=1) is Reaction.NOTHING
    assert meet_retry(None, round_=2, row_round=1) is Reaction.NOTHING


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
