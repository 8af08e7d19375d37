"""JSON views of the API: records in the form of Binance's spot REST API and user data stream."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson

from tradesaga.infra.paper_exchange.book import Bar, Book, Level
from tradesaga.infra.paper_exchange.records import ZERO, Event, Execution, Holding, Order, Trade
from tradesaga.infra.paper_exchange.settings import CEILING, Fees, Listing
from tradesaga.schemas.messages.trade import Side

Json = dict[str, Any]


def to_json(view: Any) -> bytes:
    """Return a view as JSON; decimals are strings with eight decimal places."""
    return orjson.dumps(view, default=_format)


def _format(value: Decimal) -> str:
    return f"{value:.8f}"


def milliseconds(time: int) -> int:
    """Convert a time from nanoseconds to milliseconds."""
    return time // 1_000_000


def show_order(order: Order) -> Json:
    """Show an order as a query does; a rejected one also has its code and reason."""
    ticket = order.ticket
    view = _show_ids(order) | {
        "price": ticket.price or ZERO,
        "origQty": ticket.quantity,
        "executedQty": order.executed,
        "origQuoteOrderQty": ZERO,
        "cummulativeQuoteQty": order.quote,
        "status": order.status,
        "timeInForce": ticket.time_in_force,
        "type": ticket.type,
        "side": ticket.side,
        "stopPrice": ZERO,
        "icebergQty": ZERO,
        "time": milliseconds(order.created),
        "updateTime": milliseconds(order.updated),
        "isWorking": True,
        "workingTime": milliseconds(order.created),
        "selfTradePreventionMode": "NONE",
    }
    return view | {"rejectCode": order.code, "rejectReason": order.reason} if order.reason else view


def _show_ids(order: Order) -> Json:
    return {
        "symbol": order.ticket.symbol,
        "orderId": order.id,
        "orderListId": -1,
        "clientOrderId": order.ticket.client_order_id,
    }


def show_placed(order: Order, trades: Iterable[Trade], detail: str) -> Json:
    """Show a new order: `detail` is ACK, RESULT or FULL."""
    view = _show_ids(order) | {"transactTime": milliseconds(order.updated)}
    if detail == "ACK":
        return view
    view = show_order(order) | view
    if detail == "FULL":
        view["fills"] = [
            {
                "price": trade.price,
                "qty": trade.quantity,
                "commission": trade.fee,
                "commissionAsset": trade.fee_asset,
                "tradeId": trade.id,
            }
            for trade in trades
        ]
    return view


def show_trade(trade: Trade) -> Json:
    """Show a trade; one that reverses another names it as `bustOf`, and its fee is negative."""
    view: Json = {
        "symbol": trade.symbol,
        "id": trade.id,
        "orderId": trade.order_id,
        "orderListId": -1,
        "price": trade.price,
        "qty": trade.quantity,
        "quoteQty": trade.price * trade.quantity,
        "commission": trade.fee,
        "commissionAsset": trade.fee_asset,
        "time": milliseconds(trade.time),
        "isBuyer": trade.side is Side.BUY,
        "isMaker": trade.maker,
        "isBestMatch": True,
    }
    return view if trade.bust_of is None else view | {"bustOf": trade.bust_of}


def show_account(holdings: Mapping[str, Holding], fees: Fees, now: int) -> Json:
    """Show an account and its balances."""
    return {
        "makerCommission": int(fees.maker_bps),
        "takerCommission": int(fees.taker_bps),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {
            "maker": fees.rate(maker=True),
            "taker": fees.rate(maker=False),
            "buyer": ZERO,
            "seller": ZERO,
        },
        "canTrade": True,
        "canWithdraw": False,
        "canDeposit": False,
        "updateTime": milliseconds(now),
        "accountType": "SPOT",
        "balances": [{"asset": asset, "free": held.free, "locked": held.locked} for asset, held in holdings.items()],
        "permissions": ["SPOT"],
    }


def show_report(event: Event) -> Json:
    """Show an event as the user data stream's `executionReport`; `bustOf` exists only at this venue."""
    order, ticket, trade = event.order, event.order.ticket, event.trade
    report: Json = {
        "e": "executionReport",
        "E": milliseconds(event.time),
        "s": ticket.symbol,
        "c": ticket.client_order_id,
        "S": ticket.side,
        "o": ticket.type,
        "f": ticket.time_in_force,
        "q": ticket.quantity,
        "p": ticket.price or ZERO,
        "P": ZERO,
        "F": ZERO,
        "g": -1,
        "C": ticket.client_order_id if event.execution is Execution.CANCELED else "",
        "x": event.execution,
        "X": order.status,
        "r": order.reason or "NONE",
        "i": order.id,
        "l": trade.quantity if trade else ZERO,
        "z": order.executed,
        "L": trade.price if trade else ZERO,
        "n": trade.fee if trade else "0",
        "N": trade.fee_asset if trade else None,
        "T": milliseconds(event.time),
        "t": trade.id if trade else -1,
        "I": event.id,
        "w": order.status in {"NEW", "PARTIALLY_FILLED"},
        "m": trade.maker if trade else False,
        "M": False,
        "O": milliseconds(order.created),
        "Z": order.quote,
        "Y": trade.price * trade.quantity if trade else ZERO,
        "Q": ZERO,
        "W": milliseconds(order.created),
        "V": "NONE",
    }
    return report if trade is None or trade.bust_of is None else report | {"bustOf": trade.bust_of}


