"""The open endpoints: time, rules, prices, books and bars."""

from typing import Any

import orjson
from starlette.routing import Route

from tradesaga.infra.paper_exchange.gate import Call, Handler, opened
from tradesaga.infra.paper_exchange.refusal import Refusal, illegal
from tradesaga.infra.paper_exchange.settings import Listing
from tradesaga.infra.paper_exchange.trading import listed
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.infra.paper_exchange.views import (
    Json,
    amount,
    milliseconds,
    show_bar,
    show_day,
    show_depth,
    show_listing,
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
