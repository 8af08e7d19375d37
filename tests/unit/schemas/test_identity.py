"""Golden vectors: what any client in any language must compute alike."""

import hashlib
import uuid
from decimal import Decimal

import pytest

from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.identity import NAMESPACE, request_hash, saga_id
from tradesaga.schemas.messages.trade import OrderType, Side, TradeRequested
from tradesaga.schemas.topics import PARTITIONS

IDS = [
    (("trade", "acc-1", "key-1"), "48559343-d7fb-5e5f-af0f-544f93dbeb37"),
    (("trade", "acc-1", "key-2"), "3ad12fdc-7a75-5016-aefa-905af9bcf05b"),
    (("trade", "k\u00f6ln", 'quo"te'), "152c5b5a-2c22-5de2-8952-5d57603f8580"),
    (("shop", "acc-1", "key-1"), "4cd9a7c7-56f3-5668-858f-78c8a0320a8c"),
]


@pytest.mark.parametrize(("parts", "expected"), IDS)
def test_saga_ids_are_as_published(parts: tuple[str, str, str], expected: str) -> None:
    """UUIDv5 over compact JSON: changing this would make every repeated start a new trade."""
    assert str(saga_id(*parts)) == expected


def test_a_saga_id_can_be_computed_with_a_standard_library_alone() -> None:
    """As the contract says it: the namespace, and the JSON array without spaces, in UTF-8."""
    text = '["trade","acc-1","key-1"]'

    by_hand = hashlib.sha1(NAMESPACE.bytes + text.encode(), usedforsecurity=False).digest()[:16]

    assert saga_id("trade", "acc-1", "key-1") == uuid.UUID(bytes=by_hand, version=5)


def test_the_request_hash_is_of_canonical_json() -> None:
    """Sorted keys, no spaces, absent options left out, amounts in their one spelling."""
    start = TradeRequested(
        idempotency_key="key-1", account="acc-1", symbol="EUR/USD", side=Side.BUY, quantity=Decimal("10.50"),
        order_type=OrderType.MARKET,
    )  # fmt: skip
    canonical = (
        '{"account":"acc-1","idempotency_key":"key-1","order_type":"MARKET","quantity":"10.5","side":"BUY",'
        '"symbol":"EUR/USD","time_in_force":"GTC"}'
    )

    assert request_hash(start) == hashlib.sha256(canonical.encode()).hexdigest()
    assert request_hash(start) == "ade021899479da6bf8f3861be730d1902c2ec503b0f9173b12397c15ef5c9994"
    assert request_hash(start.model_copy(update={"quantity": Decimal("10.51")})) != request_hash(start)


JAVA = [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829), (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107)]  # fmt: skip


@pytest.mark.parametrize(("key", "expected"), JAVA)
def test_murmur2_is_javas(key: bytes, expected: int) -> None:
    """The vectors of Kafka's own UtilsTest: equal keys of clients in any language meet in one partition."""
    assert partition_of(key, 2**31) == expected & 0x7FFFFFFF


PARTITION = [
    ("48559343-d7fb-5e5f-af0f-544f93dbeb37", 8),
    ("3ad12fdc-7a75-5016-aefa-905af9bcf05b", 2),
    ("152c5b5a-2c22-5de2-8952-5d57603f8580", 10),
    ("4cd9a7c7-56f3-5668-858f-78c8a0320a8c", 0),
]


@pytest.mark.parametrize(("key", "expected"), PARTITION)
def test_sagas_stay_on_their_partitions(key: str, expected: int) -> None:
    """Positive murmur2 of the key's UTF-8, modulo the fixed number of partitions."""
    assert partition_of(key.encode(), PARTITIONS) == expected
