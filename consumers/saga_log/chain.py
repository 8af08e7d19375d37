r"""The hash chain of the audit log: each record's hash covers the previous one of its saga.

Format 2, of every record that is written today:

    hash = 0x02 || SHA-256( "tradesaga leaf 2\n"
        || partition (4 bytes) || offset (8) || recorded milliseconds (8) || skipped offsets (8)
        || number of headers (4) || length of each header's name (4 each) || the names in UTF-8
        || length of each of the following (4 each), -1 for one that there is not
        || previous hash, empty for the first || topic || key || value || each header's value )

Integers are big-endian; partition, offset, time, skipped offsets and the lengths behind the names are signed. Skipped
are the offsets directly before the record's that Kafka gives to no consumer: control records, and those of aborted
transactions. Headers stand in the record's order, with all that are repeated. In the place of the value of a
`ts_context` header stands its SHA-256, so that the hash can be computed by one who has only the context's. Two
different records have two different encodings.

Format 1, of older records, is kept for them alone. It leaves out the key, and takes headers that differ for the same:

    hash = SHA-256( previous hash || topic || 0x00 || partition (4) || offset (8) || recorded milliseconds (8)
        || length of the headers (4) || headers as a JSON object || value )

A format 1 hash has 32 bytes and one of format 2 has 33. The hash with its first byte is the leaf of the log's tree, so
that a root that was signed tells them apart. Nothing in them comes from the clock of whoever writes, so that a rebuild
from the topic gives the same hashes.
"""

import hashlib
import struct
from typing import Any, Final, NamedTuple

from tradesaga.infra.kafka.codec import Record, dump_headers, dump_headers_v1, encode_name, load_headers
from tradesaga.schemas.envelope import CONTEXT

FORMAT: Final = 2
"""The format of records that are written today."""
_FORMAT_1_BYTES: Final = 32
_PLACE_1: Final = struct.Struct(">IQQI")
_PLACE_2: Final = struct.Struct(">iqqq")
_DOMAIN: Final = b"tradesaga leaf 2\n"
_FIXED: Final = 4
"""Fields before the headers' values: previous hash, topic, key, value."""
_KNOWN: Final = 256
_LONGEST_KNOWN: Final = 2048


class StoredBytes(NamedTuple):
    """The columns of an audit row that its hash depends on: key, headers as text, value, hash, skipped offsets.

    `skipped` is None where the record before is at the offset before, and in rows of format 1.
    """

    key: bytes | None
    headers: str
    value: bytes | None
    hash: bytes
    skipped: int | None = None


class _Names(NamedTuple):
    """Header names of a record: their encoding, the fields that are contexts, and the struct for the lengths."""

    encoded: bytes
    contexts: tuple[int, ...]
    lengths: struct.Struct


_known: dict[tuple[str, ...], _Names] = {}


def format_of(record_hash: bytes) -> int:
    """Return the format of a hash."""
    return 1 if len(record_hash) == _FORMAT_1_BYTES else 2


def link(previous: bytes, record: Record) -> bytes:
    """Return the hash of `record` after `previous`, in format 2."""
    return b"\2" + hashlib.sha256(encode(previous, record)).digest()


def encode(previous: bytes, record: Record) -> bytes:
    """Return the bytes that the format 2 hash of `record` after `previous` covers; called for each record."""
    texts, values = zip(*record.headers, strict=True) if record.headers else ((), ())
    names = _known.get(texts) or _encode(texts)
    value = None if record.tombstone else record.value
    fields: list[Any] = [previous, record.topic.encode(), record.key, value, *values]
    for at in names.contexts:
        if (context := fields[at]) is not None:
            fields[at] = hashlib.sha256(context).digest()
    try:
        lengths = names.lengths.pack(*map(len, fields))
    except TypeError:  # there is no key, no value, or a header without one
        lengths = names.lengths.pack(*[-1 if each is None else len(each) for each in fields])
        fields = [each for each in fields if each is not None]
    place = _PLACE_2.pack(record.partition, record.offset, record.recorded_ms, record.skipped)
    return b"".join((_DOMAIN, place, names.encoded, lengths, *fields))


def link_v1(previous: bytes, record: Record, headers: str) -> bytes:
    """Return the hash of `record` after `previous`, in format 1; `headers` is what `dump_headers_v1` makes of them."""
    written = headers.encode()
    place = _PLACE_1.pack(record.partition, record.offset, max(record.recorded_ms, 0), len(written))
    return hashlib.sha256(b"%s%s\0%s%s%s" % (previous, record.topic.encode(), place, written, record.value)).digest()


def link_as(form: int, previous: bytes, record: Record) -> bytes:
    """Return the hash of `record` after `previous` in a format."""
    return link(previous, record) if form == FORMAT else link_v1(previous, record, dump_headers_v1(record.headers))


def read_row(place: tuple[str, int, int, int], row: StoredBytes) -> Record:
    """Return the record of a row of the audit log; `place` is topic, partition, offset and recorded milliseconds.

    Rows of format 1 have no key. Headers that cannot be read become none: `hash_row` detects that they were altered.
    """
    try:
        headers = load_headers(row.headers)
    except ValueError:
        headers = []
    covered = format_of(row.hash) == FORMAT
    skipped = row.skipped or 0 if covered else 0
    return Record(*place, row.key, row.value or b"", headers, row.value is None and covered, skipped)


def hash_row(previous: bytes, record: Record, row: StoredBytes) -> bytes:
    """Return the hash that an audit row must have after `previous`; empty if no record can have such a row."""
    if format_of(row.hash) != FORMAT:
        return link_v1(previous, record, row.headers) if row.skipped is None else b""
    fits = dump_headers(record.headers) == row.headers and stored_skip(record) == row.skipped
    return link(previous, record) if fits else b""


def stored_skip(record: Record, form: int = FORMAT) -> int | None:
    """Return the `skipped` column of a row: None if no offset was skipped, and in format 1, which does not cover it."""
    return record.skipped if form == FORMAT and record.skipped > 0 else None


def _encode(texts: tuple[str, ...]) -> _Names:
    """Encode header names; short encodings are cached, since most records have the same names."""
    encoded = [encode_name(text) for text in texts]
    lengths = struct.pack(f">{len(encoded) + 1}I", len(encoded), *map(len, encoded))
    names = _Names(
        lengths + b"".join(encoded),
        tuple(_FIXED + at for at, text in enumerate(texts) if text == CONTEXT),
        struct.Struct(f">{_FIXED + len(encoded)}i"),
    )
    if len(names.encoded) <= _LONGEST_KNOWN:
        if len(_known) >= _KNOWN:
            _known.clear()
        _known[texts] = names
    return names
