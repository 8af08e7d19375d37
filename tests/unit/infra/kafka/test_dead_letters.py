"""Dead letters: the copy is the record, byte for byte, as far as it fits through the broker once more."""

from uuid import UUID, uuid4

import pytest

from tradesaga.infra.kafka.codec import Outgoing, Record
from tradesaga.infra.kafka.dead_letters import SIZE_LIMIT, UNREADABLE, RecordFault, dead_letter
from tradesaga.schemas.envelope import Header

BROKER_LIMIT = 1024 * 1024


def copy(value: bytes = b"v", headers: list[Header] | None = None, key: bytes | None = b"k") -> Outgoing:
    """Bury a record."""
    record = Record("t.events", 3, 17, 1_790_000_000_123, key, value, headers or [])
    return dead_letter("t", "t-log", record, RecordFault("poison", "it is bad", "fold", attempts=2), 0)


def test_a_copy_keeps_everything_and_says_why() -> None:
    """Key, value and headers stay; where it stood, who met it and what is wrong are text headers."""
    ce_id = uuid4()
    headers: list[Header] = [("ce_id", str(ce_id).encode()), ("ce_type", b"t.held.v1"), ("mine", b"x")]
    letter = copy(b"\x00\xff", headers)
    assert (letter.topic, letter.key, letter.value) == ("t.dead-letters", "k", b"\x00\xff")
    assert (letter.id, letter.type) == (ce_id, "t.held.v1")
    assert letter.headers[:3] == headers
    assert dict(letter.headers[3:]) == {
        "ts_dlt_topic": b"t.events",
        "ts_dlt_partition": b"3",
        "ts_dlt_offset": b"17",
        "ts_dlt_timestamp": b"1790000000123",
        "ts_dlt_group": b"t-log",
        "ts_dlt_attempts": b"2",
        "ts_dlt_error_type": b"poison",
        "ts_dlt_error_message": b"it is bad",
        "ts_dlt_failed_at": b"1970-01-01T00:00:00.000000000Z",
        "ts_dlt_handler": b"fold",
    }


@pytest.mark.parametrize(
    ("value", "headers", "key"),
    [
        (b"v" * BROKER_LIMIT, [], b"k"),
        (b"v", [("big", b"h" * BROKER_LIMIT)], b"k"),
        (b"v" * (BROKER_LIMIT // 2), [], b"k" * (BROKER_LIMIT // 2)),
        (b"v" * (SIZE_LIMIT - 1), [("x", b"y" * 1000)], b"k"),
    ],
)
def test_a_copy_always_fits(value: bytes, headers: list[Header], key: bytes) -> None:
    """Whatever the broker took once, its copy passes the broker too."""
    letter = copy(value, headers, key)
    size = len(letter.key) + len(letter.value) + sum(len(name) + len(text) + 8 for name, text in letter.headers)
    assert size < BROKER_LIMIT - 10_000
    if not letter.value:
        assert dict(letter.headers)["ts_dlt_value_bytes"] == str(len(value)).encode()


def test_nothing_in_a_record_can_spoil_its_row() -> None:
    """No key, NUL and broken UTF-8 in key, type and id: the database's text columns take what is left."""
    letter = copy(headers=[("ce_type", b"\x00\xff"), ("ce_id", b"\xff")], key=b"\x00\xff")
    assert "\0" not in letter.key + letter.type
    assert isinstance(letter.id, UUID)
    assert copy(key=None).key == ""
    assert copy().type == UNREADABLE
