"""Order records of the trade: one for each event of an order, under the names of MiFID II's order records.

docs/mifid-order-records.md has the source of each column, and the fields of the regulation that are not held.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, cast

from tradesaga.infra.clock import format_time
from tradesaga.sagas.audit_text import Members, OrderText, RecordedMessage, text_of
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import wire_type

_STATUS: Final[dict[str, tuple[str, str]]] = {
    t.TradeRequested.NAME: ("received", ""),
    t.ValidationRejected.NAME: ("refused before submission", ""),
    t.FundsRejected.NAME: ("refused before submission", ""),
    t.RiskRejected.NAME: ("refused before submission", ""),
    t.OrderPlaced.NAME: ("submitted", "NEWO"),
    t.OrderRejected.NAME: ("rejected by the venue", "REMO"),
    t.OrderCancelled.NAME: ("cancelled by the firm", "CAME"),
    t.TradeFilled.NAME: ("executed, in sum", "FILL"),
    t.TradeUnfilled.NAME: ("ended without execution", ""),
    t.TradeSettled.NAME: ("settled", ""),
}
_REPORTED: Final = {
    "acknowledged": ("acknowledged by the venue", ""),
    "partial_fill": ("executed in part", "PARF"),
    "fill": ("executed", "FILL"),
    "rejected": ("rejected by the venue", "REMO"),
    "expired": ("expired", "EXPI"),
    "cancelled": ("cancelled at the venue", ""),
    "busted": ("busted by the venue", ""),
}
_UNFILLED: Final = {"expired": "EXPI", "rejected": "REMO"}
_NAMES: Final = {wire_type(trade.name, message): message.NAME for message in t.MESSAGES}


def _describe(context: Members, messages: Sequence[RecordedMessage]) -> list[dict[str, str]]:
    order = _order(context)
    lines: list[dict[str, str]] = []
    seen: set[str] = set()
    for message in messages:
        name = _NAMES[message.type]
        event, status = _classify(name, message.payload)
        if name in {t.TradeFilled.NAME, t.TradeUnfilled.NAME} and status in seen:
            status = ""  # a report of the venue has it already
        seen.add(status)
        lines.append({"event": event, "order_status": status, **order, **_added(name, message.payload, order)})
    return lines


def _classify(name: str, payload: Members) -> tuple[str, str]:
    """Return the name of an event, and the regulation's code if there is one."""
    if name == t.VenueReport.NAME:
        return _REPORTED.get(text_of(payload, "kind"), ("reported by the venue", ""))
    event, status = _STATUS[name]
    if name == t.TradeUnfilled.NAME:
        return event, _UNFILLED.get(text_of(payload, "status"), "")
    if name == t.TradeFilled.NAME and payload.get("complete") is not True:
        return event, "PARF"
    return event, status


def _order(context: Members) -> dict[str, str]:
    """Return the columns that every event of an order has."""
    asked = _member(context, t.TradeRequested.NAME)
    checked = _member(context, t.OrderValidated.NAME)
    placed = _member(context, t.OrderPlaced.NAME)
    return {
        "client_id": text_of(asked, "account"),
        "client_reference": text_of(asked, "idempotency_key"),
        "order_id": text_of(placed, "client_order_id"),
        "venue_order_id": text_of(placed, "venue_order_id"),
        "venue": text_of(placed, "venue"),
        "instrument": text_of(asked, "symbol"),
        "side": text_of(asked, "side"),
        "order_type": text_of(asked, "order_type"),
        "limit_price": text_of(asked, "limit_price"),
        "time_in_force": text_of(asked, "time_in_force"),
        "price_currency": text_of(checked, "quote"),
        "quantity_currency": text_of(checked, "base"),
        "initial_quantity": text_of(asked, "quantity"),
    }


def _added(name: str, payload: Members, order: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of one event."""
    added = {"reason_code": text_of(payload, "code"), "reason": text_of(payload, "reason")}
    if name == t.VenueReport.NAME:
        fill = _member(payload, "fill")
        time = payload.get("venue_time")
        added |= {
            "venue_time": format_time(time) if type(time) is int and 0 <= time < 2**63 else "",
            "order_id": text_of(payload, "client_order_id") or order["order_id"],
            "venue_order_id": text_of(payload, "venue_order_id") or order["venue_order_id"],
            "venue": text_of(payload, "venue") or order["venue"],
            "executed_quantity": text_of(fill, "quantity"),
            "executed_price": text_of(fill, "price"),
            "fee": text_of(fill, "fee"),
            "fee_currency": text_of(fill, "fee_asset"),
            "venue_trade_id": text_of(fill, "trade_id"),
            "cumulative_quantity": text_of(payload, "cumulative_quantity"),
            "cumulative_amount": text_of(payload, "cumulative_quote"),
        }
    elif name in {t.TradeFilled.NAME, t.TradeSettled.NAME}:
        ids: Any = payload.get("venue_trade_ids")
        added |= {
            "cumulative_quantity": text_of(payload, "quantity"),
            "cumulative_amount": text_of(payload, "quote_amount"),
            "fee": text_of(payload, "fee"),
            "fee_currency": text_of(payload, "fee_asset"),
            "venue_trade_id": " ".join(each if isinstance(each, str) else "" for each in cast("list[Any]", ids))
            if isinstance(ids, list)
            else "",
        }
    added["remaining_quantity"] = _difference(order["initial_quantity"], added.get("cumulative_quantity", ""))
    return added


def _difference(whole: str, part: str) -> str:
    try:
        return f"{Decimal(whole) - Decimal(part):f}"
    except InvalidOperation:
        return ""


def _member(parent: Members, name: str) -> Members:
    found = parent.get(name)
    return cast("Members", found) if isinstance(found, dict) else {}


ORDER_RECORDS: Final = OrderText(
    [kind for kind, name in _NAMES.items() if name in _STATUS or name == t.VenueReport.NAME], _describe
)
