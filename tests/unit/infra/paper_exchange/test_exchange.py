"""The exchange by itself: whatever is asked of it, its books add up, and nobody spends what is not theirs."""

from collections import defaultdict
from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tradesaga.infra.paper_exchange.book import Bar
from tradesaga.infra.paper_exchange.errors import ApiError
from tradesaga.infra.paper_exchange.exchange import Exchange, State
from tradesaga.infra.paper_exchange.records import Account, Change, Order, Status, Ticket, Trade
from tradesaga.infra.paper_exchange.settings import Fees, Listing
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

PRICES = [Decimal(text) for text in ("1.10", "1.12", "1.07", "1.10", "1.25", "0.98")]
LISTING = Listing(
    symbol="EURUSD", base="EUR", quote="USD", tape="none", interval="1h", first_bar=0, tick=Decimal("0.01"),
    lot=Decimal(1), minimum_quantity=Decimal(1), maximum_quantity=Decimal(100_000), maximum_price=Decimal(100),
    minimum_notional=Decimal(5), levels=3, level_quantity=Decimal(100),
)  # fmt: skip
TAPE = [
    Bar(n, n, price, price + Decimal("0.01"), price - Decimal("0.01"), price, Decimal(1))
    for n, price in enumerate(PRICES)
]


class Books(RuleBasedStateMachine):
    """Random orders, cancellations, bars and busts by two accounts."""

    @initialize(asset=st.sampled_from(["quote", "received"]))
    def open(self, asset: str) -> None:
        """Open two accounts; fees go either way."""
        fees = Fees.model_validate({"maker_bps": "7", "taker_bps": "13", "asset": asset})
        self.exchange = Exchange([LISTING], {"EURUSD": TAPE}, fees, State())
        self.postings: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self.orders: dict[int, Order] = {}
        self.trades: list[Trade] = []
        self.busted: set[int] = set()
        self.time = 0
        for name in ("a", "b"):
            funds = {"USD": Decimal(500), "EUR": Decimal(400)}
            self.book(self.exchange.open_account(Account(name, name, name), funds, 0))

    def book(self, change: Change) -> None:
        """Keep the books of a change; each entry adds up by itself."""
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for posting in change.postings:
            self.postings[posting.account, posting.asset] += posting.amount
            sums[posting.asset] += posting.amount
        assert not any(sums.values())
        self.orders |= change.orders
        self.trades += change.trades

    @rule(
        account=st.sampled_from("ab"),
        side=st.sampled_from(Side),
        quantity=st.integers(1, 700),
        price=st.one_of(st.none(), st.integers(90, 130)),
        tif=st.sampled_from(TimeInForce),
        ratio=st.sampled_from([None, Decimal("0.4")]),
    )
    def place(  # noqa: PLR0917 - drawn by name
        self, account: str, side: Side, quantity: int, price: int | None, tif: TimeInForce, ratio: Decimal | None
    ) -> None:
        """Place an order."""
        self.time += 1
        ticket = Ticket(
            account, str(self.time), "EURUSD", side, OrderType.MARKET if price is None else OrderType.LIMIT, tif,
            Decimal(quantity), None if price is None else Decimal(price) / 100,
        )  # fmt: skip
        self.book(self.exchange.place(ticket, self.time, ratio))

    @rule(choice=st.integers(0, 1000))
    def cancel(self, choice: int) -> None:
        """Cancel any order; only a resting one can be."""
        if self.orders:
            order = list(self.orders.values())[choice % len(self.orders)]
            try:
                self.book(self.exchange.cancel(order.id, self.time))
            except ApiError:
                assert order.status not in {Status.NEW, Status.PARTIALLY_FILLED}

    @rule()
    def step(self) -> None:
        """Close a bar."""
        self.book(self.exchange.step("EURUSD", self.time))

    @invariant()
    def holdings_are_postings(self) -> None:
        """What is free and locked together is what was posted, and never negative without a bust."""
        for (account, asset), posted in self.postings.items():
            if not account.startswith("@"):
                held = self.exchange.holding(account, asset)
                assert held.free + held.locked == posted
                assert held.free >= 0
                assert held.locked >= 0

    @invariant()
    def locks_are_those_of_resting_orders(self) -> None:
        """Without resting orders nothing is locked."""
        for account in "ab":
            for side, asset in ((Side.BUY, "USD"), (Side.SELL, "EUR")):
                resting = [
                    one for one in self.orders.values()
                    if self.exchange.resting(one.id) and (one.ticket.account, one.ticket.side) == (account, side)
                ]  # fmt: skip
                assert bool(resting) == (self.exchange.holding(account, asset).locked > 0)

    @invariant()
    def orders_are_their_trades(self) -> None:
        """Executed quantity and quote of each order are the sums over its trades, and its status tells as much."""
        done: dict[int, tuple[Decimal, Decimal]] = defaultdict(lambda: (Decimal(0), Decimal(0)))
        for trade in self.trades:
            quantity, quote = done[trade.order_id]
            done[trade.order_id] = (quantity + trade.quantity, quote + trade.quantity * trade.price)
        for order in self.orders.values():
            assert done[order.id] == (order.executed, order.quote)
            assert (order.status is Status.FILLED) == (order.remaining == 0)

    @invariant()
    def fills_respect_the_limit(self) -> None:
        """Nobody pays more, or gets less, than their limit."""
        for trade in self.trades:
            limit = self.orders[trade.order_id].ticket.price
            if limit is not None:
                assert trade.price <= limit if trade.side is Side.BUY else trade.price >= limit


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBooks = Books.TestCase
