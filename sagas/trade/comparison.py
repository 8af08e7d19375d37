"""Compare the venue, the ledger and the sagas, and list their differences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from tradesaga.sagas.trade.arithmetic import EXACT, ZERO, multiply
from tradesaga.sagas.trade.venue import OrderReport, VenueTrade
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages.trade import Side, TradeFilled

ENDED = frozenset({"COMPLETED", "ABORTED"})


class Flaw(StrEnum):
    """Kinds of discrepancies."""

    FOREIGN_ORDER = "foreign_order"
    ORDER_WITHOUT_SAGA = "order_without_saga"
    ORDER_LEFT_OPEN = "order_left_open"
    FILL_DIFFERS = "fill_differs"
    FILL_NOT_BOOKED = "fill_not_booked"
    NOT_SETTLED = "not_settled"
    HOLD_LEFT = "hold_left"
    REGISTER_DIFFERS = "register_differs"
    LEDGER_NOT_ZERO = "ledger_not_zero"
    BALANCE_DIFFERS = "balance_differs"
    EXPOSURE_DIFFERS = "exposure_differs"
    VENUE_BALANCE_DIFFERS = "venue_balance_differs"
    FORGED_FACT = "forged_fact"
    CONTRADICTED_RECORD = "contradicted_record"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A discrepancy: its kind, the saga, order or asset, and the figures."""

    flaw: Flaw
    subject: str
    detail: str


@dataclass(slots=True)
class Traded:
    """The total of a venue's trades of one order, without busted ones."""

    quantity: Decimal = ZERO
    quote: Decimal = ZERO
    fees: dict[str, Decimal] = field(default_factory=dict[str, Decimal])

    def add(self, trade: VenueTrade) -> None:
        """Add a trade, or subtract its bust."""
        sign = 1 if trade.bust_of is None else -1
        fill = trade.fill
        self.quantity = EXACT.add(self.quantity, sign * fill.quantity)
        self.quote = EXACT.add(self.quote, sign * multiply(fill.quantity, fill.price))
        self.fees[fill.fee_asset] = EXACT.add(self.fees.get(fill.fee_asset, ZERO), fill.fee)


@dataclass(frozen=True, slots=True)
class VenueView:
    """The venue's data: our orders by saga, their trades, others' orders, and total balances by asset.

    `totals` is None if the venue was never quiet long enough to be compared.
    """

    orders: Mapping[UUID, OrderReport]
    traded: Mapping[UUID, Traded]
    foreign: Sequence[str]
    totals: Mapping[str, Decimal] | None


@dataclass(frozen=True, slots=True)
class SagaView:
    """A saga's state, and its fill."""

    state: str
    filled: TradeFilled | None


@dataclass(frozen=True, slots=True)
class Drift:
    """A stored figure that differs from the sum of its parts."""

    subject: str
    kept: Decimal
    counted: Decimal


@dataclass(frozen=True, slots=True)
class BookView:
    """A snapshot of the ledger.

    `statuses` are the order register's by saga; `settled` the sagas with booked fills; `held` the holds by saga; `sums`
    the ledger's totals by asset; `balances` and `exposures` the figures that differ from the sum of their parts;
    `at_venue` what the venue holds for us according to the ledger, compared only if `stocked`: its opening balance has
    been booked.
    """

    statuses: Mapping[UUID, str]
    settled: frozenset[UUID]
    held: Mapping[UUID, Decimal]
    sums: Mapping[str, Decimal]
    balances: Sequence[Drift]
    exposures: Sequence[Drift]
    at_venue: Mapping[str, Decimal]
    stocked: bool


def compare(ended: Mapping[UUID, SagaView], venue: VenueView, book: BookView) -> Iterator[Discrepancy]:
    """Yield every discrepancy. `ended` was read before the venue, and the venue before the ledger."""
    yield from _compare_orders(ended, venue, book)
    for saga_id, saga in ended.items():
        yield from _compare_saga(saga_id, saga, venue, book)
    for asset, total in book.sums.items():
        if total:
            yield Discrepancy(Flaw.LEDGER_NOT_ZERO, asset, f"all accounts sum to {format_decimal(total)}")
    for flaw, drifts in ((Flaw.BALANCE_DIFFERS, book.balances), (Flaw.EXPOSURE_DIFFERS, book.exposures)):
        for drift in drifts:
            kept, counted = format_decimal(drift.kept), format_decimal(drift.counted)
            yield Discrepancy(flaw, drift.subject, f"kept as {kept}, but its parts come to {counted}")
    for asset, difference in (venue_differences(venue, book) if book.stocked else {}).items():
        detail = f"the venue holds {format_decimal(difference)} more than the ledger and open trades say"
        yield Discrepancy(Flaw.VENUE_BALANCE_DIFFERS, asset, detail)


