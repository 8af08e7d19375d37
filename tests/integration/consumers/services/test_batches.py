"""The participants' batch handlers on a real database: right for many works on one account, at a fixed price."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.book import balances, open_book, order, proved, totals, work
from tradesaga.consumers.context import Work
from tradesaga.consumers.services import cash, risk, settlement
from tradesaga.infra.ledger.accounts import NewAccount, create_account, set_status
from tradesaga.infra.postgres.database import Session, session
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Event

pytestmark = pytest.mark.stack
D = Decimal
HASH = t.hash_trade_ids(["1"])


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Session]:
    """Give a session on a book with one account: 1000 USD, 500 EUR."""
    async with session(database_url) as connection:
        await open_book(connection)
        yield connection


async def validated(sql: Session, requests: Sequence[t.TradeRequested]) -> list[tuple[UUID, list[Event]]]:
    """Run validate_order and give each saga's facts so far."""
    works = [work("validate_order", request, []) for request in requests]
    answers = await risk.validate(works, sql)
    return [(each.saga_id, [each.event, answer]) for each, answer in zip(works, answers, strict=True)]


async def onward(
    sql: Session, step: str, handler: Callable[..., Awaitable[Sequence[Event]]], sagas: list[tuple[UUID, list[Event]]]
) -> list[Event]:
    """Run one more step for all sagas in one batch, each triggered by its last fact; gives the answers."""
    works = [work(step, facts[-1], facts, saga_id) for saga_id, facts in sagas]
    answers = await handler(await proved(sql, works), sql)
    for (_, facts), answer in zip(sagas, answers, strict=True):
        facts.append(answer)
    return list(answers)


async def undone(
    sql: Session, step: str, handler: Callable[..., Awaitable[Sequence[Event]]], command: Any,
    sagas: list[tuple[UUID, list[Event]]],
) -> list[Event]:  # fmt: skip
    """Take one step of all sagas back in one batch."""
    works = [work(step, command, facts, saga_id) for saga_id, facts in sagas]
    return list(await handler(await proved(sql, works), sql))


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (order(account="nobody"), "unknown_account"),
        (order(account="shut"), "account_closed"),
        (order(symbol="BTC/USD"), "unknown_symbol"),
        (order(price="1.100001"), "tick"),
        (order(quantity=5), "min_notional"),
        (order(symbol="GOOG/USD", price=None), "no_reference_price"),
    ],
)
async def test_bad_orders_are_refused(sql: Session, request_: t.TradeRequested, code: str) -> None:
    """Each kind of bad order is answered with its code, beside good ones, and only these are registered."""
    await create_account(sql, NewAccount("shut"))
    await set_status(sql, "shut", "closed")
    answers = [facts[-1] for _, facts in await validated(sql, [order(), request_, order()])]
    assert [type(answer) for answer in answers] == [t.OrderValidated, t.ValidationRejected, t.OrderValidated]
    assert isinstance(answers[1], t.ValidationRejected)
    assert answers[1].code == code
    assert await sql.fetchval("SELECT count(*) FROM order_register") == 2


async def test_one_batch_spends_one_balance_once(sql: Session) -> None:
    """Ten buys of 110.11 in one batch from 1000: nine are reserved, the tenth is refused with the figures."""
    sagas = await validated(sql, [order() for _ in range(10)])
    answers = await onward(sql, "reserve_funds", cash.reserve, sagas)
    assert [type(answer) for answer in answers] == [t.FundsReserved] * 9 + [t.FundsRejected]
    assert answers[-1] == t.FundsRejected(code="insufficient_funds", reason="9.01 USD available, 110.11 needed")
    assert (await balances(sql))["alice USD held"] == 9 * D("110.11")


async def test_a_small_order_after_a_refused_one_is_reserved(sql: Session) -> None:
    """A refusal takes nothing, so that a smaller order behind it in the same batch still fits."""
    sagas = await validated(sql, [order(quantity=10_000), order()])
    answers = await onward(sql, "reserve_funds", cash.reserve, sagas)
    assert [type(answer) for answer in answers] == [t.FundsRejected, t.FundsReserved]


