"""What a schema refuses, in words: bounded, whatever was sent."""

import pytest
from pydantic import ValidationError

from tradesaga.schemas.invalid import describe_invalid, first_invalid
from tradesaga.schemas.messages.trade import TradeFilledV1, TradeRequested


def refusal(value: bytes, message: type[TradeFilledV1] | type[TradeRequested]) -> ValidationError:
    """Return the error with which a payload is refused."""
    with pytest.raises(ValidationError) as caught:
        message.model_validate_json(value)
    return caught.value


def test_the_first_fields_are_named_and_the_rest_counted() -> None:
    """Three fields say enough; the value itself stays out."""
    told = describe_invalid(refusal(b'{"account": "secret account"}', TradeRequested), "request")
    assert told.startswith("idempotency_key: Field required; account: String should match pattern")
    assert told.endswith("and 3 more")
    assert "secret" not in told


def test_a_name_of_the_sender_s_own_is_cut() -> None:
    """An unknown field may be called anything, at any length."""
    value = b'{"%s": 1}' % (b"x" * 60_000)
    assert len(describe_invalid(refusal(value, TradeRequested), "request")) < 500


def test_many_wrong_items_are_only_counted() -> None:
    """A list of a hundred thousand wrong items is told in a line, and none of them is described on the way."""
    error = refusal(b'{"venue_trade_ids": [%s]}' % b",".join([b"1"] * 100_000), TradeFilledV1)
    assert describe_invalid(error, "value") == "value: 100005 fields or items are wrong"


def test_the_first_wrong_field_is_given_with_its_path() -> None:
    """Commands and settings name one field and its reason; a value that is refused as a whole has no path."""
    first = first_invalid(refusal(b'{"account": "secret account"}', TradeRequested))
    assert (first.field, first.reason) == ("idempotency_key", "Field required")
    assert first_invalid(refusal(b"[]", TradeRequested)).field == ""
