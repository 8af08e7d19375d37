"""The trade saga, told as stories: what happens, what is commanded, how it ends."""

import pytest

from tradesaga.sagas import Status, minutes
from tradesaga.sagas.testing import (
    Scenario,
    aborted,
    barred,
    compensation_failed,
    contradicted,
    failed,
    given,
    rechecked,
    resolved,
    retried,
    skipped,
    unknown,
    unowned,
)
from tradesaga.sagas.trade import definition as steps
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.lifecycle import Bar, DeadlineElapsed, Retry

PLACED = (t.TradeRequested, t.OrderValidated, t.FundsReserved, t.RiskAccepted, t.OrderPlaced)
FILLED = (*PLACED, t.TradeFilled)


def taken_back(story: Scenario) -> Scenario:
    """Confirm each compensation of a placed trade as it is commanded, last step first."""
    pairs = (
        (t.CancelOrder, t.OrderCancelled),
        (t.ReleaseRisk, t.RiskReleased),
        (t.ReleaseFunds, t.FundsReleased),
        (t.WithdrawOrder, t.OrderWithdrawn),
    )
    for command, confirmation in pairs:
        story = story.commands(command).happened(confirmation)
    return story


def test_a_trade_completes_step_by_step_with_nothing_commanded() -> None:
    """Choreography: the saga log only watches while all goes well."""
    story = given(trade).is_now(Status.IDLE).happened(t.TradeRequested).is_now(Status.IDLE)

    story = story.happened(*FILLED[1:]).is_now(Status.RUNNING)

    story.happened(t.TradeSettled).ends(Status.COMPLETED).in_any_order()


def test_an_unfilled_order_takes_everything_back_last_step_first() -> None:
    """The pivot refuses: cancel, release risk, release funds, withdraw; one at a time; then ABORTED."""
    story = given(trade).happened(*PLACED, t.TradeUnfilled)

    taken_back(story).ends(Status.ABORTED).in_any_order()


def test_the_first_refusal_leaves_nothing_to_take_back() -> None:
    """Nothing was done, so the saga is ABORTED at once."""
    given(trade).happened(t.TradeRequested, t.ValidationRejected).ends(Status.ABORTED)


def test_compensation_goes_on_after_a_failure_and_ends_failed() -> None:
    """One compensation that cannot be done does not keep the others from being done."""
    story = given(trade).happened(*PLACED[:3], t.RiskRejected)

    story = story.commands(t.ReleaseFunds).happened(compensation_failed(steps.reserve_funds))

    story.commands(t.WithdrawOrder).happened(t.OrderWithdrawn).ends(Status.FAILED).in_any_order()


def test_a_retried_compensation_runs_in_a_new_round_and_ends_aborted() -> None:
    """A late failure of the old round no longer counts; the success of the new one is what is left."""
    story = given(trade).happened(*PLACED[:3], t.RiskRejected, compensation_failed(steps.reserve_funds))
    story = story.happened(t.OrderWithdrawn).commands(t.ReleaseFunds, t.WithdrawOrder).is_now(Status.FAILED)

    story = story.happened(retried(steps.reserve_funds)).commands(t.ReleaseFunds).is_now(Status.COMPENSATING)
    story = story.happened(compensation_failed(steps.reserve_funds, round=1)).is_now(Status.COMPENSATING)

    story.happened(compensation_failed(steps.reserve_funds, round=2)).ends(Status.FAILED)
    story.happened(t.FundsReleased).ends(Status.ABORTED).in_any_order()


def test_a_skipped_compensation_stands_until_a_person_resolves_the_saga() -> None:
    """Skip marks, and nothing more: the state stays FAILED until the evidence is in; a retry takes the mark away."""
    story = given(trade).happened(*PLACED[:3], t.RiskRejected, compensation_failed(steps.reserve_funds))
    story = story.happened(t.OrderWithdrawn).commands(t.ReleaseFunds, t.WithdrawOrder)

    skipping = story.happened(skipped(steps.reserve_funds)).is_now(Status.FAILED)

    assert skipping.machine.names(skipping.state.skipped) == ["reserve_funds"]
    assert skipping.happened(retried(steps.reserve_funds)).state.skipped == 0
    skipping.happened(resolved("ABORTED")).ends(Status.ABORTED)
    skipping.happened(resolved("COMPLETED")).ends(Status.COMPLETED)


