"""Starts that come again under other hashes: the fold has no secret, and decides as the doors do."""

import pytest

from tests.sagas import OrderAsked, Partition, small_saga
from tradesaga.consumers.saga_log.fold import fold_record
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.schemas.identity import RequestKey, request_hash

SAGA = small_saga()
RULES = Rules(SAGA)
REQUEST = OrderAsked(idempotency_key="k", account="A")
OTHER = OrderAsked(idempotency_key="k", account="A", quantity="11")
ONE, TWO = RequestKey(b"1" * 32), RequestKey(b"2" * 32)
REFUSED = "another request has started this saga; this one does not count"


def repeated(first: str, request: OrderAsked, hash_: str) -> str | None:
    """Return what the log says of a start that follows another one of the same saga."""
    partition = Partition(SAGA)
    tracked = Tracked(partition.saga_id, RULES.home(partition.saga_id))
    begun = fold_record(RULES, tracked, partition.record(REQUEST, request=first))
    assert begun.tracked is not None
    again = fold_record(RULES, begun.tracked, partition.record(request, request=hash_))
    assert again.orders == ()
    assert again.tracked is not None
    assert again.tracked.snapshot is not None
    assert begun.tracked.snapshot is not None
    assert again.tracked.snapshot.request_hash == begun.tracked.snapshot.request_hash
    return again.entry.error


@pytest.mark.parametrize("first", [request_hash(REQUEST), ONE.hash(REQUEST)])
@pytest.mark.parametrize("key", [ONE, TWO, None])
def test_the_same_request_is_the_same_under_any_key(first: str, key: RequestKey | None) -> None:
    """Across the upgrade, across a rotation, back again, and through two doors that have different keys."""

    def hashed(request: OrderAsked) -> str:
        return request_hash(request) if key is None else key.hash(request)

    assert repeated(first, REQUEST, hashed(REQUEST)) is None
    assert repeated(first, OTHER, hashed(OTHER)) == REFUSED


@pytest.mark.parametrize("hash_", ["", "0" * 64, "nothing", ONE.hash(OTHER)])
def test_a_hash_of_the_same_key_decides_by_itself_and_none_is_never_the_same(hash_: str) -> None:
    """What releases before keyed hashes recorded is judged as they did: a replay of an old log finds no difference."""
    stored = request_hash(REQUEST) if hash_ == "0" * 64 else ONE.hash(REQUEST)

    assert repeated(stored, REQUEST, hash_) == REFUSED


def test_a_start_that_no_door_has_hashed_is_compared_by_its_payload_later() -> None:
    """Without a header the log computes the unkeyed hash, as ever: it has no secret, and a replay must agree."""
    assert repeated("", REQUEST, ONE.hash(REQUEST)) is None
    assert repeated("", REQUEST, request_hash(REQUEST)) is None
    assert repeated("", OTHER, ONE.hash(OTHER)) == REFUSED
