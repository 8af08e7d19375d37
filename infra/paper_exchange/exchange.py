"""Matching engine and balances: deterministic, in memory, no I/O. Each operation returns one `Change` for the ledger.

It holds the state that later operations depend on: holdings, resting orders and the current bars. Closed orders and
trades are in the ledger only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_DOWN, ROUND_UP, Decimal

from tradesaga.infra.paper_exchange.book import Bar, Book, part_of
from tradesaga.infra.paper_exchange.errors import ApiError, Error
from tradesaga.infra.paper_exchange.records import (
    DEPOSITS_ACCOUNT,
    FEES_ACCOUNT,
    MARKET_ACCOUNT,
    ZERO,
    Account,
    Change,
    Event,
    Execution,
    Holding,
    Order,
    Position,
    Posting,
    Status,
    Ticket,
    Trade,
)
from tradesaga.infra.paper_exchange.settings import SCALE, Fees, Listing
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce


@dataclass(slots=True)
class State:
    """The exchange's state: empty, or as read from the ledger."""

    holdings: dict[tuple[str, str], Holding] = field(default_factory=dict[tuple[str, str], Holding])
    resting: dict[int, Order] = field(default_factory=dict[int, Order])
    positions: dict[str, Position] = field(default_factory=dict[str, Position])
    last_order: int = 0
    last_trade: int = 0
    last_event: int = 0
    last_entry: int = 0


