"""The trade's four services and its saga log on one real database, over topics in memory.

A test puts any record on the topics, delivers in any order, and has the ledger judged.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from tests.book import open_book
from tests.e2e.direct import commit_batch
from tests.integration.infra.venues.simulated_venue import SimulatedVenue
from tests.keys import KEYS
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.services import cash, risk, settlement
from tradesaga.consumers.services.execution import execution_participant
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.ledger.venue_reports import store_reported
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Processor, Received
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.starts.accept import accept, make_start
from tradesaga.infra.venues.wire_reports import report_event
from tradesaga.sagas.trade.definition import trade
from tradesaga.sagas.trade.orders import client_order_id, saga_of
from tradesaga.schemas.envelope import Envelope, splice
from tradesaga.schemas.messages.message import Command, Message, wire_type
from tradesaga.schemas.messages.trade import TradeRequested, VenueFill, VenueReport
from tradesaga.schemas.topics import PARTITIONS, commands_topic, dead_letters_topic, events_topic

D = Decimal
EVENTS, COMMANDS, LETTERS = events_topic("trade"), commands_topic("trade"), dead_letters_topic("trade")


QUIET = 4
"""Rounds without anything new after which nothing more is expected."""


@dataclass
class Service:
    """One processor with its lanes, and how far it has read."""

    processor: Processor
    lanes: dict[int, Lane]
    read: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict[tuple[str, int], int](int))

    def lane(self, place: tuple[str, int]) -> int:
        """Return the lane of a partition."""
        return next(lane.id for lane in self.lanes.values() if (lane.topic, lane.partition) == place)


@dataclass
class TradeRig:
    """Everything of one trade installation except Kafka and time."""

    sql: Connection
    venue: SimulatedVenue
    services: dict[str, Service] = field(default_factory=dict[str, Service])
    topics: dict[tuple[str, int], list[Record]] = field(
        default_factory=lambda: defaultdict[tuple[str, int], list[Record]](list)
    )
    fed: int = 0

    async def open(self) -> None:
        """Claim all lanes of all groups."""
        made: dict[str, Processor] = {
            each.name: StepProcessor(each)
            for each in (
                risk.participant, cash.participant, execution_participant(self.venue, "paper"), settlement.participant,
            )
        }  # fmt: skip
        made["log"] = SagaLog(Rules(trade))
        for name, processor in made.items():
            places = [(topic, number) for topic in processor.topics for number in range(PARTITIONS)]
            lanes = await lane_rows.acquire(self.sql, processor.group, places, "rig")
            await processor.open(self.sql, lanes, lambda: None)
            self.services[name] = Service(processor, {lane.id: lane for lane in lanes})

    async def close(self) -> None:
        """Abandon what is under way."""
        for service in self.services.values():
            await service.processor.close()

    def put(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]]) -> Record:
        """Append a record to the partition of its key."""
        place = (topic, partition_of(key.encode(), PARTITIONS))
        log = self.topics[place]
        record = Record(*place, len(log), time.time_ns() // 1_000_000, key.encode(), value, headers)
        log.append(record)
        return record

    async def start(self, request: TradeRequested) -> UUID:
        """Start a trade as a door does."""
        start = make_start(trade, request)
        async with self.sql.transaction():
            [verdict] = await accept(self.sql, trade, [start], keys=KEYS, source="/test", now=SystemClock().now())
        record = verdict.record
        self.put(record.topic, record.key, record.value, record.headers)
        return verdict.saga_id

    def forge(
        self,
        saga_id: UUID,
        message: Message,
        context: bytes | None = None,
        kind: type[Message] | None = None,
        **fields: Any,
    ) -> Record:
        """Put a record on its topic as anybody could who reaches the broker."""
        value = message.to_wire()
        envelope = Envelope(
            type=wire_type("trade", kind or type(message)), id=str(new_id()), source="/mallory", saga_id=str(saga_id),
            time=format_time(SystemClock().now()),
            context=splice(b"", message.NAME, value) if context is None else context,
        )._replace(**fields)  # fmt: skip
        topic = COMMANDS if isinstance(message, Command) else EVENTS
        return self.put(topic, str(saga_id), value, envelope.to_headers())

    async def deliver(self, name: str, most: int | None = None) -> int:
        """Have one service judge what it has not read, `most` records of each partition; return how many there were."""
        service = self.services[name]
        received: list[Received] = []
        for place, log in list(self.topics.items()):
            if place[0] not in service.processor.topics:
                continue
            begin = service.read[place]
            end = len(log) if most is None else min(len(log), begin + most)
            service.read[place] = end
            lane = service.lane(place)
            received += [
                Received(lane, each) for each in log[begin:end] if service.processor.wants(place[0], each.headers)
            ]
        due = service.processor.due_in()
        if received or (due is not None and due <= 0):
            await self._commit(service, received)
        return len(received)

    async def _commit(self, service: Service, received: Sequence[Received]) -> None:
        for said in await commit_batch(self.sql, service.processor, service.lanes, received):
            self.put(said.topic, said.key, said.value, said.headers)
        for _ in range(10):
            await asyncio.sleep(0)

    async def feed(self, most: int | None = None) -> None:
        """Store and publish what the venue has reported since, as the feed does."""
        reports = self.venue.told()
        end = len(reports) if most is None else min(len(reports), self.fed + most)
        new, self.fed = reports[self.fed : end], end
        told = [
            (saga_id, report_event("paper", each))
            for each in new
            if (saga_id := saga_of(each.client_order_id)) is not None
        ]
        async with self.sql.transaction():
            await store_reported(self.sql, told)
        for saga_id, report in told:
            self.forge(saga_id, report, b"", source="/trade/venue/paper")

    async def settle(self) -> None:
        """Deliver everything to everybody until nothing is left to do at once."""
        quiet = 0
        while quiet < QUIET:
            before = sum(map(len, self.topics.values())), self.fed
            await self.feed()
            for name in self.services:
                await self.deliver(name)
            idle = all((each.processor.due_in() or 1) > 0 for each in self.services.values())
            quiet = quiet + 1 if idle and before == (sum(map(len, self.topics.values())), self.fed) else 0
            await asyncio.sleep(0.005 if quiet else 0)  # calls of the venue end in their own time

    def said(self, message: type[Message], topic: str = EVENTS) -> list[Record]:
        """Return the records of one type."""
        ce_type = wire_type("trade", message).encode()
        return [
            each
            for log in self.topics.values()
            for each in log
            if each.topic == topic and each.header("ce_type") == ce_type
        ]

    def contradictions(self) -> list[str]:
        """Return what the dead letters say that the database contradicts."""
        letters = [each for (topic, _), log in self.topics.items() if topic == LETTERS for each in log]
        letters = [each for each in letters if each.header("ts_dlt_group") != b"trade-log"]
        assert {each.header("ts_dlt_error_type") for each in letters} <= {b"contradiction"}
        return [each.header("ts_dlt_error_message").decode() for each in letters]

    async def state(self, saga_id: UUID) -> str | None:
        """Return the saga's state as the saga log has it."""
        return await self.sql.fetchval("SELECT state FROM saga WHERE saga_id = $1", saga_id)

    async def wealth(self, account: str) -> Mapping[str, Decimal]:
        """Return what an account has of each asset, set aside or not."""
        rows = await self.sql.fetch(
            "SELECT asset, sum(balance) FROM ledger_account WHERE owner = $1 GROUP BY asset ORDER BY asset", account
        )
        return {row[0]: row[1] for row in rows}

    async def judge(self, opening: Mapping[str, Mapping[str, Decimal]]) -> None:
        """Hold the ledger to what is true whatever was forged; `opening` is what each account began with.

        All sums are zero; an account's wealth has changed by what the venue filled of its settled orders and by nothing
        else; what is held is what its open orders hold; what is counted is what its open orders count for.
        """
        sums = await self.sql.fetch("SELECT asset, sum(balance) FROM ledger_account GROUP BY asset")
        assert {row[0]: row[1] for row in sums if row[1]} == {}
        orders = await self.sql.fetch("SELECT * FROM order_register")
        expected = {account: dict(assets) for account, assets in opening.items()}
        settled = {
            row[0]
            for row in await self.sql.fetch("SELECT DISTINCT saga_id FROM ledger_entry WHERE step = 'settle_trade'")
        }
        for order in orders:
            if order["saga_id"] in settled:
                for asset, moved in (await self._filled(order)).items():
                    expected[order["account"]][asset] = expected[order["account"]].get(asset, D(0)) + moved
        for account, assets in expected.items():
            assert await self.wealth(account) == assets, account
        await self._judge_holds()

    async def _filled(self, order: asyncpg.Record) -> Mapping[str, Decimal]:
        report = await self.venue.query(client_order_id(order["saga_id"]), order["symbol"])
        assert report is not None
        sign = 1 if report.side == "BUY" else -1
        base, _, quote = report.symbol.partition("/")
        moved = {base: sign * report.filled, quote: -sign * report.quote}
        for asset, fee in report.fees.items():
            moved[asset] -= fee
        return moved

    async def _judge_holds(self) -> None:
        held = await self.sql.fetch(
            "SELECT saga_id, sum(amount) FROM ledger_entry WHERE kind = 'held' GROUP BY saga_id HAVING sum(amount) <> 0"
        )
        terms = {row["saga_id"]: row for row in await self.sql.fetch("SELECT * FROM order_register")}
        for saga_id, amount in held:
            assert amount == terms[saga_id]["hold"]
            assert terms[saga_id]["status"] in {"VALIDATED", "COUNTED", "RELEASED"}
        standing = {row[0] for row in held}
        for report in await self.venue.open_orders():
            saga_id = saga_of(report.client_order_id)
            assert saga_id in standing, f"order {report.client_order_id} rests and nothing is set aside for it"
        counted = await self.sql.fetch(
            "SELECT account, quote, sum(notional), count(*) FROM order_register WHERE status = 'COUNTED' GROUP BY 1, 2"
        )
        kept = await self.sql.fetch(
            "SELECT account, asset, exposure, open_orders FROM risk_exposure WHERE open_orders > 0"
        )
        assert sorted(map(tuple, counted)) == sorted(map(tuple, kept))


