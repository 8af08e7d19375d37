"""The encoding that a record's hash goes over: read back it is the record, so that no two records have the same one."""

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesaga.consumers.saga_log.chain import (
    FORMAT,
    StoredBytes,
    encode,
    format_of,
    hash_row,
    link,
    link_as,
    link_v1,
    read_row,
    stored_skip,
)
from tradesaga.infra.kafka.codec import (
    Record,
    decode_name,
    dump_headers,
    dump_headers_v1,
    encode_name,
    load_headers,
    pack,
    unpack,
)
from tradesaga.schemas.envelope import CONTEXT, SAGA_ID, TYPE, Header

DOMAIN = b"tradesaga leaf 2\n"
KEY = b"3f2b8c1e-7a54-5d09-9f11-b0c4d1a2e3f4"
PLAIN: list[Header] = [(TYPE, b"trade.funds-reserved.v1"), (SAGA_ID, KEY), (CONTEXT, b'{"trade-requested":{}}')]
names = st.one_of(st.sampled_from([TYPE, SAGA_ID, CONTEXT, "a", "b", ""]), st.binary(max_size=5).map(decode_name))
values = st.one_of(st.none(), st.sampled_from([b"", b"\xff", rb"\xff", b"null"]), st.binary(max_size=40))


def _record(tombstone: bool, value: bytes, *rest: object) -> Record:
    topic, partition, offset, recorded_ms, key, headers, skipped = rest
    value = b"" if tombstone else value
    return Record(topic, partition, offset, recorded_ms, key, value, headers, tombstone, skipped)  # pyright: ignore[reportArgumentType]


records = st.builds(
    _record,
    st.booleans(),
    st.binary(max_size=40),
    st.sampled_from(["trade.events", "t"]),
    st.integers(-1, 2**31 - 1),
    st.integers(-1, 2**63 - 1),
    st.integers(-1, 2**63 - 1),
    values,
    st.lists(st.tuples(names, values), max_size=8),
    st.one_of(st.just(0), st.integers(0, 2**62)),
)
previous = st.sampled_from([b"", bytes(32), b"\2" + bytes(32)])


class Decoded(NamedTuple):
    """All that an encoding holds; in the place of a context's value stands its hash."""

    previous: bytes | None
    topic: bytes | None
    partition: int
    offset: int
    recorded_ms: int
    skipped: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[bytes, bytes | None]]


def decode(data: bytes) -> Decoded:
    """Read an encoding as chain.py describes it, by a reader that shares nothing with its writer."""
    assert data.startswith(DOMAIN)
    place, at = struct.unpack_from(">iqqq", data, len(DOMAIN)), len(DOMAIN) + 28
    (count,), at = struct.unpack_from(">I", data, at), at + 4
    lengths, at = struct.unpack_from(f">{count}I", data, at), at + 4 * count
    keys: list[bytes] = []
    for length in lengths:
        keys.append(data[at : at + length])
        at += length
    sizes, at = struct.unpack_from(f">{count + 4}i", data, at), at + 4 * (count + 4)
    fields: list[bytes | None] = []
    for size in sizes:
        fields.append(data[at : at + size] if size >= 0 else None)
        at += max(size, 0)
    assert at == len(data)
    before, topic, key, value, *texts = fields
    return Decoded(before, topic, *place, key, value, list(zip(keys, texts, strict=True)))


