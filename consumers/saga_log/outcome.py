"""Outcome of folding one record: the saga after it, its audit row, and what to publish."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tradesaga.consumers.saga_log.chain import FORMAT, link, link_v1
from tradesaga.consumers.saga_log.checkpoint import Checkpoint, Parked, Tracked
from tradesaga.consumers.saga_log.reading import clean, event_time, started
from tradesaga.infra.kafka.codec import Record, dump_headers, dump_headers_v1
from tradesaga.sagas.facts import Fact
from tradesaga.sagas.machine import Order
from tradesaga.sagas.status import Status
from tradesaga.schemas.envelope import STEP, TYPE


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


class Outcome(NamedTuple):
    """Outcome of one record; `before` is the saga's status before it, `refused` marks a refused request."""

    record: Record
    tracked: Tracked | None
    entry: Entry
    before: Status | None = None
    fact: Fact | None = None
    orders: tuple[Order, ...] = ()
    parked: Parked | None = None
    released: tuple[Released, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    refused: bool = False


def enter(record: Record, headers: Mapping[str, bytes], form: int = FORMAT) -> Entry:
    """Make a record's audit row from its headers, which may be invalid; `headers` are those by name."""
    if form == FORMAT:
        return Entry(dump_headers(record.headers), *describe(headers))
    return Entry(dump_headers_v1(record.headers), *describe(headers), form=form)


def describe(headers: Mapping[str, bytes]) -> tuple[str | None, str | None, int | None, int | None]:
    """Return the descriptive columns of a row: type, step, event time, start of the attempt."""
    return _text(headers.get(TYPE)), _text(headers.get(STEP)), event_time(headers), started(headers)


def count(
    checkpoint: Checkpoint | None, record: Record, entry: Entry, *, added: str | None = None, error: str | None = None
) -> tuple[Checkpoint | None, Entry]:
    """Append the record to its saga's chain and complete its row; records before the start are in no chain."""
    if checkpoint is None:
        return None, Entry(*entry[:5], _link(b"", record, entry), None, added, error, entry.form)
    seq, head = checkpoint.seq + 1, _link(checkpoint.head, record, entry)
    # Made anew: `_replace` takes five times as long, and this runs for every record.
    after = Checkpoint(*checkpoint[:5], seq, head, checkpoint.created_ms, record.recorded_ms, *checkpoint[9:])
    return after, Entry(*entry[:5], head, seq, added, error, entry.form)


def _link(previous: bytes, record: Record, entry: Entry) -> bytes:
    return link(previous, record) if entry.form == FORMAT else link_v1(previous, record, entry.headers)


def status_of(tracked: Tracked) -> Status | None:
    """Return the saga's status, or None before its start."""
    return tracked.checkpoint.status if tracked.checkpoint is not None else None


def _text(header: bytes | None) -> str | None:
    return clean(header.decode("utf-8", "backslashreplace")) if header else None
