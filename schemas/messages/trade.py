"""The messages of the trade saga."""

import hashlib
import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tradesaga.schemas.amounts import Amount, Price, Quantity
from tradesaga.schemas.messages.message import Compensation, Event

Key = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
AccountId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Symbol = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Z0-9]+/[A-Z0-9]+$")]
Asset = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Z0-9]+$")]
Text = Annotated[str, Field(max_length=500)]


class Side(StrEnum):
    """Which way the order goes."""

    BUY = "BUY"
    SELL = "SELL"


class OrderType(StrEnum):
    """MARKET takes the price there is; LIMIT names the worst one it takes."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"


class TimeInForce(StrEnum):
    """GTC rests until filled or cancelled; IOC takes what is there and expires."""

    GTC = "GTC"
    IOC = "IOC"


class TradeRequested(Event):
    """The start: what a desk, a strategy or any Kafka client asks for on `trade.starts`."""

    idempotency_key: Key
    account: AccountId
    symbol: Symbol
    side: Side
    quantity: Quantity
    order_type: OrderType
    limit_price: Price | None = None
    time_in_force: TimeInForce = TimeInForce.GTC

    @model_validator(mode="after")
    def price_fits_type(self) -> Self:
        """Hold LIMIT orders to a price, and MARKET orders to none."""
        if (self.order_type is OrderType.LIMIT) != (self.limit_price is not None):
            raise ValueError("limit_price belongs to LIMIT orders, and to them alone")
        return self


class OrderValidated(Event):
    """The order obeys the venue's rules; `hold` is the most it can take from the account.

    `worst_price` is the limit that a market order goes out with, so that this holds for it too.
    """

    base: Asset
    quote: Asset
    hold_asset: Asset
    hold: Amount
    notional: Amount
    fee_rate: Amount
    worst_price: Price | None = None


class ValidationRejected(Event):
    """The order breaks a rule: unknown account or symbol, tick, lot, minimum notional."""

    code: Text
    reason: Text


class WithdrawOrder(Compensation):
    """Take the order out of the order register."""


class OrderWithdrawn(Event):
    """The order stands withdrawn in the order register."""


class FundsReserved(Event):
    """A buy's cash, or a sell's position, is set aside."""

    asset: Asset
    amount: Amount


class FundsRejected(Event):
    """The account does not have what the order could cost."""

    code: Text
    reason: Text


class ReleaseFunds(Compensation):
    """Give back what was set aside."""


class FundsReleased(Event):
    """What was set aside is free again."""

    asset: Asset
    amount: Amount


class RiskAccepted(Event):
    """The order is within the account's limits and counted against them."""

    exposure: Amount


class RiskRejected(Event):
    """The order would breach a limit."""

    code: Text
    reason: Text


class ReleaseRisk(Compensation):
    """Take the order out of the account's exposure."""


class RiskReleased(Event):
    """The exposure is free again."""

    exposure: Amount


class OrderPlaced(Event):
    """The venue has the order."""

    venue: Text
    client_order_id: Text
    venue_order_id: Text


class OrderRejected(Event):
    """The venue will not have the order."""

    code: Text
    reason: Text


class CancelOrder(Compensation):
    """Take the order off the venue's book."""


class OrderCancelled(Event):
    """The venue can no longer fill the order; nothing of it was filled."""

    client_order_id: Text


class TradeFilledV1(Event, version=1, name="trade-filled"):
    """The pivot: the order is done at the venue, wholly or for the quantity given."""

    model_config = ConfigDict(title="TradeFilled")

    quantity: Quantity
    quote_amount: Amount
    fee: Amount
    fee_asset: Asset
    venue_trade_ids: tuple[str, ...]
    complete: bool

    def upcast(self) -> "TradeFilled":
        """Count and hash the trade ids."""
        return TradeFilled(
            quantity=self.quantity, quote_amount=self.quote_amount, fee=self.fee, fee_asset=self.fee_asset,
            executions=len(self.venue_trade_ids), executions_hash=hash_trade_ids(self.venue_trade_ids),
            complete=self.complete,
        )  # fmt: skip


class TradeFilled(Event, version=2, earlier=(TradeFilledV1,)):
    """The pivot: the order is done at the venue, wholly or for the quantity given.

    `executions` is how many of the venue's trades make it up, and `executions_hash` stands for their ids, which
    `hash_trade_ids` hashes.
    """

    quantity: Quantity
    quote_amount: Amount
    fee: Amount
    fee_asset: Asset
    executions: int = Field(ge=0, le=2**31 - 1)
    executions_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    complete: bool


def hash_trade_ids(trade_ids: Iterable[str]) -> str:
    """Hash a venue's trade ids: SHA-256, in hex, of the compact JSON array of the sorted ids in UTF-8."""
    text = json.dumps(sorted(trade_ids), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class TradeUnfilled(Event):
    """The order is done at the venue and nothing of it was filled."""

    status: Literal["expired", "cancelled", "rejected"]
    reason: Text = ""


class TradeSettled(Event):
    """Cash and position are booked; the rest of the hold is released."""

    quantity: Quantity
    quote_amount: Amount
    fee: Amount
    released: Amount


class VenueFill(Event):
    """One execution inside a report; `trade_id` is the venue's own and unique there."""

    trade_id: Text
    quantity: Quantity
    price: Price
    fee: Amount
    fee_asset: Asset


class VenueReport(Event):
    """What the venue says of an order; an outside fact: recorded by the saga log, acted on by execution alone."""

    venue: Text
    report_id: Text
    kind: Literal["acknowledged", "partial_fill", "fill", "rejected", "expired", "cancelled", "busted"]
    client_order_id: Text
    venue_order_id: Text
    symbol: Symbol
    cumulative_quantity: Amount
    cumulative_quote: Amount
    fill: VenueFill | None = None
    reason: Text = ""
    venue_time: int = Field(ge=0, le=2**63 - 1, description="Nanoseconds since 1970 UTC, the venue's clock")


MESSAGES = (
    CancelOrder,
    FundsRejected,
    FundsReleased,
    FundsReserved,
    OrderCancelled,
    OrderPlaced,
    OrderRejected,
    OrderValidated,
    OrderWithdrawn,
    ReleaseFunds,
    ReleaseRisk,
    RiskAccepted,
    RiskRejected,
    RiskReleased,
    TradeFilled,
    TradeRequested,
    TradeSettled,
    TradeUnfilled,
    ValidationRejected,
    VenueReport,
    WithdrawOrder,
)
