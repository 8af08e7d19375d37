"""Forged records in every order: whatever is written between the steps of genuine trades, the ledger stays true.

Each example deals every type of record for every kind of saga, in an order that its seed draws. Hypothesis draws the
seeds, prints the one that has found something and tries it first the next time; it then stays here as an `@example`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Final
from uuid import UUID, uuid4

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from tests.book import order
from tests.integration.consumers.services.rig import COMMANDS, EVENTS, LETTERS, OPENING, TradeRig, trade_rig
from tests.integration.consumers.services.test_forged_records import FILLED, context, greedy
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.postgres.database import session
from tradesaga.schemas.envelope import CONTEXT, SAGA_ID
from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Command, Compensation, Event, Message

pytestmark = pytest.mark.stack
EXAMPLES: Final = 12
"""A second or two each."""
SERVICES = ("risk", "cash", "execution", "settlement", "log")
SIDES = (t.Side.BUY, t.Side.SELL)
WHOSE = ("own", "foreign", "unknown")
"""A running saga with a context of its own, one with somebody else's, and one that nobody has started."""
MOVED: Final = 0.3
"""How often a copy is put under another saga, or given another's context."""
STEPS = ("validate_order", "reserve_funds", "check_risk", "place_order", "confirm_fill", "settle_trade")
_UNFORGED = {Message, Event, Command, Compensation, lifecycle.OperatorFact, t.VenueFill}
"""Bases and parts, of which there are no records."""


def forgeries(saga_id: UUID, step: str) -> Sequence[Message]:
    """Write a record of each type, with values that would enrich whoever they are about."""
    who = {"operator": "eve", "reason": "x"}
    return (
        *greedy(saga_id),
        order(account="bob", quantity=500),
        t.ValidationRejected(code="x", reason="x"), t.FundsRejected(code="x", reason="x"),
        t.RiskRejected(code="x", reason="x"), t.OrderRejected(code="x", reason="x"), t.TradeUnfilled(status="expired"),
        t.TradeSettled(quantity=Decimal(1), quote_amount=Decimal(1), fee=Decimal(0), released=Decimal(10**6)),
        t.OrderWithdrawn(), t.FundsReleased(asset="USD", amount=Decimal(10**6)), t.RiskReleased(exposure=Decimal(0)),
        t.OrderCancelled(client_order_id="x"),
        t.TradeFilledV1(
            quantity=FILLED.quantity, quote_amount=FILLED.quote_amount, fee=FILLED.fee, fee_asset="USD",
            venue_trade_ids=("1",), complete=True,
        ),
        lifecycle.AttemptFailed(step=step, direction="forward", attempt=1, reason="x"),
        lifecycle.StepFailed(step=step, attempts=1, reason="x"),
        lifecycle.StepUnknown(step=step, attempt=1, reason="x"),
        lifecycle.StepBarred(step=step), lifecycle.StepUnowned(step=step, reason="x"),
        lifecycle.RecheckRequested(**who),
        lifecycle.StepContradicted(step=step, venue_id="1", reason="x"),
        lifecycle.CompensationFailed(step=step, attempts=1, reason="x"),
        lifecycle.DeadlineElapsed(deadline="2026-01-01T00:00:00Z"),
        lifecycle.StartRefused(idempotency_key="x", request_hash="x", reason="x"),
        lifecycle.RetryRequested(step=step, **who), lifecycle.AbortRequested(**who),
        lifecycle.SkipRequested(step=step, **who), lifecycle.ResolveRequested(outcome="COMPLETED", **who),
        lifecycle.ParkReleased(topic="trade.events", partition=0, offset=0, action="retry", **who),
        lifecycle.Bar(step=step), lifecycle.Retry(step=step, round=2),
    )  # fmt: skip


def test_every_type_of_record_is_forged() -> None:
    """Each class of message of the trade and of the lifecycle has a forgery."""
    classes = {
        each
        for module in (t, lifecycle)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Message)
    }
    assert classes - _UNFORGED == {type(each) for each in forgeries(uuid4(), "check_risk")}


