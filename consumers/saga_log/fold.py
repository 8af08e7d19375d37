"""Fold one record into its saga. Pure and without I/O, so that a replay gives the same result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from pydantic import ValidationError

from tradesaga.consumers.saga_log.advance import Advance, advance, is_early
from tradesaga.consumers.saga_log.chain import FORMAT, link, link_v1
from tradesaga.consumers.saga_log.reading import Reading, Rules, UnfoldableError, clean, event_time, read, started
from tradesaga.consumers.saga_log.tracked_saga import Parked, ParkedRecords, SagaSnapshot, Tracked
from tradesaga.infra.kafka.codec import Record, dump_headers, dump_headers_v1, load_headers
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import StepCommand
from tradesaga.sagas.status import Status
from tradesaga.schemas.envelope import STEP, TYPE
from tradesaga.schemas.invalid import describe_invalid
from tradesaga.schemas.messages.lifecycle import ParkReleased


class Entry(NamedTuple):
    """A record's row in the audit log. `added` names the members that the record adds to the context.

    `form` is the format of its hash.
    """

    headers: str
    event_type: str | None
    step: str | None
    time: int | None
    started: int | None
    hash: bytes = b""
    seq: int | None = None
    added: str | None = None
    error: str | None = None
    form: int = FORMAT


@dataclass(frozen=True, slots=True)
class Released:
    """A parked record that was released, and how: `retry` or `discard`."""

    parked: Parked
    action: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record to be copied to the dead letters; `kind` is a slug, `reason` a sentence."""

    record: Record
    kind: str
    reason: str