def test_an_unknown_step_is_barred_and_never_compensated_blindly() -> None:
    """After a time-out its owner is asked; only a true outcome is taken back."""
    story = given(trade).happened(*PLACED[:4], unknown(steps.place_order)).commands(Bar(step="place_order"))

    never_was = story.happened(barred(steps.place_order)).commands(t.ReleaseRisk)
    was_there = story.happened(t.OrderPlaced).commands(Bar(step="confirm_fill"))

    never_was.is_now(Status.COMPENSATING)
    taken_back(was_there.happened(barred(steps.confirm_fill))).ends(Status.ABORTED).in_any_order()


def test_a_deadline_bars_what_is_outstanding_before_anything_is_taken_back() -> None:
    """Settle, then take back: no compensation before the bar is answered."""
    story = given(trade).happened(*PLACED).after(minutes(4)).is_now(Status.RUNNING)

    story = story.after(minutes(1)).commands(Bar(step="confirm_fill")).is_now(Status.COMPENSATING)

    taken_back(story.happened(t.TradeUnfilled)).ends(Status.ABORTED)


def test_a_fill_that_meets_the_deadline_wins() -> None:
    """The bar is answered by the fill: the pivot has happened, so the saga runs on and completes."""
    story = given(trade).happened(*PLACED).after(minutes(5)).commands(Bar(step="confirm_fill"))

    story.happened(t.TradeFilled).is_now(Status.RUNNING).happened(t.TradeSettled).ends(Status.COMPLETED)


def test_a_fill_after_something_was_barred_or_refused_needs_a_person() -> None:
    """A late pivot on a saga with a refused step is FAILED: what stands and what does not cannot both be right."""
    story = given(trade).happened(*PLACED, t.TradeUnfilled).commands(t.CancelOrder)

    given(trade).happened(*PLACED[:-1], failed(steps.place_order), t.TradeFilled).is_now(Status.FAILED)
    story.happened(t.OrderCancelled, t.TradeFilled).is_now(Status.FAILED)


@pytest.mark.parametrize("after", [FILLED, (*FILLED, t.TradeSettled)], ids=["running", "completed"])
def test_past_the_pivot_a_deadline_alerts_and_an_abort_is_refused(after: tuple[type[t.Event], ...]) -> None:
    """Nothing is taken back once the venue has filled."""
    story = given(trade).happened(*after)
    status = story.status

    story.happened(DeadlineElapsed(deadline="5 minutes")).ends(status)
    refused = story.happened(aborted()).refused().ends(status)

    assert "past its pivot" in refused.refusal


def test_an_abort_counts_before_the_pivot_and_only_there() -> None:
    """While the saga goes forward it is taken back; on its way back it says nothing new; afterwards it is refused."""
    story = given(trade).happened(*PLACED[:2], aborted()).commands(Bar(step="reserve_funds"))
    story = story.happened(aborted(), barred(steps.reserve_funds)).commands(t.WithdrawOrder)

    ended = story.happened(t.OrderWithdrawn).ends(Status.ABORTED)

    assert "ABORTED" in ended.happened(aborted()).refused().ends(Status.ABORTED).refusal
    with pytest.raises(AssertionError, match="the last decision was taken"):
        story.refused()


def test_a_must_succeed_step_out_of_attempts_fails_and_is_run_again_by_an_operator() -> None:
    """Past the pivot the way is forward alone: retry starts a new round, in which only new failures count."""
    story = given(trade).happened(*FILLED, failed(steps.settle_trade)).ends(Status.FAILED)

    again = story.happened(retried(steps.settle_trade)).commands(Retry(step="settle_trade", round=2))
    again = again.is_now(Status.RUNNING).happened(failed(steps.settle_trade, round=1)).is_now(Status.RUNNING)

    again.happened(failed(steps.settle_trade, round=2)).ends(Status.FAILED)
    again.happened(t.TradeSettled).ends(Status.COMPLETED).in_any_order()
    story.happened(t.TradeSettled).ends(Status.COMPLETED)