async def test_selling_what_one_has_not_is_refused(sql: Session) -> None:
    """A sell needs the position; an account that never had the asset has none."""
    sagas = await validated(
        sql, [order(t.Side.SELL, 500), order(t.Side.SELL), order(t.Side.SELL, symbol="GOOG/USD", price="100")]
    )
    answers = await onward(sql, "reserve_funds", cash.reserve, sagas)
    assert [type(answer) for answer in answers] == [t.FundsReserved, t.FundsRejected, t.FundsRejected]


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_order_notional": D("109.99")}, "max_order_notional"),
        ({"max_exposure": D(219)}, "max_exposure"),
        ({"max_open_orders": 1}, "max_open_orders"),
    ],
)
async def test_limits_hold_within_a_batch(sql: Session, limits: dict[str, Any], code: str) -> None:
    """Orders of one batch count against the limits one after the other."""
    await create_account(sql, NewAccount("alice", **limits))
    sagas = await validated(sql, [order(), order()])
    await onward(sql, "reserve_funds", cash.reserve, sagas)
    answers = await onward(sql, "check_risk", risk.check, sagas)
    refused = answers[-1]
    assert isinstance(refused, t.RiskRejected)
    assert refused.code == code
    counted = sum(isinstance(answer, t.RiskAccepted) for answer in answers)
    assert await sql.fetchval("SELECT coalesce(sum(open_orders), 0) FROM risk_exposure") == counted


async def prepared(sql: Session, requests: Sequence[t.TradeRequested]) -> list[tuple[UUID, list[Event]]]:
    """Bring sagas to where the venue has their orders."""
    sagas = await validated(sql, requests)
    await onward(sql, "reserve_funds", cash.reserve, sagas)
    await onward(sql, "check_risk", risk.check, sagas)
    for saga_id, facts in sagas:
        facts.append(t.OrderPlaced(venue="paper", client_order_id=f"ts{saga_id.hex}", venue_order_id="1"))
    return sagas


async def test_trades_settle_to_the_cent(sql: Session) -> None:
    """A buy filled in part at a better price and a sell, settled in one batch: cash, position, fee, all else free."""
    sagas = await prepared(sql, [order(), order(t.Side.SELL, 200, "1.2")])
    fills = [("40", "42", "0.042", False), ("200", "240", "0.24", True)]
    for (_, facts), (quantity, quote, fee, complete) in zip(sagas, fills, strict=True):
        facts.append(t.TradeFilled(
            quantity=D(quantity), quote_amount=D(quote), fee=D(fee), fee_asset="USD", executions=1,
            executions_hash=HASH, complete=complete,
        ))  # fmt: skip
    answers = await onward(sql, "settle_trade", settlement.settle_fills, sagas)
    assert [answer.released for answer in answers if isinstance(answer, t.TradeSettled)] == [D("68.068"), D(0)]
    assert await balances(sql) == {
        "alice USD available": D(1000) - D("42.042") + D("239.76"), "alice EUR available": D(500 + 40 - 200),
        "@paper USD clearing": D(42 - 240), "@paper USD fees": D("0.282"), "@paper EUR clearing": D(200 - 40),
        "@outside USD external": D(-1000), "@outside EUR external": D(-500),
    }  # fmt: skip
    assert [tuple(row) for row in await sql.fetch("SELECT exposure, open_orders FROM risk_exposure")] == [(D(0), 0)]
    assert await sql.fetch("SELECT 1 FROM order_register WHERE status <> 'SETTLED'") == []
    assert await totals(sql) == {}


async def test_a_position_bought_can_be_sold(sql: Session) -> None:
    """What comes in by a first buy can be reserved by a sell, though the account never had that asset."""
    sagas = await prepared(sql, [order(symbol="GOOG/USD", quantity=3, price="100")])
    sagas[0][1].append(t.TradeFilled(
        quantity=D(3), quote_amount=D(300), fee=D("0.3"), fee_asset="USD", executions=1, executions_hash=HASH,
            complete=True,
    ))  # fmt: skip
    await onward(sql, "settle_trade", settlement.settle_fills, sagas)
    sell = await validated(sql, [order(t.Side.SELL, 3, "100", symbol="GOOG/USD")])
    assert isinstance((await onward(sql, "reserve_funds", cash.reserve, sell))[0], t.FundsReserved)


