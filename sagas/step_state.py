"""What a message meets: the one row of a (saga, step), and what it lets the message do.

Action, retry, bar and compensation contend on this row before any effect; the answer is a function of its status alone.
"""

from enum import Enum, IntEnum


class RowStatus(IntEnum):
    """Where a step stands at its owner; stored as a `smallint`, so numbers never change their meaning.

    INTENT means unknown: a call may be on its way. RETRY and FAILED mean known not to have happened.
    """

    INTENT = 1
    RETRY = 2
    WAITING = 3
    DONE = 4
    REFUSED = 5
    FAILED = 6
    BARRED = 7
    COMPENSATING = 8
    COMPENSATED = 9
    COMPENSATION_FAILED = 10

    @property
    def driven(self) -> bool:
        """Say whether the row has a due time at which its owner goes on with it."""
        return self in {RowStatus.INTENT, RowStatus.RETRY, RowStatus.WAITING, RowStatus.COMPENSATING}


class Reaction(Enum):
    """What the owner does with a message."""

    RUN = "run the handler"
    QUERY = "ask the far side what became of the call"
    STORE = "keep what came and answer if all is there"
    NOTHING = "leave it; the row is being driven"
    EMIT_AGAIN = "emit the stored answer again, under the same id"
    EMIT_BACK_AGAIN = "emit the stored answer of the compensation again"
    CLOSE = "write BARRED and answer so"
    SETTLE = "note that a bar waits, and settle the step first"
    ASK_FAR_SIDE = "run on_bar: answer barred only when the far side can no longer act"
    COMPENSATE = "run the compensation"
    ALERT = "answer that the compensation failed: there is nothing here it could take back"


_SETTLED = {
    RowStatus.DONE,
    RowStatus.REFUSED,
    RowStatus.FAILED,
    RowStatus.BARRED,
    RowStatus.COMPENSATING,
    RowStatus.COMPENSATED,
    RowStatus.COMPENSATION_FAILED,
}


def meet_trigger(status: RowStatus | None) -> Reaction:
    """A step's trigger has come, perhaps not for the first time."""
    match status:
        case None:
            return Reaction.RUN
        case RowStatus.INTENT:
            return Reaction.QUERY
        case RowStatus.RETRY:
            return Reaction.NOTHING
        case RowStatus.WAITING:
            return Reaction.STORE
        case _:
            return Reaction.EMIT_AGAIN


def meet_bar(status: RowStatus | None, *, waiting_step: bool) -> Reaction:
    """The saga log wants the step settled. A waiting step asks the far side first, row or no row."""
    if status in _SETTLED:
        return Reaction.EMIT_AGAIN
    if waiting_step:
        return Reaction.ASK_FAR_SIDE
    if status in {None, RowStatus.RETRY}:
        return Reaction.CLOSE
    return Reaction.SETTLE


def meet_compensation(status: RowStatus | None, *, round_: int, row_round: int) -> Reaction:
    """The saga log wants the step taken back, in `round_`; `row_round` is that of the compensation's last run."""
    match status:
        case RowStatus.DONE:
            return Reaction.COMPENSATE
        case RowStatus.COMPENSATING:
            return Reaction.NOTHING
        case RowStatus.COMPENSATED:
            return Reaction.EMIT_BACK_AGAIN
        case RowStatus.COMPENSATION_FAILED:
            return Reaction.COMPENSATE if round_ > row_round else Reaction.EMIT_BACK_AGAIN
        case _:
            return Reaction.ALERT


def meet_retry(status: RowStatus | None, *, round_: int, row_round: int) -> Reaction:
    """An operator wants a failed step run again, in `round_`."""
    if status is RowStatus.FAILED and round_ > row_round:
        return Reaction.RUN
    return Reaction.EMIT_AGAIN if status in _SETTLED else Reaction.NOTHING
