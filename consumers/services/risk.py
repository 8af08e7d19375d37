"""The risk service: checks that an order is valid, and that it fits the limits of its account."""

from collections.abc import Sequence

from tradesaga.consumers.context import StepContext
from tradesaga.consumers.participant import Participant, Work
from tradesaga.consumers.runtime.service import serve
from tradesaga.consumers.services.trade_evidence import EVIDENCE, account_of, order_of, starts_itself, with_order
from tradesaga.infra.ledger.orders import (
    AccountInstrument,
    ExposureKey,
    Registration,
    find_account_instruments,
    lock_exposures,
    mark,
    register,
    remove_orders,
    set_exposures,
)
from tradesaga.infra.ledger.recovery import create_missing_accounts
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade.definition import check_risk, trade, validate_order
from tradesaga.sagas.trade.exposure import Exposure, count_in
from tradesaga.sagas.trade.orders import Rejection, Terms, assess
from tradesaga.schemas.messages import trade as t

participant = Participant("risk", trade, pauses=account_of, evidence=EVIDENCE)


async def risk(settings: Settings) -> None:
    """Run the service until it is cancelled."""
    await serve(participant, settings)


@participant.handles_batch(validate_order)
async def validate(
    works: Sequence[Work[t.TradeRequested]], sql: Connection
) -> list[t.OrderValidated | t.ValidationRejected]:
    """Check orders against the rules of their instruments, and register the valid ones."""
    answers: list[t.OrderValidated | t.ValidationRejected] = []
    registrations: list[Registration] = []
    listings = await find_account_instruments(sql, [work.event for work in works])
    for work, listing in zip(works, listings, strict=True):
        checked = _check_order(work, listing)
        if isinstance(checked, Rejection):
            answers.append(t.ValidationRejected(code=checked.code, reason=checked.reason))
        else:
            registration, validated = checked
            registrations.append(registration)
            answers.append(validated)
    await register(sql, registrations)
    return answers


def _check_order(
    work: Work[t.TradeRequested], listing: AccountInstrument
) -> tuple[Registration, t.OrderValidated] | Rejection:
    request, instrument = work.event, listing.instrument
    if listing.venue is None:
        return Rejection("unknown_account", f"there is no account {request.account}")
    if listing.status != "open":
        return Rejection("account_closed", f"account {request.account} is closed")
    if instrument is None:
        return Rejection("unknown_symbol", f"{request.symbol} is not traded at {listing.venue}")
    terms = assess(request, instrument)
    if isinstance(terms, Rejection):
        return terms
    validated = t.OrderValidated(
        base=instrument.base,
        quote=instrument.quote,
        hold_asset=terms.hold_asset,
        hold=terms.hold,
        notional=terms.notional,
        fee_rate=instrument.fee_rate,
        worst_price=terms.worst_price if request.order_type is t.OrderType.MARKET else None,
    )
    return Registration(work.saga_id, request, listing.venue, instrument.quote, terms), validated


@participant.compensates_batch(validate_order)
async def withdraw(works: Sequence[Work[t.WithdrawOrder]], sql: Connection) -> list[t.OrderWithdrawn]:
    """Mark orders as withdrawn in the register."""
    await mark(sql, [work.saga_id for work in works], "WITHDRAWN")
    return [t.OrderWithdrawn() for _ in works]


@participant.handles_batch(check_risk)
async def check(works: Sequence[Work[t.FundsReserved]], sql: Connection) -> list[t.RiskAccepted | t.RiskRejected]:
    """Add orders to the exposure of their accounts, one after the other, as long as they fit the limits."""
    keys = [_key(work.ctx) for work in works]
    known = await lock_exposures(sql, keys)
    after: dict[ExposureKey, Exposure] = {}
    answers: list[t.RiskAccepted | t.RiskRejected] = []
    for work, key in zip(works, keys, strict=True):
        limits, before = known[key]
        counted = count_in(limits, after.get(key, before), order_of(work.ctx).notional)
        if isinstance(counted, Rejection):
            answers.append(t.RiskRejected(code=counted.code, reason=counted.reason))
        else:
            after[key] = counted
            answers.append(t.RiskAccepted(exposure=counted.notional))
    await set_exposures(sql, after)
    accepted = zip(works, answers, strict=True)
    await mark(sql, [work.saga_id for work, answer in accepted if isinstance(answer, t.RiskAccepted)], "COUNTED")
    return answers


