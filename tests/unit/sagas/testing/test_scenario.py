"""The test kit says what is wrong, on a shipped saga and on a user's own."""

from collections.abc import Callable

import pytest

from tests.unit.sagas import shop as s
from tradesaga.sagas import Status, seconds
from tradesaga.sagas.machine import Machine, State
from tradesaga.sagas.step_state import RowStatus
from tradesaga.sagas.testing import (
    InMemoryRun,
    Outcome,
    Scenario,
    assert_compensation_restores,
    attempt_failed,
    compensation_failed,
    given,
    resolved,
    survives_crashes,
)
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.lifecycle import Bar, Retry

DECLINED = given(s.shop).happened(s.Ordered, s.Packed, s.Declined)


@pytest.mark.parametrize(
    ("tell", "message"),
    [
        (lambda: DECLINED.ends(Status.ABORTED), r"shop: is COMPENSATING, not ABORTED; it waits for \['pack'\]"),
        (lambda: DECLINED.commands(s.Refund), r"shop: commands \['Unpack'\] were given, not \['Refund'\]"),
        (DECLINED.commands, r"commands \['Unpack'\] were given, not \[\]"),
        (lambda: DECLINED.happened(s.Unpacked).ends(Status.ABORTED), r"commands \['Unpack'\] were given, not \[\]"),
        (lambda: given(s.shop).happened(t.TradeFilled), r"shop: TradeFilled is no fact of this saga"),
        (
            lambda: given(s.shop).happened(attempt_failed(trade.step("check_risk"))),
            r"shop: AttemptFailed of step 'check_risk' is no fact of this saga",
        ),
    ],
)
def test_a_story_that_does_not_hold_says_how(tell: Callable[[], Scenario], message: str) -> None:
    """State, commands and facts are each held to what was told."""
    with pytest.raises(AssertionError, match=message):
        tell()


def test_commands_can_be_named_by_type_or_with_their_step() -> None:
    """`Bar` stands for a bar of any step, an instance for one step's."""
    story = given(s.shop).happened(s.Ordered).after(seconds(30))

    story.commands(Bar, Bar)
    story.commands(Bar(step="pack"), Bar)
    with pytest.raises(AssertionError, match="'Bar pay'"):
        story.commands(Bar(step="pack"), Bar(step="label"))
    with pytest.raises(AssertionError, match="were given"):
        story.commands(Bar, Retry)


def test_time_passes_on_a_virtual_clock_and_elapses_a_deadline_once() -> None:
    """Only a saga that is known and open has a deadline; it comes after the given time since the start."""
    assert given(s.shop).after(seconds(99)).facts == ()
    story = given(s.shop).after(seconds(99)).happened(s.Ordered).after(seconds(29)).is_now(Status.IDLE)

    late = story.happened(attempt_failed(s.pack)).is_now(Status.RUNNING).after(seconds(1)).commands(Bar, Bar)

    late.is_now(Status.COMPENSATING).after(seconds(60)).commands()
    DECLINED.happened(s.Unpacked).after(seconds(60)).is_now(Status.ABORTED)


def test_a_saga_log_that_minds_the_order_of_facts_is_found() -> None:
    """A machine that forgets a success after a refusal ends differently, and the order is shown."""

    class Forgetful(Machine):
        def status(self, state: State) -> Status:
            return super().status(state._replace(done=0) if state.bar_asked else state)

    story = given(s.shop).happened(s.Ordered, s.Packed, s.Declined, s.Unpacked).in_any_order()

    with pytest.raises(AssertionError, match=r"shop: ends \w+, not \w+, when told as \['"):
        Scenario(Forgetful(s.shop), story.vocabulary, story.state, story.facts).in_any_order()


PLAYS: dict[str, tuple[dict[str, Outcome], Status]] = {
    "all well": ({}, Status.COMPLETED),
    "first refused": ({"validate_order": Outcome.REFUSES}, Status.ABORTED),
    "risk refused": ({"check_risk": Outcome.REFUSES}, Status.ABORTED),
    "risk out of attempts": ({"check_risk": Outcome.FAILS}, Status.ABORTED),
    "order rejected": ({"place_order": Outcome.REFUSES}, Status.ABORTED),
    "order out of attempts": ({"place_order": Outcome.FAILS}, Status.ABORTED),
    "answer lost": ({"place_order": Outcome.ANSWER_LOST}, Status.ABORTED),
    "call lost": ({"place_order": Outcome.CALL_LOST}, Status.ABORTED),
    "unfilled": ({"confirm_fill": Outcome.REFUSES}, Status.ABORTED),
    "settlement stuck": ({"settle_trade": Outcome.FAILS}, Status.FAILED),
    "funds stuck": ({"confirm_fill": Outcome.REFUSES, "reserve_funds": Outcome.STANDS}, Status.FAILED),
}


