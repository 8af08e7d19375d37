"""The cash service: holds and releases the funds of orders. Accounts and amounts come from the order register."""

from collections.abc import Sequence
from typing import Any

from tradesaga.consumers.participant import Participant, Work
from tradesaga.consumers.runtime.service import serve
from tradesaga.consumers.services.trade_evidence import EVIDENCE, account_of, order_of, with_order
from tradesaga.infra.ledger.entries import Booking, book, lock_ledger_accounts, post
from tradesaga.infra.ledger.trades import RegisteredOrder
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade import postings
from tradesaga.sagas.trade.arithmetic import ZERO
from tradesaga.sagas.trade.definition import reserve_funds, trade
from tradesaga.sagas.trade.postings import AccountKey, AccountKind, Postings
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
    """Hold the funds of orders one after the other, as long as the available balance suffices."""
    orders = [order_of(work.ctx) for work in works]
    moves = [_hold(order) for order in orders]
    balances = await lock_ledger_accounts(sql, {place for move in moves for place in move})
    answers: list[FundsReserved | FundsRejected] = []
    bookings: list[Booking] = []
    for order, work, move in zip(orders, works, moves, strict=True):
        asset, amount = order.hold_asset, order.hold
        free = AccountKey(order.account, asset, AccountKind.AVAILABLE)
        if (available := balances.get(free, ZERO)) < amount:
            reason = f"{format_decimal(available)} {asset} available, {format_decimal(amount)} needed"
            answers.append(FundsRejected(code="insufficient_funds", reason=reason))
            continue
        balances[free] = available - amount
        bookings.append(Booking(work.saga_id, work.ctx.step, move))
        answers.append(FundsReserved(asset=asset, amount=amount))
    await post(sql, bookings)
    return answers


@participant.compensates_batch(reserve_funds)
async def release(works: Sequence[Work[ReleaseFunds]], sql: Connection) -> list[FundsReleased]:
    """Release held funds."""
    orders = [order_of(work.ctx) for work in works]
    bookings = [_release(work) for work in works]
    await lock_ledger_accounts(sql, {place for booking in bookings for place in booking.postings})
    await post(sql, bookings)
    return [FundsReleased(asset=order.hold_asset, amount=order.hold) for order in orders]


@participant.restores(reserve_funds)
async def restore_reserved(works: Sequence[Work[FundsReserved]], sql: Connection) -> None:
    """Hold the funds of registered orders that were held according to the facts."""
    await book(sql, [Booking(work.saga_id, work.ctx.step, _hold(order_of(work.ctx))) for work in with_order(works)])


@participant.restores_back(reserve_funds)
async def restore_released(works: Sequence[Work[FundsReleased]], sql: Connection) -> None:
    """Release the funds of registered orders that were released according to the facts."""
    await book(sql, [_release(work) for work in with_order(works, held=True)])


def _hold(order: RegisteredOrder) -> Postings:
    return postings.hold(order.account, order.hold_asset, order.hold)


def _release(work: Work[Any]) -> Booking:
    order = order_of(work.ctx)
    return Booking(work.saga_id, work.ctx.step, postings.release(order.account, order.hold_asset, order.hold), "back")
