"""Ledger postings of holds, deposits and fills. Those of one booking sum to zero per asset."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

from tradesaga.sagas.trade.arithmetic import ZERO
from tradesaga.schemas.messages.trade import Side

OUTSIDE: Final = "@outside"
"""The owner of external accounts: deposits, and costs that the house bears."""


class AccountKind(StrEnum):
    """What a ledger account is for. `available` and `held` are customers' and never below zero.

    `clearing` and `fees` of a venue together are the opposite of what the venue holds for us; `external` is the rest
    of the world.
    """

    AVAILABLE = "available"
    HELD = "held"
    CLEARING = "clearing"
    FEES = "fees"
    EXTERNAL = "external"


class AccountKey(NamedTuple):
    """Key of a ledger account. Locks are taken in this order."""

    owner: str
    asset: str
    kind: AccountKind


Postings = Mapping[AccountKey, Decimal]
Key = TypeVar("Key")


def venue_owner(venue: str) -> str:
    """Return the owner of a venue's accounts; no customer's account can have this name."""
    return f"@{venue}"


def hold(account: str, asset: str, amount: Decimal) -> Postings:
    """Reserve an amount of the account."""
    return {
        AccountKey(account, asset, AccountKind.AVAILABLE): -amount,
        AccountKey(account, asset, AccountKind.HELD): amount,
    }


def release(account: str, asset: str, amount: Decimal) -> Postings:
    """Release a reserved amount."""
    return {place: -moved for place, moved in hold(account, asset, amount).items()}


def deposit(account: str, asset: str, amount: Decimal) -> Postings:
    """Deposit an amount; a negative one is a withdrawal."""
    return {
        AccountKey(account, asset, AccountKind.AVAILABLE): amount,
        AccountKey(OUTSIDE, asset, AccountKind.EXTERNAL): -amount,
    }


def stock(venue: str, asset: str, amount: Decimal) -> Postings:
    """Record an amount that the venue holds for us, from before or from a transfer."""
    return {
        AccountKey(venue_owner(venue), asset, AccountKind.CLEARING): -amount,
        AccountKey(OUTSIDE, asset, AccountKind.EXTERNAL): amount,
    }


@dataclass(frozen=True, slots=True)
class Holding:
    """An order's hold, and what it trades."""

    account: str
    venue: str
    side: Side
    base: str
    quote: str
    amount: Decimal

    @property
    def asset(self) -> str:
        """Return the asset that is held and spent."""
        return self.quote if self.side is Side.BUY else self.base

    @property
    def received(self) -> str:
        """Return the asset that is received."""
        return self.base if self.side is Side.BUY else self.quote


@dataclass(frozen=True, slots=True)
class Fill:
    """The total fill of an order at its venue."""

    quantity: Decimal
    quote_amount: Decimal
    fee: Decimal
    fee_asset: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """Bookings of a fill. `released` goes back to the account; `borne` is what the house pays, by asset."""

    postings: Postings
    released: Decimal
    borne: Mapping[str, Decimal]


def settle(holding: Holding, fill: Fill) -> Settlement:
    """Compute the bookings of a fill: exchange the assets, pay the fee, release the rest of the hold.

    The customer never pays more than the hold, nor a fee beyond the rest of the hold or the received amount. What a
    venue takes above that (a worse price than the order's, a fee in another asset) the house bears, so that settling
    cannot fail.
    """
    out, into = fill.quote_amount, fill.quantity
    if holding.side is Side.SELL:
        out, into = into, out
    spent = min(out, holding.amount)
    of_rest = min(fill.fee, holding.amount - spent) if fill.fee_asset == holding.asset else ZERO
    of_received = min(fill.fee, into) if fill.fee_asset == holding.received else ZERO
    released = holding.amount - spent - of_rest
    venue = venue_owner(holding.venue)
    customer = {
        kind: AccountKey(holding.account, holding.asset, kind) for kind in (AccountKind.HELD, AccountKind.AVAILABLE)
    }
    borne = _sum([(holding.asset, out - spent), (fill.fee_asset, fill.fee - of_rest - of_received)])
    moves = [
        (customer[AccountKind.HELD], -holding.amount),
        (customer[AccountKind.AVAILABLE], released),
        (AccountKey(venue, holding.asset, AccountKind.CLEARING), out),
        (AccountKey(venue, holding.received, AccountKind.CLEARING), -into),
        (AccountKey(holding.account, holding.received, AccountKind.AVAILABLE), into - of_received),
        (AccountKey(venue, fill.fee_asset, AccountKind.FEES), fill.fee),
    ]
    moves += [(AccountKey(OUTSIDE, asset, AccountKind.EXTERNAL), -amount) for asset, amount in borne.items()]
    return Settlement(_sum(moves), released, borne)


def _sum(moves: Iterable[tuple[Key, Decimal]]) -> dict[Key, Decimal]:
    totals: dict[Key, Decimal] = defaultdict(lambda: ZERO)
    for key, amount in moves:
        totals[key] += amount
    return {key: total for key, total in totals.items() if total}