def test_decisions_that_mend_nothing_are_refused() -> None:
    """Retry, skip and resolve are for FAILED sagas, and retry for a step that has failed in a way it can mend."""
    running = given(trade).happened(*PLACED)
    failing = given(trade).happened(*FILLED, failed(steps.settle_trade))

    for decision in (retried(steps.settle_trade), skipped(steps.reserve_funds), resolved("ABORTED")):
        assert "not FAILED" in running.happened(decision).refused().ends(Status.RUNNING).refusal
    for decision in (retried(steps.confirm_fill), skipped(steps.settle_trade)):
        assert "could mend" in failing.happened(decision).refused().ends(Status.FAILED).refusal


def test_a_contradiction_counts_in_any_state_once_per_venue_id() -> None:
    """A busted trade, or a fill after all: FAILED until resolved; the same again is nothing, a new one counts."""
    completed = given(trade).happened(*FILLED, t.TradeSettled, contradicted(steps.confirm_fill, "bust-1"))
    early = given(trade).happened(*PLACED, contradicted(steps.confirm_fill, "fill-9"))

    resolved_ = completed.ends(Status.FAILED).happened(resolved("COMPLETED")).ends(Status.COMPLETED)

    resolved_.happened(contradicted(steps.confirm_fill, "bust-1")).ends(Status.COMPLETED)
    resolved_.happened(contradicted(steps.confirm_fill, "bust-2")).ends(Status.FAILED)
    early.is_now(Status.RUNNING).happened(t.TradeFilled, t.TradeSettled).ends(Status.FAILED).in_any_order()
    taken_back(early.happened(t.TradeUnfilled)).ends(Status.FAILED)


def test_a_late_success_after_aborted_is_compensated_like_any_other() -> None:
    """ABORTED reopens, takes the late effect back, and is ABORTED again; what was confirmed before changes nothing."""
    story = given(trade).happened(*PLACED[:3], unknown(steps.check_risk)).commands(Bar(step="check_risk"))
    story = story.happened(barred(steps.check_risk)).commands(t.ReleaseFunds).happened(t.FundsReleased)
    story = story.commands(t.WithdrawOrder).happened(t.OrderWithdrawn).ends(Status.ABORTED)

    late = story.happened(t.RiskAccepted).is_now(Status.COMPENSATING).commands(Bar(step="place_order"))

    late.happened(barred(steps.place_order)).commands(t.ReleaseRisk).happened(t.RiskReleased).ends(Status.ABORTED)
    story.happened(t.RiskReleased, t.RiskAccepted, barred(steps.place_order)).commands(Bar(step="place_order")).ends(
        Status.ABORTED
    )


def test_a_late_success_does_not_start_a_second_compensation_beside_the_first() -> None:
    """One at a time, even when a later step turns out to have happened while an earlier one is being taken back."""
    story = given(trade).happened(*PLACED[:3], t.RiskRejected).commands(t.ReleaseFunds)

    late = story.happened(t.RiskAccepted).commands(Bar(step="place_order"))
    late = late.happened(barred(steps.place_order)).commands()

    late.happened(t.FundsReleased).commands(t.ReleaseRisk)


def test_facts_that_are_only_recorded_change_nothing() -> None:
    """What the venue says is for the step's owner; the saga log keeps it and goes on."""
    given(trade).happened(t.TradeRequested, t.VenueReport).ends(Status.IDLE)


def test_what_a_saga_waits_for_is_named_in_every_state() -> None:
    """A person who looks at a saga sees which step it waits for, and why."""
    story = given(trade).happened(*PLACED)
    back = story.happened(aborted())

    def waits(story: Scenario) -> list[str]:
        return story.machine.missing(story.state)

    assert waits(story) == ["confirm_fill"]
    assert waits(back) == ["confirm_fill"]
    assert waits(back.happened(barred(steps.confirm_fill))) == [
        "validate_order", "reserve_funds", "check_risk", "place_order",
    ]  # fmt: skip
    assert waits(story.happened(t.TradeFilled, failed(steps.settle_trade))) == ["settle_trade"]
    assert waits(story.happened(t.TradeFilled, t.TradeSettled)) == []


