"""What single facts make of a step's row: the worst that its owner can have begun, and nothing that it has not said."""

from typing import Any, cast

import pytest

from tests.e2e import messages as m
from tests.e2e.far import FarSide
from tests.e2e.sagas import make_kit
from tests.sagas import Partition
from tradesaga.consumers.recovery.row_rebuild import FactReader, rebuild_row
from tradesaga.consumers.runtime.event_factory import split_packed
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.infra.kafka.codec import Record, pack
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import Header
from tradesaga.schemas.messages.lifecycle import (
    AttemptFailed,
    CompensationFailed,
    StepBarred,
    StepFailed,
    StepUnknown,
)
from tradesaga.schemas.messages.message import Event

NOW = 1_790_000_000_000_000_000
KIT = make_kit("adopted", FarSide(cast("Any", None)))


class Owner:
    """The row of one step, as facts come in."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.row: Row | None = None
        self.partition = Partition(KIT.saga)
        self.readers = [FactReader(participant, 12) for participant in (KIT.desk, KIT.port)]

    def hear(self, event: Event, **given: str | int) -> bool:
        """Take a fact in; says whether it changed the row."""
        return self.take(self.partition.record(event, **given))

    def take(self, record: Record) -> bool:
        """Take a record in."""
        changed = False
        for mention in (found for reader in self.readers for found in reader.read(record)):
            if mention.binding.step.name == self.step:
                after = rebuild_row(self.row, mention, 1, NOW)
                changed = changed or after is not None
                self.row = after or self.row
        return changed

    @property
    def known(self) -> Row:
        """Give the row."""
        assert self.row is not None
        return self.row


@pytest.mark.parametrize(
    ("step", "trigger", "status"),
    [
        ("book", m.Asked(idempotency_key="k"), RowStatus.RETRY),
        ("ship", m.Paid(amount="1", attempt=1), RowStatus.INTENT),
        ("confirm", m.Shipped(ref="r"), RowStatus.WAITING),
    ],
)
def test_what_was_begun_and_not_told_is_the_worst_it_can_be(step: str, trigger: Event, status: RowStatus) -> None:
    """A local step was not done, a remote one may have been, a waiting one waits; each is due, with its trigger."""
    owner = Owner(step)
    assert owner.hear(trigger)
    row = owner.known
    assert (row.status, row.wait, row.started, len(split_packed(row.input))) == (status, 0.0, NOW, 1)
    assert not owner.hear(trigger)


def test_an_answer_is_kept_byte_for_byte_and_once() -> None:
    """The row answers duplicates with it; a second one, whatever it says, changes nothing."""
    owner = Owner("ship")
    owner.hear(m.Paid(amount="1", attempt=1))
    record = owner.partition.record(m.Shipped(ref="r"), attempt=2, started=5)
    assert owner.take(record)
    row = owner.known
    assert (row.status, row.answer, row.attempt, row.started) == (
        RowStatus.DONE, pack(record.headers, record.value), 2, 5,
    )  # fmt: skip
    assert (row.input, row.wait) == (None, None)
    assert not owner.take(record)
    assert not owner.hear(m.ShipRefused(reason="no"))


def test_an_unknown_call_stays_unknown_with_its_attempt() -> None:
    """So that the far side is asked for the attempt that was told of, and a late bar still ends it."""
    owner = Owner("ship")
    owner.hear(m.Paid(amount="1", attempt=1))
    assert owner.hear(StepUnknown(step="ship", attempt=2, reason=""), attempt=2)
    assert (owner.known.status, owner.known.attempt) == (RowStatus.INTENT, 2)
    assert owner.hear(StepBarred(step="ship"))
    assert owner.known.status is RowStatus.BARRED


def test_a_report_may_come_before_its_trigger() -> None:
    """It is kept under its own id and waits for nobody until the trigger is there."""
    owner = Owner("confirm")
    assert owner.hear(m.Report(report_id="r1", kind="done"))
    assert owner.known.wait is None
    assert owner.hear(m.Shipped(ref="r"))
    assert (owner.known.wait, owner.known.reports) == (0.0, b'{"r1":{"report_id":"r1","kind":"done"}}')


def test_rounds_go_up_and_never_back() -> None:
    """A failure keeps its input; news of a later round opens the row again; an earlier round says nothing more."""
    owner = Owner("close")
    owner.hear(m.Confirmed(reports=1))
    assert owner.hear(StepFailed(step="close", attempts=3, reason=""), attempt=3)
    assert (owner.known.status, bool(owner.known.input)) == (RowStatus.FAILED, True)
    failed = AttemptFailed(step="close", direction="forward", attempt=1, reason="")
    assert not owner.hear(failed, round=1)
    assert owner.hear(failed, round=2)
    assert (owner.known.status, owner.known.round, owner.known.attempt) == (RowStatus.RETRY, 2, 1)
    assert owner.hear(m.Closed(account="a", amount="1", ref="r"), round=2)
    assert owner.known.status is RowStatus.DONE


def test_a_compensation_that_failed_may_succeed_in_a_later_round() -> None:
    """Attempts at it change nothing: the command is read again and counts anew."""
    owner = Owner("pay")
    owner.hear(m.Booked(amount="1"))
    owner.hear(m.Paid(amount="1", attempt=1))
    assert not owner.hear(AttemptFailed(step="pay", direction="back", attempt=1, reason=""))
    stands = CompensationFailed(step="pay", attempts=3, reason="")
    assert owner.hear(stands, attempt=3, round=1)
    assert not owner.hear(stands, attempt=3, round=1)
    assert owner.hear(m.Refunded(amount="1"), round=2)
    assert (owner.known.status, owner.known.back_round) == (RowStatus.COMPENSATED, 2)
    assert not owner.hear(stands, round=3)


def test_a_record_under_another_key_or_without_its_headers_says_nothing() -> None:
    """Its owner would not have trusted it either."""
    owner = Owner("book")
    good = owner.partition.record(m.Asked(idempotency_key="k"))
    headers: list[Header] = [(name, value) for name, value in good.headers if name != "ce_id"]
    assert not owner.take(good._replace(key=b"other"))
    assert not owner.take(good._replace(headers=headers))
    assert not owner.take(good._replace(partition=(good.partition + 1) % 12))
    assert owner.row is None
    assert owner.take(good)
