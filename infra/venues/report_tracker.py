"""Tracks what has been reported of an account's orders, so that reports are in order and a cursor can resume them.

Order ids and trade ids rise per venue, so it is enough to keep two numbers per symbol: all orders below `order` and all
trades up to `trade` are fully reported. Reports between the cursor and a break are repeated.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

import orjson

from tradesaga.sagas.trade.venue import Fill, OrderReport, OrderStatus, ReportKind, VenueReport, VenueTrade

ENDS: Final = {
    OrderStatus.REJECTED: ReportKind.REJECTED,
    OrderStatus.EXPIRED: ReportKind.EXPIRED,
    OrderStatus.CANCELLED: ReportKind.CANCELLED,
}


class ReportGapError(Exception):
    """A live event does not follow the last report: events in between were lost and must be read again."""


class CursorError(ValueError):
    """The cursor is not one of this tracker's."""


@dataclass(slots=True)
class _Progress:
    """What has been reported of an order."""

    order: OrderReport
    trade_before: int
    quantity: Decimal = Decimal(0)
    quote: Decimal = Decimal(0)
    ended: bool = False


@dataclass(slots=True)
class _Symbol:
    """One symbol: `order` and `trade` are the cursor, `orders` those reported after it.

    The first of `orders` is removed again and again, which in a plain dict takes time that grows with the number
    removed before.
    """

    order: int = 0
    trade: int = 0
    last_trade: int = 0
    last_order: int = -1
    orders: OrderedDict[int, _Progress] = field(default_factory=OrderedDict[int, _Progress])


def make_report(
    order: OrderReport,
    kind: ReportKind,
    quantity: Decimal,
    quote: Decimal,
    *,
    fill: Fill | None = None,
    cursor: str = "",
) -> VenueReport:
    """Return a report of an order with its cumulative amounts; its id is the same whenever it is made again."""
    busted = kind is ReportKind.BUSTED
    number = kind if fill is None else f"bust:{fill.trade_id}" if busted else fill.trade_id
    return VenueReport(
        report_id=f"{order.symbol}:{order.venue_order_id}:{number}",
        kind=kind,
        client_order_id=order.client_order_id,
        venue_order_id=order.venue_order_id,
        symbol=order.symbol,
        cumulative_quantity=quantity,
        cumulative_quote=quote,
        time=fill.time if fill else order.time,
        cursor=cursor,
        fill=fill,
        reason="" if busted else order.reason,
    )


