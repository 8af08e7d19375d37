"""Settings of the paper venue: listings, accounts, fees, faults. Amounts are decimal strings."""

from decimal import Decimal
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tradesaga.infra.paper_exchange.faults import Fault
from tradesaga.schemas.amounts import Amount, Price, Quantity

SCALE: Final = Decimal("0.00000001")
CEILING: Final = Decimal(10_000_000_000)
INTERVALS: Final = {"1m": 60_000, "1h": 3_600_000, "1d": 86_400_000}


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Listing(_Closed):
    """A market: its rules, its price series (`tape`), and the liquidity at each price level."""

    symbol: str = Field(pattern=r"^[A-Z0-9]{1,20}$")
    base: str = Field(pattern=r"^[A-Z0-9]{1,16}$")
    quote: str = Field(pattern=r"^[A-Z0-9]{1,16}$")
    tape: str
    interval: Literal["1m", "1h", "1d"]
    first_bar: int = Field(default=100, ge=0)
    tick: Price
    lot: Quantity
    minimum_quantity: Quantity
    maximum_quantity: Quantity
    maximum_price: Price
    minimum_notional: Amount
    half_spread_ticks: int = Field(default=1, ge=0)
    levels: int = Field(default=5, ge=1, le=100)
    level_ticks: int = Field(default=1, ge=1)
    level_quantity: Quantity

    @model_validator(mode="after")
    def amounts_stay_exact(self) -> Self:
        """Check that price times quantity fits eight decimals and the ledger's columns."""
        if (self.tick * self.lot) % SCALE or self.tick % SCALE or self.lot % SCALE:
            raise ValueError(f"{self.symbol}: tick times lot needs more than 8 decimals; make one of them coarser")
        if self.maximum_quantity * self.maximum_price > CEILING or self.maximum_quantity > CEILING:
            raise ValueError(f"{self.symbol}: maximum quantity times maximum price is above {CEILING}")
        return self


class AccountSettings(_Closed):
    """An account to open: requests are signed with its key and secret; the balances are deposited once."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    key: str = Field(pattern=r"^[\x21-\x7e]{1,128}$")
    secret: str = Field(pattern=r"^[\x21-\x7e]{1,128}$")
    balances: dict[str, Amount] = Field(default_factory=dict)

    @model_validator(mode="after")
    def balances_fit(self) -> Self:
        """Check that balances fit the ledger's columns."""
        if any(amount > CEILING for amount in self.balances.values()):
            raise ValueError(f"{self.name}: a balance is above {CEILING}")
        return self


class Fees(_Closed):
    """Trading fees in basis points, charged in the quote asset or in the asset received."""

    maker_bps: Amount = Decimal(10)
    taker_bps: Amount = Decimal(10)
    asset: Literal["quote", "received"] = "quote"

    def rate(self, *, maker: bool) -> Decimal:
        """Return the fee as a part of a trade's value."""
        return (self.maker_bps if maker else self.taker_bps) / 10_000


def default_listings() -> tuple[Listing, ...]:
    """Return the two markets of the series that `backtesting` ships."""
    return (
        Listing(
            symbol="EURUSD", base="EUR", quote="USD", tape="EURUSD", interval="1h",
            tick=Decimal("0.00001"), lot=Decimal(1), level_quantity=Decimal(20_000),
            minimum_quantity=Decimal(1), maximum_quantity=Decimal(1_000_000),
            maximum_price=Decimal(1_000), minimum_notional=Decimal(10),
        ),
        Listing(
            symbol="GOOG", base="GOOG", quote="USD", tape="GOOG", interval="1d",
            tick=Decimal("0.01"), lot=Decimal(1), level_quantity=Decimal(200),
            minimum_quantity=Decimal(1), maximum_quantity=Decimal(10_000),
            maximum_price=Decimal(100_000), minimum_notional=Decimal(10),
        ),
    )  # fmt: skip


def _default_accounts() -> tuple[AccountSettings, ...]:
    """Return the account `desk`, with enough for any demonstration; its secret protects play money on loopback only."""
    balances = {"USD": Decimal(1_000_000_000), "EUR": Decimal(1_000_000_000), "GOOG": Decimal(10_000_000)}
    return (AccountSettings(name="desk", key="paper-desk-key", secret="paper-desk-secret", balances=balances),)  # noqa: S106


class PaperSettings(_Closed):
    """The whole configuration; each part has a default. `speed` is in bars per second; 0 stops the market."""

    listings: tuple[Listing, ...] = Field(default_factory=default_listings, min_length=1)
    accounts: tuple[AccountSettings, ...] = Field(default_factory=_default_accounts)
    fees: Fees = Fees()
    faults: tuple[Fault, ...] = ()
    speed: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)