@pytest.mark.parametrize(("outcomes", "ends"), PLAYS.values(), ids=PLAYS)
def test_a_trade_survives_a_crash_behind_every_commit(outcomes: dict[str, Outcome], ends: Status) -> None:
    """Whatever becomes of its steps, dying at any moment changes neither the end nor what stands."""
    assert survives_crashes(trade, ends=ends, outcomes=outcomes, remote={"place_order"}) >= 3


@pytest.mark.parametrize("deadline_after", range(18))
def test_a_deadline_at_any_moment_and_a_crash_at_any_other_leave_it_whole_or_taken_back(deadline_after: int) -> None:
    """Either all of it stands or nothing does; which, may depend on the moment."""
    either = frozenset({Status.ABORTED, Status.COMPLETED})

    survives_crashes(trade, ends=either, remote={"place_order"}, deadline_after=deadline_after)


def test_a_users_saga_survives_crashes_and_a_wrong_expectation_is_found() -> None:
    """The runner plays branches and joins too; what ends otherwise names the moment."""
    survives_crashes(s.shop, ends=Status.COMPLETED, remote={"pay", "ship"})
    survives_crashes(s.shop, ends=Status.ABORTED, remote={"pay"}, outcomes={"label": Outcome.FAILS})
    with pytest.raises(AssertionError, match="shop: ends ABORTED, not COMPLETED, without a crash"):
        survives_crashes(s.shop, ends=Status.COMPLETED, outcomes={"pay": Outcome.REFUSES})


def test_a_rehearsal_names_the_promise_that_its_end_breaks() -> None:
    """A run that hangs, leaves something standing, or does something twice is named as such."""

    def broken(change: Callable[[InMemoryRun], object]) -> str:
        play = InMemoryRun(s.shop)
        play.fold()
        change(play)
        return play.find_broken()

    def end(play: InMemoryRun, *said: Scenario) -> None:
        play.state = said[0].state

    aborted = given(s.shop).happened(s.Ordered, s.SoldOut, s.Paid, s.Refunded)
    completed = given(s.shop).happened(s.Ordered, s.Packed, s.Paid, s.Labelled, s.Shipped, s.Thanked)
    failing = given(s.shop).happened(s.Ordered, s.Packed, s.Declined, compensation_failed(s.pack))

    assert broken(lambda play: None) == "hangs in IDLE"
    assert "more than once" in broken(lambda play: (play.parts[0].take_effect(), play.parts[0].take_effect()))
    assert "ABORTED, yet ['pay'] stand" in broken(lambda play: (end(play, aborted), play.parts[1].take_effect()))
    assert "COMPLETED, yet only []" in broken(lambda play: end(play, completed))
    assert broken(lambda play: end(play, failing)) == "FAILED without a cause"
    assert broken(lambda play: end(play, failing.happened(resolved("ABORTED")))) == ""

    def leave(play: InMemoryRun) -> None:
        play.facts += failing.facts
        play.parts[1].take_effect()
        play.parts[1].status = RowStatus.DONE
        end(play, failing)

    assert "nothing tried to compensate ['pay']" in broken(leave)


class Till:
    """A till with a drawer, for doing and taking back."""

    def __init__(self) -> None:
        self.cash = 10

    async def look(self) -> int:
        """Count the cash."""
        return self.cash

    async def take(self, amount: int) -> None:
        """Take cash out; a negative amount puts it in."""
        self.cash -= amount


async def test_doing_and_taking_back_must_leave_what_was_there() -> None:
    """An inexact compensation is found, and so is a look that could not have seen it."""
    till = Till()

    await assert_compensation_restores(till.look, lambda: till.take(3), lambda: till.take(-3))

    with pytest.raises(AssertionError, match="left 9, not 10"):
        await assert_compensation_restores(till.look, lambda: till.take(3), lambda: till.take(-2))
    with pytest.raises(AssertionError, match="does not change"):
        await assert_compensation_restores(till.look, lambda: till.take(0), lambda: till.take(0))
