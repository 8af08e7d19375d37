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
    """Side of an order."""

    BUY = "BUY"
    SELL = "SELL"


class OrderType(StrEnum):
    """MARKET trades at the market price; LIMIT sets the worst price."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"


class TimeInForce(StrEnum):
    """GTC rests until filled or cancelled; IOC takes what is there and expires."""

    GTC = "GTC"
    IOC = "IOC"


class TradeRequested(Event):
    """The start of a trade, requested over HTTP, by a strategy, or by a Kafka client on `trade.starts`."""

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
        """Require a limit price for LIMIT orders, and none for MARKET orders."""
        if (self.order_type is OrderType.LIMIT) != (self.limit_price is not None):
            raise ValueError("limit_price belongs to LIMIT orders, and to them alone")
        return self


class OrderValidated(Event):
    """The order complies with the venue's rules; `hold` is the most it can cost the account.

    `worst_price` is the limit that a market order is sent with, so that `hold` is its limit too.
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
    """Withdraw the order in the order register."""


class OrderWithdrawn(Event):
    """The order is withdrawn in the order register."""


class FundsReserved(Event):
    """A buy's cash, or a sell's position, is held."""

    asset: Asset
    amount: Amount


class FundsRejected(Event):
    """The account does not have the amount to hold."""

    code: Text
    reason: Text


class ReleaseFunds(Compensation):
    """Release the hold."""


class FundsReleased(Event):
    """The hold is released."""

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
    """Remove the order from the account's exposure."""


class RiskReleased(Event):
    """The order is removed from the account's exposure."""

    exposure: Amount


class OrderPlaced(Event):
    """The venue has accepted the order."""

    venue: Text
    client_order_id: Text
    venue_order_id: Text


class OrderRejected(Event):
    """The venue rejected the order."""

    code: Text
    reason: Text


class CancelOrder(Compensation):
    """Cancel the order at the venue."""


class OrderCancelled(Event):
    """The venue can no longer fill the order; nothing of it was filled."""

    client_order_id: Text


class TradeFilledV1(Event, version=1, name="trade-filled"):
    """The pivot: the order is done at the venue, filled wholly or for `quantity`."""

    model_config = ConfigDict(title="TradeFilled")

    quantity: Quantity
    quote_amount: Amount
    fee: Amount
    fee_asset: Asset
    venue_trade_ids: tuple[str, ...]
    complete: bool

    def upcast(self) -> "TradeFilled":
        """Replace the trade ids by their number and hash."""
        return TradeFilled(
            quantity=self.quantity, quote_amount=self.quote_amount, fee=self.fee, fee_asset=self.fee_asset,
            executions=len(self.venue_trade_ids), executions_hash=hash_trade_ids(self.venue_trade_ids),
            complete=self.complete,
        )  # fmt: skip


class TradeFilled(Event, version=2, earlier=(TradeFilledV1,)):
    """The pivot: the order is done at the venue, filled wholly or for `quantity`.

    `executions` is the number of the venue's trades, `executions_hash` the hash of their ids by `hash_trade_ids`.
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
    """The order is done at the venue without a fill."""

    status: Literal["expired", "cancelled", "rejected"]
    reason: Text = ""


class TradeSettled(Event):
    """Cash and position are booked, and the rest of the hold is released."""

    quantity: Quantity
    quote_amount: Amount
    fee: Amount
    released: Amount


class VenueFill(Event):
    """An execution in a report; `trade_id` is the venue's, and unique there."""

    trade_id: Text
    quantity: Quantity
    price: Price
    fee: Amount
    fee_asset: Asset


class VenueReport(Event):
    """A venue's report about an order: recorded by the saga log, used by the execution service alone."""

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
