"""Nothing that anybody writes to the topics moves money: every record of the trade forged, at every point of a saga."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from decimal import Decimal
from uuid import UUID, uuid4

import orjson
import pytest

from tests.book import order
from tests.integration.consumers.services.rig import OPENING, TradeRig, report, trade_rig
from tradesaga.infra.kafka.codec import pack
from tradesaga.infra.postgres.database import session
from tradesaga.sagas.trade.orders import client_order_id
from tradesaga.schemas.envelope import CONTEXT, splice
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.lifecycle import Bar, Retry, StepContradicted
from tradesaga.schemas.messages.message import Message

pytestmark = pytest.mark.stack
D = Decimal
MILLION = D(1_000_000)
REQUEST = order(account="alice")
VALIDATED = t.OrderValidated(
    base="EUR", quote="USD", hold_asset="EUR", hold=D("0.00000001"), notional=D("0.00000001"), fee_rate=D(0)
)
RESERVED = t.FundsReserved(asset="EUR", amount=D("0.00000001"))
PLACED = t.OrderPlaced(venue="paper", client_order_id="ts1", venue_order_id="1")
FILLED = t.TradeFilled(
    quantity=MILLION,
    quote_amount=D("0.00000001"),
    fee=D(0),
    fee_asset="USD",
    executions=1,
    executions_hash=t.hash_trade_ids(["1"]),
    complete=True,
)


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[TradeRig]:
    """Give a rig on a database of its own."""
    async with session(database_url) as sql, trade_rig(sql) as made:
        yield made


def greedy(saga_id: UUID) -> Sequence[Message]:
    """Write each record that a participant acts on, with values that would enrich whoever they are about."""
    return (
        VALIDATED, RESERVED, t.RiskAccepted(exposure=D(0)), PLACED, FILLED,
        *(report(saga_id, kind) for kind in ("acknowledged", "partial_fill", "fill", "expired", "cancelled", "busted")),
        t.WithdrawOrder(), t.ReleaseFunds(), t.ReleaseRisk(), t.CancelOrder(),
        *(Retry(step=name, round=2) for name in ("validate_order", "reserve_funds", "check_risk", "confirm_fill")),
        Retry(step="settle_trade", round=2),
    )  # fmt: skip


def context(request: t.TradeRequested) -> bytes:
    """Write the context of a saga in which nothing was set aside and a million filled."""
    whole = b""
    for fact in (request, VALIDATED, RESERVED, t.RiskAccepted(exposure=D(0)), PLACED, FILLED):
        whole = splice(whole, fact.NAME, fact.to_wire())
    return whole


async def test_a_forged_fill_of_an_unknown_saga_books_nothing(rig: TradeRig) -> None:
    """A fact that says: nothing was reserved and a million filled. It is a dead letter and no money moves."""
    rig.forge(uuid4(), FILLED, context(REQUEST))
    await rig.settle()
    assert rig.contradictions() == ["trade-filled: 'confirm_fill' has not answered"]
    assert await rig.sql.fetchval("SELECT count(*) FROM step_execution") == 0
    await rig.judge(OPENING)


async def test_a_start_under_anothers_id_is_a_contradiction(rig: TradeRig) -> None:
    """A start on the events topic counts as one only under the id that its account and key come to."""
    rig.forge(uuid4(), REQUEST)
    await rig.settle()
    assert await rig.sql.fetchval("SELECT count(*) FROM order_register") == 0
    assert len(rig.contradictions()) == 1


async def nothing(rig: TradeRig, saga_id: UUID) -> None:
    """Leave the saga unknown."""


async def started(rig: TradeRig, saga_id: UUID) -> None:
    """Go no further than the order register."""
    await rig.deliver("risk")


async def reserved(rig: TradeRig, saga_id: UUID) -> None:
    """Go as far as cash."""
    await rig.deliver("risk")
    await rig.deliver("cash")


async def counted(rig: TradeRig, saga_id: UUID) -> None:
    """Go as far as risk's second step."""
    await reserved(rig, saga_id)
    await rig.deliver("risk")


async def resting(rig: TradeRig, saga_id: UUID) -> None:
    """Have the order rest at the venue."""
    await rig.settle()
    assert len(await rig.venue.open_orders()) == 1


async def settled(rig: TradeRig, saga_id: UUID) -> None:
    """Have the trade completed."""
    await rig.settle()
    rig.venue.step("EUR/USD")
    await rig.settle()
    assert await rig.state(saga_id) == "COMPLETED"


