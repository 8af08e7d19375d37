"""Endpoints for market data, orders and accounts."""

import secrets
from collections.abc import Callable
from typing import Any, Final

import orjson
from starlette.routing import Route

from tradesaga.infra.paper_exchange.book import Level
from tradesaga.infra.paper_exchange.errors import ApiError, Error
from tradesaga.infra.paper_exchange.faults import Operation
from tradesaga.infra.paper_exchange.history import Page
from tradesaga.infra.paper_exchange.parameters import Caller, Parameters
from tradesaga.infra.paper_exchange.records import ZERO, Order
from tradesaga.infra.paper_exchange.requests import Call, Handler, SignedHandler, opened, signed
from tradesaga.infra.paper_exchange.settings import Listing
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.infra.paper_exchange.views import (
    Json,
    milliseconds,
    show_account,
    show_bar,
    show_day,
    show_depth,
    show_listing,
    show_order,
    show_placed,
    show_trade,
)
from tradesaga.schemas.messages.trade import Side

_A_DAY: Final = 86_400_000
_MILLISECOND: Final = 1_000_000
_LAST_NANOSECOND: Final = 999_999


def market_routes(venue: Venue) -> list[Route]:
    """Return the routes of market data, which need no key."""
    handlers: dict[str, Handler] = {
        "ping": _ping,
        "time": _time,
        "exchangeInfo": _exchange_info,
        "ticker/price": _of_listings(_show_price),
        "ticker/bookTicker": _of_listings(_show_best),
        "ticker/24hr": _of_listings(_show_day),
        "avgPrice": _average,
        "depth": _depth,
        "klines": _klines,
    }
    return [Route(f"/api/v3/{path}", opened(venue, "market", handler)) for path, handler in handlers.items()]


def trading_routes(venue: Venue) -> list[Route]:
    """Return the routes of orders and accounts."""
    with_signature: list[tuple[str, str, Operation, SignedHandler]] = [
        ("POST", "order", "place", _place),
        ("GET", "order", "query", _query),
        ("DELETE", "order", "cancel", _cancel),
        ("GET", "openOrders", "account", _open_orders),
        ("DELETE", "openOrders", "cancel", _cancel_all),
        ("GET", "allOrders", "account", _all_orders),
        ("GET", "myTrades", "account", _my_trades),
        ("GET", "account", "account", _account),
    ]
    with_key: dict[str, Handler] = {"POST": _issue_key, "PUT": _renew_key, "DELETE": _drop_key}
    return [
        *(
            Route(f"/api/v3/{path}", signed(venue, operation, handler), methods=[method])
            for method, path, operation, handler in with_signature
        ),
        *(
            Route("/api/v3/userDataStream", opened(venue, "account", handler), methods=[method])
            for method, handler in with_key.items()
        ),
    ]


async def _ping(call: Call) -> Json:  # noqa: ARG001 - a handler's signature
    return {}


async def _time(call: Call) -> Json:
    return {"serverTime": milliseconds(call.venue.clock.now())}


async def _exchange_info(call: Call) -> Json:
    return {
        "timezone": "UTC",
        "serverTime": milliseconds(call.venue.clock.now()),
        "rateLimits": [],
        "exchangeFilters": [],
        "symbols": [show_listing(listing) for listing in _chosen(call)],
    }


def _of_listings(show: Callable[[Venue, Listing], Json]) -> Handler:
    """Return a handler that answers one view for `symbol`, otherwise the list of the views of several markets."""

    async def handler(call: Call) -> Any:
        views = [show(call.venue, listing) for listing in _chosen(call)]
        return views[0] if call.parameters.optional("symbol") else views

    return handler


def _show_price(venue: Venue, listing: Listing) -> Json:
    return {"symbol": listing.symbol, "price": venue.exchange.book(listing.symbol).bar.close}


def _show_best(venue: Venue, listing: Listing) -> Json:
    book = venue.exchange.book(listing.symbol)
    bid, ask = (next(book.levels(taker), Level(ZERO, ZERO)) for taker in (Side.SELL, Side.BUY))
    return {
        "symbol": listing.symbol,
        "bidPrice": bid.price,
        "bidQty": bid.quantity,
        "askPrice": ask.price,
        "askQty": ask.quantity,
    }


