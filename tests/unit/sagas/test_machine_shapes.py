"""Branches, joins, and sagas without a pivot: what they may still do, and when it is too late."""

from tests.unit.sagas import shop as s
from tradesaga.sagas import Status, seconds
from tradesaga.sagas.testing import aborted, barred, failed, given, unknown
from tradesaga.schemas.messages.lifecycle import Bar


def test_a_join_waits_for_both_branches_and_the_saga_completes() -> None:
    """The branches come in either order; the label needs both."""
    story = given(s.shop).happened(s.Ordered, s.Paid, s.Packed, s.Labelled, s.Shipped)

    assert story.machine.missing(story.state) == ["thank"]
    story.happened(s.Thanked).ends(Status.COMPLETED).in_any_order()


def test_a_refused_branch_settles_the_other_before_it_is_taken_back() -> None:
    """The card is declined while somebody packs: ask the packer first, then unpack what was packed."""
    story = given(s.shop).happened(s.Ordered, s.Declined).commands(Bar(step="pack"))

    story.happened(barred(s.pack)).ends(Status.ABORTED)
    story.happened(s.Packed).commands(s.Unpack).happened(s.Unpacked).ends(Status.ABORTED).in_any_order()


def test_branches_are_taken_back_last_declared_first() -> None:
    """Of two branches that both stand, the one declared later goes first, after what joined them."""
    story = given(s.shop).happened(s.Ordered, s.Packed, s.Paid, unknown(s.label)).commands(Bar(step="label"))

    story = story.happened(barred(s.label)).commands(s.Refund).happened(s.Refunded).commands(s.Unpack)

    story.happened(s.Unpacked).ends(Status.ABORTED)


def test_without_a_pivot_what_must_succeed_makes_its_needs_the_point_of_no_return() -> None:
    """Once the box is labelled it will be shipped: the deadline comes too late, and what was unknown turns out well."""
    given(s.shop).happened(s.Ordered, s.Packed, s.Paid, s.Labelled).after(seconds(31)).ends(Status.RUNNING)
    story = given(s.shop).happened(s.Ordered, s.Packed, s.Paid).after(seconds(31)).commands(Bar(step="label"))

    story.happened(s.Labelled).is_now(Status.RUNNING).happened(s.Shipped, s.Thanked).ends(Status.COMPLETED)


def test_a_saga_that_can_be_taken_back_whole_has_no_point_of_no_return() -> None:
    """Every step is compensatable, so a late success of the last one is taken back with the rest."""
    story = given(s.returnable).happened(s.Ordered, s.Packed, s.Paid, aborted()).commands(Bar(step="label"))

    story = story.happened(s.Labelled).commands(s.Unlabel).happened(s.Unlabelled)

    story = story.commands(s.Refund).happened(s.Refunded).commands(s.Unpack).happened(s.Unpacked)
    story.ends(Status.ABORTED).in_any_order()


def test_a_saga_that_can_be_taken_back_whole_stays_completed() -> None:
    """Once all is done it has ended: neither deadline nor abort reaches it."""
    story = given(s.returnable).happened(s.Ordered, s.Packed, s.Paid, s.Labelled).ends(Status.COMPLETED)

    story.after(seconds(31)).ends(Status.COMPLETED)
    story.happened(aborted()).refused().ends(Status.COMPLETED)


def test_a_saga_of_promises_is_past_its_pivot_from_the_start() -> None:
    """Nothing in it can fail or be taken back: deadline and abort change nothing, failure waits for a person."""
    story = given(s.promises).happened(s.Ordered).is_now(Status.IDLE)

    story.after(seconds(31)).ends(Status.IDLE)
    story.happened(aborted()).refused().ends(Status.IDLE)
    story.happened(failed(s.promises.step("ship"))).ends(Status.FAILED)
    story.happened(s.Shipped, s.Thanked).ends(Status.COMPLETED)


def test_a_deadline_before_the_start_is_known_takes_back_what_then_starts() -> None:
    """Facts out of order still end right: the start comes to a saga that is already on its way back."""
    story = given(s.shop).happened(aborted()).is_now(Status.ABORTED)

    story.happened(s.Ordered).commands(Bar(step="pack"), Bar(step="pay")).is_now(Status.COMPENSATING)
