"""Records that the saga log cannot fold: parked with what follows, let go, and passed over by a deadline."""

import pytest

from tests.sagas import Filled, Held, HoldRefused, Placed, Settled, Unheld, Unplaced
from tests.unit.consumers.saga_log.rig import RULES, Log
from tradesaga.consumers.saga_log import advance, fold
from tradesaga.consumers.saga_log.fold import fold_record
from tradesaga.infra.kafka.codec import Record, decode_name, dump_headers, load_headers
from tradesaga.infra.kafka.dead_letters import RecordFault, dead_letter
from tradesaga.sagas.machine import BarStep, CompensateStep
from tradesaga.sagas.status import Status
from tradesaga.schemas.envelope import ENCRYPTED, Header
from tradesaga.schemas.messages.lifecycle import (
    CompensationFailed,
    ParkReleased,
    RecheckRequested,
    RetryRequested,
    StartRefused,
    StepBarred,
    StepFailed,
)


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
    assert not log.tracked.parked
    assert log.status is Status.COMPENSATING


def test_a_second_unreadable_record_is_copied_once(log: Log) -> None:
    """It was copied when it was parked; the release of the one before it only finds it in the way."""
    stuck = log.fold(unreadable(log)["unknown-type"])
    also, held = log.fold(unreadable(log)["unknown-type"]), log.say(Held())
    released = log.release(stuck.record.offset, "discard")
    assert [letter.record.offset for letter in (*also.dead, *released.dead)] == [also.record.offset]
    assert [each.record.offset for each in log.tracked.parked] == [also.record.offset, held.record.offset]
    assert len(log.release(also.record.offset, "retry").dead) == 1


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


def test_a_start_whose_hash_cannot_be_stored_waits_and_the_real_one_counts() -> None:
    """PostgreSQL has no NUL in text: one such start, written, would stop the saga log for everybody."""
    log = Log()
    start = log.partition.start()
    forged = [(name, b"a\0b" if name == "ts_request" else value) for name, value in start.headers]
    assert log.fold(start._replace(headers=forged)).parked is not None
    assert log.tracked.snapshot is None
    log.start()
    assert log.status is Status.IDLE


def test_a_forged_hash_of_a_known_saga_is_recorded(log: Log) -> None:
    """It is stored nowhere but among the headers, so that it holds nothing up."""
    start = log.partition.start()
    again = log.fold(start._replace(headers=[*start.headers, ("ts_request", b"a\0b")]))
    assert (again.parked, again.refused) == (None, True)


def test_what_a_release_names_can_be_stored(log: Log) -> None:
    """PostgreSQL has no NUL in text, and JSON does."""
    nowhere = ParkReleased(operator="ann", reason="r", topic="\0", partition=0, offset=7, action="retry")
    error = log.say(nowhere).entry.error
    assert error is not None
    assert "\0" not in error


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


def test_a_saga_of_another_version_waits(log: Log) -> None:
    """What started under one version of the definition is not folded under another."""
    checkpoint = log.tracked.snapshot
    assert checkpoint is not None
    for changed in (checkpoint._replace(version=2), checkpoint._replace(sealed=True)):
        outcome = fold_record(RULES, log.tracked._replace(snapshot=changed), log.partition.record(Held()))
        assert outcome.parked is not None
        assert outcome.tracked is not None
        assert outcome.tracked.snapshot is not None
        assert outcome.tracked.snapshot.context == changed.context


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
    letter = dead_letter("small", "g", record, RecordFault("k", "why"), 0)
    assert letter.headers[:4] == [*odd[:3], ("\\xff", b"z")]
    assert ("ts_dlt_tombstone", b"true") in letter.headers
    assert load_headers(letter.header_text) == letter.headers