async def test_taking_back_restores_everything(sql: Session) -> None:
    """Doing the steps and taking them back, last first, leaves balances and exposure as they were."""
    before = await balances(sql)
    sagas = await prepared(sql, [order(), order(t.Side.SELL), order(price=None), order(t.Side.SELL, price=None)])
    assert await balances(sql) != before
    released = await undone(sql, "check_risk", risk.release, t.ReleaseRisk(), sagas)
    assert released == [t.RiskReleased(exposure=D(0))] * 4
    await undone(sql, "reserve_funds", cash.release, t.ReleaseFunds(), sagas)
    await undone(sql, "validate_order", risk.withdraw, t.WithdrawOrder(), sagas)
    assert await balances(sql) == before
    assert [tuple(row) for row in await sql.fetch("SELECT exposure, open_orders FROM risk_exposure")] == [(D(0), 0)]
    assert await sql.fetch("SELECT 1 FROM order_register WHERE status <> 'WITHDRAWN'") == []


async def test_two_processes_never_overdraw(database_url: str, sql: Session) -> None:
    """Batches of two sessions that reserve from one account at once reserve together what is there, and no more."""
    sagas = await validated(sql, [order() for _ in range(12)])

    async def reserve(part: list[tuple[UUID, list[Event]]]) -> list[Event]:
        async with session(database_url) as mine, mine.transaction():
            return await onward(mine, "reserve_funds", cash.reserve, part)

    answers = [answer for part in await asyncio.gather(reserve(sagas[:6]), reserve(sagas[6:])) for answer in part]
    assert sum(isinstance(answer, t.FundsReserved) for answer in answers) == 9
    assert (await balances(sql))["alice USD available"] == D("9.01")


async def test_statements_do_not_grow_with_the_batch(sql: Session) -> None:
    """Every batch handler, and what it is judged by, uses as many statements for 200 works as for one."""
    await open_book(sql, "rich", usd=10**6, eur=10**6, max_open_orders=1000)
    await _statements(sql, 1)  # the driver reads about types it has not met
    one = await _statements(sql, 1)
    assert one == await _statements(sql, 200)
    assert max(one.values()) <= 6


async def _statements(sql: Session, size: int) -> dict[str, int]:
    counts: dict[str, int] = {}

    async def counted(name: str, call: Awaitable[Any]) -> Any:
        seen: list[str] = []

        def note(record: Any) -> None:
            seen.append(record.query)

        with sql.query_logger(note):
            result = await call
        counts[name] = len(seen)
        return result

    sides = [t.Side.BUY, t.Side.SELL]
    requests = [order(sides[n % 2], account="rich") for n in range(size)]
    sagas = await counted("validate", validated(sql, requests))
    await counted("reserve", onward(sql, "reserve_funds", cash.reserve, sagas))
    await counted("check", onward(sql, "check_risk", risk.check, sagas))
    for _, facts in sagas:
        facts.append(t.OrderPlaced(venue="paper", client_order_id=uuid4().hex, venue_order_id="1"))
        facts.append(t.TradeFilled(
            quantity=D(100), quote_amount=D(110), fee=D("0.11"), fee_asset="USD", executions=1, executions_hash=HASH,
            complete=True,
        ))  # fmt: skip
    await counted("settle", onward(sql, "settle_trade", settlement.settle_fills, sagas))
    again = await validated(sql, requests)
    await onward(sql, "reserve_funds", cash.reserve, again)
    await onward(sql, "check_risk", risk.check, again)
    await counted("release risk", undone(sql, "check_risk", risk.release, t.ReleaseRisk(), again))
    await counted("release funds", undone(sql, "reserve_funds", cash.release, t.ReleaseFunds(), again))
    await counted("withdraw", undone(sql, "validate_order", risk.withdraw, t.WithdrawOrder(), again))
    assert not any(isinstance(facts[-1], t.RiskRejected | t.FundsRejected) for _, facts in again)
    return counts


def test_each_handler_answers_for_each_work() -> None:
    """The participants are complete: every step of theirs is bound to what it needs."""
    for participant in (risk.participant, cash.participant, settlement.participant):
        participant.check()
    assert isinstance(work("s", order(), []), Work)