def _show_day(venue: Venue, listing: Listing) -> Json:
    book = venue.exchange.book(listing.symbol)
    bars = [bar for bar in book.history[-_A_DAY // 60_000 :] if bar.closed > book.bar.closed - _A_DAY]
    return show_day(book, bars, venue.clock.now())


async def _average(call: Call) -> Json:
    bar = call.venue.exchange.book(_symbol(call)).bar
    return {"mins": 0, "price": bar.close, "closeTime": bar.closed}


async def _depth(call: Call) -> Json:
    book, limit = call.venue.exchange.book(_symbol(call)), call.parameters.limit()
    return {
        "lastUpdateId": book.position.bar,
        "bids": show_depth(book.levels(Side.SELL))[:limit],
        "asks": show_depth(book.levels(Side.BUY))[:limit],
    }


async def _klines(call: Call) -> list[Any]:
    parameters = call.parameters
    book, limit = call.venue.exchange.book(_symbol(call)), parameters.limit()
    if parameters.text("interval") != book.listing.interval:
        raise ApiError(Error.BAD_INTERVAL, book.listing.symbol, book.listing.interval)
    start, end = parameters.whole("startTime"), parameters.whole("endTime")
    bars = [
        bar
        for bar in book.history
        if (start is None or bar.opened >= start) and (end is None or bar.opened <= end)
    ]  # fmt: skip
    return [show_bar(bar) for bar in (bars[-limit:] if start is None else bars[:limit])]


def _symbol(call: Call) -> str:
    """Return the request's symbol, which must be listed."""
    symbol = call.parameters.text("symbol")
    if symbol not in call.venue.exchange.listings:
        raise ApiError(Error.BAD_SYMBOL)
    return symbol


def _chosen(call: Call) -> list[Listing]:
    """Return the markets that `symbol` or `symbols` names, otherwise all."""
    listings = call.venue.exchange.listings
    if call.parameters.optional("symbol"):
        return [listings[_symbol(call)]]
    several = call.parameters.optional("symbols")
    if several is None:
        return list(listings.values())
    try:
        return [listings[str(name)] for name in orjson.loads(several)]
    except (orjson.JSONDecodeError, TypeError):
        raise ApiError(Error.ILLEGAL, "symbols", 'a JSON list such as ["EURUSD"]') from None
    except KeyError:
        raise ApiError(Error.BAD_SYMBOL) from None


async def _place(call: Call, caller: Caller) -> Json:
    _symbol(call)
    ticket = call.parameters.ticket(caller.account.name, secrets.token_urlsafe(16))
    detail = call.parameters.optional("newOrderRespType") or "FULL"
    if detail not in {"ACK", "RESULT", "FULL"}:
        raise ApiError(Error.BAD_RESPONSE_TYPE)
    order, trades = await call.venue.place(caller, ticket, call.effects)
    return show_placed(order, trades, detail)


async def _query(call: Call, caller: Caller) -> Json:
    symbol, (order_id, name), history = _symbol(call), _reference(call.parameters), call.venue.history
    order = await call.venue.read(
        lambda: history.named_order(caller.account.name, name or "") if order_id is None else history.order(order_id)
    )
    if order is None or (order.ticket.account, order.ticket.symbol) != (caller.account.name, symbol):
        raise ApiError(Error.NO_ORDER)
    return show_order(order)


async def _cancel(call: Call, caller: Caller) -> Json:
    symbol, (order_id, name) = _symbol(call), _reference(call.parameters)
    return _show_cancelled(await call.venue.cancel(caller, symbol, order_id, name))


async def _cancel_all(call: Call, caller: Caller) -> list[Json]:
    symbol, venue = _symbol(call), call.venue
    orders = await venue.read(lambda: venue.history.open_orders(caller.account.name, symbol))
    if not orders:
        raise ApiError(Error.UNKNOWN_ORDER)
    return [_show_cancelled(await venue.cancel(caller, symbol, order.id, None)) for order in orders]


async def _open_orders(call: Call, caller: Caller) -> list[Json]:
    symbol = _symbol(call) if call.parameters.optional("symbol") else None
    orders = await call.venue.read(lambda: call.venue.history.open_orders(caller.account.name, symbol))
    return [show_order(order) for order in orders]


async def _all_orders(call: Call, caller: Caller) -> list[Json]:
    symbol, page = _symbol(call), _page(call.parameters, "orderId")
    orders = await call.venue.read(lambda: call.venue.history.orders(caller.account.name, symbol, page))
    return [show_order(order) for order in orders]


async def _my_trades(call: Call, caller: Caller) -> list[Json]:
    symbol, page = _symbol(call), _page(call.parameters, "fromId", call.parameters.whole("orderId"))
    trades = await call.venue.read(lambda: call.venue.history.trades(caller.account.name, symbol, page))
    return [show_trade(trade) for trade in trades]


async def _account(call: Call, caller: Caller) -> Json:
    holdings = await call.venue.read(lambda: call.venue.history.holdings(caller.account.name))
    return show_account(holdings, call.venue.settings.fees, call.venue.clock.now())


async def _issue_key(call: Call) -> Json:
    return {"listenKey": call.venue.streams.issue_key(call.identify().name, call.venue.clock.now())}


async def _renew_key(call: Call) -> Json:
    call.venue.streams.renew_key(_own_key(call), call.venue.clock.now())
    return {}


async def _drop_key(call: Call) -> Json:
    call.venue.streams.drop_key(_own_key(call))
    return {}


def _own_key(call: Call) -> str:
    account, key = call.identify(), call.parameters.text("listenKey")
    if call.venue.streams.owner(key, call.venue.clock.now()) != account.name:
        raise ApiError(Error.BAD_LISTEN_KEY)
    return key


def _reference(parameters: Parameters) -> tuple[int | None, str | None]:
    order_id, name = parameters.whole("orderId"), parameters.optional("origClientOrderId")
    if order_id is None and name is None:
        raise ApiError(Error.MISSING, "origClientOrderId or orderId")
    return order_id, name


def _page(parameters: Parameters, first: str, order_id: int | None = None) -> Page:
    start, end = parameters.whole("startTime"), parameters.whole("endTime")
    first_id = parameters.whole(first)
    if order_id is not None and first_id is None:
        first_id = 0
    return Page(
        limit=parameters.limit(),
        first_id=first_id,
        start=None if start is None else _nanoseconds(start),
        end=None if end is None else min(_nanoseconds(end), 2**63 - _MILLISECOND) + _LAST_NANOSECOND,
        order_id=order_id,
    )


def _nanoseconds(milliseconds: int) -> int:
    return min(milliseconds, 2**62 // _MILLISECOND) * _MILLISECOND


def _show_cancelled(order: Order) -> Json:
    name = order.ticket.client_order_id
    return show_order(order) | {"origClientOrderId": name, "transactTime": milliseconds(order.updated)}
