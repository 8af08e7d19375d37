"""The saga log's fold: records of every kind into one saga, without a database."""

import json

import pytest

from consumers.saga_log.checkpoint import Tracked
from consumers.saga_log.fold import fold_record
from consumers.saga_log.outcome import Outcome
from consumers.saga_log.rules import Rules
from infra.codec import Record, decode_name, dump_headers, load_headers
from infra.dead_letters import Fault, dead_letter
from sagas.machine import BarStep, CompensateStep
from sagas.status import Status
from schemas.envelope import ENCRYPTED, OVERTAKES, Header
from schemas.lifecycle import (
    AbortRequested,
    DeadlineElapsed,
    ParkReleased,
    RetryRequested,
    StartRefused,
    StepBarred,
    StepFailed,
)
from schemas.message import Event
from tests.sagas import Filled, Held, HoldRefused, OrderAsked, Partition, Placed, Settled, Unheld, Unplaced, small_saga

SAGA = small_saga()
RULES = Rules(SAGA)


class Log:
    """Folds records of one saga one after the other, as the saga log does."""

    def __init__(self) -> None:
        self.partition = Partition(SAGA)
        saga_id = self.partition.saga_id
        self.tracked = Tracked(saga_id, RULES.home(saga_id))

    def say(self, event: Event, **given: str | int) -> Outcome:
        """Fold an event."""
        return self.fold(self.partition.record(event, **given))

    def fold(self, record: Record) -> Outcome:
        """Fold a record."""
        outcome = fold_record(RULES, self.tracked, record)
        self.tracked = outcome.tracked or self.tracked
        return outcome

    def deadline(self, late: int = 0, *, overtakes: bool = True) -> Outcome:
        """Fold a deadline that was recorded `late` milliseconds after it was due."""
        assert self.tracked.checkpoint is not None
        record = self.partition.record(DeadlineElapsed(deadline="2026-11-23T00:00:00Z"))
        headers = [*record.headers, (OVERTAKES, b"1")] if overtakes else record.headers
        at = self.tracked.checkpoint.deadline_ms + late
        return self.fold(record._replace(recorded_ms=at, headers=headers))

    def start(self) -> Outcome:
        """Fold a start."""
        return self.fold(self.partition.start())

    @property
    def status(self) -> Status:
        """Give the saga's state."""
        assert self.tracked.checkpoint is not None
        return self.tracked.checkpoint.status

    @property
    def context(self) -> dict[str, object]:
        """Give the saga's context, read."""
        assert self.tracked.checkpoint is not None
        return json.loads(self.tracked.checkpoint.context)

    def release(self, offset: int, action: str) -> Outcome:
        """Fold the release of a parked record."""
        return self.say(
            ParkReleased.model_validate(
                {
                    "operator": "ann",
                    "reason": "seen to",
                    "topic": "small.events",
                    "partition": self.partition.number,
                    "offset": offset,
                    "action": action,
                }
            )
        )


@pytest.fixture
def log() -> Log:
    """Give a log in which the saga has started."""
    log = Log()
    log.start()
    return log


def test_a_saga_runs_to_its_end(log: Log) -> None:
    """Each success is counted, adds to the context under its event's name, and the last one completes the saga."""
    added = [log.say(event).entry.added for event in (Held(), Placed(), Filled(), Settled())]
    assert added == ["held", "placed", "filled", "settled"]
    assert log.status is Status.COMPLETED
    assert list(log.context) == ["order-asked", "held", "placed", "filled", "settled"]
    assert log.tracked.checkpoint is not None
    assert log.tracked.checkpoint.seq == 5
    assert not log.tracked.checkpoint.deadline_pending


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
    assert log.tracked.checkpoint is not None
    before = log.tracked.checkpoint
    log.tracked = log.tracked._replace(checkpoint=before._replace(deadline_pending=False))  # it has been sent
    early = log.deadline(-200)
    assert (early.orders, early.refused, early.entry.seq) == ((), True, 3)
    assert early.entry.error == "the deadline comes 200 ms later by the broker's clock; this one does not count"
    assert log.tracked.checkpoint is not None
    assert log.tracked.checkpoint.state == before.state
    assert log.tracked.checkpoint.deadline_pending
    assert log.deadline().orders == (BarStep(1),)
    assert not log.tracked.checkpoint.deadline_pending


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
    assert log.tracked.checkpoint is not None
    assert not log.tracked.checkpoint.deadline_pending


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


