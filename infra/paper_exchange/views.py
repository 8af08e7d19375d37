"""The shapes of the API: records as Binance's spot REST API and user data stream show them."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from tradesaga.infra.paper_exchange.book import Bar, Book, Level
from tradesaga.infra.paper_exchange.records import Event, Execution, Holding, Order, Trade
from tradesaga.infra.paper_exchange.settings import Fees, Listing
from tradesaga.schemas.messages.trade import Side

Json = dict[str, Any]


def amount(value: Decimal) -> str:
    """Write an amount with eight decimals."""
    return f"{value:.8f}"


def milliseconds(time: int) -> int:
    """Return a time of nanoseconds in milliseconds."""
    return time // 1_000_000


def show_order(order: Order) -> Json:
    """Show an order, as a query does; a rejected one has its code and reason besides."""
    ticket = order.ticket
    view: Json = {
        "symbol": ticket.symbol,
        "orderId": order.id,
        "orderListId": -1,
        "clientOrderId": ticket.client_order_id,
        "price": amount(ticket.price or Decimal(0)),
        "origQty": amount(ticket.quantity),
        "executedQty": amount(order.executed),
        "origQuoteOrderQty": "0.00000000",
        "cummulativeQuoteQty": amount(order.quote),
        "status": order.status,
        "timeInForce": ticket.time_in_force,
        "type": ticket.type,
        "side": ticket.side,
        "stopPrice": "0.00000000",
        "icebergQty": "0.00000000",
        "time": milliseconds(order.created),
        "updateTime": milliseconds(order.updated),
        "isWorking": True,
        "workingTime": milliseconds(order.created),
        "selfTradePreventionMode": "NONE",
    }
    return view | {"rejectCode": order.code, "rejectReason": order.reason} if order.reason else view


def show_placed(order: Order, trades: Iterable[Trade], detail: str) -> Json:
    """Show a new order: `detail` is ACK, RESULT or FULL."""
    ticket = order.ticket
    view: Json = {
        "symbol": ticket.symbol,
        "orderId": order.id,
        "orderListId": -1,
        "clientOrderId": ticket.client_order_id,
        "transactTime": milliseconds(order.updated),
    }
    if detail == "ACK":
        return view
    view = {**show_order(order), **view}
    if detail == "FULL":
        view["fills"] = [
            {
                "price": amount(trade.price),
                "qty": amount(trade.quantity),
                "commission": amount(trade.fee),
                "commissionAsset": trade.fee_asset,
                "tradeId": trade.id,
            }
            for trade in trades
        ]
    return view


def show_trade(trade: Trade) -> Json:
    """Show a trade; one that takes another back names it as `bustOf`, and its fee is negative."""
    view: Json = {
        "symbol": trade.symbol,
        "id": trade.id,
        "orderId": trade.order_id,
        "orderListId": -1,
        "price": amount(trade.price),
        "qty": amount(trade.quantity),
        "quoteQty": amount(trade.price * trade.quantity),
        "commission": amount(trade.fee),
        "commissionAsset": trade.fee_asset,
        "time": milliseconds(trade.time),
        "isBuyer": trade.side is Side.BUY,
        "isMaker": trade.maker,
        "isBestMatch": True,
    }
    return view if trade.bust_of is None else view | {"bustOf": trade.bust_of}


def show_account(holdings: Mapping[str, Holding], fees: Fees, now: int) -> Json:
    """Show an account and its balances."""
    maker, taker = (amount(fees.rate(maker=maker)) for maker in (True, False))
    return {
        "makerCommission": int(fees.maker_bps),
        "takerCommission": int(fees.taker_bps),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {"maker": maker, "taker": taker, "buyer": "0.00000000", "seller": "0.00000000"},
        "canTrade": True,
        "canWithdraw": False,
        "canDeposit": False,
        "updateTime": milliseconds(now),
        "accountType": "SPOT",
        "balances": [
            {"asset": asset, "free": amount(held.free), "locked": amount(held.locked)}
            for asset, held in holdings.items()
        ],
        "permissions": ["SPOT"],
    }


def show_report(event: Event) -> Json:
    """Show an event as the user data stream's `executionReport`; `bustOf` is this venue's own."""
    order, ticket, trade = event.order, event.order.ticket, event.trade
    report: Json = {
        "e": "executionReport",
        "E": milliseconds(event.time),
        "s": ticket.symbol,
        "c": ticket.client_order_id,
        "S": ticket.side,
        "o": ticket.type,
        "f": ticket.time_in_force,
        "q": amount(ticket.quantity),
        "p": amount(ticket.price or Decimal(0)),
        "P": "0.00000000",
        "F": "0.00000000",
        "g": -1,
        "C": ticket.client_order_id if event.execution is Execution.CANCELED else "",
        "x": event.execution,
        "X": order.status,
        "r": order.reason or "NONE",
        "i": order.id,
        "l": amount(trade.quantity if trade else Decimal(0)),
        "z": amount(order.executed),
        "L": amount(trade.price if trade else Decimal(0)),
        "n": amount(trade.fee) if trade else "0",
        "N": trade.fee_asset if trade else None,
        "T": milliseconds(event.time),
        "t": trade.id if trade else -1,
        "I": event.id,
        "w": order.status in {"NEW", "PARTIALLY_FILLED"},
        "m": trade.maker if trade else False,
        "M": False,
        "O": milliseconds(order.created),
        "Z": amount(order.quote),
        "Y": amount(trade.price * trade.quantity if trade else Decimal(0)),
        "Q": "0.00000000",
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
        "B": [{"a": asset, "f": amount(one.free), "l": amount(one.locked)} for asset, one in holdings.items()],
    }


def show_listing(listing: Listing) -> Json:
    """Show a market in `exchangeInfo`, its rules as filters."""
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
        "filters": _show_filters(listing),
        "permissions": ["SPOT"],
    }


def show_depth(levels: Iterable[Level]) -> list[list[str]]:
    """Show one side of a book."""
    return [[amount(level.price), amount(level.quantity)] for level in levels]


def show_bar(bar: Bar) -> list[Any]:
    """Show a bar as a kline; the quote volume is that of the close, for the series have none."""
    quote = amount(bar.volume * bar.close)
    prices = [amount(price) for price in (bar.open, bar.high, bar.low, bar.close)]
    return [bar.opened, *prices, amount(bar.volume), bar.closed, quote, 0, "0", "0", "0"]


def show_day(book: Book, bars: Sequence[Bar], now: int) -> Json:
    """Show the last bars as a 24-hour ticker."""
    first, last = bars[0], bars[-1]
    bid, ask = (next(book.levels(side), Level(last.close, Decimal(0))) for side in (Side.SELL, Side.BUY))
    volume = sum((bar.volume for bar in bars), Decimal(0))
    return {
        "symbol": book.listing.symbol,
        "priceChange": amount(last.close - first.open),
        "priceChangePercent": f"{(last.close - first.open) / first.open * 100:.3f}",
        "lastPrice": amount(last.close),
        "bidPrice": amount(bid.price),
        "bidQty": amount(bid.quantity),
        "askPrice": amount(ask.price),
        "askQty": amount(ask.quantity),
        "openPrice": amount(first.open),
        "highPrice": amount(max(bar.high for bar in bars)),
        "lowPrice": amount(min(bar.low for bar in bars)),
        "volume": amount(volume),
        "quoteVolume": amount(volume * last.close),
        "openTime": milliseconds(now) - 86_400_000,
        "closeTime": milliseconds(now),
        "count": len(bars),
    }


def _show_filters(listing: Listing) -> list[Json]:
    tick, lot = amount(listing.tick), amount(listing.lot)
    size = {"minQty": amount(listing.minimum_quantity), "maxQty": amount(listing.maximum_quantity), "stepSize": lot}
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": tick,
            "maxPrice": amount(listing.maximum_price),
            "tickSize": tick,
        },
        {"filterType": "LOT_SIZE", **size},
        {"filterType": "MARKET_LOT_SIZE", **size},
        {"filterType": "NOTIONAL", "minNotional": amount(listing.minimum_notional), "applyMinToMarket": True,
         "maxNotional": "10000000000.00000000", "applyMaxToMarket": False, "avgPriceMins": 0},
    ]  # fmt: skip
