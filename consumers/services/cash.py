"""Cash: sets aside what an order could cost, and gives it back."""

from collections.abc import Sequence
from typing import Any

from consumers.participant import Participant, Work
from consumers.runtime.service import serve
from consumers.services.pausing import account_of
from infra.database import Connection
from infra.ledger.entries import Booking, book, lock_places, post
from infra.settings import Settings
from sagas.trade import reserve_funds, trade
from sagas.trading import postings
from sagas.trading.arithmetic import ZERO
from sagas.trading.postings import Kind, Place
from schemas.amounts import format_decimal
from schemas.trade import FundsRejected, FundsReleased, FundsReserved, OrderValidated, ReleaseFunds, TradeRequested

participant = Participant("cash", trade, holds=account_of)


async def cash(settings: Settings) -> None:
    """Run the service until it is cancelled."""
    await serve(participant, settings)


@participant.handles_batch(reserve_funds)
async def reserve(works: Sequence[Work[OrderValidated]], sql: Connection) -> list[FundsReserved | FundsRejected]:
    """Set aside, in the order of the works, as long as what is available suffices."""
    accounts = [work.ctx.get(TradeRequested).account for work in works]
    moves = [
        postings.hold(account, work.event.hold_asset, work.event.hold)
        for account, work in zip(accounts, works, strict=True)
    ]
    balances = await lock_places(sql, {place for move in moves for place in move})
    answers: list[FundsReserved | FundsRejected] = []
    bookings: list[Booking] = []
    for account, work, move in zip(accounts, works, moves, strict=True):
        asset, amount = work.event.hold_asset, work.event.hold
        free = Place(account, asset, Kind.AVAILABLE)
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
    """Give back what was set aside."""
    reserved = [work.ctx.get(FundsReserved) for work in works]
    bookings = [
        Booking(
            work.saga_id,
            work.ctx.step,
            postings.release(work.ctx.get(TradeRequested).account, held.asset, held.amount),
            "back",
        )
        for work, held in zip(works, reserved, strict=True)
    ]
    await lock_places(sql, {place for booking in bookings for place in booking.postings})
    await post(sql, bookings)
    return [FundsReleased(asset=held.asset, amount=held.amount) for held in reserved]


@participant.restores(reserve_funds)
async def reserve_again(works: Sequence[Work[FundsReserved]], sql: Connection) -> None:
    """Set aside what the facts say was set aside."""
    moves = [postings.hold(_account(work), work.event.asset, work.event.amount) for work in works]
    await book(sql, [Booking(work.saga_id, work.ctx.step, move) for work, move in zip(works, moves, strict=True)])


@participant.restores_back(reserve_funds)
async def release_again(works: Sequence[Work[FundsReleased]], sql: Connection) -> None:
    """Give back what the facts say was given back."""
    moves = [postings.release(_account(work), work.event.asset, work.event.amount) for work in works]
    bookings = [Booking(work.saga_id, work.ctx.step, move, "back") for work, move in zip(works, moves, strict=True)]
    await book(sql, bookings)


def _account(work: Work[Any]) -> str:
    return work.ctx.get(TradeRequested).account
