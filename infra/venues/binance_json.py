"""Converts Binance's JSON to the venue port's types. Amounts are read from strings, never through floats."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from tradesaga.sagas.trade.venue import Balance, Fill, OrderReport, OrderStatus, SymbolRules, VenueTrade
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

Json = Mapping[str, Any]

_MILLISECOND: Final = 1_000_000
_EXPONENT_LIMIT: Final = 40
_STATUS: Final = {
    "NEW": OrderStatus.ACKNOWLEDGED,
    "PENDING_NEW": OrderStatus.ACKNOWLEDGED,
    "PARTIALLY_FILLED": OrderStatus.PARTIALLY_FILLED,
    "PENDING_CANCEL": OrderStatus.PARTIALLY_FILLED,
    "FILLED": OrderStatus.FILLED,
    "CANCELED": OrderStatus.CANCELLED,
    "REJECTED": OrderStatus.REJECTED,
    "EXPIRED": OrderStatus.EXPIRED,
    "EXPIRED_IN_MATCH": OrderStatus.EXPIRED,
}


def _amount(text: str) -> Decimal:
    """Read an amount; raise ArithmeticError if it is out of bounds."""
    amount = Decimal(text)
    if not amount.is_finite() or abs(amount.adjusted()) > _EXPONENT_LIMIT:
        raise ArithmeticError(f"an amount of the venue is out of bounds: {str(text)[:40]}")
    return amount


def read_listings(info: Json) -> tuple[dict[str, SymbolRules], dict[str, str]]:
    """Read `exchangeInfo`: return the rules, and the venue's names, by `BASE/QUOTE`."""
    rules: dict[str, SymbolRules] = {}
    names: dict[str, str] = {}
    for entry in info["symbols"]:
        filters = {one["filterType"]: one for one in entry["filters"]}
        size = filters["LOT_SIZE"]
        notional = filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or {"minNotional": "0"}
        symbol = f"{entry['baseAsset']}/{entry['quoteAsset']}"
        names[symbol] = entry["symbol"]
        rules[symbol] = SymbolRules(
            symbol=symbol,
            base=entry["baseAsset"],
            quote=entry["quoteAsset"],
            tick=_amount(filters["PRICE_FILTER"]["tickSize"]),
            lot=_amount(size["stepSize"]),
            minimum_quantity=_amount(size["minQty"]),
            maximum_quantity=_amount(size["maxQty"]),
            minimum_notional=_amount(notional["minNotional"]),
        )
    return rules, names


def read_prices(symbols: Mapping[str, str], views: Iterable[Json]) -> dict[str, Decimal]:
    """Read last prices; symbols that are not in `symbols` are left out."""
    return {symbols[view["symbol"]]: _amount(view["price"]) for view in views if view["symbol"] in symbols}


def read_order(symbol: str, view: Json) -> OrderReport:
    """Read an order, without its fills."""
    kind = OrderType(view["type"])
    return OrderReport(
        client_order_id=view["clientOrderId"],
        venue_order_id=str(view["orderId"]),
        symbol=symbol,
        side=Side(view["side"]),
        type=kind,
        time_in_force=TimeInForce(view["timeInForce"]),
        quantity=_amount(view["origQty"]),
        price=_amount(view["price"]) if kind is OrderType.LIMIT else None,
        status=_STATUS[view["status"]],
        filled=_amount(view["executedQty"]),
        quote=_amount(view["cummulativeQuoteQty"]),
        time=int(view.get("updateTime") or view["transactTime"]) * _MILLISECOND,
        reason=str(view.get("rejectReason", "")),
    )


def read_placed(symbol: str, view: Json) -> OrderReport:
    """Read the full answer to a new order, with its fills."""
    common = {"time": view["transactTime"], "orderId": view["orderId"], "isBuyer": Side(view["side"]) is Side.BUY}
    fills = [read_trade(symbol, {**fill, **common, "id": fill["tradeId"]}) for fill in view.get("fills", ())]
    return with_fills(read_order(symbol, view), fills)


def read_cancelled(symbol: str, view: Json) -> OrderReport:
    """Read the answer to a cancellation, whose `clientOrderId` may be that of the cancellation."""
    return read_order(symbol, {**view, "clientOrderId": view["origClientOrderId"]})


def with_fills(report: OrderReport, trades: Iterable[VenueTrade]) -> OrderReport:
    """Add the trades that the order's executed quantity covers; later ones belong to a later report."""
    fills: list[Fill] = []
    left = report.filled
    for trade in trades:
        if trade.bust_of is None and left > 0:
            left -= trade.fill.quantity
            fills.append(trade.fill)
    return replace(report, fills=tuple(fills))


def read_trade(symbol: str, view: Json) -> VenueTrade:
    """Read a trade of the history; a bust has the opposite side and a negative fee."""
    bust_of = view.get("bustOf")
    return VenueTrade(
        fill=Fill(
            trade_id=str(view["id"]),
            quantity=_amount(view["qty"]),
            price=_amount(view["price"]),
            fee=_amount(view["commission"]),
            fee_asset=view["commissionAsset"],
            time=int(view["time"]) * _MILLISECOND,
        ),
        symbol=symbol,
        side=Side.BUY if view["isBuyer"] else Side.SELL,
        venue_order_id=str(view["orderId"]),
        bust_of=None if bust_of is None else str(bust_of),
    )


def read_event_trade(symbol: str, event: Json) -> VenueTrade:
    """Read the trade in an `executionReport`."""
    view = {
        "id": event["t"],
        "qty": event["l"],
        "price": event["L"],
        "commission": event["n"],
        "commissionAsset": event["N"] or "",
        "time": event["T"],
        "isBuyer": Side(event["S"]) is Side.BUY,
        "orderId": event["i"],
        "bustOf": event.get("bustOf"),
    }
    return read_trade(symbol, view)


def read_event_order(symbol: str, event: Json) -> OrderReport:
    """Read the order in an `executionReport`."""
    view = {
        "clientOrderId": event["C"] or event["c"],
        "orderId": event["i"],
        "side": event["S"],
        "type": event["o"],
        "timeInForce": event["f"],
        "origQty": event["q"],
        "price": event["p"],
        "status": event["X"],
        "executedQty": event["z"],
        "cummulativeQuoteQty": event["Z"],
        "transactTime": event["T"],
        "rejectReason": "" if event["r"] == "NONE" else event["r"],
    }
    return read_order(symbol, view)


def read_balances(account: Json) -> dict[str, Balance]:
    """Read an account's balances."""
    return {entry["asset"]: Balance(_amount(entry["free"]), _amount(entry["locked"])) for entry in account["balances"]}
