"""One real saga's rows, as PostgreSQL's binary COPY gives them, made into a stamp that prints any number of others.

Every id of the saga and of its records is a new one in each print, wherever it stands: in keys, headers, answers and
contexts. Lanes, partitions, offsets, outbox numbers and times are each print's own, and the chain of hashes is made
anew by the product's own `link`. Everything else is the real saga's, byte for byte.
"""

import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import UUID

from tradesaga.consumers.saga_log.chain import link
from tradesaga.infra.kafka.codec import Record, load_headers
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.topics import PARTITIONS

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
TABLES: Final = {"saga": "updated_at", "step_execution": "step", "saga_event": '"offset"', "outbox": "seq"}
"""The tables that a saga leaves rows in, and what puts its rows there in order."""
TIMES: Final = {"recorded_at", "created_at", "updated_at", "deadline", "deadline_due", "due"}
_OWN: Final = {
    ("saga", "lane"): "log_lane",
    ("saga", "head"): "head",
    ("step_execution", "lane"): "step_lane",
    ("saga_event", "partition"): "partition",
    ("saga_event", "offset"): "offset",
    ("saga_event", "hash"): "hash",
    ("outbox", "lane"): "step_lane",
    ("outbox", "seq"): "seq",
}
"""The columns that are each print's own."""
_NUMBERED: Final = {"offset", "hash", "seq"}
"""Those that differ from row to row."""
_UUID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LENGTH: Final = struct.Struct(">i")
_INT: Final = struct.Struct(">i")
_LONG: Final = struct.Struct(">q")
_EPOCH: Final = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970: where PostgreSQL's times begin."""


class Place(NamedTuple):
    """Where the prints of one partition go: the lanes of participant and saga log, and the next numbers in both."""

    step_lane: int
    log_lane: int
    next_offset: int
    next_seq: int


Parts = list[Any]
"""Bytes that stay, and names of slots."""