@asynccontextmanager
async def trade_rig(sql: Connection) -> AsyncGenerator[TradeRig]:
    """Open a rig with two accounts, alice and bob, each with 1000 USD and 500 EUR."""
    await open_book(sql, "alice")
    await open_book(sql, "bob")
    prices = {"EUR/USD": [D("1.1"), D("1.05"), D("1.05"), D("1.05")]}
    rig = TradeRig(sql, SimulatedVenue(prices, {"USD": D(10**6), "EUR": D(10**6)}))
    await rig.open()
    try:
        yield rig
    finally:
        await rig.close()


OPENING: Mapping[str, Mapping[str, Decimal]] = {
    name: {"EUR": D(500), "USD": D(1000)} for name in ("alice", "bob")
}  # fmt: skip


def report(saga_id: UUID, kind: Any, quantity: str = "100", trade_id: str = "999999") -> VenueReport:
    """Write a report that no venue has made."""
    fill = VenueFill(trade_id=trade_id, quantity=D(quantity), price=D(1), fee=D(0), fee_asset="USD")
    return VenueReport(
        venue="paper", report_id=uuid4().hex, kind=kind, client_order_id=client_order_id(saga_id), venue_order_id="1",
        symbol="EUR/USD", cumulative_quantity=D(quantity), cumulative_quote=D(quantity),
        fill=fill if kind in {"fill", "partial_fill", "busted"} else None, venue_time=1,
    )  # fmt: skip