class Exchange:
    """Matches orders against the price series. Not thread-safe; times are nanoseconds since 1970 UTC."""

    def __init__(
        self, listings: Sequence[Listing], prices: Mapping[str, Sequence[Bar]], fees: Fees, state: State
    ) -> None:
        self.listings = {listing.symbol: listing for listing in listings}
        self.fees = fees
        self._prices = prices
        self._state = state
        for listing in listings:
            state.positions.setdefault(listing.symbol, Position(listing.first_bar))

    def book(self, symbol: str) -> Book:
        """Return the current order book of a symbol."""
        return Book(self.listings[symbol], self._prices[symbol], self._state.positions[symbol])

    def resting(self, order_id: int) -> Order | None:
        """Return an order that can still be filled or cancelled, or None."""
        return self._state.resting.get(order_id)

    @property
    def waiting(self) -> int:
        """The number of resting orders."""
        return len(self._state.resting)

    def holding(self, account: str, asset: str) -> Holding:
        """Return an account's holding of an asset."""
        return self._state.holdings.get((account, asset), Holding())

    def open_account(self, account: Account, balances: Mapping[str, Decimal], now: int) -> Change:
        """Open an account and deposit its balances."""
        change = self._begin(now)
        change.accounts.append(account)
        for asset, amount in balances.items():
            self._pay(change, DEPOSITS_ACCOUNT, account.name, asset, amount)
        return change

    def deposit(self, account: str, asset: str, amount: Decimal, now: int) -> Change:
        """Deposit an amount to an account."""
        change = self._begin(now)
        self._pay(change, DEPOSITS_ACCOUNT, account, asset, amount)
        return change

    def place(self, ticket: Ticket, now: int, ratio: Decimal | None = None, reject: str | None = None) -> Change:
        """Accept an order: reject it with a reason, or match it and let the remainder rest or expire.

        With `ratio`, only that part of the order is matched at once; with `reject`, it is rejected for that reason.
        """
        change = self._begin(now)
        self._state.last_order += 1
        order = Order(self._state.last_order, ticket, Status.NEW, now, now)
        book = self.book(ticket.symbol)
        error = ApiError(Error.REJECTED, reject) if reject else self._check(book, ticket)
        if error is not None:
            order = replace(order, status=Status.REJECTED, code=error.code, reason=error.message)
            self._record(change, Execution.REJECTED, order)
            return change
        self._lock(change, order, +1)
        self._state.resting[order.id] = order
        self._record(change, Execution.NEW, order)
        wanted = part_of(ticket.quantity, ratio, book.listing.lot) if ratio is not None else ticket.quantity
        for piece in book.take(ticket.side, wanted, ticket.price):
            order = self._fill(change, order, piece.quantity, piece.price, maker=False)
        if order.remaining and (ticket.type is OrderType.MARKET or ticket.time_in_force is TimeInForce.IOC):
            self._close(change, order, Status.EXPIRED)
        return change

    def cancel(self, order_id: int, now: int) -> Change:
        """Cancel a resting order."""
        order = self.resting(order_id)
        if order is None:
            raise ApiError(Error.UNKNOWN_ORDER)
        change = self._begin(now)
        self._close(change, order, Status.CANCELED)
        return change

    def step(self, symbol: str, now: int) -> Change:
        """Close the next bar: liquidity is new, and resting orders that its range reaches are filled at their price."""
        change = self._begin(now)
        self._set_position(change, symbol, Position(self._state.positions[symbol].bar + 1))
        book = self.book(symbol)
        reached = [one for one in self._state.resting.values() if one.ticket.symbol == symbol and book.touched(one)]
        for order in sorted(reached, key=_priority):
            quantity = min(order.remaining, self.book(symbol).left(order.ticket.side))
            if quantity > 0:
                self._fill(change, order, quantity, order.ticket.price or ZERO, maker=True)
        return change

    def bust(self, trade: Trade, order: Order, now: int) -> Change:
        """Bust a trade: book the opposite trade and return the fee. The order stays as it is."""
        change = self._begin(now)
        self._state.last_trade += 1
        other = Side.SELL if trade.side is Side.BUY else Side.BUY
        reversal = replace(trade, id=self._state.last_trade, side=other, fee=-trade.fee, time=now, bust_of=trade.id)
        self._settle(change, reversal)
        self._record(change, Execution.TRADE_BUST, order, reversal)
        return change

    def _begin(self, now: int) -> Change:
        self._state.last_entry += 1
        return Change(now, self._state.last_entry)

    def _check(self, book: Book, ticket: Ticket) -> ApiError | None:
        failed = _failed_filter(book, ticket)
        if failed is not None:
            return ApiError(Error.FILTER_FAILURE, failed)
        listing = book.listing
        if ticket.side is Side.SELL:
            need, asset = ticket.quantity, listing.base
        elif ticket.price is not None:
            need, asset = self._reserve(ticket, ticket.quantity), listing.quote
        else:
            pieces = book.take(Side.BUY, ticket.quantity, None)
            need = sum((self._with_fee(one.price * one.quantity, maker=False) for one in pieces), ZERO)
            asset = listing.quote
        return ApiError(Error.INSUFFICIENT_BALANCE) if self.holding(ticket.account, asset).free < need else None

    def _reserve(self, ticket: Ticket, quantity: Decimal) -> Decimal:
        """Return the amount a limit order reserves for a quantity: the most that it can cost."""
        if ticket.side is Side.SELL:
            return quantity
        value = (ticket.price or ZERO) * quantity
        return max(self._with_fee(value, maker=True), self._with_fee(value, maker=False))

    def _with_fee(self, value: Decimal, *, maker: bool) -> Decimal:
        rate = self.fees.rate(maker=maker) if self.fees.asset == "quote" else ZERO
        return (value * (1 + rate)).quantize(SCALE, ROUND_UP)

    def _lock(self, change: Change, order: Order, sign: int) -> None:
        """Lock (+1) or release (-1) the amount that the unfilled part of a limit order reserves."""
        ticket = order.ticket
        if ticket.type is OrderType.MARKET:
            return
        listing = self.listings[ticket.symbol]
        asset = listing.base if ticket.side is Side.SELL else listing.quote
        amount = self._reserve(ticket, order.remaining) * sign
        held = self.holding(ticket.account, asset)
        self._set_holding(change, ticket.account, asset, Holding(held.free - amount, held.locked + amount))

    def _fill(self, change: Change, order: Order, quantity: Decimal, price: Decimal, *, maker: bool) -> Order:
        ticket, listing = order.ticket, self.listings[order.ticket.symbol]
        value = price * quantity
        self._state.last_trade += 1
        buys_base = ticket.side is Side.BUY and self.fees.asset == "received"
        fee = ((quantity if buys_base else value) * self.fees.rate(maker=maker)).quantize(SCALE, ROUND_DOWN)
        trade = Trade(
            self._state.last_trade, order.id, ticket.account, ticket.symbol, ticket.side,
            quantity, price, fee, listing.base if buys_base else listing.quote, maker, change.time,
        )  # fmt: skip
        self._lock(change, order, -1)
        status = Status.FILLED if quantity == order.remaining else Status.PARTIALLY_FILLED
        filled = replace(
            order, status=status, executed=order.executed + quantity, quote=order.quote + value, updated=change.time
        )
        self._settle(change, trade)
        self._set_position(change, ticket.symbol, self.book(ticket.symbol).without(ticket.side, quantity))
        if status is Status.FILLED:
            self._state.resting.pop(order.id)
        else:
            self._lock(change, filled, +1)
            self._state.resting[order.id] = filled
        self._record(change, Execution.TRADE, filled, trade)
        return filled

    def _close(self, change: Change, order: Order, status: Status) -> None:
        self._lock(change, order, -1)
        self._state.resting.pop(order.id)
        self._record(change, Execution(status), replace(order, status=status, updated=change.time))

    def _settle(self, change: Change, trade: Trade) -> None:
        listing, value = self.listings[trade.symbol], trade.price * trade.quantity
        seller, buyer = MARKET_ACCOUNT, trade.account
        if trade.side is Side.SELL:
            seller, buyer = buyer, seller
        self._pay(change, seller, buyer, listing.base, trade.quantity)
        self._pay(change, buyer, seller, listing.quote, value)
        self._pay(change, trade.account, FEES_ACCOUNT, trade.fee_asset, trade.fee)
        change.trades.append(trade)

    def _pay(self, change: Change, payer: str, payee: str, asset: str, amount: Decimal) -> None:
        if not amount:
            return
        for account, signed in ((payer, -amount), (payee, amount)):
            change.postings.append(Posting(change.entry, account, asset, signed, change.time))
            if not account.startswith("@"):
                held = self.holding(account, asset)
                self._set_holding(change, account, asset, Holding(held.free + signed, held.locked))

    def _set_holding(self, change: Change, account: str, asset: str, holding: Holding) -> None:
        self._state.holdings[account, asset] = change.holdings[account, asset] = holding

    def _set_position(self, change: Change, symbol: str, position: Position) -> None:
        self._state.positions[symbol] = change.positions[symbol] = position

    def _record(self, change: Change, execution: Execution, order: Order, trade: Trade | None = None) -> None:
        self._state.last_event += 1
        change.orders[order.id] = order
        change.events.append(Event(self._state.last_event, execution, order, change.time, trade))


def _failed_filter(book: Book, ticket: Ticket) -> str | None:
    listing, price = book.listing, ticket.price
    if price is not None and (price <= 0 or price > listing.maximum_price or price % listing.tick):
        return "PRICE_FILTER"
    lots = listing.minimum_quantity <= ticket.quantity <= listing.maximum_quantity
    if not lots or ticket.quantity % listing.lot:
        return "LOT_SIZE"
    return "NOTIONAL" if ticket.quantity * (price or book.bar.close) < listing.minimum_notional else None


def _priority(order: Order) -> tuple[Decimal, int]:
    price = order.ticket.price or ZERO
    return (-price if order.ticket.side is Side.BUY else price, order.id)