def venue_differences(venue: VenueView, book: BookView) -> dict[str, Decimal]:
    """Return, by asset, what the venue holds beyond the ledger's balance and our fills that are not booked yet."""
    if venue.totals is None:
        return {}
    expected = dict(book.at_venue)
    for saga_id in venue.traded.keys() & book.statuses.keys() - book.settled:
        for asset, moved in _moved(venue.orders[saga_id], venue.traded[saga_id]).items():
            expected[asset] = expected.get(asset, ZERO) + moved
    return {
        asset: difference
        for asset in sorted(venue.totals.keys() | expected.keys())
        if (difference := venue.totals.get(asset, ZERO) - expected.get(asset, ZERO))
    }


def _moved(order: OrderReport, traded: Traded) -> dict[str, Decimal]:
    base, _, quote = order.symbol.partition("/")
    sign = 1 if order.side is Side.BUY else -1
    moved = {base: sign * traded.quantity, quote: -sign * traded.quote}
    for asset, fee in traded.fees.items():
        moved[asset] = moved.get(asset, ZERO) - fee
    return moved


def _compare_orders(
    ended: Mapping[UUID, SagaView], venue: VenueView, book: BookView
) -> Iterator[Discrepancy]:  # fmt: skip
    for order_id in venue.foreign:
        yield Discrepancy(Flaw.FOREIGN_ORDER, order_id, "the order was not placed by us")
    for saga_id, order in venue.orders.items():
        if saga_id not in book.statuses:
            detail = f"order {order.venue_order_id} ({order.status}) is not in the order register"
            yield Discrepancy(Flaw.ORDER_WITHOUT_SAGA, str(saga_id), detail)
        if saga_id in ended and not order.status.final:
            detail = f"order {order.venue_order_id} is {order.status}, the saga {ended[saga_id].state}"
            yield Discrepancy(Flaw.ORDER_LEFT_OPEN, str(saga_id), detail)


def _compare_saga(saga_id: UUID, saga: SagaView, venue: VenueView, book: BookView) -> Iterator[Discrepancy]:
    subject, traded = str(saga_id), venue.traded.get(saga_id, Traded())
    wanted = {"SETTLED"} if saga.state == "COMPLETED" else {"WITHDRAWN", None}
    status = book.statuses.get(saga_id)
    if status not in wanted:
        yield Discrepancy(Flaw.REGISTER_DIFFERS, subject, f"the saga is {saga.state}, its order {status}")
    if held := book.held.get(saga_id, ZERO):
        yield Discrepancy(Flaw.HOLD_LEFT, subject, f"{format_decimal(held)} is still set aside")
    if saga.state == "COMPLETED":
        if saga_id not in book.settled:
            yield Discrepancy(Flaw.NOT_SETTLED, subject, "the saga is COMPLETED and no fill is booked")
        yield from _compare_fill(subject, saga.filled, traded)
    elif traded.quantity or saga_id in book.settled:
        detail = f"{format_decimal(traded.quantity)} filled at the venue, and the saga is {saga.state}"
        yield Discrepancy(Flaw.FILL_NOT_BOOKED, subject, detail)


def _compare_fill(subject: str, filled: TradeFilled | None, traded: Traded) -> Iterator[Discrepancy]:
    if filled is None:
        yield Discrepancy(Flaw.FILL_DIFFERS, subject, "the saga is COMPLETED and has no fill")
        return
    pairs = {
        "quantity": (filled.quantity, traded.quantity),
        "quote amount": (filled.quote_amount, traded.quote),
        f"fee in {filled.fee_asset}": (filled.fee, traded.fees.get(filled.fee_asset, ZERO)),
    }
    pairs |= {f"fee in {asset}": (ZERO, fee) for asset, fee in traded.fees.items() if asset != filled.fee_asset}
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            detail = f"{name}: {format_decimal(ours)} booked, {format_decimal(theirs)} at the venue"
            yield Discrepancy(Flaw.FILL_DIFFERS, subject, detail)
