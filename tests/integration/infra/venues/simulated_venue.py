"""An in-memory venue behind the venue port: the paper exchange without its ledger and its network.

Deterministic as long as its clock is.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from tradesaga.infra.paper_exchange.book import Bar
from tradesaga.infra.paper_exchange.exchange import Exchange, State
from tradesaga.infra.paper_exchange.faults import Effects, FaultPlan, Operation
from tradesaga.infra.paper_exchange.records import Account, Change, Order, Status, Ticket, Trade
from tradesaga.infra.paper_exchange.settings import Fees, Listing, default_listings
from tradesaga.infra.venues.report_tracker import CursorError, ReportTracker
from tradesaga.sagas.trade.venue import (
    EXPIRED,
    SYMBOL_UNKNOWN,
    Balance,
    Fill,
    NewOrder,
    OrderReport,
    OrderStatus,
    SymbolRules,
    VenueRejected,
    VenueReport,
    VenueTrade,
    VenueUnknown,
)

_ACCOUNT = "simulated"
_STATUS = {
    Status.NEW: OrderStatus.ACKNOWLEDGED,
    Status.PARTIALLY_FILLED: OrderStatus.PARTIALLY_FILLED,
    Status.FILLED: OrderStatus.FILLED,
    Status.CANCELED: OrderStatus.CANCELLED,
    Status.EXPIRED: OrderStatus.EXPIRED,
    Status.REJECTED: OrderStatus.REJECTED,
}


class SimulatedVenue:
    """One account at a venue of its own, in this process. `step` closes a bar; `faults` go wrong as at the paper venue.

    `prices` are the closes of the bars by symbol (`BASE/QUOTE`), beginning with the one that is closed at the start.
    """

    def __init__(
        self,
        prices: Mapping[str, Sequence[Decimal]],
        balances: Mapping[str, Decimal],
        listings: Sequence[Listing] = (),
        fees: Fees | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        chosen = [one.model_copy(update={"first_bar": 0}) for one in listings or default_listings()]
        self._listings = {f"{one.base}/{one.quote}": one for one in chosen if f"{one.base}/{one.quote}" in prices}
        self._symbols = {one.symbol: symbol for symbol, one in self._listings.items()}
        tapes = {self._listings[symbol].symbol: _tape(closes) for symbol, closes in prices.items()}
        self._exchange = Exchange(list(self._listings.values()), tapes, fees or Fees(), State())
        self._clock = clock
        self._orders: dict[int, Order] = {}
        self._names: dict[str, int] = {}
        self._trades: list[Trade] = []
        self._tracker = ReportTracker(None)
        self._reports: list[VenueReport] = []
        self._news = asyncio.Event()
        self.faults = FaultPlan()
        self._record(self._exchange.open_account(Account(_ACCOUNT, "", ""), balances, clock()))

    async def place(self, order: NewOrder) -> OrderReport:
        """Place an order, unless its time is over."""
        listing = self._listing(order.symbol)
        effects = await self._apply_faults("place", order.client_order_id, listing)
        if self._clock() > order.expires:
            raise VenueRejected(EXPIRED, f"the order {order.client_order_id} came after its expiry")
        number = self._names.get(order.client_order_id)
        if number is None:
            ticket = Ticket(
                _ACCOUNT, order.client_order_id, listing.symbol, order.side, order.type, order.time_in_force,
                order.quantity, order.price,
            )  # fmt: skip
            change = self._exchange.place(ticket, self._clock(), effects.ratio, effects.reject)
            number = change.events[-1].order.id
            self._names[order.client_order_id] = number
            self._record(change)
        await _answer(effects)
        placed = self._orders[number]
        if (placed.ticket.side, placed.ticket.quantity, placed.ticket.price) != (
            order.side, order.quantity, order.price,
        ):  # fmt: skip
            raise VenueRejected("-2010", f"the client order id {order.client_order_id} is another order's")
        if placed.status is Status.REJECTED:
            raise VenueRejected(str(placed.code), placed.reason)
        return self._show(placed)

    async def cancel(self, client_order_id: str, symbol: str) -> OrderReport | None:
        """Cancel an order, and say how it ended."""
        effects = await self._apply_faults("cancel", client_order_id, self._listing(symbol))
        number = self._names.get(client_order_id)
        if number is not None and self._exchange.resting(number) is not None:
            self._record(self._exchange.cancel(number, self._clock()))
        await _answer(effects)
        return self._find(client_order_id, symbol)

    async def query(self, client_order_id: str, symbol: str, *, fills: bool = True) -> OrderReport | None:
        """Return an order, and its fills if `fills`."""
        await _answer(await self._apply_faults("query", client_order_id, self._listing(symbol)))
        found = self._find(client_order_id, symbol)
        return found if found is None or fills else replace(found, fills=())

    async def open_orders(self) -> Sequence[OrderReport]:
        """Give all orders that rest."""
        return [self._show(order) for order in self._orders.values() if self._exchange.resting(order.id) is not None]

    async def orders_since(self, symbol: str, after: str | None = None) -> Sequence[OrderReport]:
        """Give the orders after an order id, oldest first."""
        name, first = self._listing(symbol).symbol, int(after or 0)
        return [self._show(one) for one in self._orders.values() if one.id > first and one.ticket.symbol == name]

    async def trades_since(self, symbol: str, after: str | None = None) -> Sequence[VenueTrade]:
        """Give the trades after a trade id, oldest first."""
        name, first = self._listing(symbol).symbol, int(after or 0)
        return [self._show_trade(one) for one in self._trades if one.id > first and one.symbol == name]

    async def balances(self) -> Mapping[str, Balance]:
        """Give what the account holds."""
        assets = {asset for one in self._listings.values() for asset in (one.base, one.quote)}
        held = {asset: self._exchange.holding(_ACCOUNT, asset) for asset in sorted(assets)}
        return {asset: Balance(one.free, one.locked) for asset, one in held.items()}

    async def rules(self) -> Mapping[str, SymbolRules]:
        """Give what may be traded."""
        return {
            symbol: SymbolRules(
                symbol, one.base, one.quote, one.tick, one.lot,
                one.minimum_quantity, one.maximum_quantity, one.minimum_notional,
            )
            for symbol, one in self._listings.items()
        }  # fmt: skip

    async def prices(self) -> Mapping[str, Decimal]:
        """Give the close of each symbol's last bar."""
        return {symbol: self._exchange.book(one.symbol).bar.close for symbol, one in self._listings.items()}

    async def reports(self, cursor: str | None = None) -> AsyncGenerator[VenueReport]:
        """Stream what happens; a cursor is the number of reports dealt with."""
        if cursor is not None and not (cursor.isascii() and cursor.isdecimal()):
            raise CursorError(f"not a cursor of this stream: {cursor[:200]!r}")
        told = int(cursor or 0)
        while True:
            while told < len(self._reports):
                told += 1
                yield self._reports[told - 1]
            self._news.clear()
            await self._news.wait()

    async def close(self) -> None:
        """Nothing is held open."""

    def told(self) -> Sequence[VenueReport]:
        """Return all reports so far, oldest first."""
        return self._reports

    def step(self, symbol: str) -> None:
        """Close the next bar of a market."""
        self._record(self._exchange.step(self._listing(symbol).symbol, self._clock()))

    def bust(self, trade_id: str) -> None:
        """Take a trade back."""
        trade = next(one for one in self._trades if one.id == int(trade_id))
        self._record(self._exchange.bust(trade, self._orders[trade.order_id], self._clock()))

    def _listing(self, symbol: str) -> Listing:
        if symbol not in self._listings:
            raise VenueRejected(SYMBOL_UNKNOWN, f"the venue does not list {symbol}")
        return self._listings[symbol]

    async def _apply_faults(self, operation: Operation, client_order_id: str, listing: Listing) -> Effects:
        effects = self.faults.apply(operation, _ACCOUNT, client_order_id, listing.symbol)
        if effects.outage is not None:
            raise VenueUnknown("the venue is out of order")
        await asyncio.sleep(effects.before)
        return effects

    def _record(self, change: Change) -> None:
        self._orders |= change.orders
        self._trades += change.trades
        for event in change.events:
            trade = None if event.trade is None else self._show_trade(event.trade)
            for report in self._tracker.follow(self._show(event.order), trade):
                self._reports.append(replace(report, cursor=str(len(self._reports) + 1)))
        self._news.set()

    def _find(self, client_order_id: str, symbol: str) -> OrderReport | None:
        number = self._names.get(client_order_id)
        if number is None or self._orders[number].ticket.symbol != self._listings[symbol].symbol:
            return None
        return self._show(self._orders[number])

    def _show(self, order: Order) -> OrderReport:
        ticket = order.ticket
        fills = (self._show_trade(one).fill for one in self._trades if one.order_id == order.id and one.bust_of is None)
        return OrderReport(
            ticket.client_order_id, str(order.id), self._symbols[ticket.symbol], ticket.side, ticket.type,
            ticket.time_in_force, ticket.quantity, ticket.price, _STATUS[order.status], order.executed, order.quote,
            order.updated, tuple(fills), order.reason,
        )  # fmt: skip

    def _show_trade(self, trade: Trade) -> VenueTrade:
        fill = Fill(str(trade.id), trade.quantity, trade.price, trade.fee, trade.fee_asset, trade.time)
        bust_of = None if trade.bust_of is None else str(trade.bust_of)
        return VenueTrade(fill, self._symbols[trade.symbol], trade.side, str(trade.order_id), bust_of)


async def _answer(effects: Effects) -> None:
    await asyncio.sleep(effects.after)
    if effects.lose:
        raise VenueUnknown("the venue's answer was lost")


def _tape(closes: Sequence[Decimal]) -> list[Bar]:
    return [Bar(number, number, price, price, price, price, Decimal(0)) for number, price in enumerate(closes)]
