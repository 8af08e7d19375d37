"""What the messages of a trade say in plain words; other sagas are told by the names of their steps."""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from tradesaga.consumers.audit.report.formatting import text_of

Members = Mapping[str, Any]


class _Said(dict[str, str]):
    """A payload's texts; a template that asks for one that is missing shows that it is."""

    def __missing__(self, name: str) -> str:
        return f"({name} is not given)"


_ENDS: Final = {
    "expired": "the order expired with nothing filled",
    "cancelled": "the order was cancelled with nothing filled",
    "rejected": "the venue rejected the order",
}


def _requested(said: Members) -> str:
    limit = text_of(said, "limit_price")
    price = f"at {limit} or better" if limit else "at the market"
    verb = {"BUY": "buy", "SELL": "sell"}.get(text_of(said, "side"), "trade")
    who, what = text_of(said, "account"), f"{text_of(said, 'quantity')} {text_of(said, 'symbol')}"
    return f"{who} asks to {verb} {what} {price} ({text_of(said, 'time_in_force') or 'GTC'})"


def _reported(said: Members) -> str:
    kind = text_of(said, "kind").replace("_", " ")
    fill = said.get("fill")
    if not isinstance(fill, dict):
        return f"the venue reports: {kind}"
    one = cast("Members", fill)
    return f"the venue reports: {kind}, {text_of(one, 'quantity')} at {text_of(one, 'price')}"


def _unfilled(said: Members) -> str:
    status = text_of(said, "status")
    return _ENDS.get(status, f"nothing was filled: {status}")


_TEMPLATES: Final[dict[str, str | Callable[[Members], str]]] = {
    "trade-requested": _requested,
    "order-validated": "the order obeys the venue's rules; it can cost {hold} {hold_asset} at most",
    "validation-rejected": "the order breaks a rule",
    "order-withdrawn": "the order is withdrawn from the register",
    "funds-reserved": "{amount} {asset} set aside",
    "funds-rejected": "the account does not have what the order could cost",
    "funds-released": "{amount} {asset} are free again",
    "risk-accepted": "the order is within the limits; it counts for {exposure}",
    "risk-rejected": "the order would breach a limit",
    "risk-released": "the order no longer counts against the limits",
    "order-placed": "{venue} has the order, as {venue_order_id}",
    "order-rejected": "the venue will not have the order",
    "order-cancelled": "the venue can no longer fill the order",
    "trade-filled": "filled: {quantity} for {quote_amount}, fee {fee} {fee_asset}",
    "trade-unfilled": _unfilled,
    "trade-settled": "booked: {quantity} for {quote_amount}, fee {fee}; {released} of the hold released",
    "venue-report": _reported,
}
_SAGAS: Final = {"trade": _TEMPLATES}


def phrase(saga: str, message: str, said: Members) -> str:
    """Return the words for a message of a saga; empty where there are none of its own."""
    template = _SAGAS.get(saga, {}).get(message, "")
    if callable(template):
        return template(said)
    return template.format_map(_Said({name: text for name, text in said.items() if isinstance(text, str)}))