@participant.compensates_batch(check_risk)
async def release(works: Sequence[Work[t.ReleaseRisk]], sql: Connection) -> list[t.RiskReleased]:
    """Remove orders from the exposure."""
    keys = [_key(work.ctx) for work in works]
    notionals = [order_of(work.ctx).notional for work in works]
    left = await remove_orders(sql, zip(keys, notionals, strict=True))
    await mark(sql, [work.saga_id for work in works], "RELEASED")
    return [t.RiskReleased(exposure=left[key]) for key in keys]


def _key(ctx: StepContext) -> ExposureKey:
    order = order_of(ctx)
    return ExposureKey(order.account, order.quote)


@participant.restores(validate_order)
async def restore_validated(works: Sequence[Work[t.OrderValidated]], sql: Connection) -> None:
    """Register the orders that are valid according to the facts; missing accounts are created, closed."""
    works = [work for work in works if _started(work)]
    requests = [work.ctx.get(t.TradeRequested) for work in works]
    await create_missing_accounts(sql, [request.account for request in requests])
    listings = await find_account_instruments(sql, requests)
    registrations = [
        Registration(work.saga_id, request, listing.venue or "", work.event.quote, _terms(request, work.event))
        for work, request, listing in zip(works, requests, listings, strict=True)
    ]
    await register(sql, registrations)


@participant.restores_back(validate_order)
async def restore_withdrawn(works: Sequence[Work[t.OrderWithdrawn]], sql: Connection) -> None:
    """Mark the orders that are withdrawn according to the facts."""
    await mark(sql, [work.saga_id for work in works], "WITHDRAWN")


@participant.restores(check_risk)
async def restore_counted(works: Sequence[Work[t.RiskAccepted]], sql: Connection) -> None:
    """Add the orders that were counted according to the facts to the exposure, whatever the limits are now."""
    works = with_order(works)
    known = await lock_exposures(sql, [_key(work.ctx) for work in works])
    after = {key: exposure for key, (_, exposure) in known.items()}
    for work in works:
        before, notional = after[_key(work.ctx)], order_of(work.ctx).notional
        after[_key(work.ctx)] = Exposure(before.notional + notional, before.open_orders + 1)
    await set_exposures(sql, after)
    await mark(sql, [work.saga_id for work in works], "COUNTED")


@participant.restores_back(check_risk)
async def restore_released(works: Sequence[Work[t.RiskReleased]], sql: Connection) -> None:
    """Remove the orders that were released according to the facts from the exposure."""
    works = with_order(works, status="COUNTED")
    await remove_orders(sql, [(_key(work.ctx), order_of(work.ctx).notional) for work in works])
    await mark(sql, [work.saga_id for work in works], "RELEASED")


def _started(work: Work[t.OrderValidated]) -> bool:
    """Return whether the fact contains the request from which its saga's id is derived; log it if not."""
    request = work.ctx.find(t.TradeRequested)
    started = request is not None and starts_itself(work.saga_id, request)
    if not started:
        work.ctx.log.error("fact of a saga that was never started", fact=work.event.NAME)
    return started


def _terms(request: t.TradeRequested, validated: t.OrderValidated) -> Terms:
    """Return the terms that were validated; the worst price of a limit order is its limit."""
    worst = validated.worst_price or request.limit_price
    if worst is None:
        raise ValueError(f"an order of {request.account} was validated without a price")
    return Terms(validated.hold_asset, validated.hold, validated.notional, worst)
