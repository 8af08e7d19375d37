"""The signal router on real Kafka and PostgreSQL: who trades what, once, over restarts and repetitions."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from tests.broker import Seen, read_topic, temporary_topic
from tests.doors import trade_of_its_own
from tests.keys import HELD, KEYS, ROTATED
from tests.waiting import until
from tradesaga.consumers.entry.signals.router import SignalRouter
from tradesaga.consumers.entry.signals.store import Stream, write_subscription
from tradesaga.infra.cli.entry import execute
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.ledger.accounts import NewAccount, create_account
from tradesaga.infra.ledger.instruments import save_instruments
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.processor import Received, Transaction
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import Pool, open_pool, session
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.trade.orders import Instrument
from tradesaga.sagas.trade.routing import Subscription
from tradesaga.schemas import identity
from tradesaga.schemas.envelope import Header
from tradesaga.schemas.identity import RequestKeys
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.messages.trade import TradeRequested
from tradesaga.schemas.topics import PARTITIONS

pytestmark = pytest.mark.stack
STREAM = Stream("trend", "EUR/USD")


def signal(number: int = 0, **changes: Any) -> SignalRaised:
    """Give a signal of the strategy `trend`."""
    fields: dict[str, Any] = {
        "signal_id": f"s{number}", "strategy": "trend", "symbol": "EUR/USD", "side": "BUY", "quantity": "1000.7",
        "observed_price": "1.1", "observed_at": number,
    }  # fmt: skip
    return SignalRaised.model_validate({**fields, **changes})


class Desk:
    """A router's saga, topic and database, and what was published there."""

    def __init__(self, saga: AnySaga, topic: str, kafka: str, pool: Pool, producer: Producer) -> None:
        self.saga, self.topic, self.kafka, self.pool, self.producer = saga, topic, kafka, pool, producer

    @asynccontextmanager
    async def routing(self, keys: RequestKeys = KEYS) -> AsyncGenerator[None]:
        """Run a router while the body runs."""
        worker = Worker(SignalRouter(keys, self.saga, self.topic), self.pool, self.kafka, f"test-{uuid4().hex[:6]}")
        task = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def follow(self, subscription: Subscription, stream: Stream = STREAM) -> None:
        """Subscribe an account, which is opened."""
        async with self.pool.acquire() as sql:
            await create_account(sql, NewAccount(subscription.account))
            await write_subscription(sql, stream, subscription)

    async def raise_signals(self, *signals: SignalRaised) -> None:
        """Publish signals as strategies do."""
        for each in signals:
            await self.put(each.strategy.encode(), each.to_wire(), [("ce_id", each.signal_id.encode())])

    async def put(self, key: bytes, value: bytes, headers: list[Header]) -> None:
        """Publish any bytes."""
        await (await self.producer.send(self.topic, key, value, headers))

    async def decided(self, count: int) -> list[dict[str, Any]]:
        """Wait for this many decisions and give them, in the order of signals and accounts."""

        async def there() -> bool:
            return await self.pool.fetchval("SELECT count(*) FROM signal_decision") >= count

        await until(there)
        rows = await self.pool.fetch("SELECT * FROM signal_decision ORDER BY strategy, signal_id, account")
        return [dict(row) for row in rows]

    async def started(self, count: int) -> dict[str, Seen]:
        """Read this many starts, by saga; one published again by a router's next life is the same to the byte."""
        seen = await asyncio.to_thread(read_topic, self.kafka, f"{self.saga.name}.events", count, PARTITIONS)
        assert len({each.key for each in seen}) == len({(each.key, each.value, *each.headers.items()) for each in seen})
        return {each.key.decode(): each for each in seen}


@pytest.fixture
async def desk(kafka: str, database_url: str) -> AsyncIterator[Desk]:
    """Give topics and a database of this test alone, with one instrument in lots of 10."""
    with trade_of_its_own(kafka) as saga, temporary_topic(kafka, "signals", 3) as topic:
        producer = Producer(kafka, "test")
        await producer.start()
        async with await open_pool(database_url, max_size=3) as pool:
            async with pool.acquire() as sql:
                await save_instruments(sql, "paper", [instrument()])
            yield Desk(saga, topic, kafka, pool, producer)
        await producer.stop()


def instrument() -> Instrument:
    """Give EUR/USD in lots of 10."""
    return Instrument(
        symbol="EUR/USD", base="EUR", quote="USD", tick=Decimal("0.0001"), lot=Decimal(10),
        min_quantity=Decimal(10), max_quantity=Decimal(100_000), min_notional=Decimal(10),
        fee_rate=Decimal("0.001"), collar=Decimal("0.02"), reference_price=Decimal("1.1"),
    )  # fmt: skip


