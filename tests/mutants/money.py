"""Mutants of what money believes: each drops one comparison of a record with the rows, and an attack gives it away."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import uuid4

from tests.book import order
from tests.integration.consumers.services.rig import OPENING, TradeRig, report
from tests.integration.consumers.services.test_forged_records import FILLED, REQUEST, context
from tests.mutants.surgery import everywhere, replaced, rewritten
from tradesaga.consumers.context import StepContext
from tradesaga.consumers.participant import Participant
from tradesaga.consumers.services import cash, settlement, trade_evidence
from tradesaga.infra.ledger.trades import RegisteredOrder
from tradesaga.schemas.envelope import CONTEXT
from tradesaga.schemas.messages import trade as t

D = Decimal


@dataclass(frozen=True)
class MoneyMutant:
    """One hole, and what an attacker does who knows of it: `attack` raises `AssertionError` once money has moved."""

    name: str
    plant: Callable[[], AbstractContextManager[Any]]
    attack: Callable[[TradeRig], Awaitable[None]]


def _order_of_record(ctx: StepContext) -> RegisteredOrder:
    """Take the order from what the record says of earlier steps."""
    request, validated = ctx.get(t.TradeRequested), ctx.get(t.OrderValidated)
    price = request.limit_price or D(1)
    return RegisteredOrder(
        request.account, "paper", request.symbol, request.side, request.quantity, request.order_type, price, price,
        request.time_in_force, validated.quote, validated.hold_asset, validated.hold, validated.notional, "COUNTED",
    )  # fmt: skip


def _believe(*_: Any) -> None:
    """Find no contradiction."""


def _always(*_: Any) -> bool:
    """Take any start for the one that the saga's id stands for."""
    return True


async def _take_nothing(*_: Any) -> dict[Any, Any]:
    """Leave the exposure as it is."""
    return {}


@contextmanager
def _together(*plants: AbstractContextManager[Any]) -> Generator[None]:
    with ExitStack() as stack:
        for each in plants:
            stack.enter_context(each)
        yield


def _without(name: str, *conditions: str) -> AbstractContextManager[None]:
    """Drop conditions of a function of the evidence."""
    former = getattr(trade_evidence, name)
    changes: Sequence[tuple[str, str]] = [(each, "if False:") for each in conditions]
    return replaced(trade_evidence, name, rewritten(former, *changes))


async def _forge_release(rig: TradeRig) -> None:
    """Have the hold of an order released that rests at the venue."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    await rig.settle()
    rig.forge(saga_id, t.ReleaseFunds())
    await rig.settle()
    await rig.judge(OPENING)


async def _forge_fill(rig: TradeRig) -> None:
    """Have settlement read another fill than the one that execution answered with."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    await rig.settle()
    rig.venue.step("EUR/USD")
    while not (filled := rig.said(t.TradeFilled)):
        await rig.feed()
        await rig.deliver("execution")
    rig.services["settlement"].read[filled[0].topic, filled[0].partition] = filled[0].offset + 1
    rig.forge(saga_id, FILLED, filled[0].header(CONTEXT))
    await rig.deliver("settlement")
    await rig.judge(OPENING)


async def _forge_report(rig: TradeRig) -> None:
    """Report a fill of a resting order that the venue has not made."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    await rig.settle()
    rig.forge(saga_id, report(saga_id, "fill"), b"", source="/trade/venue/paper")
    await rig.settle()
    await rig.judge(OPENING)


async def _forge_unknown(rig: TradeRig) -> None:
    """Report the fill of a saga that nobody has started, at the cost of what another order has set aside."""
    await rig.start(order(account="alice", price="1.06"))
    await rig.settle()
    rig.forge(uuid4(), FILLED, context(REQUEST))
    await rig.settle()
    await rig.judge(OPENING)


async def _forge_start(rig: TradeRig) -> None:
    """Start an order under an id that is not its request's: as often as wanted under one key."""
    rig.forge(uuid4(), REQUEST)
    await rig.settle()
    assert await rig.sql.fetchval("SELECT count(*) FROM order_register") == 0


async def _forge_hold(rig: TradeRig) -> None:
    """Copy the genuine record with a context in which next to nothing is to be set aside."""
    await rig.start(order(account="alice", price="1.06"))
    await rig.deliver("risk")
    [genuine] = rig.said(t.OrderValidated)
    rig.services["cash"].read[genuine.topic, genuine.partition] = genuine.offset + 1
    small = [(name, value.replace(b'"106.106"', b'"0.00000001"')) for name, value in genuine.headers if name == CONTEXT]
    headers = [*((name, value) for name, value in genuine.headers if name != CONTEXT), *small]
    rig.put(genuine.topic, (genuine.key or b"").decode(), genuine.value, headers)
    await rig.deliver("cash")
    await rig.judge(OPENING)


async def _spend_hold(rig: TradeRig) -> None:
    """Have an order placed for which less is set aside than it needs."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    for name in ("risk", "cash", "risk"):
        await rig.deliver(name)
    await rig.sql.execute("UPDATE order_register SET hold = hold * 2 WHERE saga_id = $1", saga_id)
    await rig.settle()
    assert await rig.venue.open_orders() == []


MONEY_MUTANTS = (
    MoneyMutant(
        "a release while the order rests",
        lambda: replaced(trade_evidence, "_refute_compensation", _believe),
        _forge_release,
    ),
    MoneyMutant(
        "a fill not compared with the answer", lambda: replaced(trade_evidence, "_refute_answer", _believe), _forge_fill
    ),
    MoneyMutant(
        "a report without a row counted",
        lambda: _together(
            replaced(Participant, "stores_reports", _believe), replaced(trade_evidence, "_refute_report", _believe)
        ),
        _forge_report,
    ),
    MoneyMutant(
        "booked without a row of the order register",
        lambda: _together(
            replaced(trade_evidence.TradeEvidence, "refute", _believe),
            replaced(settlement, "order_of", _order_of_record),
            replaced(settlement, "remove_orders", _take_nothing),
        ),
        _forge_unknown,
    ),
    MoneyMutant(
        "a saga's id not recomputed", lambda: everywhere(trade_evidence.starts_itself, _always), _forge_start
    ),
    MoneyMutant(
        "the amount taken from the record",
        lambda: _together(
            _without("_refute_answer", 'if answered.get(CONTEXT, b"") != claim.envelope.context:'),
            replaced(cash, "order_of", _order_of_record),
        ),
        _forge_hold,
    ),
    MoneyMutant(
        "the hold not checked",
        lambda: _without("_refute_beginning", "if held and known.held != order.hold:"),
        _spend_hold,
    ),
)  # fmt: skip