@dataclass
class Imprint:
    """A stamp. `topic` is what the printed records are said to come from; `names` gives each table's columns."""

    saga: UUID
    topic: str
    names: Mapping[str, Sequence[str]]
    rows: Mapping[str, Sequence[Sequence[bytes | None]]]
    ids: list[bytes] = field(init=False)
    _tables: dict[str, Parts] = field(init=False)
    _chain: list[tuple[Parts, Parts, int]] = field(init=False)
    _times: set[int] = field(init=False)

    def __post_init__(self) -> None:
        own = str(self.saga).encode()
        found = {match for rows in self.rows.values() for row in rows for value in row for match in _ids(value)}
        self.ids = [own, *sorted(found - {own})]
        self._slots = _slots(self.ids)
        self._pattern = re.compile(b"|".join(re.escape(each) for each in sorted(self._slots, key=len, reverse=True)))
        self._chain, self._times = [], set()
        self._tables = {table: self._compile(table) for table in TABLES}

    @property
    def records(self) -> int:
        """Count the records of the saga on its topic."""
        return len(self.rows["saga_event"])

    @property
    def outbox_rows(self) -> int:
        """Count what it put into the outbox."""
        return len(self.rows["outbox"])

    def print(
        self, sagas: Sequence[bytes], places: dict[int, Place], shift_ms: Sequence[int], tables: Sequence[str]
    ) -> dict[str, bytes]:
        """Print one saga for each id, `shift_ms` later than the real one, into some tables; moves the places on."""
        out: dict[str, list[bytes]] = {table: [HEADER] for table in tables}
        for saga, shift in zip(sagas, shift_ms, strict=True):
            values = self._values(saga, places, shift)
            for table in tables:
                filled = [part if type(part) is bytes else values[part] for part in self._tables[table]]
                out[table].append(b"".join(filled))
        return {table: b"".join([*rows, TRAILER]) for table, rows in out.items()}

    def _values(self, saga: bytes, places: dict[int, Place], shift: int) -> dict[Any, bytes]:
        """Give what goes into each slot of one print."""
        fresh = os.urandom(16 * len(self.ids))
        ids = [saga, *(_version4(fresh[start : start + 16]) for start in range(16, len(fresh), 16))]
        values: dict[Any, bytes] = {}
        for number, each in enumerate(ids):
            text = _spelled(each)
            values["id", number, 16], values["id", number, 36], values["id", number, 8] = each, text, text[:8]
        partition = partition_of(values["id", 0, 36], PARTITIONS)
        place = places[partition]
        places[partition] = place._replace(
            next_offset=place.next_offset + self.records, next_seq=place.next_seq + self.outbox_rows
        )
        values["partition"] = _INT.pack(partition)
        values["step_lane"], values["log_lane"] = _INT.pack(place.step_lane), _INT.pack(place.log_lane)
        for number in range(self.records):
            values["offset", number] = _LONG.pack(place.next_offset + number)
        for number in range(self.outbox_rows):
            values["seq", number] = _LONG.pack(place.next_seq + number)
        for at in self._times:
            values["time", at] = _LONG.pack(at + 1000 * shift)
        self._link(values, partition, place.next_offset, shift)
        return values

    def _link(self, values: dict[Any, bytes], partition: int, offset: int, shift: int) -> None:
        head, key = b"", values["id", 0, 36]
        for number, (headers, value, recorded) in enumerate(self._chain):
            text, payload = (
                b"".join([p if type(p) is bytes else values[p] for p in parts]) for parts in (headers, value)
            )
            recorded_ms = (recorded + _EPOCH) // 1000 + shift
            record = Record(
                self.topic, partition, offset + number, recorded_ms, key, payload, load_headers(text.decode())
            )
            head = values["hash", number] = link(head, record)
        values["head"] = head

    def _compile(self, table: str) -> Parts:
        parts: Parts = []
        for number, row in enumerate(self.rows[table]):
            fields = dict(zip(self.names[table], row, strict=True))
            parts.append(struct.pack(">h", len(row)))
            for name, value in fields.items():
                parts += self._field(table, name, value, number)
            if table == "saga_event":
                recorded = _LONG.unpack(fields["recorded_at"] or b"")[0]
                self._chain.append(
                    (self._split(fields["headers"] or b""), self._split(fields["value"] or b""), recorded)
                )
        return _merged(parts)

    def _field(self, table: str, name: str, value: bytes | None, number: int) -> Parts:
        """Give one field with its length; its slot is the same in all prints."""
        if value is None:
            return [_LENGTH.pack(-1)]
        if name in TIMES:
            at = _LONG.unpack(value)[0]
            self._times.add(at)
            return [_LENGTH.pack(8), ("time", at)]
        if (slot := _OWN.get((table, name))) is not None:
            return [_LENGTH.pack(len(value)), (slot, number) if slot in _NUMBERED else slot]
        if (table, name) == ("saga_event", "topic"):
            return [_LENGTH.pack(len(self.topic)), self.topic.encode()]
        return [_LENGTH.pack(len(value)), *self._split(value)]

    def _split(self, value: bytes) -> Parts:
        """Cut a value where an id stands in it."""
        parts: Parts = []
        at = 0
        for match in self._pattern.finditer(value):
            parts += [value[at : match.start()], self._slots[match[0]]]
            at = match.end()
        return _merged([*parts, value[at:]])


def _ids(value: bytes | None) -> list[bytes]:
    return _UUID.findall(value) if value else []


def _slots(ids: Sequence[bytes]) -> dict[bytes, Any]:
    """Give the spellings of each id: in text, in binary and, of the saga's own, its first eight characters."""
    slots: dict[bytes, Any] = {ids[0][:8]: ("id", 0, 8)}
    for number, text in enumerate(ids):
        slots[text], slots[UUID(text.decode()).bytes] = ("id", number, 36), ("id", number, 16)
    return slots


def _merged(parts: Parts) -> Parts:
    """Join neighbours that stay."""
    merged: Parts = []
    for part in parts:
        if type(part) is bytes and merged and type(merged[-1]) is bytes:
            merged[-1] += part
        elif part != b"":
            merged.append(part)
    return merged


def _version4(raw: bytes) -> bytes:
    return raw[:6] + bytes((raw[6] & 0x0F | 0x40,)) + raw[7:8] + bytes((raw[8] & 0x3F | 0x80,)) + raw[9:]


def _spelled(raw: bytes) -> bytes:
    text = raw.hex().encode()
    return b"-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def read_rows(copied: bytes) -> list[list[bytes | None]]:
    """Read what a binary COPY has written."""
    at = len(HEADER)
    rows: list[list[bytes | None]] = []
    while (fields := struct.unpack_from(">h", copied, at)[0]) >= 0:
        at += 2
        row: list[bytes | None] = []
        for _ in range(fields):
            length = _LENGTH.unpack_from(copied, at)[0]
            at += 4
            row.append(copied[at : at + length] if length >= 0 else None)
            at += max(0, length)
        rows.append(row)
    return rows