def test_what_waits_is_let_go_in_bounded_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release folds so many and says which comes next; the deadline folds the first ones, and the others stay."""
    monkeypatch.setattr(fold, "RELEASE_LIMIT", 2)
    log = Log()
    log.start()
    stuck = log.fold(unreadable(log)["no-step"])
    behind = [log.fold(log.partition.record(Held())).record.offset for _ in range(5)]
    let_go = log.release(stuck.record.offset, "discard")
    assert [each.parked.record.offset for each in let_go.released] == [stuck.record.offset, *behind[:2]]
    assert let_go.entry.error == f"2 were let go at once; offset {behind[2]} waits for another release"
    assert not let_go.refused
    over = log.deadline()
    assert [each.parked.record.offset for each in over.released] == behind[2:4]
    assert [each.record.offset for each in log.tracked.parked] == behind[4:]
    assert pending(log)
    assert [each.parked.record.offset for each in log.release(behind[4], "retry").released] == behind[4:]


def pending(log: Log) -> bool:
    """Return whether the saga log still has a deadline to publish."""
    assert log.tracked.snapshot is not None
    return log.tracked.snapshot.deadline_pending


def test_deadlines_let_go_all_that_can_be_read(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    """Each takes the next ones, past those that cannot be read, until none is left; the saga ends as it should."""
    monkeypatch.setattr(fold, "RELEASE_LIMIT", 3)
    log.say(Held())
    log.say(Placed())
    stuck = [log.fold(unreadable(log)["unknown-type"]).record.offset for _ in range(4)]
    for event in (Held(), Held(), Filled(), Settled()):
        log.say(event)
    counts: list[int] = []
    while pending(log):
        counts.append(len(log.deadline().released))
        assert log.say(Held()).parked is None  # what comes meanwhile waits for nothing
    assert counts == [0, 2, 2]
    assert [each.record.offset for each in log.tracked.parked] == stuck
    assert log.status is Status.COMPLETED


def test_a_parked_record_is_tried_by_one_deadline(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many deadlines anybody writes: those that cannot be folded are copied to the dead letters once."""
    log.fold(unreadable(log)["unknown-type"])
    large = log.partition.record(Held(amount="1" * 100))
    assert log.fold(large).parked is not None
    monkeypatch.setattr(advance, "CONTEXT_CEILING", 100)
    assert [letter.kind for letter in log.deadline().dead] == ["context-too-large"]
    again = log.deadline()
    assert (again.dead, again.released, pending(log)) == ((), (), False)
    assert len(log.tracked.parked) == 2


def test_what_waits_of_an_ended_saga_is_let_go(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    """It may say that the saga has not ended: a step that was taken for refused has been done."""
    monkeypatch.setattr(fold, "RELEASE_LIMIT", 2)
    log.fold(unreadable(log)["not-json"])
    log.say(HoldRefused())
    log.say(Held())
    log.deadline()
    assert (log.status, pending(log)) == (Status.ABORTED, True)
    log.say(HoldRefused())
    assert pending(log)
    log.deadline()
    assert (log.status, pending(log)) == (Status.COMPENSATING, False)


def test_a_deadline_that_overtakes_nothing_leaves_the_saga_its_own(log: Log) -> None:
    """Forged within what clocks differ by, or of an earlier release, it counts; over poison the saga's own one does."""
    log.say(Held())
    assert log.deadline(-68, overtakes=False).orders == (BarStep(1),)
    assert (log.status, pending(log)) == (Status.COMPENSATING, True)
    log.fold(unreadable(log)["unknown-type"])
    assert log.say(RecheckRequested(operator="ann", reason="x")).parked is not None
    assert log.say(StepBarred(step="place")).parked is not None
    assert len(log.deadline().released) == 2
    assert not pending(log)
    for answer in (Held(), StepBarred(step="place"), Unheld()):
        assert log.say(answer).parked is None
    assert log.status is Status.ABORTED
    log.deadline()
    log.deadline(overtakes=False)
    assert not pending(log)


def test_a_saga_that_goes_on_awaits_its_deadline_again(log: Log) -> None:
    """It had failed, so that no deadline was published; poison does not hold it once a person has it go on."""
    log.say(Held())
    log.say(StepFailed(step="place", attempts=3, reason="no"))
    log.say(CompensationFailed(step="hold", attempts=3, reason="no"), step="hold")
    assert (log.status, pending(log)) == (Status.FAILED, False)
    log.say(RetryRequested(operator="ann", reason="x", step="hold"))
    assert (log.status, pending(log)) == (Status.COMPENSATING, True)


def test_a_release_of_a_parked_deadline_leaves_nothing_behind(log: Log) -> None:
    """It was parked while its saga's version was not registered; another is published for what it would overtake."""
    checkpoint = log.tracked.snapshot
    assert checkpoint is not None
    log.tracked = log.tracked._replace(snapshot=checkpoint._replace(version=2))
    first = log.say(Held())
    for folded in (log.deadline(), log.fold(unreadable(log)["unknown-type"]), log.say(Placed())):
        assert folded.parked is not None
    assert log.tracked.snapshot is not None
    log.tracked = log.tracked._replace(
        snapshot=log.tracked.snapshot._replace(version=checkpoint.version, deadline_pending=False)
    )
    assert len(log.release(first.record.offset, "retry").released) == 2
    assert pending(log)
    assert len(log.deadline().released) == 1
    assert not pending(log)