def show_position(holdings: Mapping[str, Holding], now: int) -> Json:
    """Show balances as the user data stream's `outboundAccountPosition`."""
    return {
        "e": "outboundAccountPosition",
        "E": milliseconds(now),
        "u": milliseconds(now),
        "B": [{"a": asset, "f": one.free, "l": one.locked} for asset, one in holdings.items()],
    }


def show_listing(listing: Listing) -> Json:
    """Show a market as `exchangeInfo` does; its rules are the filters."""
    size = {"minQty": listing.minimum_quantity, "maxQty": listing.maximum_quantity, "stepSize": listing.lot}
    return {
        "symbol": listing.symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "icebergAllowed": False,
        "ocoAllowed": False,
        "quoteOrderQtyMarketAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": listing.tick,
                "maxPrice": listing.maximum_price,
                "tickSize": listing.tick,
            },
            {"filterType": "LOT_SIZE", **size},
            {"filterType": "MARKET_LOT_SIZE", **size},
            {
                "filterType": "NOTIONAL",
                "minNotional": listing.minimum_notional,
                "applyMinToMarket": True,
                "maxNotional": CEILING,
                "applyMaxToMarket": False,
                "avgPriceMins": 0,
            },
        ],
        "permissions": ["SPOT"],
    }


def show_depth(levels: Iterable[Level]) -> list[list[Decimal]]:
    """Show one side of a book."""
    return [[level.price, level.quantity] for level in levels]


def show_bar(bar: Bar) -> list[Any]:
    """Show a bar as a kline; the quote volume is computed at the close, as the price series have none."""
    quote_volume = bar.volume * bar.close
    return [
        bar.opened, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.closed, quote_volume, 0, "0", "0", "0",
    ]  # fmt: skip


def show_day(book: Book, bars: Sequence[Bar], now: int) -> Json:
    """Show the last bars as a 24-hour ticker."""
    first, last = bars[0], bars[-1]
    bid, ask = (next(book.levels(side), Level(last.close, ZERO)) for side in (Side.SELL, Side.BUY))
    volume = sum((bar.volume for bar in bars), ZERO)
    return {
        "symbol": book.listing.symbol,
        "priceChange": last.close - first.open,
        "priceChangePercent": f"{(last.close - first.open) / first.open * 100:.3f}",
        "lastPrice": last.close,
        "bidPrice": bid.price,
        "bidQty": bid.quantity,
        "askPrice": ask.price,
        "askQty": ask.quantity,
        "openPrice": first.open,
        "highPrice": max(bar.high for bar in bars),
        "lowPrice": min(bar.low for bar in bars),
        "volume": volume,
        "quoteVolume": volume * last.close,
        "openTime": milliseconds(now) - 86_400_000,
        "closeTime": milliseconds(now),
        "count": len(bars),
    }