def unreadable(log: Log) -> dict[str, Record]:
    """Give records that nothing can be made of, by the slug that counts them."""
    good = log.partition.record(Held())
    known = dict(good.headers)

    def altered(**headers: bytes) -> Record:
        changed = {**known, **headers}
        return log.partition.raw(good.value, [(name, value) for name, value in changed.items() if value])

    return {
        "headers": altered(ce_id=b""),
        "specversion": altered(ce_specversion=b"9.9"),
        "unknown-type": altered(ce_type=b"small.never-heard-of.v1"),
        "version": altered(ce_type=b"small.held.v9"),
        "not-text": altered(ce_type=b"\xff\xfe"),
        "not-a-round": altered(ts_round=b"first"),
        "huge-round": altered(ts_round=b"9" * 30),
        "zero-round": altered(ts_round=b"0"),
        "not-json": log.partition.raw(b"{", list(good.headers)),
        "nan": log.partition.raw(b'{"amount":NaN}', list(good.headers)),
        "deep": log.partition.raw(b"[" * 5000 + b"]" * 5000, list(good.headers)),
        "not-utf8": log.partition.raw(b'{"amount":"\xff"}', list(good.headers)),
        "no-step": log.partition.record(StepFailed(step="never", attempts=1, reason="")),
        "no-operator": log.partition.raw(
            b"{}", [(n, b"small.abort-requested.v1" if n == "ce_type" else v) for n, v in good.headers]
        ),
    }


@pytest.mark.parametrize("case", list(unreadable(Log())))
def test_what_cannot_be_folded_waits_with_its_followers(case: str, log: Log) -> None:
    """It is parked and copied to the dead letters; what follows is parked behind it, and the state stays."""
    stuck = log.fold(unreadable(log)[case])
    assert stuck.parked is not None
    assert [letter.record for letter in stuck.dead] == [stuck.record]
    behind = log.say(Held())
    assert behind.parked is not None
    assert behind.entry.error == f"parked: waits behind offset {stuck.record.offset}"
    assert not behind.dead
    assert log.status is Status.IDLE
    assert behind.entry.seq == 3


@pytest.mark.parametrize("case", list(unreadable(Log())))
def test_a_deadline_counts_over_records_that_cannot_be_read(case: str, log: Log) -> None:
    """What can be read is folded first, in its order; the rest stays parked, and holds nothing up from then on."""
    stuck = log.fold(unreadable(log)[case])
    also, held = log.fold(unreadable(log)[case]), log.say(Held())
    placed = log.say(Placed())
    assert {each.parked is not None for each in (held, also, placed)} == {True}

    early = log.deadline(-200)
    assert (early.released, early.orders) == ((), ())
    assert len(log.tracked.parked) == 4

    over = log.deadline()
    assert [each.parked.record.offset for each in over.released] == [held.record.offset, placed.record.offset]
    assert over.entry.added == "held,placed"
    assert over.orders == (BarStep(2),)
    assert [letter.record.offset for letter in (*also.dead, *over.dead)] == [
        also.record.offset
    ]  # once, when it is read
    assert [each.record.offset for each in log.tracked.parked] == [stuck.record.offset, also.record.offset]
    assert log.status is Status.COMPENSATING

    assert log.say(StepBarred(step="fill")).orders == (CompensateStep(1, 1),)
    log.say(Unplaced())
    log.say(Unheld())
    assert log.status is Status.ABORTED
    assert log.fold(unreadable(log)["no-step"]).parked is not None

    discarded = log.release(also.record.offset, "discard")
    assert [each.action for each in discarded.released] == ["discard"]
    assert discarded.dead == ()
    assert log.release(log.tracked.parked[1].record.offset, "retry").dead
    assert [each.record.offset for each in log.tracked.parked][:1] == [stuck.record.offset]


def test_a_deadline_of_an_earlier_release_waits_as_it_did(log: Log) -> None:
    """Without its header it is parked behind what cannot be read: a replay comes to what was in the database then."""
    log.fold(unreadable(log)["not-json"])
    assert log.deadline(overtakes=False).parked is not None
    assert log.status is Status.IDLE
    over = log.deadline()
    assert len(over.released) == 1
    assert log.status is Status.COMPENSATING


def test_a_discarded_record_lets_the_others_go(log: Log) -> None:
    """Discarding the record in the way folds those behind it, in their order."""
    stuck = log.fold(unreadable(log)["not-json"])
    log.say(Held())
    log.say(StepFailed(step="place", attempts=3, reason="no"))
    released = log.release(stuck.record.offset, "discard")
    assert [each.action for each in released.released] == ["discard", "retry", "retry"]
    assert released.entry.added == "held"
    assert released.orders == (CompensateStep(0, 1),)
    assert log.tracked.parked == ()
    assert log.status is Status.COMPENSATING