@dataclass
class Play:
    """One example: genuine trades, and between their steps whatever `chance` deals."""

    rig: TradeRig
    chance: Random
    sagas: list[UUID] = field(default_factory=list[UUID])

    async def run(self) -> None:
        """Deal every forgery and judge the ledger after each action, and once more when all is quiet."""
        deck = [(whose, number) for whose in WHOSE for number in range(len(forgeries(uuid4(), STEPS[0])))]
        self.chance.shuffle(deck)
        await self._start()
        while deck:
            await self._act(deck)
            await self.rig.judge(OPENING)
        await self.rig.settle()
        self.rig.venue.step("EUR/USD")
        await self.rig.settle()
        await self.rig.judge(OPENING)

    async def _act(self, deck: list[tuple[str, int]]) -> None:
        rig, chance = self.rig, self.chance
        match chance.choice(("start", "deliver", "deliver", "deliver", "forge", "forge", "repeat", "feed", "venue")):
            case "start":
                await self._start()
            case "deliver":
                await rig.deliver(chance.choice(SERVICES), chance.choice((1, 3, None)))
            case "feed":
                await rig.feed(chance.choice((1, None)))
            case "venue":
                rig.venue.step("EUR/USD")
            case "repeat":
                self._repeat()
            case _:
                for _ in range(min(len(deck), chance.randint(1, 16))):
                    self._forge(*deck.pop())

    async def _start(self) -> None:
        """Start a genuine trade, under a key that the seed alone decides."""
        chance = self.chance
        account, price, side = chance.choice(("alice", "bob")), chance.choice(("1.0", "1.06")), chance.choice(SIDES)
        key = f"k{chance.getrandbits(64)}"
        request = order(side, quantity=20, price=price, account=account, idempotency_key=key)
        self.sagas.append(await self.rig.start(request))

    def _forge(self, whose: str, number: int) -> None:
        """Put a record about a saga on its topic, with a context that fits whose saga it is said to be."""
        chance = self.chance
        saga_id = UUID(int=chance.getrandbits(128), version=4) if whose == "unknown" else chance.choice(self.sagas)
        step, about = chance.choice(STEPS), order(account=chance.choice(("alice", "bob")), quantity=500)
        carried = self._context(saga_id) if whose == "own" else chance.choice((None, b"", context(about)))
        message = forgeries(saga_id, step)[number]
        self.rig.forge(saga_id, message, carried, step=step, round=chance.choice((1, 1, 2)))

    def _context(self, saga_id: UUID) -> bytes:
        """Return what a genuine record of the saga carried, as one who reads the topics can copy it."""
        records = [each for each in self._records() if each.key == str(saga_id).encode() and each.header(CONTEXT)]
        return self.chance.choice(records).header(CONTEXT) if records else b""

    def _records(self) -> list[Record]:
        return [each for (topic, _), log in self.rig.topics.items() if topic in {EVENTS, COMMANDS} for each in log]

    def _repeat(self) -> None:
        """Write any record again, as it is or under another saga, and maybe with another value or another context."""
        chance, records = self.chance, self._records()
        first, other = chance.choice(records), chance.choice(records)
        key = str(chance.choice(self.sagas)) if chance.random() < MOVED else (first.key or b"").decode()
        headers = [(name, _changed(chance, name, text, other, key)) for name, text in first.headers]
        value = chance.choice((first.value, first.value, other.value))
        self.rig.put(first.topic, key, value, headers)


def _changed(chance: Random, name: str, value: bytes | None, other: Record, key: str) -> bytes:
    if name == SAGA_ID:
        return key.encode()
    if name == CONTEXT and chance.random() < MOVED:
        return other.header(CONTEXT)
    return value or b""


@example(seed=0)
@pytest.mark.timeout(300)
@settings(max_examples=EXAMPLES, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(seed=st.integers(0, 2**32 - 1))
def test_no_order_of_forged_and_genuine_records_moves_money(module_database_url: str, seed: int) -> None:
    """Trades start, services read some of what there is, the venue trades; between these, anybody writes anything."""

    async def play() -> None:
        async with session(module_database_url) as sql:
            # One transaction is open for the whole play, and may wait for its turn on a busy machine.
            await sql.execute("SET idle_in_transaction_session_timeout = 0")
            transaction = sql.transaction()
            await transaction.start()
            try:
                async with trade_rig(sql) as rig:
                    await Play(rig, Random(seed)).run()
                    letters = [each for (topic, _), log in rig.topics.items() if topic == LETTERS for each in log]
                    assert b"contradiction" in {each.header("ts_dlt_error_type") for each in letters}
            finally:
                await transaction.rollback()

    asyncio.run(play())
