"""State of a saga in the saga log: its snapshot, its parked records, and the cache of sagas."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple, overload
from uuid import UUID

from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.machine import State
from tradesaga.sagas.status import Status

RecordPosition = tuple[str, int, int]
"""Topic, partition, offset."""


class Parked(NamedTuple):
    """A parked record: it cannot be folded, or follows one of its saga that cannot."""

    record: Record
    reason: str

    @property
    def place(self) -> RecordPosition:
        """Return topic, partition and offset."""
        return self.record.topic, self.record.partition, self.record.offset


@dataclass(slots=True)
class _Entry:
    """A record, the version that added it, and the one that removed it (0: it is there)."""

    parked: Parked
    came: int
    went: int = 0


class _History:
    """All records that were ever in a series of values; `version` is that of the newest."""

    def __init__(self, parked: Iterable[Parked] = ()) -> None:
        self.version = 0
        self.entries = [_Entry(each, 0) for each in parked]
        self.places = {entry.parked.place: number for number, entry in enumerate(self.entries)}

    def add(self, parked: Parked) -> None:
        """Add a record, which makes the next version."""
        self.version += 1
        self.places[parked.place] = len(self.entries)
        self.entries.append(_Entry(parked, self.version))

    def remove(self, place: RecordPosition, first: int) -> int:
        """Remove a record, which makes the next version; returns the first remaining entry from `first` on."""
        self.version += 1
        self.entries[self.places[place]].went = self.version
        while first < len(self.entries) and self.entries[first].went:
            first += 1
        return first


@dataclass(frozen=True, slots=True, eq=False)
class ParkedRecords(Sequence[Parked]):
    """Parked records, oldest first, and their size in bytes. `parked_records` makes them of any others.

    `added` and `removed` return another value and leave this one as it is. Values share one history, of which each sees
    its own version: the newest goes on in it, an older one begins a copy. A copy is also made once most of the history
    is gone, so that a change takes constant time on average.
    """

    history: _History
    version: int
    first: int
    length: int
    size: int

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Parked]:
        place, left = self.first, self.length
        while left:
            entry = self.history.entries[place]
            place += 1
            if self._sees(entry):
                left -= 1
                yield entry.parked

    @overload
    def __getitem__(self, index: int) -> Parked: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Parked, ...]: ...
    def __getitem__(self, index: int | slice) -> Parked | tuple[Parked, ...]:
        if index == 0 and self.length:
            return self.history.entries[self.first].parked
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParkedRecords) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(each.place for each in self))

    def find(self, place: RecordPosition) -> Parked | None:
        """Return the record at a place, or None."""
        number = self.history.places.get(place)
        entry = self.history.entries[number] if number is not None else None
        return entry.parked if entry is not None and self._sees(entry) else None

    def since(self, offset: int) -> Iterator[Parked]:
        """Iterate over the records from this offset on; the records of one saga lie on one partition."""
        entries = self.history.entries
        begin = bisect_left(entries, offset, key=lambda entry: entry.parked.record.offset)
        return (entry.parked for entry in islice(entries, begin, None) if self._sees(entry))

    def added(self, parked: Parked) -> "ParkedRecords":
        """Return these records and one more at the end."""
        history, first = self._continued()
        first = first if self.length else len(history.entries)
        history.add(parked)
        return ParkedRecords(history, history.version, first, self.length + 1, self.size + parked.record.size)

    def removed(self, place: RecordPosition) -> "ParkedRecords":
        """Return these records without the one at a place. Raises `KeyError` if it is not there."""
        parked = self.find(place)
        if parked is None:
            raise KeyError(place)
        history, first = self._continued()
        first = history.remove(place, first)
        return ParkedRecords(history, history.version, first, self.length - 1, self.size - parked.record.size)

    def _sees(self, entry: _Entry) -> bool:
        return entry.came <= self.version and (not entry.went or entry.went > self.version)

    def _continued(self) -> tuple[_History, int]:
        """Return the history for the next value, a copy unless this is the newest, and its first entry."""
        history = self.history
        if self.length and self.version == history.version and len(history.entries) <= 2 * self.length + 8:
            return history, self.first
        return _History(self), 0


def parked_records(parked: Iterable[Parked]) -> ParkedRecords:
    """Make a `ParkedRecords` of records, oldest first."""
    history = _History(parked)
    size = sum(entry.parked.record.size for entry in history.entries)
    return ParkedRecords(history, 0, 0, len(history.entries), size)


NONE: Final = parked_records(())


class SagaSnapshot(NamedTuple):
    """A saga whose start is known; times are the broker's, in milliseconds since 1970.

    `seq` counts the saga's records from its start on, `head` is the hash of the last. `deadline_pending` is false once
    the deadline has been published or no longer matters; a deadline that releases only some of the parked records is
    followed by another. `sealed` marks progress that this definition cannot read.
    """

    version: int
    state: State
    status: Status
    context: bytes
    request_hash: str
    seq: int
    head: bytes
    created_ms: int
    updated_ms: int
    deadline_ms: int
    deadline_pending: bool
    sealed: bool = False


class Tracked(NamedTuple):
    """A saga as its lane's owner knows it; without a snapshot, its start has not been folded.

    `home` is the partition of its key; `parked` has its parked records, oldest first.
    """

    saga_id: UUID
    home: int
    snapshot: SagaSnapshot | None = None
    parked: ParkedRecords = NONE


CACHED: Final = 20_000
"""Sagas in the cache: about 3 kB each."""

CACHED_BYTES: Final = 64 * 1024 * 1024
"""Bytes of contexts and parked records in the cache."""


class SagaCache:
    """Cache of sagas, limited by number and bytes; the least recently written are dropped first."""

    def __init__(self, sagas: int = CACHED, size: int = CACHED_BYTES) -> None:
        self._sagas = sagas
        self._limit = size
        self._known: OrderedDict[UUID, tuple[Tracked, int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        """Return the number of sagas."""
        return len(self._known)

    def get(self, saga_id: UUID) -> Tracked | None:
        """Return a cached saga, or None."""
        found = self._known.get(saga_id)
        return found[0] if found is not None else None

    def keep(self, tracked: Tracked) -> None:
        """Cache a saga, replacing its earlier state; one larger than the whole cache is not kept."""
        self.forget(tracked.saga_id)
        size = _size(tracked)
        if size > self._limit:
            return
        self._known[tracked.saga_id] = (tracked, size)
        self.bytes += size
        while len(self._known) > self._sagas or self.bytes > self._limit:
            _, (_, dropped) = self._known.popitem(last=False)
            self.bytes -= dropped

    def forget(self, saga_id: UUID) -> None:
        """Drop a saga."""
        found = self._known.pop(saga_id, None)
        if found is not None:
            self.bytes -= found[1]

    def clear(self) -> None:
        """Drop all sagas."""
        self._known.clear()
        self.bytes = 0


def _size(tracked: Tracked) -> int:
    context = len(tracked.snapshot.context) if tracked.snapshot is not None else 0
    return context + tracked.parked.size