def test_a_retry_of_what_still_cannot_be_folded_keeps_it(log: Log) -> None:
    """The release says why the record still waits, and it is copied to the dead letters once more."""
    stuck = log.fold(unreadable(log)["unknown-type"])
    log.say(Held())
    released = log.release(stuck.record.offset, "retry")
    assert released.released == ()
    assert released.entry.error is not None
    assert "cannot be folded" in released.entry.error
    assert len(log.tracked.parked) == 2
    assert len(released.dead) == 1


def test_releases_in_vain_are_refused(log: Log) -> None:
    """Nothing parked there, or a record that stands behind another: the release is recorded with the reason."""
    assert log.release(7, "retry").refused
    stuck, behind = log.fold(unreadable(log)["not-json"]), log.say(Held())
    assert log.release(behind.record.offset, "retry").refused
    assert len(log.tracked.parked) == 2
    discarded = log.release(behind.record.offset, "discard")
    assert [each.parked.record.offset for each in discarded.released] == [behind.record.offset]
    assert [each.record.offset for each in log.tracked.parked] == [stuck.record.offset]


def test_an_unreadable_release_blocks_nothing(log: Log) -> None:
    """A release that cannot be read is recorded and copied, never parked."""
    good = log.partition.record(StartRefused(idempotency_key="k", request_hash="h", reason="r"))
    headers = [(n, b"small.park-released.v1" if n == "ce_type" else v) for n, v in good.headers]
    outcome = log.fold(log.partition.raw(b"{}", headers))
    assert outcome.parked is None
    assert len(outcome.dead) == 1
    assert log.say(Held()).parked is None


def test_a_fact_before_the_start_waits_for_a_person() -> None:
    """Its saga is unknown: it is parked; the start itself need not wait, and a retry then folds the fact."""
    log = Log()
    early = log.say(Held())
    assert early.parked is not None
    assert early.entry.seq is None
    assert log.start().parked is None
    assert log.say(Placed()).parked is not None
    log.release(early.record.offset, "retry")
    assert list(log.context) == ["order-asked", "held", "placed"]


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


def test_a_saga_of_another_version_waits(log: Log) -> None:
    """What started under one version of the definition is not folded under another."""
    checkpoint = log.tracked.checkpoint
    assert checkpoint is not None
    for changed in (checkpoint._replace(version=2), checkpoint._replace(sealed=True)):
        outcome = fold_record(RULES, log.tracked._replace(checkpoint=changed), log.partition.record(Held()))
        assert outcome.parked is not None
        assert outcome.tracked is not None
        assert outcome.tracked.checkpoint is not None
        assert outcome.tracked.checkpoint.context == changed.context


def test_parked_headers_are_those_that_the_database_gives_back(log: Log) -> None:
    """Letting a record go comes to the same whether it was kept in memory or read back."""
    record = unreadable(log)["not-text"]
    parked = log.fold(record).parked
    assert parked is not None
    assert list(parked.record.headers) == load_headers(dump_headers(record.headers))


def test_a_value_that_is_encrypted_is_parked_as_that(log: Log) -> None:
    """It is not taken for a broken one, even if its bytes would read as JSON."""
    record = log.partition.record(Held())
    kept = [each for each in record.headers if each[0] != "content-type"]
    parked = log.fold(record._replace(headers=[*kept, ("content-type", ENCRYPTED + b"; v=1")]))
    assert parked.parked is not None
    assert (parked.parked.reason, parked.dead[0].kind) == (
        "the value is encrypted, which this release does not read",
        "encrypted",
    )


def test_a_copy_in_the_dead_letters_has_the_headers_to_the_byte(log: Log) -> None:
    """Repeated ones, bytes that are no UTF-8, none and empty; only a name that no client can send is escaped."""
    odd: list[Header] = [("x", b"1"), ("x", b"\xff"), ("y", b""), (decode_name(b"\xff"), b"z")]
    record = log.partition.record(Held())._replace(headers=odd, value=b"", tombstone=True)
    letter = dead_letter("small", "g", record, Fault("k", "why"), 0)
    assert letter.headers[:4] == [*odd[:3], ("\\xff", b"z")]
    assert ("ts_dlt_tombstone", b"true") in letter.headers
    assert load_headers(letter.header_text) == letter.headers


def test_a_refusal_at_the_first_step_ends_the_saga(log: Log) -> None:
    """Nothing was done, so nothing is to be taken back."""
    assert log.say(HoldRefused()).orders == ()
    assert log.status is Status.ABORTED


def test_a_start_without_a_hash_gets_the_one_of_its_payload() -> None:
    """The hash is of the request, whoever publishes it."""
    log = Log()
    request = OrderAsked(idempotency_key="k", account="A")
    log.say(request, request="")
    assert log.tracked.checkpoint is not None
    assert len(log.tracked.checkpoint.request_hash) == 64
    assert log.start().entry.error is None