class ReportTracker:
    """Turns orders and trades, read or streamed, into reports."""

    def __init__(self, cursor: str | None) -> None:
        self._symbols: dict[str, _Symbol] = {}
        for symbol, (order, trade) in _parse(cursor).items():
            self._symbols[symbol] = _Symbol(order, trade, trade, order - 1)

    def since(self, symbol: str) -> tuple[str, str]:
        """Return the ids after which orders and trades must be read to miss none."""
        at = self._at(symbol)
        return str(at.order - 1), str(at.last_trade)

    def busted_orders(self, symbol: str, trades: Sequence[VenueTrade]) -> set[str]:
        """Return the ids of the finished orders that have busts among these trades; `catch_up` needs them too."""
        at = self._at(symbol)
        return {
            trade.venue_order_id
            for trade in trades
            if trade.bust_of is not None and int(trade.venue_order_id) < at.order
        }

    def catch_up(
        self, symbol: str, orders: Sequence[OrderReport], trades: Sequence[VenueTrade]
    ) -> Iterator[VenueReport]:
        """Yield the reports of trades, and of orders read after them, that were not reported yet.

        Trades are read first, so each trade's order is known; orders with later trades are left to the next read.
        """
        at, read = self._at(symbol), {order.venue_order_id: order for order in orders}
        for order in sorted(orders, key=lambda one: int(one.venue_order_id)):
            yield from self._register(at, order)
        for trade in trades:
            if int(trade.fill.trade_id) > at.last_trade:
                yield from self._report_trade(at, trade, read.get(trade.venue_order_id))
        for order in orders:
            yield from self._end(at, order)

    def follow(self, order: OrderReport, trade: VenueTrade | None) -> Iterator[VenueReport]:
        """Yield the reports of a live event. Raises `ReportGapError` if it cannot be the next one of its order."""
        at = self._at(order.symbol)
        number = int(order.venue_order_id)
        if trade is not None and int(trade.fill.trade_id) <= at.last_trade:
            return
        if trade is not None and trade.bust_of is not None:
            yield from self._report_trade(at, trade, order)
            return
        if number <= at.last_order and number not in at.orders:
            return
        progress = at.orders.get(number)
        before = Decimal(0) if trade is None else trade.fill.quantity
        known = progress.quantity if progress else Decimal(0)
        if order.filled - before < known:
            return  # older than what has been read since
        if order.filled - before > known:
            raise ReportGapError(f"events of order {number} of {order.symbol} are missing")
        if progress is None:
            yield from self._register(at, order)
        if trade is not None:
            yield from self._report_trade(at, trade, None)
        yield from self._end(at, order)

    def _register(self, at: _Symbol, order: OrderReport) -> Iterator[VenueReport]:
        number = int(order.venue_order_id)
        if number <= at.last_order:
            return
        at.last_order = number
        at.orders[number] = _Progress(order, at.last_trade)
        if order.status is not OrderStatus.REJECTED:
            yield self._report(order, ReportKind.ACKNOWLEDGED, at.orders[number])

    def _report_trade(self, at: _Symbol, trade: VenueTrade, order: OrderReport | None) -> Iterator[VenueReport]:
        number, fill = int(trade.venue_order_id), trade.fill
        progress = at.orders.get(number)
        at.last_trade = int(fill.trade_id)
        if trade.bust_of is not None:
            original = progress.order if progress else order
            if original is not None:
                busted = replace(fill, trade_id=trade.bust_of, fee=-fill.fee)
                yield self._report(original, ReportKind.BUSTED, progress, busted)
            return
        if progress is None or progress.ended:
            return
        progress.quantity += fill.quantity
        progress.quote += fill.quantity * fill.price
        progress.ended = progress.quantity >= progress.order.quantity
        kind = ReportKind.FILL if progress.ended else ReportKind.PARTIAL_FILL
        yield self._report(progress.order, kind, progress, fill)

    def _end(self, at: _Symbol, order: OrderReport) -> Iterator[VenueReport]:
        progress, kind = at.orders.get(int(order.venue_order_id)), ENDS.get(order.status)
        if kind is None or progress is None or progress.ended or progress.quantity != order.filled:
            return
        progress.ended = True
        yield self._report(order, kind, progress)

    def _report(
        self, order: OrderReport, kind: ReportKind, progress: _Progress | None, fill: Fill | None = None
    ) -> VenueReport:
        if kind is not ReportKind.BUSTED:
            self._advance(self._at(order.symbol))
        quantity, quote = (progress.quantity, progress.quote) if progress else (order.filled, order.quote)
        return make_report(order, kind, quantity, quote, fill=fill, cursor=self.cursor)

    @property
    def cursor(self) -> str:
        """The position after all reports so far."""
        return orjson.dumps({symbol: [at.order, at.trade] for symbol, at in sorted(self._symbols.items())}).decode()

    def _at(self, symbol: str) -> _Symbol:
        return self._symbols.setdefault(symbol, _Symbol())

    @staticmethod
    def _advance(at: _Symbol) -> None:
        """Move the cursor past the orders that are fully reported."""
        while (first := next(iter(at.orders.items()), None)) is not None and first[1].ended:
            at.orders.popitem(last=False)
        at.order, at.trade = (at.last_order + 1, at.last_trade) if first is None else (first[0], first[1].trade_before)


def _parse(cursor: str | None) -> Mapping[str, tuple[int, int]]:
    if cursor is None:
        return {}
    try:
        marks = orjson.loads(cursor)
        return {str(symbol): (int(order), int(trade)) for symbol, (order, trade) in marks.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise CursorError(f"not a cursor of this stream: {cursor[:200]!r}") from error
