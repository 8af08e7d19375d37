"""What the tests of the ways in share: a saga with topics of its own, and a request to start it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from tests.broker import temporary_topics
from tradesaga.sagas.definition import AnySaga, minutes, saga
from tradesaga.sagas.trade.definition import (
    check_risk,
    confirm_fill,
    place_order,
    reserve_funds,
    settle_trade,
    validate_order,
)
from tradesaga.schemas.messages.trade import MESSAGES
from tradesaga.schemas.topics import PARTITIONS, saga_topics


def order(**changes: Any) -> dict[str, Any]:
    """Give a valid request under a key of its own, with some fields changed; None takes a field out."""
    fields: dict[str, Any] = {
        "idempotency_key": uuid4().hex, "account": "alice", "symbol": "EUR/USD", "side": "BUY", "quantity": "1000",
        "order_type": "MARKET", "time_in_force": "IOC",
    }  # fmt: skip
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


@contextmanager
def trade_of_its_own(kafka: str) -> Generator[AnySaga]:
    """Give the trade saga under a name that no other test uses, its topics made and deleted afterwards."""
    named = saga(f"trade-{uuid4().hex[:8]}", version=1, deadline=minutes(5), messages=MESSAGES)
    steps = named.then(validate_order).then(reserve_funds).then(check_risk).then(place_order)
    whole = steps.then(confirm_fill).then(settle_trade)
    topics = {topic.name: topic.configuration for topic in saga_topics(whole.name)}
    with temporary_topics(kafka, list(topics), PARTITIONS, settings=topics):
        yield whole
