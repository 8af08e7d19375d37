"""Order records: what became of each order, an event a line, under the names that MiFID II's order records use.

What each column is, and which of the regulation's fields are not held, is in docs/mifid-order-records.md.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, cast
from uuid import UUID

import asyncpg
import orjson

from tradesaga.consumers.audit.export.folder import HashedFile
from tradesaga.consumers.audit.export.source import Sealed, Source
from tradesaga.infra.clock import format_time
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import wire_type

Json = Mapping[str, Any]

COLUMNS: Final = (
    "saga_id", "topic", "partition", "sequence_number", "event", "order_status", "event_time", "recorded_time",
    "venue_time", "client_id", "client_reference", "order_id", "venue_order_id", "venue", "instrument", "side",
    "order_type", "limit_price", "time_in_force", "price_currency", "quantity_currency", "initial_quantity",
    "executed_quantity", "executed_price", "cumulative_quantity", "cumulative_amount", "remaining_quantity", "fee",
    "fee_currency", "venue_trade_id", "reason_code", "reason", "remark",
    "submitting_entity_lei", "client_lei", "direct_electronic_access", "investment_decision_within_firm",
    "execution_within_firm", "non_executing_broker", "trading_capacity", "liquidity_provision", "isin", "mic",
    "stop_price", "validity_until", "displayed_quantity", "minimum_executable_quantity", "passive_or_aggressive",
    "self_execution_prevention", "short_selling_indicator", "waiver_indicator", "routing_strategy",
)  # fmt: skip
"""The columns of orders.csv, those that are not held included: a firm fills them in from its own reference data."""

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
TYPES: Final = tuple(kind for kind, name in _NAMES.items() if name in _STATUS or name == t.VenueReport.NAME)
_FORMULA: Final = ("=", "+", "@", "\t", "\r")


@dataclass
class OrderSheet:
    """`orders.csv` under way."""

    file: HashedFile
    written: int = 0

    def begin(self) -> None:
        """Write the heading."""
        self._write([dict(zip(COLUMNS, COLUMNS, strict=True))])

    async def add(self, source: Source, log: Sealed, span: tuple[int, int], sagas: Sequence[asyncpg.Record]) -> None:
        """Write what is told of these sagas' orders between two offsets."""
        contexts = {row["saga_id"]: row["context"] for row in sagas if row["name"] == trade.name}
        if not contexts:
            return
        told: dict[UUID, list[asyncpg.Record]] = {}
        for row in await source.told(log, span, list(contexts), TYPES):
            told.setdefault(row["saga_id"], []).append(row)
        for saga_id, rows in told.items():
            lines = describe_order(log.place, saga_id, _parsed(contexts[saga_id]), [dict(row) for row in rows])
            self._write(lines)
            self.written += len(lines)

    def _write(self, lines: Sequence[Json]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([[_cell(line.get(column, "")) for column in COLUMNS] for line in lines])
        self.file.write(text.getvalue().encode())


def describe_order(
    place: tuple[str, int], saga_id: UUID, context: Json, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Give the order records of one saga; `rows` are its records in order, `context` what the saga log knows of it."""
    order = _order(context)
    lines: list[dict[str, str]] = []
    seen: set[str] = set()
    for row in rows:
        name, payload = _NAMES[row["event_type"]], _parsed(row["value"])
        event, status = _judge(name, payload)
        summary = name in {t.TradeFilled.NAME, t.TradeUnfilled.NAME}
        if summary and status in seen:
            status = ""  # the venue's reports have told it already
        seen.add(status)
        lines.append(
            {
                "saga_id": str(saga_id),
                "topic": place[0],
                "partition": str(place[1]),
                "sequence_number": str(row["offset"]),
                "event": event,
                "order_status": status,
                "event_time": format_time(row["event_time"]) if row["event_time"] is not None else "",
                "recorded_time": format_time(row["recorded_ms"] * 1_000_000),
                "remark": row["error"] or "",
                **order,
                **_told(name, payload, order),
            }
        )
    return lines


def _judge(name: str, payload: Json) -> tuple[str, str]:
    """Return our word for an event, and the regulation's code where there is one."""
    if name == t.VenueReport.NAME:
        return _REPORTED.get(_text(payload.get("kind")), ("reported by the venue", ""))
    event, status = _STATUS[name]
    if name == t.TradeUnfilled.NAME:
        return event, _UNFILLED.get(_text(payload.get("status")), "")
    if name == t.TradeFilled.NAME and payload.get("complete") is not True:
        return event, "PARF"
    return event, status


def _order(context: Json) -> dict[str, str]:
    """Return what every event of an order says of it."""
    asked = _member(context, t.TradeRequested.NAME)
    checked = _member(context, t.OrderValidated.NAME)
    placed = _member(context, t.OrderPlaced.NAME)
    return {
        "client_id": _text(asked.get("account")),
        "client_reference": _text(asked.get("idempotency_key")),
        "order_id": _text(placed.get("client_order_id")),
        "venue_order_id": _text(placed.get("venue_order_id")),
        "venue": _text(placed.get("venue")),
        "instrument": _text(asked.get("symbol")),
        "side": _text(asked.get("side")),
        "order_type": _text(asked.get("order_type")),
        "limit_price": _text(asked.get("limit_price")),
        "time_in_force": _text(asked.get("time_in_force")),
        "price_currency": _text(checked.get("quote")),
        "quantity_currency": _text(checked.get("base")),
        "initial_quantity": _text(asked.get("quantity")),
    }


def _told(name: str, payload: Json, order: Mapping[str, str]) -> dict[str, str]:
    """Return what one event adds."""
    added = {"reason_code": _text(payload.get("code")), "reason": _text(payload.get("reason"))}
    if name == t.VenueReport.NAME:
        fill = _member(payload, "fill")
        time = payload.get("venue_time")
        added |= {
            "venue_time": format_time(time) if type(time) is int and 0 <= time < 2**63 else "",
            "order_id": _text(payload.get("client_order_id")) or order["order_id"],
            "venue_order_id": _text(payload.get("venue_order_id")) or order["venue_order_id"],
            "venue": _text(payload.get("venue")) or order["venue"],
            "executed_quantity": _text(fill.get("quantity")),
            "executed_price": _text(fill.get("price")),
            "fee": _text(fill.get("fee")),
            "fee_currency": _text(fill.get("fee_asset")),
            "venue_trade_id": _text(fill.get("trade_id")),
            "cumulative_quantity": _text(payload.get("cumulative_quantity")),
            "cumulative_amount": _text(payload.get("cumulative_quote")),
        }
    elif name in {t.TradeFilled.NAME, t.TradeSettled.NAME}:
        ids: Any = payload.get("venue_trade_ids")
        added |= {
            "cumulative_quantity": _text(payload.get("quantity")),
            "cumulative_amount": _text(payload.get("quote_amount")),
            "fee": _text(payload.get("fee")),
            "fee_currency": _text(payload.get("fee_asset")),
            "venue_trade_id": " ".join(map(_text, cast("list[Any]", ids))) if isinstance(ids, list) else "",
        }
    added["remaining_quantity"] = _difference(order["initial_quantity"], added.get("cumulative_quantity", ""))
    return added


def _difference(whole: str, part: str) -> str:
    try:
        return f"{Decimal(whole) - Decimal(part):f}"
    except InvalidOperation:
        return ""


def _parsed(text: str | bytes | None) -> Json:
    """Read a JSON object; what is none, or cannot be read, has nothing to tell."""
    try:
        found = orjson.loads(text or b"")
    except orjson.JSONDecodeError:
        return {}
    return cast("Json", found) if isinstance(found, dict) else {}


def _member(parent: Json, name: str) -> Json:
    found = parent.get(name)
    return cast("Json", found) if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _cell(text: str) -> str:
    """Keep a text from being run as a formula by the program that opens the sheet."""
    return f"'{text}" if text.startswith(_FORMULA) else text
