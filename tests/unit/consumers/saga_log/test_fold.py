"""The saga log's fold: records of every kind into one saga, without a database."""

import pytest

from tests.sagas import Filled, Held, HoldRefused, OrderAsked, Partition, Placed, Settled, Unheld
from tests.unit.consumers.saga_log.rig import RULES, SAGA, Log
from tradesaga.consumers.saga_log.fold import fold_record
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.machine import BarStep, CompensateStep
from tradesaga.sagas.status import Status
from tradesaga.schemas.messages.lifecycle import (
    AbortRequested,
    RecheckRequested,
    RetryRequested,
    StartRefused,
    StepFailed,
    StepUnowned,
)


def test_a_saga_runs_to_its_end(log: Log) -> None:
    """Each success is counted, adds to the context under its event's name, and the last one completes the saga."""
    added = [log.say(event).entry.added for event in (Held(), Placed(), Filled(), Settled())]
    assert added == ["held", "placed", "filled", "settled"]
    assert log.status is Status.COMPLETED
    assert list(log.context) == ["order-asked", "held", "placed", "filled", "settled"]
    assert log.tracked.snapshot is not None
    assert log.tracked.snapshot.seq == 5
    assert not log.tracked.snapshot.deadline_pending


def test_a_repeated_fact_is_counted_once(log: Log) -> None:
    """What comes again has its row and its place in the chain; state and context stay."""
    log.say(Held())
    context = log.context
    again = log.say(Held(amount="7"))
    assert (again.entry.seq, again.entry.added, again.orders) == (3, None, ())
    assert log.context == context


def test_a_refusal_orders_what_was_done_back(log: Log) -> None:
    """After a refusal past the first step, that step is asked to be taken back, once."""
    log.say(Held())
    failed = log.say(StepFailed(step="place", attempts=3, reason="no"))
    assert failed.orders == (CompensateStep(0, 1),)
    assert log.say(StepFailed(step="place", attempts=3, reason="no")).orders == ()
    log.say(Unheld())
    assert log.status is Status.ABORTED


def test_the_deadline_bars_what_is_outstanding(log: Log) -> None:
    """An elapsed deadline settles the step that is under way before anything is taken back."""
    log.say(Held())
    assert log.deadline().orders == (BarStep(1),)
    assert log.status is Status.COMPENSATING


def test_an_early_deadline_is_recorded_and_comes_again(log: Log) -> None:
    """Judged by its recorded time, it changes nothing, whoever has sent it; the saga log owes it still."""
    log.say(Held())
    assert log.tracked.snapshot is not None
    before = log.tracked.snapshot
    log.tracked = log.tracked._replace(snapshot=before._replace(deadline_pending=False))  # it has been sent
    early = log.deadline(-200)
    assert (early.orders, early.refused, early.entry.seq) == ((), True, 3)
    assert early.entry.error == "the deadline comes 200 ms later by the broker's clock; this one does not count"
    assert log.tracked.snapshot is not None
    assert log.tracked.snapshot.state == before.state
    assert log.tracked.snapshot.deadline_pending
    assert log.deadline().orders == (BarStep(1),)
    assert not log.tracked.snapshot.deadline_pending


@pytest.mark.parametrize("late", [-100, 0, 1])
def test_a_deadline_counts_within_what_clocks_differ_by(late: int, log: Log) -> None:
    """The database's clock has called it: a tenth of a second is borne."""
    log.deadline(late)
    assert log.status is Status.COMPENSATING


def test_an_early_deadline_revives_no_saga_that_has_ended(log: Log) -> None:
    """Nothing is owed to it any more."""
    for event in (Held(), Placed(), Filled(), Settled()):
        log.say(event)
    log.deadline(-60_000)
    assert log.tracked.snapshot is not None
    assert not log.tracked.snapshot.deadline_pending


def test_a_second_start_never_counts(log: Log) -> None:
    """The same request again is recorded; another under the same key is recorded with the reason."""
    same = log.start()
    assert (same.entry.seq, same.entry.error, same.refused) == (2, None, False)
    other = log.fold(log.partition.start(quantity="11"))
    assert other.entry.error is not None
    assert "another request" in other.entry.error
    assert other.refused
    assert log.context["order-asked"] == {
        "idempotency_key": "k", "account": "A", "symbol": "EUR/USD", "quantity": "10",
    }  # fmt: skip