def _hashed(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
    return [
        (encode_name(name), sha256(value).digest() if name == CONTEXT and value is not None else value)
        for name, value in headers
    ]


def held(before: bytes, record: Record) -> Decoded:
    """Say what the encoding of a record holds."""
    value = None if record.tombstone else record.value
    return Decoded(
        before, record.topic.encode(), *record[1:4], record.skipped, record.key, value, _hashed(record.headers)
    )


@settings(max_examples=500, deadline=None)
@given(previous, records)
def test_an_encoding_read_back_is_the_record(before: bytes, record: Record) -> None:
    """What can be read back in one way only is the encoding of nothing else: it is injective."""
    assert decode(encode(before, record)) == held(before, record)
    assert link(before, record) == b"\2" + sha256(encode(before, record)).digest()


@settings(max_examples=500, deadline=None)
@given(records, records)
def test_different_records_have_different_hashes(one: Record, other: Record) -> None:
    """And equal ones the same."""
    same = held(b"", one) == held(b"", other)
    assert (link(b"", one) == link(b"", other)) == same


def told(headers: list[Header], key: bytes | None = KEY, value: bytes = b"{}", *, tombstone: bool = False) -> Record:
    """Give a record."""
    return Record("trade.events", 3, 41, 1_790_000_000_123, key, value, headers, tombstone)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (told([("x", b"\xff")]), told([("x", rb"\xff")])),
        (told([("x", b"1"), ("x", b"2")]), told([("x", b"2")])),
        (told([("x", b"1"), ("y", b"2")]), told([("y", b"2"), ("x", b"1")])),
        (told([("x", b"")]), told([("x", None)])),  # pyright: ignore[reportArgumentType] - as Kafka has it
        (told([]), told([], None)),
        (told([], b""), told([], None)),
        (told([]), told([], b"another key")),
        (told([]), told([])._replace(skipped=1)),
        (told([], value=b""), told([], value=b"", tombstone=True)),
        (told([(decode_name(b"\xff"), b"1")]), told([(rb"\xff".decode(), b"1")])),
        (told([("ab", b"c")]), told([("a", b"bc")])),
    ],
)
def test_what_the_older_format_took_for_the_same_is_told_apart(one: Record, other: Record) -> None:
    """Bytes and their escapes, repeated headers, their order, none and empty, and the key."""
    assert link(b"", one) != link(b"", other)


def test_the_older_format_did_take_them_for_the_same() -> None:
    """Which is why there is another; its own hashes stay what they were."""
    one, other = told([("x", b"\xff")]), told([("x", rb"\xff")], b"another key")
    assert link_as(1, b"", one) == link_as(1, b"", other)
    found = link_v1(b"\7" * 32, told(PLAIN), dump_headers_v1(PLAIN)).hex()
    assert found == "731f2ae6cc1c8f60d52f602696bd7e9e6253293bacefb736e0c0221426202e33"


def test_a_hash_is_what_it_is_documented_to_be() -> None:
    """A fixed record has a fixed hash, whatever becomes of the code."""
    assert (
        link(b"\2" + b"\7" * 32, told(PLAIN)).hex()
        == "02df13ef874a163737267d346ed48eb127d0295f6cfff89f3b98b954a6982a7b75"
    )


def test_a_context_stands_as_its_hash() -> None:
    """One who has only the hash of a context, the bytes of which are shredded, comes to the same encoding."""
    record = told(PLAIN)
    shredded = [(name, sha256(value).digest() if name == CONTEXT else value) for name, value in PLAIN]
    assert [value for _, value in decode(encode(b"", record)).headers] == [value for _, value in shredded]


@settings(max_examples=300, deadline=None)
@given(records)
def test_a_row_gives_its_record_back(record: Record) -> None:
    """Headers, key and value as they are stored hold the very bytes; other text for the same headers is no such row."""
    value = None if record.tombstone else record.value
    stored = StoredBytes(record.key, dump_headers(record.headers), value, link(b"", record), stored_skip(record))
    found = read_row(record[:4], stored)
    assert found == record
    assert hash_row(b"", found, stored) == stored.hash
    assert format_of(stored.hash) == FORMAT
    for other in {None, 0, -1, record.skipped + 1} - {stored.skipped}:
        changed = stored._replace(skipped=other)
        assert hash_row(b"", read_row(record[:4], changed), changed) != stored.hash
    spaced = stored._replace(headers=stored.headers.replace(",", ", ").replace("{", "{ ").replace("[", "[ "))
    if spaced != stored:
        assert hash_row(b"", read_row(record[:4], spaced), spaced) != stored.hash


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(names, values), max_size=8), st.binary(max_size=60))
def test_headers_are_kept_to_the_byte(headers: list[Header], value: bytes) -> None:
    """In order, with all that are repeated, with none and with empty values, whatever bytes they hold."""
    assert load_headers(dump_headers(headers)) == headers
    assert unpack(pack(headers, value)) == (headers, value)


@pytest.mark.parametrize(
    "text", ["", "1", "null", "[1]", '[["a"]]', '{"a":1}', '[[{"base64":"?"},"b"]]', '[["a",{}]]', "["]
)
def test_text_that_holds_no_headers_is_refused(text: str) -> None:
    """By the one error that its readers expect."""
    with pytest.raises(ValueError):  # noqa: PT011 - orjson's own is one of several
        load_headers(text)
