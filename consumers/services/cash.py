"""Cash: sets aside what an order could cost, and releases it. Accounts and amounts are those of the order register."""

from collections.abc import Sequence

from tradesaga.consumers.participant import Participant, Work
from tradesaga.consumers.runtime.service import serve
from tradesaga.consumers.services.trade_evidence import EVIDENCE, account_of, order_of, with_order
from tradesaga.infra.ledger.entries import Booking, book, lock_ledger_accounts, post
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade import postings
from tradesaga.sagas.trade.arithmetic import ZERO
from tradesaga.sagas.trade.definition import reserve_funds, trade
from tradesaga.sagas.trade.postings import AccountKey, AccountKind
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages.trade import (
    FundsRejected,
    FundsReleased,
    FundsReserved,
    OrderValidated,
    ReleaseFunds,
)

participant = Participant("cash", trade, pauses=account_of, evidence=EVIDENCE)


async def cash(settings: Settings) -> None:
    """Run the service until it is cancelled."""
    await serve(participant, settings)


@participant.handles_batch(reserve_funds)
async def reserve(works: Sequence[Work[OrderValidated]], sql: Connection) -> list[FundsReserved | FundsRejected]:
    """Set aside, in the order of the works, as long as what is available suffices."""
    orders = [order_of(work.ctx) for work in works]
    moves = [postings.hold(order.account, order.hold_asset, order.hold) for order in orders]
    balances = await lock_ledger_accounts(sql, {place for move in moves for place in move})
    answers: list[FundsReserved | FundsRejected] = []
    bookings: list[Booking] = []
    for order, work, move in zip(orders, works, moves, strict=True):
        asset, amount = order.hold_asset, order.hold
        free = AccountKey(order.account, asset, AccountKind.AVAILABLE)
        if (there := balances.get(free, ZERO)) < amount:
            what = f"{format_decimal(there)} {asset} available, {format_decimal(amount)} needed"
            answers.append(FundsRejected(code="insufficient_funds", reason=what))
            continue
        balances[free] = there - amount
        bookings.append(Booking(work.saga_id, work.ctx.step, move))
        answers.append(FundsReserved(asset=asset, amount=amount))
    await post(sql, bookings)
    return answers


@participant.compensates_batch(reserve_funds)
async def release(works: Sequence[Work[ReleaseFunds]], sql: Connection) -> list[FundsReleased]:
    """Release what was set aside."""
    orders = [order_of(work.ctx) for work in works]
    bookings = [
        Booking(
            work.saga_id, work.ctx.step, postings.release(order.account, order.hold_asset, order.hold), "back"
        )
        for work, order in zip(works, orders, strict=True)
    ]  # fmt: skip
    await lock_ledger_accounts(sql, {place for booking in bookings for place in booking.postings})
    await post(sql, bookings)
    return [FundsReleased(asset=order.hold_asset, amount=order.hold) for order in orders]


@participant.restores(reserve_funds)
async def reserve_again(works: Sequence[Work[FundsReserved]], sql: Connection) -> None:
    """Set aside, for orders of the register, what the facts say was set aside."""
    bookings: list[Booking] = []
    for work in with_order(works):
        order = order_of(work.ctx)
        move = postings.hold(order.account, order.hold_asset, order.hold)
        bookings.append(Booking(work.saga_id, work.ctx.step, move))
    await book(sql, bookings)


@participant.restores_back(reserve_funds)
async def release_again(works: Sequence[Work[FundsReleased]], sql: Connection) -> None:
    """Release, for orders of the register, what the facts say was released."""
    bookings: list[Booking] = []
    for work in with_order(works, held=True):
        order = order_of(work.ctx)
        move = postings.release(order.account, order.hold_asset, order.hold)
        bookings.append(Booking(work.saga_id, work.ctx.step, move, "back"))
    await book(sql, bookings)
