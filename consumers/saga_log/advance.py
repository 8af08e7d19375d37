"""One fact into one checkpoint; whose turn it is, is judged elsewhere."""

from typing import Final, NamedTuple

import orjson
from pydantic import ValidationError

from tradesaga.consumers.saga_log.checkpoint import Checkpoint
from tradesaga.consumers.saga_log.reading import CONTEXT_CEILING, Reading, UnfoldableError
from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import Folded, Order
from tradesaga.sagas.status import Status
from tradesaga.schemas import identity
from tradesaga.schemas.envelope import REQUEST, ContextTooLargeError, first_fact, splice
from tradesaga.schemas.identity import comparable, same_request
from tradesaga.schemas.invalid import describe_invalid

CLOCK_SLACK_MS: Final = 100
"""Milliseconds by which a deadline may come early: the database's clock has called it, and brokers have their own."""
_ENDED: Final = frozenset({Status.COMPLETED, Status.ABORTED, Status.FAILED})


class Advance(NamedTuple):
    """A checkpoint after a fact; its record is not counted in `seq` and `head` yet."""

    checkpoint: Checkpoint | None
    fact: Fact
    orders: tuple[Order, ...] = ()
    added: str | None = None
    error: str | None = None


def advance(checkpoint: Checkpoint | None, record: Record, reading: Reading) -> Advance:
    """Fold one fact, by the rules it was read with; raises `UnfoldableError`."""
    fact, rules = reading.fact, reading.rules
    if fact.meaning is Meaning.STARTED:
        return _start(checkpoint, record, reading)
    if checkpoint is None:
        if reading.type == rules.start_refused:
            # There are two front doors: the refusal may overtake the start that it lost against.
            return Advance(None, fact)
        raise UnfoldableError("unknown-saga", "the saga's start is not known here")
    if fact.meaning is Meaning.DEADLINE and is_early(checkpoint, record):
        return _early(checkpoint, record, fact)
    folded = rules.machine.fold(checkpoint.state, fact)
    if fact.meaning is Meaning.DEADLINE and reading.overtakes:
        folded = folded._replace(state=folded.state._replace(unblocked=True))
    context, added = checkpoint.context, None
    if fact.meaning is Meaning.RECHECK and not folded.refusal and fact.id not in checkpoint.state.decisions:
        context = first_fact(context)  # each success that is said again is added again
    if fact.meaning is Meaning.DONE and not checkpoint.state.done >> fact.step & 1:
        added = rules.saga.steps[fact.step].emits.NAME
        context = _spliced(context, added, record.value)
    return Advance(_after(checkpoint, folded, context), fact, folded.orders, added, folded.refusal or None)


def is_early(checkpoint: Checkpoint, record: Record) -> bool:
    """Return whether a deadline that this record states has not come yet; once one has counted, it has."""
    return not checkpoint.state.unblocked and record.recorded_ms < checkpoint.deadline_ms - CLOCK_SLACK_MS


def _start(checkpoint: Checkpoint | None, record: Record, reading: Reading) -> Advance:
    if checkpoint is not None:
        error = (
            None
            if _repeats(checkpoint, record, reading)
            else "another request has started this saga; this one does not count"
        )
        return Advance(checkpoint, reading.fact, error=error)
    if "\0" in reading.request_hash:
        raise UnfoldableError("headers", f"header {REQUEST} has a NUL character, for which PostgreSQL has no place")
    rules = reading.rules
    try:
        request = rules.saga.start.from_wire(record.value)
    except ValidationError as error:
        raise UnfoldableError("invalid-value", describe_invalid(error, "value")) from None
    folded = rules.machine.fold(rules.machine.begin(), reading.fact)
    begun = Checkpoint(
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


def _early(checkpoint: Checkpoint, record: Record, fact: Fact) -> Advance:
    """Record a deadline that has come before its time, whoever sent it, and have it come again."""
    early = checkpoint.deadline_ms - record.recorded_ms
    pending = checkpoint.status not in _ENDED
    error = f"the deadline comes {early} ms later by the broker's clock; this one does not count"
    recorded = fact._replace(meaning=Meaning.RECORDED)
    return Advance(checkpoint._replace(deadline_pending=pending), recorded, error=error)


def _repeats(checkpoint: Checkpoint, record: Record, reading: Reading) -> bool:
    """Tell whether a start is the saga's own again.

    No secret is needed: hashes of two keys, which do not compare, leave it to the requests themselves.
    """
    if reading.request_hash == checkpoint.request_hash:
        return True
    if comparable(checkpoint.request_hash, reading.request_hash):
        return False
    try:
        start = reading.rules.saga.start
        request = start.from_wire(record.value)
        stored = orjson.loads(checkpoint.context)[start.NAME]
    except (ValidationError, orjson.JSONDecodeError, KeyError):
        return False
    return same_request(orjson.dumps(stored), request)


def _after(checkpoint: Checkpoint, folded: Folded, context: bytes) -> Checkpoint:
    pending = _is_deadline_pending(checkpoint, folded)
    return Checkpoint(
        checkpoint.version, folded.state, folded.status, context, *checkpoint[4:10], pending, checkpoint.sealed
    )


def _is_deadline_pending(checkpoint: Checkpoint, folded: Folded) -> bool:
    """Return whether a deadline is still to be published.

    Only one that overtakes parked records settles that: without it, one that somebody else has sent, or an earlier
    release, would leave the saga to whoever makes it wait for a record that cannot be read.
    """
    if folded.state.unblocked:
        return checkpoint.deadline_pending and checkpoint.state.unblocked  # for parked records that it lets go
    if folded.status in _ENDED:
        return False
    return checkpoint.deadline_pending or checkpoint.status in _ENDED


def _spliced(context: bytes, name: str, value: bytes) -> bytes:
    """Add a fact to the context; what is no JSON would spoil all of it, so it is refused first."""
    try:
        orjson.loads(value)
        return splice(context, name, value, CONTEXT_CEILING)
    except orjson.JSONDecodeError as error:
        raise UnfoldableError("invalid-value", f"the value is not JSON: {error}") from None
    except ContextTooLargeError as error:
        raise UnfoldableError("context-too-large", str(error)) from None