async def test_each_follower_trades_its_own_size(desk: Desk) -> None:
    """One signal starts one saga for each account that follows, by its rules; the others are refused with a reason."""
    await desk.follow(Subscription("plain"))
    await desk.follow(Subscription("double", size_factor=Decimal(2), max_quantity=Decimal(1500)))
    await desk.follow(Subscription("poor", max_notional=Decimal(500)))
    await desk.follow(Subscription("off", enabled=False))
    async with desk.routing():
        await desk.raise_signals(signal(), signal(1, strategy="nobody"), signal(2, symbol="GOOG/USD"))
        rows = await desk.decided(6)
        starts = await desk.started(2)
    reasons = {(row["strategy"], row["symbol"], row["account"]): row["reason"] for row in rows}
    assert reasons == {
        ("trend", "EUR/USD", "plain"): "", ("trend", "EUR/USD", "double"): "",
        ("trend", "EUR/USD", "poor"): "max_notional", ("trend", "EUR/USD", "off"): "disabled",
        ("nobody", "EUR/USD", ""): "unknown_strategy", ("trend", "GOOG/USD", ""): "unknown_strategy",
    }  # fmt: skip
    quantities: dict[str, Decimal] = {}
    for row in rows:
        if row["decision"] == "accepted":
            assert row["saga_id"] == identity.saga_id(desk.saga.name, row["account"], "trend:s0")
            start = starts[str(row["saga_id"])]
            assert start.headers["ce_causationid"] == b"s0"
            quantities[row["account"]] = TradeRequested.from_wire(start.value).quantity
    assert quantities == {"plain": Decimal(1000), "double": Decimal(1500)}


async def test_repeated_signals_start_nothing_twice_over_a_restart(desk: Desk) -> None:
    """Signals repeated at once, after a restart, or with another size: the first decision stands."""
    for account in ("one", "two"):
        await desk.follow(Subscription(account))
    async with desk.routing():
        await desk.raise_signals(*(signal(number) for number in (0, 1, 1, 2, 0)))
        await desk.decided(6)
    await desk.raise_signals(signal(2), signal(3), signal(0, quantity="50"))
    async with desk.routing():
        await desk.raise_signals(*(signal(number) for number in range(6)))
        rows = await desk.decided(12)
        starts = await desk.started(12)
    assert {str(row["saga_id"]) for row in rows} == set(starts)
    assert Counter(row["account"] for row in rows) == {"one": 6, "two": 6}
    assert {TradeRequested.from_wire(start.value).quantity for start in starts.values()} == {Decimal(1000)}


async def test_rate_holds_within_and_across_batches(desk: Desk) -> None:
    """Three signals a minute are taken, whichever batches and lives of the router they fall into."""
    await desk.follow(Subscription("slow", max_per_minute=3))
    async with desk.routing():
        await desk.raise_signals(signal(0), signal(1))
        await desk.decided(2)
    async with desk.routing():
        await desk.raise_signals(signal(2), signal(3), signal(4))
        rows = await desk.decided(5)
    assert [row["reason"] for row in rows] == ["", "", "", "rate", "rate"]


async def test_what_is_no_signal_is_a_dead_letter(desk: Desk) -> None:
    """Each kind of bad signal goes to the dead letters with its reason; a good one behind them all is taken."""
    await desk.follow(Subscription("plain"))
    good = json.loads(signal().to_wire())
    bad: list[tuple[bytes, list[Header], bytes]] = [
        (b"", [], b"not-json"),
        (b"\xff\xfe", [], b"not-json"),
        (b"[" * 9000, [], b"not-json"),
        (b'"' + b'\\"' * 8000, [], b"not-json"),
        (b'"' + b'\\"' * 32_000, [], b"too-large"),
        (b"{" + b",".join(b'"%d":1' % number for number in range(1900)) + b"}", [], b"invalid"),
        (b" " * 20_000, [], b"too-large"),
        (b"[]", [], b"invalid"),
        (json.dumps({**good, "quantity": "NaN"}).encode(), [], b"invalid"),
        (json.dumps({**good, "quantity": "-1"}).encode(), [], b"invalid"),
        (json.dumps({**good, "order_type": "LIMIT"}).encode(), [], b"invalid"),
        (json.dumps({**good, "signal_id": "x" * 125}).encode(), [], b"invalid"),
        (json.dumps(good).encode(), [("ce_type", b"trade.signal-raised.v9")], b"wrong-type"),
        (json.dumps(good).encode(), [("ce_specversion", b"0.3")], b"specversion"),
    ]
    async with desk.routing():
        for value, headers, _ in bad:
            await desk.put(b"trend", value, headers)
        await desk.raise_signals(signal(7))
        (row,) = await desk.decided(1)
        topic = f"{desk.saga.name}.dead-letters"
        letters = await asyncio.to_thread(read_topic, desk.kafka, topic, len(bad), PARTITIONS)
    assert row["signal_id"] == "s7"
    wanted = sorted((value, kind) for value, _, kind in bad)
    assert sorted((letter.value, letter.headers["ts_dlt_error_type"]) for letter in letters) == wanted
    assert all(letter.headers["ts_dlt_error_message"] for letter in letters)


