"""Keyed hashes of requests: each names its scheme and key, and is compared by them alone."""

import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sagas import OrderAsked
from tradesaga.schemas.identity import (
    RequestKey,
    RequestKeys,
    canonical,
    comparable,
    made_with,
    request_hash,
    same_request,
)

SECRETS = st.binary(min_size=32, max_size=32)
REQUESTS = st.builds(
    OrderAsked,
    idempotency_key=st.sampled_from(["a", "b", "a:b"]),
    account=st.sampled_from("AB"),
    quantity=st.sampled_from(["10", "11"]),
)


@given(one=st.tuples(st.none() | SECRETS, REQUESTS), other=st.tuples(st.none() | SECRETS, REQUESTS))
def test_two_hashes_are_equal_only_for_one_request_under_one_key(
    one: tuple[bytes | None, OrderAsked], other: tuple[bytes | None, OrderAsked]
) -> None:
    """Scheme, key and request can each be told from the hash: nothing of one is taken for another."""

    def hashed(secret: bytes | None, request: OrderAsked) -> str:
        return request_hash(request) if secret is None else RequestKey(secret).hash(request)

    assert (hashed(*one) == hashed(*other)) == (one == other)
    assert comparable(hashed(*one), hashed(*other)) == (one[0] == other[0])


@given(secret=SECRETS, request=REQUESTS)
def test_a_keyed_hash_is_hmac_sha256_under_a_named_key(secret: bytes, request: OrderAsked) -> None:
    """Whoever has the secret can recompute it; the id tells nothing but which secret."""
    key = RequestKey(secret)

    assert key.hash(request) == f"hmac-sha256:{key.id}:{hmac.digest(secret, canonical(request), 'sha256').hex()}"
    assert re.fullmatch(r"[0-9a-f]{16}", key.id)
    assert made_with(key.hash(request)) == key.id
    assert secret.hex() not in repr(key)


@given(current=SECRETS, old=SECRETS, request=REQUESTS, other=REQUESTS)
def test_a_stored_hash_is_compared_by_its_own_scheme_and_key(
    current: bytes, old: bytes, request: OrderAsked, other: OrderAsked
) -> None:
    """After a rotation and after the upgrade from unkeyed hashes the same request is the same, another one is not."""
    keys = RequestKeys.of(current, old)

    assert made_with(keys.hash(request)) == RequestKey(current).id
    for stored in (request_hash(request), RequestKey(old).hash(request), RequestKey(current).hash(request)):
        assert keys.matches(stored, request) is True
        assert keys.matches(stored, other) is (request == other)


@pytest.mark.parametrize("stored", ["", "x", "A" * 64, "0" * 63, "0" * 65, "hmac-sha256:0:0", "sha256:" + "0" * 64])
def test_what_is_no_hash_of_ours_matches_nothing_by_itself(stored: str) -> None:
    """Nor does a hash of a key that is not here: the requests decide."""
    keys = RequestKeys.of(bytes(32))
    request = OrderAsked(idempotency_key="k", account="A")

    assert keys.matches(stored, request) is None
    assert made_with(stored) is None
    assert keys.matches(RequestKey(b"1" * 32).hash(request), request) is None


def test_a_stored_payload_is_compared_field_by_field() -> None:
    """However it was written; a payload that cannot be read is not the same."""
    request = OrderAsked(idempotency_key="k", account="A")

    assert same_request(b'{ "account": "A", "quantity": "10", "idempotency_key": "k", "later": 1 }', request)
    assert not same_request(b'{"account": "A", "quantity": "11", "idempotency_key": "k"}', request)
    assert not same_request(b"\xff", request)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_has_32_bytes(size: int) -> None:
    """A shorter one could be guessed."""
    with pytest.raises(ValueError, match="32"):
        RequestKey(bytes(size))