async def aborted(rig: TradeRig, saga_id: UUID) -> None:
    """Have the trade taken back while its order rests."""
    await rig.settle()
    rig.forge(saga_id, t.RiskRejected(code="forged", reason="forged"), step="check_risk")
    await rig.settle()
    assert await rig.state(saga_id) == "ABORTED"


Point = Callable[[TradeRig, UUID], Awaitable[None]]
POINTS: Sequence[Point] = (nothing, started, reserved, counted, resting, settled, aborted)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("whose", ["own", "foreign"])
async def test_each_forged_record_moves_nothing(rig: TradeRig, point: Point, whose: str) -> None:
    """Each event and command, of this saga and with another account's context, one after the other and all at once."""
    request = order(account="alice", price="1.06")
    saga_id = uuid4() if point is nothing else await rig.start(request)
    await point(rig, saga_id)
    about = request if whose == "own" else order(account="bob", quantity=500)
    for message in greedy(saga_id):
        step = message.step if isinstance(message, Bar | Retry) else ""
        rig.forge(saga_id, message, context(about), step=step)
        await rig.deliver("settlement")
        await rig.deliver("execution")
        await rig.deliver("cash")
        await rig.deliver("risk")
        await rig.judge(OPENING)
    # What says no more than what is true is none: an acknowledgement, a retry of a step that must succeed, and once the
    # trade has been aborted the compensations, which are answered again.
    true = 7 if point is aborted else 2
    assert len(rig.contradictions()) >= len(greedy(saga_id)) - true
    open_before = len(await rig.venue.open_orders())
    rig.venue.step("EUR/USD")
    await rig.settle()
    await rig.judge(OPENING)
    if point is resting:
        assert open_before == 1
        assert await rig.sql.fetchval("SELECT status FROM order_register WHERE saga_id = $1", saga_id) == "SETTLED"


async def test_a_repeated_report_is_no_news_and_a_late_bust_is(rig: TradeRig) -> None:
    """After settlement the same fill, told again, changes nothing; its bust calls for a person, once."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    await settled(rig, saga_id)
    rig.fed = 0
    await rig.settle()
    assert rig.said(StepContradicted) == []
    rig.venue.bust("1")
    await rig.settle()
    rig.fed = 0
    await rig.settle()
    assert len(rig.said(StepContradicted)) == 1
    assert rig.contradictions() == []
    assert await rig.state(saga_id) == "FAILED"


async def test_a_fill_that_an_earlier_release_answered_with_is_settled(rig: TradeRig) -> None:
    """Execution's row and the fact are of version 1, with trade ids; settlement and the saga log read both."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    await resting(rig, saga_id)
    [placed] = rig.said(t.OrderPlaced)
    rig.venue.step("EUR/USD")
    filled = await rig.venue.query(client_order_id(saga_id), "EUR/USD")
    assert filled is not None
    old = t.TradeFilledV1(
        quantity=filled.filled, quote_amount=filled.quote, fee=filled.fees["USD"], fee_asset="USD",
        venue_trade_ids=tuple(each.trade_id for each in filled.fills), complete=True,
    )  # fmt: skip
    told = rig.forge(saga_id, old, splice(placed.header(CONTEXT), old.NAME, old.to_wire()))
    await rig.sql.execute(
        "UPDATE step_execution SET status = 4, answer = $2, reports = $3, input = NULL, due = NULL"
        " WHERE saga_id = $1 AND step = 'confirm_fill'",
        saga_id,
        pack(told.headers, told.value),
        orjson.dumps({f"fill:{each.trade_id}": {} for each in filled.fills}),
    )
    await rig.settle()
    assert rig.contradictions() == []
    assert await rig.state(saga_id) == "COMPLETED"
    await rig.judge(OPENING)


async def test_a_genuine_record_with_one_header_changed_is_a_contradiction(rig: TradeRig) -> None:
    """What cash answered, copied with another account in its context, is refused; the genuine record then counts."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    await reserved(rig, saga_id)
    [genuine] = rig.said(t.FundsReserved)
    changed = [(name, value.replace(b"alice", b"bob") if name == CONTEXT else value) for name, value in genuine.headers]
    service = rig.services["risk"]
    service.read[genuine.topic, genuine.partition] = genuine.offset + 1
    rig.put(genuine.topic, str(saga_id), genuine.value, changed)
    await rig.deliver("risk")
    assert rig.contradictions() == ["funds-reserved: 'reserve_funds' answered with another context"]
    rig.put(genuine.topic, str(saga_id), genuine.value, genuine.headers)
    await rig.settle()
    assert len(await rig.venue.open_orders()) == 1
    await rig.judge(OPENING)