class FoldResult(NamedTuple):
    """The result of folding one record; `before` is the saga's status before it, `refused` marks a refused request."""

    record: Record
    tracked: Tracked | None
    entry: Entry
    before: Status | None = None
    fact: Fact | None = None
    orders: tuple[StepCommand, ...] = ()
    parked: Parked | None = None
    released: tuple[Released, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    refused: bool = False


def make_entry(record: Record, headers: Mapping[str, bytes], form: int = FORMAT) -> Entry:
    """Make a record's audit row from its headers, which may be invalid; `headers` are those by name."""
    if form == FORMAT:
        return Entry(dump_headers(record.headers), *describe(headers))
    return Entry(dump_headers_v1(record.headers), *describe(headers), form=form)


def describe(headers: Mapping[str, bytes]) -> tuple[str | None, str | None, int | None, int | None]:
    """Return the descriptive columns of a row: type, step, event time, start of the attempt."""
    return _text(headers.get(TYPE)), _text(headers.get(STEP)), event_time(headers), started(headers)


def append_to_chain(
    snapshot: SagaSnapshot | None, record: Record, entry: Entry, *, added: str | None = None, error: str | None = None
) -> tuple[SagaSnapshot | None, Entry]:
    """Append the record to its saga's chain and complete its row; records before the start are in no chain."""
    head = _link(snapshot.head if snapshot is not None else b"", record, entry)
    if snapshot is not None:
        snapshot = snapshot._replace(seq=snapshot.seq + 1, head=head, updated_ms=record.recorded_ms)
    seq = snapshot.seq if snapshot is not None else None
    return snapshot, entry._replace(hash=head, seq=seq, added=added, error=error)


def _link(previous: bytes, record: Record, entry: Entry) -> bytes:
    return link(previous, record) if entry.form == FORMAT else link_v1(previous, record, entry.headers)


def status_of(tracked: Tracked) -> Status | None:
    """Return the saga's status, or None before its start."""
    return tracked.snapshot.status if tracked.snapshot is not None else None


def _text(header: bytes | None) -> str | None:
    return clean(header.decode("utf-8", "backslashreplace")) if header else None


WAITS: Final = "waits behind"
"""Start of the reason of a record that is parked only because it follows a parked one."""

RELEASE_LIMIT: Final = 5000
"""Records that one release, or one deadline, folds: about a quarter of a second, during which other sagas wait."""


@dataclass
class Release:
    """A saga's parked records during a release; `error` is why the next one stays, or why the release is refused."""

    snapshot: SagaSnapshot | None
    queue: ParkedRecords
    gone: list[Released] = field(default_factory=list[Released])
    orders: list[StepCommand] = field(default_factory=list[StepCommand])
    added: list[str] = field(default_factory=list[str])
    dead: list[DeadLetter] = field(default_factory=list[DeadLetter])
    error: str = ""
    refused: bool = False
    untried_from: int = 0

    def take(self, advanced: Advance) -> None:
        """Go on from a folded fact."""
        self.snapshot = advanced.snapshot
        self.orders += advanced.orders
        self.added += [advanced.added] if advanced.added else []


def release(rules: Rules, tracked: Tracked, value: bytes) -> Release:
    """Apply a `ParkReleased`; raises `UnfoldableError` when it cannot be read."""
    try:
        said = ParkReleased.from_wire(value)
    except ValidationError as error:
        raise UnfoldableError("invalid-value", describe_invalid(error, "value")) from None
    releasing = Release(tracked.snapshot, tracked.parked)
    parked = tracked.parked.find((said.topic, said.partition, said.offset))
    releasing.error = _refusal(said, parked, tracked)
    releasing.refused = bool(releasing.error)
    if parked is None or releasing.refused:
        return releasing
    first = tracked.parked[0] is parked
    if said.action == "discard":
        releasing.queue = releasing.queue.removed(parked.place)
        releasing.gone.append(Released(parked, "discard"))
    if _unblocked(tracked):
        if said.action == "retry":
            _try(rules, releasing, parked, named=parked)
    elif first:
        _drain(rules, releasing, parked)
        if releasing.queue and releasing.snapshot is not None and releasing.snapshot.state.unblocked:
            # A deadline was among them that would have overtaken those that are left.
            releasing.snapshot = releasing.snapshot._replace(deadline_pending=True)
    return releasing


def release_readable(rules: Rules, tracked: Tracked) -> Release:
    """Fold, in order, the next `RELEASE_LIMIT` parked records, as far as they can be read; the others stay.

    Each is tried once, however many deadlines come: the next one starts at `untried_from`.
    """
    releasing = Release(tracked.snapshot, tracked.parked)
    releasing.untried_from = tracked.snapshot.state.untried_from if tracked.snapshot is not None else 0
    for parked in islice(tracked.parked.since(releasing.untried_from), RELEASE_LIMIT):
        _try(rules, releasing, parked)
        releasing.untried_from = parked.record.offset + 1
    releasing.error = ""
    return releasing


def _unblocked(tracked: Tracked) -> bool:
    """Return whether the deadline has elapsed: records that are still parked then are released one by one."""
    return tracked.snapshot is not None and tracked.snapshot.state.unblocked


def _refusal(said: ParkReleased, parked: Parked | None, tracked: Tracked) -> str:
    if parked is None:
        topic = said.topic.replace("\0", "\\0")  # PostgreSQL has no NUL in text
        return f"nothing of this saga is parked at {topic}[{said.partition}] offset {said.offset}"
    first = tracked.parked[0]
    if said.action == "retry" and first is not parked and not _unblocked(tracked):
        return f"offset {first.record.offset} stands before it; release that one first"
    return ""


def _drain(rules: Rules, releasing: Release, named: Parked) -> None:
    """Fold the parked records in order until one cannot be folded, at most `RELEASE_LIMIT`; `named` was released."""
    for parked in islice(releasing.queue, RELEASE_LIMIT):
        if not _try(rules, releasing, parked, named=named):
            return
    if releasing.queue:
        following = releasing.queue[0].record.offset
        releasing.error = f"{RELEASE_LIMIT} were let go at once; offset {following} waits for another release"


def _try(rules: Rules, releasing: Release, parked: Parked, *, named: Parked | None = None) -> bool:
    """Fold one of the parked records; returns whether it could be folded.

    One that could not be read when it was parked was copied to the dead letters then. It is copied again only if an
    operator has `named` it.
    """
    record = parked.record
    try:
        reading = read(rules, releasing.snapshot, record, dict(record.headers))
        advanced = advance(releasing.snapshot, record, reading)
    except UnfoldableError as error:
        releasing.error = f"offset {record.offset} cannot be folded: {error}"
        if parked is named or parked.reason.startswith(WAITS):
            releasing.dead.append(DeadLetter(record, error.kind, str(error)))
        return False
    releasing.take(advanced)
    releasing.queue = releasing.queue.removed(parked.place)
    releasing.gone.append(Released(parked, "retry"))
    return True


def fold_record(rules: Rules, tracked: Tracked | None, record: Record, form: int = FORMAT) -> FoldResult:
    """Fold a record into its saga; `tracked` is None where it names none. Never raises, whatever the record holds.

    `form` is the format of the hash that its row gets: older records keep the one that they were sealed with.
    """
    headers = dict(record.headers)
    entry = make_entry(record, headers, form)
    if tracked is None:
        return _dead_letter(record, None, entry, DeadLetter(record, "no-saga", "header ce_correlationid is no UUID"))
    if record.key != str(tracked.saga_id).encode():
        return _dead_letter(record, tracked, entry, DeadLetter(record, "wrong-key", "the key is not the saga's id"))
    if record.partition != tracked.home:
        reason = f"the saga belongs to partition {tracked.home} of {record.topic}, not to {record.partition}"
        return _dead_letter(record, tracked, entry, DeadLetter(record, "wrong-partition", reason))
    try:
        reading = read(rules, tracked.snapshot, record, headers)
        if reading.type == rules.released:
            return _release(rules, tracked, record, entry, reading)
        if tracked.parked and _overtakes(tracked, reading):
            return _overtake(rules, tracked, record, entry, reading)
        if not _is_blocked(tracked, reading):
            return _advance(tracked, record, entry, reading)
        return _park(tracked, record, entry, f"{WAITS} offset {tracked.parked[0].record.offset}")
    except UnfoldableError as error:
        return _set_aside(rules, tracked, record, entry, error)


def park_record(rules: Rules, tracked: Tracked, record: Record, reason: str, form: int = FORMAT) -> FoldResult:
    """Park a record as a saga log did that lacked its saga's version; only the audit row shows that it did."""
    entry = make_entry(record, dict(record.headers), form)
    return _set_aside(rules, tracked, record, entry, UnfoldableError("version", reason))


def _is_blocked(tracked: Tracked, reading: Reading) -> bool:
    """Return whether the record is parked because an earlier one of its saga is."""
    if not tracked.parked or _begins(tracked, reading):
        return False
    return tracked.snapshot is None or not tracked.snapshot.state.unblocked


def _overtakes(tracked: Tracked, reading: Reading) -> bool:
    """Return whether this is a deadline that is folded although records of its saga are parked.

    Deadlines of older releases were parked, and still are, so that a replay gives the same result.
    """
    return reading.fact.meaning is Meaning.DEADLINE and reading.overtakes and tracked.snapshot is not None


def _overtake(rules: Rules, tracked: Tracked, record: Record, entry: Entry, reading: Reading) -> FoldResult:
    """Fold a deadline ahead of parked records: those that can be read are folded first, the others stay parked.

    An early deadline releases nothing. Steps that are still outstanding are barred, since their answers may be among
    the records that cannot be read. If more are parked than one deadline releases, another is published.
    """
    if tracked.snapshot is not None and is_early(tracked.snapshot, record):
        return _advance(tracked, record, entry, reading)
    releasing = release_readable(rules, tracked)
    advanced = advance(releasing.snapshot, record, reading)
    releasing.take(advanced)
    releasing.snapshot = _with_tried(advanced.snapshot, releasing) if advanced.snapshot is not None else None
    releasing.error = advanced.error or ""
    return _released(tracked, record, entry, releasing, advanced.fact)


def _with_tried(snapshot: SagaSnapshot, releasing: Release) -> SagaSnapshot:
    """Return the snapshot with `untried_from`; the deadline stays pending while parked records have not been tried.

    That also holds for a saga that has ended: a parked record may change that.
    """
    left = next(releasing.queue.since(releasing.untried_from), None) is not None
    state = snapshot.state._replace(untried_from=releasing.untried_from)
    return snapshot._replace(state=state, deadline_pending=left)


def _begins(tracked: Tracked, reading: Reading) -> bool:
    """Return whether this is the start of a saga whose other records came too early: it does not wait for those."""
    return tracked.snapshot is None and reading.fact.meaning is Meaning.STARTED


def _advance(tracked: Tracked, record: Record, entry: Entry, reading: Reading) -> FoldResult:
    advanced = advance(tracked.snapshot, record, reading)
    snapshot, written = append_to_chain(advanced.snapshot, record, entry, added=advanced.added, error=advanced.error)
    after = Tracked(tracked.saga_id, tracked.home, snapshot, tracked.parked)
    refused = advanced.error is not None
    return FoldResult(record, after, written, status_of(tracked), advanced.fact, advanced.orders, refused=refused)


def _release(rules: Rules, tracked: Tracked, record: Record, entry: Entry, reading: Reading) -> FoldResult:
    return _released(tracked, record, entry, release(rules, tracked, record.value), reading.fact)


def _released(tracked: Tracked, record: Record, entry: Entry, releasing: Release, fact: Fact) -> FoldResult:
    """Make the result of a record that has released parked ones."""
    added, error = ",".join(releasing.added) or None, releasing.error or None
    snapshot, written = append_to_chain(releasing.snapshot, record, entry, added=added, error=error)
    return FoldResult(
        record,
        tracked._replace(snapshot=snapshot, parked=releasing.queue),
        written,
        before=status_of(tracked),
        fact=fact,
        orders=tuple(releasing.orders),
        released=tuple(releasing.gone),
        dead=tuple(releasing.dead),
        refused=releasing.refused,
    )


def _dead_letter(record: Record, tracked: Tracked | None, entry: Entry, letter: DeadLetter) -> FoldResult:
    """Make the outcome of a record of no saga, or in the wrong place: a dead letter that blocks no other record."""
    _, written = append_to_chain(None, record, entry, error=f"dead letter: {letter.reason}")
    return FoldResult(record, tracked, written, dead=(letter,))


def _set_aside(rules: Rules, tracked: Tracked, record: Record, entry: Entry, error: UnfoldableError) -> FoldResult:
    """Park a record that cannot be folded; a release that cannot be folded is only recorded."""
    letter = DeadLetter(record, error.kind, str(error))
    if entry.event_type != rules.released:
        return _park(tracked, record, entry, letter.reason)._replace(dead=(letter,))
    snapshot, written = append_to_chain(tracked.snapshot, record, entry, error=f"ignored: {error}")
    after = tracked._replace(snapshot=snapshot)
    return FoldResult(record, after, written, status_of(tracked), dead=(letter,), refused=True)


def _park(tracked: Tracked, record: Record, entry: Entry, reason: str) -> FoldResult:
    snapshot, written = append_to_chain(tracked.snapshot, record, entry, error=f"parked: {reason}")
    # As it will be read back, so that a release gives the same result from memory and from its row.
    parked = Parked(record._replace(headers=load_headers(entry.headers), skipped=0), reason)
    after = tracked._replace(snapshot=snapshot, parked=tracked.parked.added(parked))
    return FoldResult(record, after, written, status_of(tracked), parked=parked)
