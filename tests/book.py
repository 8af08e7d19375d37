"""A small book for tests: one account, two instruments, and works as the runtime hands them to batch handlers."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID, uuid4

import orjson

from tradesaga.consumers.context import StepContext, Work
from tradesaga.infra.ledger.accounts import NewAccount, book_payment, create_account
from tradesaga.infra.ledger.instruments import save_instruments
from tradesaga.infra.ledger.trades import load_trades
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.orders import Instrument
from tradesaga.schemas.messages.message import Event, Message
from tradesaga.schemas.messages.trade import OrderType, Side, TradeRequested

D = Decimal
M = TypeVar("M", bound=Message)
EURUSD = Instrument(
    symbol="EUR/USD", base="EUR", quote="USD", tick=D("0.00001"), lot=D(1), min_quantity=D(1), max_quantity=D(10**6),
    min_notional=D(10), fee_rate=D("0.001"), collar=D("0.02"), reference_price=D("1.1"),
)  # fmt: skip
GOOG = Instrument(
    symbol="GOOG/USD", base="GOOG", quote="USD", tick=D("0.01"), lot=D(1), min_quantity=D(1), max_quantity=D(10**4),
    min_notional=D(10), fee_rate=D("0.001"), collar=D("0.02"),
)  # fmt: skip


async def open_book(sql: Connection, account: str = "alice", usd: int = 1000, eur: int = 500, **limits: Any) -> None:
    """Write the instruments and open an account with money."""
    await save_instruments(sql, "paper", [EURUSD, GOOG])
    await create_account(sql, NewAccount(account, **limits))
    await book_payment(sql, account, "USD", D(usd), "opening dollars")
    await book_payment(sql, account, "EUR", D(eur), "opening euros")


def order(side: Side = Side.BUY, quantity: int = 100, price: str | None = "1.1", **changes: object) -> TradeRequested:
    """Ask for EUR; without a price at the market."""
    fields: dict[str, object] = {
        "idempotency_key": uuid4().hex, "account": "alice", "symbol": "EUR/USD", "side": side, "quantity": D(quantity),
        "order_type": OrderType.LIMIT if price else OrderType.MARKET, "limit_price": D(price) if price else None,
    }  # fmt: skip
    return TradeRequested.model_validate(fields | changes)


def context(step: str, facts: Sequence[Event], saga_id: UUID | None = None, expires_ns: int = 0) -> StepContext:
    """Make what the runtime tells a handler."""
    names = {fact.NAME: orjson.loads(fact.to_wire()) for fact in facts}
    saga_id = saga_id or uuid4()
    return StepContext(saga_id, step, 1, f"{saga_id}:{step}", expires_ns, orjson.dumps(names))


def work(step: str, message: M, facts: Sequence[Event], saga_id: UUID | None = None) -> Work[M]:
    """Make one item of a batch handler's list."""
    return Work(message, context(step, facts, saga_id))


async def proved(sql: Connection, works: Sequence[Work[M]]) -> Sequence[Work[M]]:
    """Hand works what the ledger database holds of their sagas, as the runtime does."""
    found = await load_trades(sql, [each.saga_id for each in works])
    for each in works:
        each.ctx.evidence = found[each.saga_id]
    return works


async def balances(sql: Connection) -> dict[str, Decimal]:
    """Read all balances that are not zero, by `owner asset kind`."""
    rows = await sql.fetch(
        "SELECT owner || ' ' || asset || ' ' || kind, balance FROM ledger_account WHERE balance <> 0"
    )
    return {row[0]: row[1] for row in rows}


async def totals(sql: Connection) -> dict[str, Decimal]:
    """Sum all accounts by asset, and leave out those that are zero as they should be."""
    rows = await sql.fetch("SELECT asset, sum(balance) FROM ledger_account GROUP BY asset HAVING sum(balance) <> 0")
    return {row[0]: row[1] for row in rows}