@pytest.mark.parametrize("held", HELD)
async def test_a_start_is_the_same_across_the_upgrade_and_a_rotation(desk: Desk, held: str) -> None:
    """A signal whose decision was lost starts nothing twice, however the hash of its first start was made."""
    await desk.follow(Subscription("plain"))
    async with desk.routing(HELD[held]):
        await desk.raise_signals(signal())
        (first,) = await desk.decided(1)
    await desk.pool.execute("DELETE FROM signal_decision")
    async with desk.routing(ROTATED):
        await desk.raise_signals(signal())
        (again,) = await desk.decided(1)
    assert (first["decision"], again["decision"]) == ("accepted", "accepted")
    assert first["saga_id"] == again["saga_id"]
    assert await desk.pool.fetchval("SELECT count(*) FROM start_request") == 1
    assert len(await desk.started(1)) == 1


async def test_a_batch_takes_as_many_statements_whatever_its_size(desk: Desk, database_url: str) -> None:
    """Two hundred signals for five accounts are judged in as many statements as two."""
    for number in range(5):
        await desk.follow(Subscription(f"a{number}"))
    router = SignalRouter(KEYS, desk.saga, desk.topic)
    counts: list[int] = []
    async with session(database_url) as sql:
        (lane,) = await lane_rows.acquire(sql, router.group, [(desk.topic, 0)], "test")
        seen: list[str] = []
        sql.add_query_logger(lambda query: seen.append(query.query))
        for first, size in ((0, 2), (2, 2), (4, 200)):
            values = [signal(first + number).to_wire() for number in range(size)]
            received = [Received(lane.id, Record("t", 0, 0, 1, None, value, [])) for value in values]
            async with sql.transaction():
                seen.clear()
                transaction = Transaction(sql, {lane.id: lane})
                await router.apply(transaction, received)
                counts.append(len(seen))
            router.committed()
            assert len(transaction.rows) == 5 * size
    # The first batch also teaches the driver the types of its parameters.
    assert counts[1:] == [5, 5]


def test_subscriptions_are_written_and_listed_by_command(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is said last holds; an unknown account is exit 3, and a limit that is none is exit 2."""
    monkeypatch.setenv("TRADESAGA_DATABASE_URL", database_url)

    async def open_account() -> None:
        async with session(database_url) as sql:
            await create_account(sql, NewAccount("alice"))

    asyncio.run(open_account())
    command = ["subscribe", "trend", "EUR/USD", "alice"]
    assert execute([*command, "--size-factor", "0.5", "--max-quantity", "100", "--disable"]) == 0
    assert "alice does not trade trend in EUR/USD, size 0.5, max quantity 100" in capsys.readouterr().out
    assert execute([*command, "--max-notional", "50.5", "--max-per-minute", "3", "--max-age", "60", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert execute(["subscriptions", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed == {**written, "accepted": 0, "refused": 0}
    assert (listed["size_factor"], listed["max_quantity"], listed["max_notional"]) == ("1", None, "50.5")
    assert (listed["max_per_minute"], listed["max_age"], listed["enabled"]) == (3, 60, True)
    assert execute(["subscriptions"]) == 0
    assert "alice trades trend in EUR/USD" in capsys.readouterr().out
    assert execute(["subscribe", "trend", "EUR/USD", "bob"]) == 3
    assert execute([*command, "--max-quantity", "NaN"]) == 2
    assert execute(["subscribe", "trend", "EURUSD", "alice"]) == 2
    assert execute([*command, "--size-factor", "100000000"]) == 2
