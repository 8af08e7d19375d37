"""Messages: frozen, closed when written, open when read, and never the end of a process that reads them."""

from typing import Any, cast

import pytest
from pydantic import ValidationError

from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages.message import Event, Message, wire_type
from tradesaga.schemas.messages.trade import MESSAGES, FundsReserved, TradeRequested, VenueReport
from tradesaga.schemas.registry import Registry, UnknownMessageError

REGISTRY = Registry("trade", MESSAGES)
START: dict[str, Any] = {
    "idempotency_key": "k-1", "account": "acc-1", "symbol": "EUR/USD", "side": "BUY", "quantity": "10",
    "order_type": "LIMIT", "limit_price": "1.10",
}  # fmt: skip


def test_names_and_versions_make_the_wire_type() -> None:
    """`FundsReserved` is `trade.funds-reserved.v1`; a new version is another type."""

    class FundsKept(Event, version=3):
        """A third version."""

    assert wire_type("trade", FundsReserved) == "trade.funds-reserved.v1"
    assert wire_type("trade", FundsKept) == "trade.funds-kept.v3"


def test_writers_are_closed_readers_are_open_and_messages_frozen() -> None:
    """An unknown field is an error where a message is made, and passed over where it is read."""
    with pytest.raises(ValidationError, match="extra"):
        FundsReserved.model_validate({"asset": "USD", "amount": "1", "extra": 1})
    read = FundsReserved.from_wire(b'{"asset":"USD","amount":"1","extra":{"deep":[1]}}')

    assert read.to_wire() == b'{"asset":"USD","amount":"1"}'
    with pytest.raises(ValidationError, match="frozen"):
        cast("Any", read).asset = "EUR"


@pytest.mark.parametrize(
    "wrong",
    [
        b"", b"null", b"[]", b"1", b'"text"', b"{", b"{}", b"\xff\xfe", b'{"asset":"USD"}', b'{"asset":5,"amount":"1"}',
        b'{"asset":"\xff","amount":"1"}', b'{"asset":"USD","amount":"1"}}', b'{"asset":"USD","amount":"1",}',
    ],
)  # fmt: skip
def test_what_is_not_the_schemas_json_is_a_validation_error(wrong: bytes) -> None:
    """Unreadable bytes, other shapes and missing fields are one kind of error, with the reason in it."""
    with pytest.raises(ValidationError, match="FundsReserved"):
        FundsReserved.from_wire(wrong)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [300, 100_000])
def test_deep_json_is_a_validation_error_and_no_recursion(opening: bytes, depth: int) -> None:
    """Nesting meant to exhaust a stack is refused by the parser, even in a field that nobody reads."""
    closing = b"]" if opening == b"[" else b"}"
    bomb = b'{"asset":"USD","amount":"1","extra":' + opening * depth + b"1" + closing * depth + b"}"

    with pytest.raises(ValidationError, match="recursion limit"):
        FundsReserved.from_wire(bomb)


@pytest.mark.parametrize("digits", [5_000, 200_000])
def test_huge_numbers_and_texts_are_validation_errors(digits: int) -> None:
    """A number with more digits than Python converts, or a text beyond its bound, is refused, not suffered."""
    number = b"9" * digits
    report = {"venue": "v" * digits}

    with pytest.raises(ValidationError):
        lifecycle.Retry.from_wire(b'{"step":"x","round":' + number + b"}")
    with pytest.raises(ValidationError, match="round"):
        lifecycle.Retry.from_wire(b'{"step":"x","round":-1}')
    with pytest.raises(ValidationError):
        VenueReport.model_validate(report)


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": "0"}, {"quantity": 10}, {"side": "HOLD"}, {"symbol": "eur/usd"}, {"symbol": "EURUSD"},
        {"account": ""}, {"account": "a b"}, {"idempotency_key": "k" * 129}, {"idempotency_key": "tab\there"},
        {"limit_price": None}, {"order_type": "MARKET"}, {"time_in_force": "DAY"},
    ],
)  # fmt: skip
def test_a_start_that_breaks_a_rule_is_refused(change: dict[str, Any]) -> None:
    """Bounds, alphabets, enumerations, and a price that fits the order type."""
    assert TradeRequested.model_validate(START).limit_price is not None
    with pytest.raises(ValidationError):
        TradeRequested.model_validate(START | change)


def test_a_registry_finds_what_is_registered_and_names_what_is_not() -> None:
    """An unknown type says which saga does not know it; a class counts only if it is the very one."""

    class Stranger(Event):
        """Registered nowhere."""

    assert REGISTRY.find("trade.funds-reserved.v1") is FundsReserved
    assert lifecycle.StepFailed in REGISTRY
    assert Stranger not in REGISTRY
    for unknown in ("trade.funds-reserved.v2", "shop.funds-reserved.v1", "", "nonsense"):
        with pytest.raises(UnknownMessageError, match=r"no message .* is registered for saga 'trade'"):
            REGISTRY.find(unknown)


def test_every_message_goes_over_the_wire_under_its_own_type() -> None:
    """Types are unique, sorted and kebab-case, and each finds its class again."""
    types = [ce_type for ce_type, _ in REGISTRY.items()]

    assert types == sorted(set(types))
    assert all(wire_type("trade", message) == ce_type for ce_type, message in REGISTRY.items())
    assert all(issubclass(message, Message) for _, message in REGISTRY.items())
