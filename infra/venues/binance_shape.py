"""Reads Binance's JSON into what the port speaks. Amounts stay the strings they come as until they are `Decimal`."""

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
    """Read an amount; raises `ArithmeticError` for one that no venue trades and no column holds."""
    amount = Decimal(text)
    if not amount.is_finite() or abs(amount.adjusted()) > _EXPONENT_LIMIT:
        raise ArithmeticError(f"an amount of the venue is out of all bounds: {str(text)[:40]}")
    return amount


def read_status(name: str) -> OrderStatus:
    """Read an order's status."""
    return _STATUS[name]


def read_listings(info: Json) -> tuple[dict[str, SymbolRules], dict[str, str]]:
    """Read `exchangeInfo` into rules by `BASE/QUOTE`, and into the venue's names for these."""
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
    """Read last prices; a symbol that the listings do not have is left out."""
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
        status=read_status(view["status"]),
        filled=_amount(view["executedQty"]),
        quote=_amount(view["cummulativeQuoteQty"]),
        time=int(view.get("updateTime") or view["transactTime"]) * _MILLISECOND,
        reason=str(view.get("rejectReason", "")),
    )


def read_placed(symbol: str, view: Json) -> OrderReport:
    """Read the full answer to a new order, its fills included."""
    time = int(view["transactTime"])
    fills = [
        VenueTrade(
            Fill(
                trade_id=str(fill["tradeId"]),
                quantity=_amount(fill["qty"]),
                price=_amount(fill["price"]),
                fee=_amount(fill["commission"]),
                fee_asset=fill["commissionAsset"],
                time=time * _MILLISECOND,
            ),
            symbol,
            Side(view["side"]),
            str(view["orderId"]),
        )
        for fill in view.get("fills", ())
    ]
    return with_fills(read_order(symbol, view), fills)


def read_cancelled(symbol: str, view: Json) -> OrderReport:
    """Read the answer to a cancellation, where `clientOrderId` may be the cancellation's own."""
    return read_order(symbol, {**view, "clientOrderId": view["origClientOrderId"]})


def with_fills(report: OrderReport, trades: Iterable[VenueTrade]) -> OrderReport:
    """Add those trades that the order's executed quantity covers: later ones belong to a later report."""
    fills: list[Fill] = []
    left = report.filled
    for trade in trades:
        if trade.bust_of is None and left > 0:
            left -= trade.fill.quantity
            fills.append(trade.fill)
    return replace(report, fills=tuple(fills))


def read_trade(symbol: str, view: Json) -> VenueTrade:
    """Read a line of the trade history; a bust is written from the other side, with its fee given back."""
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
    """Read the trade inside an `executionReport`."""
    bust_of = event.get("bustOf")
    return VenueTrade(
        fill=Fill(
            trade_id=str(event["t"]),
            quantity=_amount(event["l"]),
            price=_amount(event["L"]),
            fee=_amount(event["n"]),
            fee_asset=event["N"] or "",
            time=int(event["T"]) * _MILLISECOND,
        ),
        symbol=symbol,
        side=Side(event["S"]),
        venue_order_id=str(event["i"]),
        bust_of=None if bust_of is None else str(bust_of),
    )


def read_event_order(symbol: str, event: Json) -> OrderReport:
    """Read the order inside an `executionReport`."""
    kind = OrderType(event["o"])
    return OrderReport(
        client_order_id=event["C"] or event["c"],
        venue_order_id=str(event["i"]),
        symbol=symbol,
        side=Side(event["S"]),
        type=kind,
        time_in_force=TimeInForce(event["f"]),
        quantity=_amount(event["q"]),
        price=_amount(event["p"]) if kind is OrderType.LIMIT else None,
        status=read_status(event["X"]),
        filled=_amount(event["z"]),
        quote=_amount(event["Z"]),
        time=int(event["T"]) * _MILLISECOND,
        reason="" if event["r"] == "NONE" else str(event["r"]),
    )


def read_balances(account: Json) -> dict[str, Balance]:
    """Read an account's balances."""
    return {entry["asset"]: Balance(_amount(entry["free"]), _amount(entry["locked"])) for entry in account["balances"]}
