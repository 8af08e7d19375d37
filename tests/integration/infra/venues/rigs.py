"""Venues to hold to the contract, each with the hands of whoever runs it."""

import asyncio
import time
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from tests.integration.infra.paper_exchange.process import KEY, SECRET, small_market
from tests.integration.infra.venues.simulated_venue import SimulatedVenue
from tradesaga.infra.paper_exchange.faults import Fault
from tradesaga.infra.paper_exchange.settings import Listing
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.infra.venues.ccxt_adapter import CcxtVenue
from tradesaga.infra.venues.ccxt_client import VenueAddress
from tradesaga.sagas.trade.venue import NewOrder, VenuePort, VenueReport
from tradesaga.schemas.messages.trade import OrderType, Side

SYMBOL = "EUR/USD"
CLOSES = ("1.10000", "1.10000", "1.09000", "1.12000")


class Rig(Protocol):
    """A venue under test, and the hands of whoever runs it."""

    port: VenuePort

    async def step(self) -> None:
        """Close the next bar."""
        ...

    async def bust(self, trade_id: str) -> None:
        """Take a trade back."""
        ...

    async def fault(self, **rule: Any) -> None:
        """Have something go wrong."""
        ...


class MemoryRig:
    """The venue in memory."""

    def __init__(self, folder: Path) -> None:
        listings = [Listing.model_validate(one) for one in small_market(folder)["listings"]]
        funds = {"USD": Decimal(100_000), "EUR": Decimal(100_000)}
        self.port = SimulatedVenue({SYMBOL: [Decimal(close) for close in CLOSES]}, funds, listings)

    async def step(self) -> None:
        """Close the next bar."""
        self.port.step(SYMBOL)

    async def bust(self, trade_id: str) -> None:
        """Take a trade back."""
        self.port.bust(trade_id)

    async def fault(self, **rule: Any) -> None:
        """Have something go wrong."""
        self.port.faults.add(Fault.model_validate(rule))


class PaperRig:
    """ccxt over the paper venue: its HTTP and WebSocket API and its ledger, served by this process to be quick."""

    def __init__(self, paper: Venue, url: str) -> None:
        self.paper = paper
        self.port = CcxtVenue(VenueAddress(url, KEY, SECRET, timeout=20))

    async def step(self) -> None:
        """Close the next bar."""
        await self.paper.step("EURUSD")

    async def bust(self, trade_id: str) -> None:
        """Take a trade back."""
        await self.paper.bust(int(trade_id))

    async def fault(self, **rule: Any) -> None:
        """Have something go wrong."""
        self.paper.faults.add(Fault.model_validate(rule))


def order(name: str, quantity: int = 100, price: str | None = None, **other: Any) -> NewOrder:
    """Write an order to buy that is good for half a minute."""
    kind = OrderType.MARKET if price is None else OrderType.LIMIT
    values: dict[str, Any] = {
        "client_order_id": name, "symbol": SYMBOL, "side": Side.BUY, "type": kind, "quantity": Decimal(quantity),
        "expires": time.time_ns() + 30_000_000_000, "price": None if price is None else Decimal(price),
    }  # fmt: skip
    return NewOrder(**{**values, **other})


async def collect(rig: Rig, count: int, cursor: str | None = None) -> list[VenueReport]:
    """Take so many reports from a stream."""
    found: list[VenueReport] = []
    async with aclosing(rig.port.reports(cursor)) as reports, asyncio.timeout(60):
        async for report in reports:
            found.append(report)
            if len(found) == count:
                break
    return found
