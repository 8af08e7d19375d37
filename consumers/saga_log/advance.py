"""Fold one fact into a saga's snapshot. Whether the fact may be folded now is decided in `fold`."""

from typing import Final, NamedTuple

import orjson
from pydantic import ValidationError

from tradesaga.consumers.saga_log.reading import CONTEXT_CEILING, Reading, UnfoldableError
from tradesaga.consumers.saga_log.tracked_saga import SagaSnapshot
from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import Folded, StepCommand
from tradesaga.sagas.status import Status
from tradesaga.schemas import identity
from tradesaga.schemas.envelope import REQUEST, ContextTooLargeError, first_fact, splice
from tradesaga.schemas.identity import comparable, same_request
from tradesaga.schemas.invalid import describe_invalid

CLOCK_SLACK_MS: Final = 100
"""Milliseconds by which a deadline may be early: it was published by the database's clock, not the broker's."""
_ENDED: Final = frozenset({Status.COMPLETED, Status.ABORTED, Status.FAILED})


class Advance(NamedTuple):
    """A snapshot after a fact, without the record in `seq` and `head`; `error` is why the fact had no effect."""

    snapshot: SagaSnapshot | None
    fact: Fact
    orders: tuple[StepCommand, ...] = ()
    added: str | None = None
    error: str | None = None


def advance(snapshot: SagaSnapshot | None, record: Record, reading: Reading) -> Advance:
    """Fold one fact with the rules of its reading; raises `UnfoldableError`."""
    fact, rules = reading.fact, reading.rules
    if fact.meaning is Meaning.STARTED:
        return _start(snapshot, record, reading)
    if snapshot is None:
        if reading.type == rules.start_refused:
            # Starts come in by two ways: a refusal may arrive before the start that it lost against.
            return Advance(None, fact)
        raise UnfoldableError("unknown-saga", "the saga's start is not known here")
    if fact.meaning is Meaning.DEADLINE and is_early(snapshot, record):
        return _early(snapshot, record, fact)
    folded = rules.machine.fold(snapshot.state, fact)
    if fact.meaning is Meaning.DEADLINE and reading.overtakes:
        folded = folded._replace(state=folded.state._replace(unblocked=True))
    context, added = snapshot.context, None
    if fact.meaning is Meaning.RECHECK and not folded.refusal and fact.id not in snapshot.state.decisions:
        context = first_fact(context)  # each success that is published again is added again
    if fact.meaning is Meaning.DONE and not snapshot.state.done >> fact.step & 1:
        added = rules.saga.steps[fact.step].emits.NAME
        context = _spliced(context, added, record.value)
    return Advance(_after(snapshot, folded, context), fact, folded.orders, added, folded.refusal or None)


def is_early(snapshot: SagaSnapshot, record: Record) -> bool:
    """Return whether this deadline record is before the deadline, and none has been folded before."""
    return not snapshot.state.unblocked and record.recorded_ms < snapshot.deadline_ms - CLOCK_SLACK_MS


def _start(snapshot: SagaSnapshot | None, record: Record, reading: Reading) -> Advance:
    if snapshot is not None:
        error = (
            None
            if _repeats(snapshot, record, reading)
            else "another request has started this saga; this one does not count"
        )
        return Advance(snapshot, reading.fact, error=error)
    if "\0" in reading.request_hash:
        raise UnfoldableError("headers", f"header {REQUEST} has a NUL character, for which PostgreSQL has no place")
    rules = reading.rules
    try:
        request = rules.saga.start.from_wire(record.value)
    except ValidationError as error:
        raise UnfoldableError("invalid-value", describe_invalid(error, "value")) from None
    folded = rules.machine.fold(rules.machine.begin(), reading.fact)
    begun = SagaSnapshot(
        version=rules.saga.version,
        state=folded.state,
        status=folded.status,
        context=_spliced(b"", rules.saga.start.NAME, record.value),
        request_hash=reading.request_hash or identity.request_hash(request),
        seq=0,
        head=b"",
        created_ms=record.recorded_ms,
        updated_ms=record.recorded_ms,
        deadline_ms=record.recorded_ms + rules.deadline_ms,
        deadline_pending=True,
    )
    return Advance(begun, reading.fact, folded.orders, rules.saga.start.NAME)


def _early(snapshot: SagaSnapshot, record: Record, fact: Fact) -> Advance:
    """Record a deadline that is early without folding it, and have it published again."""
    early = snapshot.deadline_ms - record.recorded_ms
    pending = snapshot.status not in _ENDED
    error = f"the deadline comes {early} ms later by the broker's clock; this one does not count"
    recorded = fact._replace(meaning=Meaning.RECORDED)
    return Advance(snapshot._replace(deadline_pending=pending), recorded, error=error)


def _repeats(snapshot: SagaSnapshot, record: Record, reading: Reading) -> bool:
    """Return whether a start repeats the saga's own.

    No secret is needed: where the hashes have different keys, the requests themselves are compared.
    """
    if reading.request_hash == snapshot.request_hash:
        return True
    if comparable(snapshot.request_hash, reading.request_hash):
        return False
    try:
        start = reading.rules.saga.start
        request = start.from_wire(record.value)
        stored = orjson.loads(snapshot.context)[start.NAME]
    except (ValidationError, orjson.JSONDecodeError, KeyError):
        return False
    return same_request(orjson.dumps(stored), request)


def _after(snapshot: SagaSnapshot, folded: Folded, context: bytes) -> SagaSnapshot:
    pending = _is_deadline_pending(snapshot, folded)
    return snapshot._replace(state=folded.state, status=folded.status, context=context, deadline_pending=pending)


def _is_deadline_pending(snapshot: SagaSnapshot, folded: Folded) -> bool:
    """Return whether a deadline is still to be published.

    Only one that overtakes parked records ends that. A deadline sent by somebody else, or by an earlier release, does
    not: otherwise anybody could keep the saga waiting with a record that cannot be read.
    """
    if folded.state.unblocked:
        return snapshot.deadline_pending and snapshot.state.unblocked  # for the parked records that it releases
    if folded.status in _ENDED:
        return False
    return snapshot.deadline_pending or snapshot.status in _ENDED


def _spliced(context: bytes, name: str, value: bytes) -> bytes:
    """Add a fact to the context; a value that is not JSON would make the whole context unreadable, and is refused."""
    try:
        orjson.loads(value)
        return splice(context, name, value, CONTEXT_CEILING)
    except orjson.JSONDecodeError as error:
        raise UnfoldableError("invalid-value", f"the value is not JSON: {error}") from None
    except ContextTooLargeError as error:
        raise UnfoldableError("context-too-large", str(error)) from None
