"""The ledger on a real database: what it refuses, and that nothing is ever made or lost."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import asyncpg
import pytest

from tests.book import EURUSD, balances, open_book, totals
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.ledger.accounts import book_payment, list_accounts, set_status
from tradesaga.infra.ledger.entries import Booking, book, lock_ledger_accounts, open_ledger_accounts, post
from tradesaga.infra.ledger.instruments import load_instruments, save_instruments
from tradesaga.infra.postgres.database import Session, open_pool, session
from tradesaga.sagas.trade.postings import AccountKey, AccountKind, Fill, Holding, deposit, hold, release, settle
from tradesaga.schemas.messages.trade import Side

pytestmark = pytest.mark.stack
D = Decimal
FREE = AccountKey("alice", "USD", AccountKind.AVAILABLE)


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Session]:
    """Give a session on a book with one account: 1000 USD, 500 EUR."""
    async with session(database_url) as connection:
        await open_book(connection)
        yield connection


async def test_balances_follow_entries_alone(sql: Session) -> None:
    """A hold moves money between the customer's own accounts, and the entries add up to the balances."""
    await book(sql, [Booking(uuid4(), "reserve_funds", hold("alice", "USD", D("110.11")))])
    assert await balances(sql) == {
        "alice USD available": D("889.89"), "alice USD held": D("110.11"), "alice EUR available": D(500),
        "@outside USD external": D(-1000), "@outside EUR external": D(-500),
    }  # fmt: skip
    assert await sql.fetchval(
        "SELECT bool_and(balance = coalesce((SELECT sum(amount) FROM ledger_entry e"
        " WHERE (e.owner, e.asset, e.kind) = (a.owner, a.asset, a.kind)), 0)) FROM ledger_account a"
    )


@pytest.mark.parametrize(
    ("postings", "error", "message"),
    [
        ({FREE: D(1)}, asyncpg.CheckViolationError, "do not sum to zero"),
        (
            {FREE: D(1), AccountKey("bob", "EUR", AccountKind.AVAILABLE): D(-1)},
            asyncpg.CheckViolationError,
            "do not sum to zero",
        ),
        (hold("nobody", "USD", D(1)), asyncpg.ForeignKeyViolationError, "do not exist"),
        (hold("alice", "USD", D("1000.00000001")), asyncpg.CheckViolationError, "ledger_account_check"),
        (release("alice", "USD", D("0.00000001")), asyncpg.CheckViolationError, "ledger_account_check"),
    ],
)
async def test_wrong_postings_are_refused(
    sql: Session, postings: dict[AccountKey, Decimal], error: type[Exception], message: str
) -> None:
    """The database itself refuses what is unbalanced, goes nowhere, or takes a customer below zero."""
    before = await balances(sql)
    with pytest.raises(error, match=message):
        await post(sql, [Booking(uuid4(), "step", postings)])
    assert await balances(sql) == before


async def test_one_effect_is_booked_once(sql: Session) -> None:
    """The same step of the same saga in the same direction cannot move money again."""
    booking = Booking(uuid4(), "reserve_funds", hold("alice", "USD", D(1)))
    await book(sql, [booking])
    with pytest.raises(asyncpg.UniqueViolationError):
        await book(sql, [booking])


