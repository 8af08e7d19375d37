"""Sentences of the trade's messages in audit reports."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, cast

from tradesaga.consumers.services.order_records import ORDER_RECORDS
from tradesaga.sagas.audit_text import AuditText, Members, Sentence, count, text_of
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Message

_ENDS: Final = {
    "expired": "the order expired unfilled",
    "cancelled": "the order was cancelled unfilled",
    "rejected": "the venue rejected the order",
}


def _requested(payload: Members) -> str:
    limit = text_of(payload, "limit_price")
    price = f"limit {limit}" if limit else "at market"
    verb = {"BUY": "buy", "SELL": "sell"}.get(text_of(payload, "side"), "trade")
    who, what = text_of(payload, "account"), f"{text_of(payload, 'quantity')} {text_of(payload, 'symbol')}"
    return f"{who} requested a trade: {verb} {what}, {price}, {text_of(payload, 'time_in_force') or 'GTC'}"


def _reported(payload: Members) -> str:
    kind, fill = text_of(payload, "kind").replace("_", " "), payload.get("fill")
    if not isinstance(fill, dict):
        return f"venue report: {kind}"
    execution = cast("Members", fill)
    return f"venue report: {kind}, {text_of(execution, 'quantity')} at {text_of(execution, 'price')}"


def _unfilled(payload: Members) -> str:
    status = text_of(payload, "status")
    return _ENDS.get(status, f"the order ended unfilled: {status}")


def _traded(context: Mapping[str, Members]) -> str:
    """Return what was bought or sold, the average price and the number of executions."""
    asked, filled = context.get("trade-requested", {}), context.get("trade-filled", {})
    verb = {"BUY": "Bought", "SELL": "Sold"}.get(text_of(asked, "side"), "Traded")
    quantity, wanted = text_of(filled, "quantity"), text_of(asked, "quantity")
    executions = _executions(filled)
    partly = f" of {wanted}" if wanted and _number(wanted) != _number(quantity) else ""
    headline = f"{verb} {quantity}{partly} {text_of(asked, 'symbol')}"
    headline += _price(quantity, text_of(filled, "quote_amount"))
    if executions:
        headline += f" in {count(executions, 'execution')}"
    return f"{headline}, settled"


def _executions(filled: Members) -> int:
    """Return the number of executions, 0 if it cannot be read; version 1 of the message has their ids instead."""
    ids: Any = filled.get("venue_trade_ids")
    if isinstance(ids, list):
        return len(ids)  # pyright: ignore[reportUnknownArgumentType]
    number = text_of(filled, "executions")
    return int(number) if len(number) < 10 and number.isascii() and number.isdecimal() else 0  # noqa: PLR2004 - 32 bits


def _price(quantity: str, amount: str) -> str:
    filled, paid = _number(quantity), _number(amount)
    if filled is None or paid is None or not filled:
        return ""
    shown = (paid / filled).quantize(Decimal("1E-8")).normalize()
    return f" at {'' if shown * filled == paid else 'about '}{shown:f}"


def _number(text: str) -> Decimal | None:
    try:
        found = Decimal(text)
    except InvalidOperation:
        return None
    return found if found.is_finite() and abs(found.adjusted()) < 30 else None  # noqa: PLR2004 - amounts have 18 digits


_SENTENCES: Final[dict[type[Message], Sentence]] = {
    t.TradeRequested: _requested,
    t.OrderValidated: "the order was validated; required hold: {hold} {hold_asset}",
    t.ValidationRejected: "the order failed validation",
    t.OrderWithdrawn: "the order was withdrawn from the order register",
    t.FundsReserved: "{amount} {asset} reserved",
    t.FundsRejected: "insufficient funds for the hold",
    t.FundsReleased: "{amount} {asset} released",
    t.RiskAccepted: "the order is within the risk limits; exposure {exposure}",
    t.RiskRejected: "the order would breach a risk limit",
    t.RiskReleased: "the order was removed from the account's exposure",
    t.OrderPlaced: "{venue} accepted the order as {venue_order_id}",
    t.OrderRejected: "the venue rejected the order",
    t.OrderCancelled: "the order can no longer be filled at the venue",
    t.TradeFilled: "filled {quantity} for {quote_amount}, fee {fee} {fee_asset}",
    t.TradeUnfilled: _unfilled,
    t.TradeSettled: "booked {quantity} for {quote_amount}, fee {fee}; {released} of the hold released",
    t.VenueReport: _reported,
}
TRADE_TEXT: Final = AuditText(trade, _SENTENCES, _traded, ORDER_RECORDS)