def test_the_chain_covers_every_byte() -> None:
    """The head changes with the value, a header, the place and the record before; the same records give the same."""
    partition = Partition(SAGA)
    tracked = Tracked(partition.saga_id, RULES.home(partition.saga_id))
    records = [partition.start(), partition.record(Held())]

    def head(first: Record, second: Record) -> bytes:
        folded = fold_record(RULES, tracked, first).tracked
        return fold_record(RULES, folded, second).entry.hash

    first, second = records
    heads = {
        head(first, second),
        head(first, second._replace(value=b'{"amount":"6"}')),
        head(first, second._replace(headers=[*second.headers, ("x", b"y")])),
        head(first, second._replace(offset=999)),
        head(first, second._replace(recorded_ms=1)),
        head(first._replace(offset=99), second),
    }
    assert len(heads) == 6
    assert head(first, second) in heads


def test_a_refused_decision_says_why(log: Log) -> None:
    """An operator's decision that cannot be followed changes nothing, and its row has the reason."""
    refused = log.say(RetryRequested(operator="ann", reason="why not", step="settle"))
    assert refused.entry.error == "the saga is IDLE, not FAILED"
    assert refused.refused
    assert not log.say(AbortRequested(operator="ann", reason="wrong account")).refused
    assert log.status is Status.COMPENSATING


def test_a_recheck_leaves_the_start_alone_in_the_context(log: Log) -> None:
    """What is said again is added again, once; the same decision again changes nothing."""
    log.start()
    log.say(Held(amount="7"))
    start = log.context["order-asked"]
    decision = log.partition.record(RecheckRequested(operator="ann", reason="x"))
    log.fold(decision)
    assert log.context == {"order-asked": start}
    log.say(Held(amount="5"))
    log.fold(decision)
    assert log.context == {"order-asked": start, "held": {"amount": "5"}}
    assert log.tracked.snapshot is not None
    assert log.tracked.snapshot.context.count(b"held") == 1


def test_a_recheck_of_an_ended_saga_awaits_its_deadline_again(log: Log) -> None:
    """It may have been said to have ended before it was over."""
    log.start()
    log.say(HoldRefused())
    assert log.status is Status.ABORTED
    log.say(RecheckRequested(operator="ann", reason="x"))
    assert log.tracked.snapshot is not None
    assert (log.status, log.tracked.snapshot.deadline_pending) == (Status.COMPENSATING, True)


def test_a_word_about_an_owner_before_the_deadline_does_not_count(log: Log) -> None:
    """Whoever says it: it is recorded with its reason."""
    log.start()
    outcome = log.say(StepUnowned(step="hold", reason="x"), step="hold")
    assert outcome.refused
    log.deadline()
    assert log.status is Status.COMPENSATING
    log.say(StepUnowned(step="hold", reason="x"), step="hold")
    assert log.status is Status.FAILED


def test_a_refused_start_may_overtake_the_accepted_one() -> None:
    """There are two front doors; the refusal of the second request comes first and blocks nothing."""
    log = Log()
    assert log.say(StartRefused(idempotency_key="k", request_hash="h", reason="r")).parked is None
    assert log.start().entry.seq == 1


def test_records_in_the_wrong_place_are_dead_letters(log: Log) -> None:
    """A wrong partition, a wrong key, or no saga at all: copied, recorded, and nobody is held up."""
    good = log.partition.record(Held())
    wrong = [
        (log.tracked, good._replace(partition=(good.partition + 1) % 12), "wrong-partition"),
        (log.tracked, good._replace(key=b"other"), "wrong-key"),
        (log.tracked, good._replace(key=None), "wrong-key"),
        (None, good._replace(headers=[]), "no-saga"),
    ]
    for tracked, record, kind in wrong:
        outcome = fold_record(RULES, tracked, record)
        assert [letter.kind for letter in outcome.dead] == [kind]
        assert outcome.tracked is tracked
        assert outcome.parked is None


def test_a_refusal_at_the_first_step_ends_the_saga(log: Log) -> None:
    """Nothing was done, so nothing is to be taken back."""
    assert log.say(HoldRefused()).orders == ()
    assert log.status is Status.ABORTED


def test_a_start_without_a_hash_gets_the_one_of_its_payload() -> None:
    """The hash is of the request, whoever publishes it."""
    log = Log()
    request = OrderAsked(idempotency_key="k", account="A")
    log.say(request, request="")
    assert log.tracked.snapshot is not None
    assert len(log.tracked.snapshot.request_hash) == 64
    assert log.start().entry.error is None