@pytest.mark.parametrize(
    "change", ["UPDATE ledger_entry SET amount = 2", "DELETE FROM ledger_entry", "TRUNCATE ledger_entry"]
)
async def test_entries_stay(sql: Session, change: str) -> None:
    """Entries are only ever added."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await sql.execute(change)


async def test_payments_count_once_and_never_overdraw(sql: Session) -> None:
    """A payment under a known reference does nothing; a pay-out of more than is available is refused."""
    assert await book_payment(sql, "alice", "USD", D(5), "wire 1")
    assert not await book_payment(sql, "alice", "USD", D(5), "wire 1")
    with pytest.raises(CommandError, match=r"payment of 5\.00000000 USD"):
        await book_payment(sql, "alice", "USD", D(6), "wire 1")
    assert await book_payment(sql, "alice", "USD", D(-1005), "out")
    with pytest.raises(CommandError) as refused:
        await book_payment(sql, "alice", "USD", D("-0.01"), "out again")
    assert (refused.value.code, refused.value.exit_code) == ("insufficient-funds", ExitCode.REFUSED)
    assert await totals(sql) == {}


async def test_unknown_accounts_are_said_to_be_so(sql: Session) -> None:
    """Paying into, closing or reading an account that does not exist is exit code 3."""
    for call in (
        book_payment(sql, "bob", "USD", D(5), "x"), set_status(sql, "bob", "closed"), list_accounts(sql, "bob")
    ):  # fmt: skip
        with pytest.raises(CommandError) as missing:
            await call
        assert missing.value.exit_code == ExitCode.NOT_FOUND


async def test_every_snapshot_sums_to_zero(database_url: str, sql: Session) -> None:
    """While four sessions hold, release and settle at random, no snapshot shows money made or lost, nor a deadlock."""
    await open_book(sql, "bob")
    pool = await open_pool(database_url, min_size=4, max_size=4)
    ends = asyncio.Event()
    snapshots = 0

    async def trade(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(25):
            async with pool.acquire() as mine, mine.transaction():
                await book(mine, [_random_trade(chance) for _ in range(chance.randint(1, 6))])

    async def watch() -> None:
        nonlocal snapshots
        while not ends.is_set():
            async with sql.transaction(isolation="repeatable_read", readonly=True):
                assert await totals(sql) == {}
                assert await totals(sql) == {}
            snapshots += 1

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(trade(seed) for seed in range(4)))
    ends.set()
    await watching
    await pool.close()
    assert snapshots > 5
    assert await sql.fetchval("SELECT count(DISTINCT saga_id) FROM ledger_entry") > 100


def _random_trade(chance: random.Random) -> Booking:
    """Pay in, or settle a buy whose hold came from outside just before."""
    account, amount = chance.choice(["alice", "bob"]), D(chance.randint(1, 10**6)).scaleb(-4)
    if chance.random() < 0.5:
        return Booking(uuid4(), "deposit", deposit(account, chance.choice(["USD", "EUR"]), amount))
    holding = Holding(account, "paper", Side.BUY, "EUR", "USD", amount)
    done = settle(holding, Fill(D(chance.randint(1, 100)), amount / 2, D("0.01"), "USD"))
    funded = {
        AccountKey(account, "USD", AccountKind.HELD): amount,
        AccountKey("@outside", "USD", AccountKind.EXTERNAL): -amount,
    }
    places = set(done.postings) | set(funded)
    return Booking(
        uuid4(), "settle_trade",
        {place: moved for place in places if (moved := done.postings.get(place, D(0)) + funded.get(place, D(0)))},
    )  # fmt: skip


async def test_locks_are_taken_in_key_order(database_url: str, sql: Session) -> None:
    """Two sessions that name the same accounts in opposite order wait for each other instead of deadlocking."""
    there = [
        AccountKey("alice", asset, kind)
        for asset in ("EUR", "USD")
        for kind in (AccountKind.AVAILABLE, AccountKind.HELD)
    ]
    await open_ledger_accounts(sql, there)

    async def take(order: list[AccountKey]) -> int:
        async with session(database_url) as mine:
            taken = 0
            for _ in range(50):
                async with mine.transaction():
                    taken += len(await lock_ledger_accounts(mine, order))
            return taken

    assert await asyncio.gather(take(there), take(there[::-1])) == [200, 200]


async def test_instruments_too_fine_for_the_ledger_are_left_out(sql: Session) -> None:
    """A symbol whose amounts could have more than eight decimals is not traded, and is named; others are kept."""
    fine = replace(EURUSD, symbol="FINE/USD", tick=D("0.00001"), lot=D("0.0001"))
    assert await save_instruments(sql, "paper", [fine, replace(EURUSD, reference_price=None)]) == ["FINE/USD"]
    kept = {one.symbol: one.reference_price for one in await load_instruments(sql, "paper")}
    assert kept == {"EUR/USD": D("1.1"), "GOOG/USD": None}