def test_a_step_that_nobody_owns_fails_the_saga_until_somebody_answers() -> None:
    """Nothing is taken back before the step is settled; its owner's word, whenever it comes, sets the saga going."""
    story = given(trade).happened(*PLACED[:3]).after(minutes(5)).commands(Bar(step="check_risk"))

    story = story.happened(unowned(steps.check_risk)).ends(Status.FAILED)

    story.happened(barred(steps.check_risk)).is_now(Status.COMPENSATING).commands(t.ReleaseFunds)
    late = story.happened(t.RiskAccepted).is_now(Status.COMPENSATING).commands(Bar(step="place_order"))
    late.happened(barred(steps.place_order)).commands(t.ReleaseRisk).is_now(Status.COMPENSATING)


def test_a_person_gives_a_step_up_that_nobody_owns() -> None:
    """Closing the saga is refused until then; what was done is taken back, and a late success too."""
    story = given(trade).happened(*PLACED[:3]).after(minutes(5)).happened(unowned(steps.check_risk))
    story.happened(resolved("ABORTED")).refused()

    story = story.commands(Bar).happened(skipped(steps.check_risk)).commands(t.ReleaseFunds)
    story = story.happened(t.FundsReleased).commands(t.WithdrawOrder).happened(t.OrderWithdrawn).ends(Status.ABORTED)

    story.happened(t.RiskAccepted).is_now(Status.COMPENSATING).commands(Bar(step="place_order"))


def test_past_the_pivot_a_step_that_nobody_owns_fails_the_saga_until_it_is_done() -> None:
    """A success after a person has closed the saga calls for a person again."""
    story = given(trade).happened(*FILLED).after(minutes(5)).happened(unowned(steps.settle_trade)).ends(Status.FAILED)

    story.happened(skipped(steps.settle_trade)).refused()
    story.happened(t.TradeSettled).ends(Status.COMPLETED)
    closed = story.happened(resolved("COMPLETED")).ends(Status.COMPLETED)
    closed.happened(t.TradeSettled).ends(Status.FAILED).happened(resolved("COMPLETED")).ends(Status.COMPLETED)


def test_nobody_is_missed_before_the_deadline() -> None:
    """A word that comes too early does not count, now or later."""
    story = given(trade).happened(*PLACED[:3], unowned(steps.check_risk)).refused()

    story.after(minutes(5)).commands(Bar).ends(Status.COMPENSATING)


def test_a_recheck_has_each_owner_say_again_what_came_of_its_step() -> None:
    """One after the other, by bars; what was said before does not count, and nothing is taken back meanwhile."""
    lied = given(trade).happened(*PLACED, t.TradeUnfilled).commands(t.CancelOrder)
    story = lied.happened(rechecked()).is_now(Status.COMPENSATING).commands(Bar(step="validate_order"))
    names = ("reserve_funds", "check_risk", "place_order", "confirm_fill")
    for fact, name in zip(PLACED[1:], names, strict=True):
        story = story.happened(fact).commands(Bar(step=name))

    taken_back(story.happened(barred(steps.confirm_fill))).ends(Status.ABORTED)


def test_a_recheck_past_the_pivot_asks_for_what_must_succeed() -> None:
    """The owner of a settlement that was done says so again."""
    story = (
        given(trade).happened(*FILLED, t.TradeSettled, rechecked()).happened(*FILLED[1:-1]).is_now(Status.COMPENSATING)
    )

    story = story.happened(t.TradeFilled).is_now(Status.RUNNING)

    bars = [Bar(step=name) for name in ("validate_order", "reserve_funds", "check_risk", "place_order", "confirm_fill")]
    story.commands(*bars, Retry(step="settle_trade", round=1)).happened(t.TradeSettled).ends(Status.COMPLETED)


def test_a_recheck_opens_a_saga_that_is_said_to_have_ended() -> None:
    """Also one that a person has closed: what its owners say is what counts."""
    ended = given(trade).happened(t.TradeRequested, t.ValidationRejected).ends(Status.ABORTED)

    ended.happened(rechecked()).is_now(Status.COMPENSATING).commands(Bar(step="validate_order"))
