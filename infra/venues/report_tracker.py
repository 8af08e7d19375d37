"""What has been told of an account's orders, so that each thing is told in order, and a cursor says where to go on.

Order ids and trade ids rise per venue, so two numbers per symbol are cursor enough: all orders below `order` are told
to their end, and so are all trades up to `trade`. What lies between the cursor and the break is told again.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

import orjson

from tradesaga.sagas.trade.venue import Fill, OrderReport, OrderStatus, ReportKind, VenueReport, VenueTrade

_ENDS: Final = {
    OrderStatus.REJECTED: ReportKind.REJECTED,
    OrderStatus.EXPIRED: ReportKind.EXPIRED,
    OrderStatus.CANCELLED: ReportKind.CANCELLED,
}


class ReportGapError(Exception):
    """A live report does not follow what was told: something in between was lost and has to be read anew."""


class CursorError(ValueError):
    """The cursor is not one that this tracker has given."""


@dataclass(slots=True)
class _Told:
    """One order, as far as it has been told."""

    order: OrderReport
    trade_before: int
    quantity: Decimal = Decimal(0)
    quote: Decimal = Decimal(0)
    ended: bool = False


@dataclass(slots=True)
class _Symbol:
    """One symbol: `order` and `trade` are the cursor, `orders` those told from there on.

    The first of `orders` is looked for and taken out over and over, which a plain dict does in time that grows with
    all that were taken out before.
    """

    order: int = 0
    trade: int = 0
    last_trade: int = 0
    last_order: int = -1
    orders: OrderedDict[int, _Told] = field(default_factory=OrderedDict[int, _Told])


class ReportTracker:
    """Turns orders and trades, read or streamed, into reports."""

    def __init__(self, cursor: str | None) -> None:
        self._symbols: dict[str, _Symbol] = {}
        for symbol, (order, trade) in _parse(cursor).items():
            self._symbols[symbol] = _Symbol(order, trade, trade, order - 1)

    def since(self, symbol: str) -> tuple[str, str]:
        """Return the ids after which orders and trades have to be read to miss nothing."""
        at = self._at(symbol)
        return str(at.order - 1), str(at.last_trade)

    def strangers(self, symbol: str, trades: Sequence[VenueTrade]) -> set[str]:
        """Return the ids of finished orders that busts among these trades are about: read them for `catch_up`."""
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

        In this sequence every trade's order is known; what orders are ahead of these trades is left to the next read.
        """
        at, read = self._at(symbol), {order.venue_order_id: order for order in orders}
        for order in sorted(orders, key=lambda one: int(one.venue_order_id)):
            yield from self._register(at, order)
        for trade in trades:
            if int(trade.fill.trade_id) > at.last_trade:
                yield from self._tell_trade(at, trade, read.get(trade.venue_order_id))
        for order in orders:
            yield from self._end(at, order)

    def follow(self, order: OrderReport, trade: VenueTrade | None) -> Iterator[VenueReport]:
        """Yield the reports of a live event. Raises `ReportGapError` if it cannot be the next one of its order."""
        at = self._at(order.symbol)
        number = int(order.venue_order_id)
        if trade is not None and int(trade.fill.trade_id) <= at.last_trade:
            return
        if trade is not None and trade.bust_of is not None:
            yield from self._tell_trade(at, trade, order)
            return
        if number <= at.last_order and number not in at.orders:
            return
        told = at.orders.get(number)
        before = Decimal(0) if trade is None else trade.fill.quantity
        known = told.quantity if told else Decimal(0)
        if order.filled - before < known:
            return  # older than what has been read meanwhile
        if order.filled - before > known:
            raise ReportGapError(f"order {number} of {order.symbol} has moved on unseen")
        if told is None:
            yield from self._register(at, order)
        if trade is not None:
            yield from self._tell_trade(at, trade, None)
        yield from self._end(at, order)

    def _register(self, at: _Symbol, order: OrderReport) -> Iterator[VenueReport]:
        number = int(order.venue_order_id)
        if number <= at.last_order:
            return
        at.last_order = number
        at.orders[number] = _Told(order, at.last_trade)
        if order.status is not OrderStatus.REJECTED:
            yield self._report(order, ReportKind.ACKNOWLEDGED, at.orders[number])

    def _tell_trade(self, at: _Symbol, trade: VenueTrade, order: OrderReport | None) -> Iterator[VenueReport]:
        number, fill = int(trade.venue_order_id), trade.fill
        told = at.orders.get(number)
        at.last_trade = int(fill.trade_id)
        if trade.bust_of is not None:
            original = told.order if told else order
            if original is not None:
                yield self._report_bust(original, trade, told)
            return
        if told is None or told.ended:
            return
        told.quantity += fill.quantity
        told.quote += fill.quantity * fill.price
        told.ended = told.quantity >= told.order.quantity
        kind = ReportKind.FILL if told.ended else ReportKind.PARTIAL_FILL
        yield self._report(told.order, kind, told, fill)

    def _end(self, at: _Symbol, order: OrderReport) -> Iterator[VenueReport]:
        told, kind = at.orders.get(int(order.venue_order_id)), _ENDS.get(order.status)
        if kind is None or told is None or told.ended or told.quantity != order.filled:
            return
        told.ended = True
        yield self._report(order, kind, told)

    def _report(self, order: OrderReport, kind: ReportKind, told: _Told, fill: Fill | None = None) -> VenueReport:
        suffix = fill.trade_id if fill else kind
        self._settle(self._at(order.symbol))
        return VenueReport(
            report_id=f"{order.symbol}:{order.venue_order_id}:{suffix}",
            kind=kind,
            client_order_id=order.client_order_id,
            venue_order_id=order.venue_order_id,
            symbol=order.symbol,
            cumulative_quantity=told.quantity,
            cumulative_quote=told.quote,
            time=fill.time if fill else order.time,
            cursor=self.cursor,
            fill=fill,
            reason=order.reason,
        )

    def _report_bust(self, order: OrderReport, trade: VenueTrade, told: _Told | None) -> VenueReport:
        busted = replace(trade.fill, trade_id=trade.bust_of or "", fee=-trade.fill.fee)
        return VenueReport(
            report_id=f"{order.symbol}:{order.venue_order_id}:bust:{busted.trade_id}",
            kind=ReportKind.BUSTED,
            client_order_id=order.client_order_id,
            venue_order_id=order.venue_order_id,
            symbol=order.symbol,
            cumulative_quantity=told.quantity if told else order.filled,
            cumulative_quote=told.quote if told else order.quote,
            time=trade.fill.time,
            cursor=self.cursor,
            fill=busted,
        )

    @property
    def cursor(self) -> str:
        """Where to go on after what has been told."""
        return orjson.dumps({symbol: [at.order, at.trade] for symbol, at in sorted(self._symbols.items())}).decode()

    def _at(self, symbol: str) -> _Symbol:
        return self._symbols.setdefault(symbol, _Symbol())

    @staticmethod
    def _settle(at: _Symbol) -> None:
        """Move the cursor past the orders that are told to their end."""
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
