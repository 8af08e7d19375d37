"""The open endpoints: time, rules, prices, books and bars."""

import secrets
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.routing import Route

from tradesaga.infra.paper_exchange.fields import Caller, Fields, identify
from tradesaga.infra.paper_exchange.gate import Call, Handler, opened, signed
from tradesaga.infra.paper_exchange.history import Page
from tradesaga.infra.paper_exchange.records import Order
from tradesaga.infra.paper_exchange.refusal import Refusal, illegal, missing, no_order
from tradesaga.infra.paper_exchange.settings import Listing
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.infra.paper_exchange.views import (
    Json,
    amount,
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

_A_DAY = 86_400_000


def market_routes(venue: Venue) -> list[Route]:
    """List the endpoints for anybody."""
    handlers: dict[str, Handler] = {
        "ping": _ping,
        "time": _time,
        "exchangeInfo": _exchange_info,
        "ticker/price": _price,
        "ticker/bookTicker": _book_ticker,
        "ticker/24hr": _day,
        "avgPrice": _average,
        "depth": _depth,
        "klines": _klines,
    }
    return [Route(f"/api/v3/{path}", opened(venue, "market", handler)) for path, handler in handlers.items()]


async def _ping(venue: Venue, call: Call) -> Json:  # noqa: ARG001 - a handler's shape
    return {}


async def _time(venue: Venue, call: Call) -> Json:  # noqa: ARG001
    return {"serverTime": milliseconds(venue.clock.now())}


async def _exchange_info(venue: Venue, call: Call) -> Json:
    return {
        "timezone": "UTC",
        "serverTime": milliseconds(venue.clock.now()),
        "rateLimits": [],
        "exchangeFilters": [],
        "symbols": [show_listing(listing) for listing in _chosen(venue, call)],
    }


async def _price(venue: Venue, call: Call) -> Any:
    def show(listing: Listing) -> Json:
        return {"symbol": listing.symbol, "price": amount(venue.exchange.book(listing.symbol).bar.close)}

    return _one_or_all(call, [show(listing) for listing in _chosen(venue, call)])


async def _book_ticker(venue: Venue, call: Call) -> Any:
    def show(listing: Listing) -> Json:
        book, view = venue.exchange.book(listing.symbol), {"symbol": listing.symbol}
        for name, taker in (("bid", Side.SELL), ("ask", Side.BUY)):
            best = next(book.levels(taker), None)
            view[f"{name}Price"] = amount(best.price) if best else "0.00000000"
            view[f"{name}Qty"] = amount(best.quantity) if best else "0.00000000"
        return view

    return _one_or_all(call, [show(listing) for listing in _chosen(venue, call)])


async def _day(venue: Venue, call: Call) -> Any:
    def show(listing: Listing) -> Json:
        book = venue.exchange.book(listing.symbol)
        bars = [bar for bar in book.history[-_A_DAY // 60_000 :] if bar.closed > book.bar.closed - _A_DAY]
        return show_day(book, bars, venue.clock.now())

    return _one_or_all(call, [show(listing) for listing in _chosen(venue, call)])


async def _average(venue: Venue, call: Call) -> Json:
    bar = venue.exchange.book(listed(venue, call.fields)).bar
    return {"mins": 0, "price": amount(bar.close), "closeTime": bar.closed}


async def _depth(venue: Venue, call: Call) -> Json:
    book, limit = venue.exchange.book(listed(venue, call.fields)), call.fields.limit()
    return {
        "lastUpdateId": book.position.bar,
        "bids": show_depth(book.levels(Side.SELL))[:limit],
        "asks": show_depth(book.levels(Side.BUY))[:limit],
    }


async def _klines(venue: Venue, call: Call) -> list[Any]:
    fields = call.fields
    book, limit = venue.exchange.book(listed(venue, fields)), fields.limit()
    if fields.text("interval") != book.listing.interval:
        raise Refusal(-1120, f"Invalid interval; {book.listing.symbol} has {book.listing.interval} bars alone.")
    start, end = fields.whole("startTime"), fields.whole("endTime")
    bars = [
        bar
        for bar in book.history
        if (start is None or bar.opened >= start) and (end is None or bar.opened <= end)
    ]  # fmt: skip
    return [show_bar(bar) for bar in (bars[-limit:] if start is None else bars[:limit])]


def _chosen(venue: Venue, call: Call) -> list[Listing]:
    fields, listings = call.fields, venue.exchange.listings
    if fields.optional("symbol"):
        return [listings[listed(venue, fields)]]
    several = fields.optional("symbols")
    if several is None:
        return list(listings.values())
    try:
        names = orjson.loads(several)
        return [listings[str(name)] for name in names]
    except (orjson.JSONDecodeError, TypeError):
        raise illegal("symbols", 'a JSON list such as ["EURUSD"]') from None
    except KeyError:
        raise Refusal(-1121, "Invalid symbol.") from None


def _one_or_all(call: Call, views: list[Json]) -> Any:
    return views[0] if call.fields.optional("symbol") else views


_MILLISECOND = 1_000_000

_LAST_NANOSECOND = 999_999


def trading_routes(venue: Venue) -> list[Route]:
    """List the endpoints for accounts."""
    order, base = "/api/v3/order", "/api/v3"
    return [
        Route(order, signed(venue, "place", _place), methods=["POST"]),
        Route(order, signed(venue, "query", _query), methods=["GET"]),
        Route(order, signed(venue, "cancel", _cancel), methods=["DELETE"]),
        Route(f"{base}/openOrders", signed(venue, "account", _open_orders), methods=["GET"]),
        Route(f"{base}/openOrders", signed(venue, "cancel", _cancel_all), methods=["DELETE"]),
        Route(f"{base}/allOrders", signed(venue, "account", _all_orders), methods=["GET"]),
        Route(f"{base}/myTrades", signed(venue, "account", _my_trades), methods=["GET"]),
        Route(f"{base}/account", signed(venue, "account", _account), methods=["GET"]),
        Route(f"{base}/userDataStream", opened(venue, "account", _issue_key), methods=["POST"]),
        Route(f"{base}/userDataStream", opened(venue, "account", _renew_key), methods=["PUT"]),
        Route(f"{base}/userDataStream", opened(venue, "account", _drop_key), methods=["DELETE"]),
    ]


def listed(venue: Venue, fields: Fields) -> str:
    """Return the request's symbol, which has to be listed."""
    symbol = fields.text("symbol")
    if symbol not in venue.exchange.listings:
        raise Refusal(-1121, "Invalid symbol.")
    return symbol


async def _place(venue: Venue, call: Call, caller: Caller) -> Json:
    listed(venue, call.fields)
    ticket = call.fields.ticket(caller.account.name, secrets.token_urlsafe(16))
    detail = call.fields.optional("newOrderRespType") or "FULL"
    if detail not in {"ACK", "RESULT", "FULL"}:
        raise Refusal(-1136, "Invalid newOrderRespType.")
    order, trades = await venue.place(caller, ticket, call.plan)
    return show_placed(order, trades, detail)


async def _query(venue: Venue, call: Call, caller: Caller) -> Json:
    symbol, (order_id, name) = listed(venue, call.fields), _reference(call.fields)

    def find() -> Order | None:
        if order_id is not None:
            return venue.history.order(order_id)
        return venue.history.named_order(caller.account.name, name or "")

    order = await venue.read(find)
    if order is None or (order.ticket.account, order.ticket.symbol) != (caller.account.name, symbol):
        raise no_order()
    return show_order(order)


async def _cancel(venue: Venue, call: Call, caller: Caller) -> Json:
    symbol, (order_id, name) = listed(venue, call.fields), _reference(call.fields)
    return _show_cancelled(await venue.cancel(caller, symbol, order_id, name))


async def _cancel_all(venue: Venue, call: Call, caller: Caller) -> list[Json]:
    symbol = listed(venue, call.fields)
    orders = await venue.read(lambda: venue.history.open_orders(caller.account.name, symbol))
    if not orders:
        raise Refusal(-2011, "Unknown order sent.")
    return [_show_cancelled(await venue.cancel(caller, symbol, order.id, None)) for order in orders]


async def _open_orders(venue: Venue, call: Call, caller: Caller) -> list[Json]:
    symbol = listed(venue, call.fields) if call.fields.optional("symbol") else None
    return _show(await venue.read(lambda: venue.history.open_orders(caller.account.name, symbol)))


async def _all_orders(venue: Venue, call: Call, caller: Caller) -> list[Json]:
    symbol, page = listed(venue, call.fields), _page(call.fields, "orderId")
    return _show(await venue.read(lambda: venue.history.orders(caller.account.name, symbol, page)))


async def _my_trades(venue: Venue, call: Call, caller: Caller) -> list[Json]:
    symbol, page = listed(venue, call.fields), _page(call.fields, "fromId", call.fields.whole("orderId"))
    trades = await venue.read(lambda: venue.history.trades(caller.account.name, symbol, page))
    return [show_trade(trade) for trade in trades]


async def _account(venue: Venue, call: Call, caller: Caller) -> Json:  # noqa: ARG001 - a handler's shape
    holdings = await venue.read(lambda: venue.history.holdings(caller.account.name))
    return show_account(holdings, venue.settings.fees, venue.clock.now())


async def _issue_key(venue: Venue, call: Call) -> Json:
    account = identify(venue.accounts, call.request.headers.get("x-mbx-apikey"))
    return {"listenKey": venue.streams.issue_key(account.name, venue.clock.now())}


async def _renew_key(venue: Venue, call: Call) -> Json:
    venue.streams.renew_key(_own_key(venue, call), venue.clock.now())
    return {}


async def _drop_key(venue: Venue, call: Call) -> Json:
    venue.streams.drop_key(_own_key(venue, call))
    return {}


def _own_key(venue: Venue, call: Call) -> str:
    account, key = identify(venue.accounts, call.request.headers.get("x-mbx-apikey")), call.fields.text("listenKey")
    if venue.streams.owner(key, venue.clock.now()) != account.name:
        raise Refusal(-1125, "This listenKey does not exist.")
    return key


def _reference(fields: Fields) -> tuple[int | None, str | None]:
    order_id, name = fields.whole("orderId"), fields.optional("origClientOrderId")
    if order_id is None and name is None:
        raise missing("origClientOrderId or orderId")
    return order_id, name


def _page(fields: Fields, first: str, order_id: int | None = None) -> Page:
    start, end = fields.whole("startTime"), fields.whole("endTime")
    first_id = fields.whole(first)
    if order_id is not None and first_id is None:
        first_id = 0
    return Page(
        limit=fields.limit(),
        first_id=first_id,
        start=_nanoseconds(start),
        end=None if end is None else min(_nanoseconds(end) or 0, 2**63 - _MILLISECOND) + _LAST_NANOSECOND,
        order_id=order_id,
    )


def _nanoseconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else min(milliseconds, 2**62 // _MILLISECOND) * _MILLISECOND


def _show(orders: Sequence[Order]) -> list[Json]:
    return [show_order(order) for order in orders]


def _show_cancelled(order: Order) -> dict[str, Any]:
    name = order.ticket.client_order_id
    return show_order(order) | {"origClientOrderId": name, "transactTime": order.updated // _MILLISECOND}
