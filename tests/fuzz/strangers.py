"""What strangers send in a fuzz run: to every topic and over HTTP, chosen by a seed."""

import asyncio
import base64
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from uuid import UUID

import httpx
import orjson
from confluent_kafka import KafkaException, Producer

from tests.doors import order
from tests.fuzz.corpus import TIME, Corpus
from tests.fuzz.mutation import HOSTILE
from tests.fuzz.trades import ACCOUNTS
from tests.linear.shapes import KNOWN, drawn, repeated
from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas import identity
from tradesaga.schemas.envelope import Envelope, Header, splice
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Event, wire_type
from tradesaga.schemas.topics import PARTITIONS

TOPICS: Final = (
    "trade.starts", "trade.signals", "trade.events", "trade.commands", "trade.dead-letters", "trade.checkpoints",
)  # fmt: skip
QUOTES: Final = repeated(b'"', b'\\"', b"")
"""The value that once stopped every door."""
_CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
_KINDS: Final = (b"application/json", b"application/cloudevents+json", b"application/cloudevents-batch", b"", b"\xff")
_BATCH: Final = 8

Sent = tuple[str, bytes | None, bytes, list[Header]]


@dataclass
class Strangers:
    """Send `rate` records and requests a second until told to stop; `sent` counts them by what they are."""

    kafka: str
    http: str
    seed: int
    rate: float
    sent: Counter[str] = field(default_factory=Counter[str])
    answers: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self._chance = Random(self.seed)
        self._corpus = Corpus(trade, self.seed)
        self._shapes = (*KNOWN, *drawn(self.seed, 200))
        self._producers = [
            Producer({**_client(self.kafka), "compression.type": codec, "linger.ms": 50}) for codec in _CODECS
        ]
        self._transactional = Producer({
            **_client(self.kafka), "transactional.id": f"stranger-{self.seed}", "transaction.timeout.ms": 20_000,
        })  # fmt: skip
        self._ways: tuple[Callable[[], Sent], ...] = (
            self._spoilt, self._spoilt, self._shaped, self._shaped_header, self._start, self._structured, self._forged,
            self._signal, self._many_headers,
        )  # fmt: skip

    async def run(self) -> None:
        """Send for ever; the value that once stopped every door goes first, to each of them."""
        await asyncio.to_thread(self._transactional.init_transactions, 30)
        for topic in TOPICS:
            self._produce((topic, b"k", QUOTES.grow(65_536), []))
        async with httpx.AsyncClient(timeout=30.0) as client:
            await self._knock(client, QUOTES.grow(16_000), {"content-type": "application/json"})
            while True:
                for _ in range(_BATCH):
                    self._produce(self._chance.choice(self._ways)())
                if self._chance.random() < 0.2:
                    await asyncio.to_thread(self._transact)
                await self._request(client)
                await asyncio.sleep(_BATCH / self.rate)

    async def finish(self) -> None:
        """Wait until all is sent, or refused."""
        for producer in self._producers:
            await asyncio.to_thread(producer.flush, 10)

    def _produce(self, sent: Sent, producer: Producer | None = None) -> None:
        topic, key, value, headers = sent
        chosen = producer or self._chance.choice(self._producers)
        anywhere = topic != "trade.checkpoints" and self._chance.random() < 0.2
        partition = self._chance.randrange(PARTITIONS) if anywhere else -1
        try:
            chosen.produce(topic, key=key, value=value, headers=[*headers], partition=partition)
            self.sent[topic] += 1
        except (KafkaException, BufferError, TypeError, ValueError) as error:
            self.sent[f"not sent: {type(error).__name__}"] += 1
        chosen.poll(0)

    def _transact(self) -> None:
        """Send a few records in a transaction that commits, or that does not."""
        producer, commits = self._transactional, self._chance.random() < 0.5
        try:
            producer.begin_transaction()
            for _ in range(3):
                self._produce(self._chance.choice(self._ways)(), producer)
            if commits:
                producer.commit_transaction(20)
            else:
                producer.abort_transaction(20)
            self.sent["committed" if commits else "aborted"] += 1
        except KafkaException:
            producer.abort_transaction(20)
            self.sent["aborted by the broker"] += 1

    def _text(self) -> bytes:
        size = self._chance.choice((50, 500, 5000, 16_000, 60_000, 66_000, 200_000))
        return self._chance.choice(self._shapes).grow(size)

    def _spoilt(self) -> Sent:
        record: Record = self._corpus.any()
        topic = record.topic if self._chance.random() < 0.8 else self._chance.choice(TOPICS)
        return topic, record.key, record.value, list(record.headers)

    def _shaped(self) -> Sent:
        record = self._corpus.good()
        return self._chance.choice(TOPICS), record.key, self._text(), list(record.headers)

    def _shaped_header(self) -> Sent:
        record = self._corpus.good()
        headers = list(record.headers)
        at = self._chance.randrange(len(headers))
        headers[at] = (headers[at][0], self._text()[:100_000])
        return record.topic, record.key, record.value, headers

    def _many_headers(self) -> Sent:
        record = self._corpus.good()
        name = self._chance.choice(("x", "ce_type", "", "\N{SNOWMAN}", "traceparent"))
        return record.topic, record.key, record.value, [*record.headers, *[(name, b"1")] * 5000]

    def _start(self) -> Sent:
        value = self._text() if self._chance.random() < 0.5 else self._order()
        headers: list[Header] = [("content-type", self._chance.choice(_KINDS)), ("traceparent", self._hostile())]
        return "trade.starts", self._hostile(), value, headers

    def _order(self) -> bytes:
        """A start that is almost good, or good, of an account that nobody has opened."""
        wrong: dict[str, Any] = {"account": f"stranger-{self._chance.randrange(9)}"}
        if self._chance.random() < 0.7:
            name = self._chance.choice(("quantity", "side", "symbol", "limit_price", "idempotency_key", "unknown"))
            values: tuple[Any, ...] = ("1e999999999", "-1", "NaN", 1, None, "x" * 5000, "\0", ["a"], {})
            wrong[name] = self._chance.choice(values)
        return orjson.dumps(order(**wrong))

    def _structured(self) -> Sent:
        event: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "trade.trade-requested.v1"}
        match self._chance.randrange(3):
            case 0:
                event["data"] = self._text().decode("utf-8", "replace")
            case 1:
                event["data_base64"] = base64.b64encode(self._order()).decode()
            case _:
                event |= {"data_base64": self._text().decode("latin-1"), "id": "\0\N{SNOWMAN}", "tracestate": [1]}
        return "trade.starts", None, orjson.dumps(event), [("content-type", b"application/cloudevents+json")]

    def _signal(self) -> Sent:
        good = {
            "signal_id": str(self._chance.random()), "strategy": "stranger", "symbol": "EUR/USD", "side": "BUY",
            "quantity": "1", "observed_price": "1", "observed_at": 1,
        }  # fmt: skip
        value = self._text() if self._chance.random() < 0.6 else orjson.dumps(good)
        return "trade.signals", self._hostile(), value, []

    def _forged(self) -> Sent:
        """A fact that nothing has led to: of no saga, or of a good account's that was never asked for."""
        account = self._chance.choice(ACCOUNTS)
        saga_id = identity.saga_id("trade", account, f"forged-{self._chance.getrandbits(40)}")
        if self._chance.random() < 0.5:
            saga_id = UUID(int=self._chance.getrandbits(128), version=4)
        facts: tuple[Event, ...] = (
            t.OrderValidated(
                base="EUR", quote="USD", hold_asset="USD", hold="0", notional="0", fee_rate="0",  # pyright: ignore[reportArgumentType]
            ),
            t.FundsReserved(asset="USD", amount="0"),  # pyright: ignore[reportArgumentType]
            t.RiskAccepted(exposure="0"),  # pyright: ignore[reportArgumentType]
            t.OrderPlaced(venue="paper", client_order_id="x", venue_order_id="1"),
            t.TradeFilledV1(
                quantity="1000000", quote_amount="1", fee="0", fee_asset="USD", venue_trade_ids=("1",), complete=True,  # pyright: ignore[reportArgumentType]
            ),
            t.TradeUnfilled(status="expired"),
        )  # fmt: skip
        request = t.TradeRequested.model_validate(order(account=account, quantity="1000000", idempotency_key="forged"))
        context = splice(b"", request.NAME, request.to_wire())
        for fact in facts[:-1]:
            context = splice(context, fact.NAME, fact.to_wire())
        fact = self._chance.choice(facts)
        envelope = Envelope(
            type=wire_type("trade", type(fact)), id=str(UUID(int=self._chance.getrandbits(128), version=4)),
            source="/trade/execution", saga_id=str(saga_id), time=TIME, step="confirm_fill", request="0" * 64,
            context=context,
        )  # fmt: skip
        return "trade.events", str(saga_id).encode(), fact.to_wire(), envelope.to_headers()

    def _hostile(self) -> bytes:
        return self._chance.choice(HOSTILE)[:1000]

    async def _request(self, client: httpx.AsyncClient) -> None:
        body = self._text()[:66_000] if self._chance.random() < 0.7 else self._order()
        kind = self._chance.choice(("application/json", "application/json", "text/plain", "application/json; x"))
        headers = {"content-type": kind}
        if self._chance.random() < 0.3:
            headers["traceparent"] = self._hostile()[:200].decode("latin-1").replace("\n", "").replace("\r", "")
        await self._knock(client, body, headers)

    async def _knock(self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> None:
        path = self._chance.choice(("/v1/trades", "/v1/trades", "/v1/sagas?limit=9", "/v1/sagas/x", "/%00"))
        try:
            method = "POST" if path == "/v1/trades" else "GET"
            raw = {name.encode(): value.encode("latin-1").replace(b"\0", b"") for name, value in headers.items()}
            answer = await client.request(method, self.http + path, content=body, headers=raw)
            self.answers[f"HTTP {answer.status_code}"] += 1
        except httpx.HTTPError as error:
            self.answers[type(error).__name__] += 1


def _client(kafka: str) -> dict[str, Any]:
    """Return what every client needs; at the end the servers go first, of which nobody need be told."""
    return {"bootstrap.servers": kafka, "log_level": 0}
