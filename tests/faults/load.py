"""The clients: they start sagas at a steady pace, by HTTP and by Kafka, and note each answer."""

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Final
from uuid import UUID

import httpx

from tests.faults.exchange import ask
from tests.faults.history import History, Request, Told
from tests.faults.messages import Asked, Report
from tests.faults.plan import draw_plan
from tests.faults.saga import NAME
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.kafka.producer import Producer
from tradesaga.schemas import identity
from tradesaga.schemas.envelope import Envelope, Header
from tradesaga.schemas.messages.message import Event, wire_type
from tradesaga.schemas.topics import events_topic, starts_topic

ACCOUNTS: Final = tuple(f"account-{number:02}" for number in range(60))
REPEATED: Final = 0.05
"""Share of requests that a client sends again although it was told that they are in."""
CONTESTED: Final = 0.02
"""Share of keys that somebody else's request comes under."""
PATIENCE: Final = 8.0
OURS: Final = "/drill-run/"
"""Begins the `ce_source` of every record that the run itself puts on a topic of the services."""


class Sender:
    """A producer that is thrown away when it has failed, as every producer should be."""

    def __init__(self, kafka: str) -> None:
        self._kafka = kafka
        self._producer: Producer | None = None
        self._lock = asyncio.Lock()

    async def send(self, topic: str, key: bytes, value: bytes, headers: list[Header], patience: float = 12.0) -> None:
        """Send one record and wait for the broker. Raises `KafkaUnavailableError`: it may or may not be there."""
        producer: Producer | None = None
        try:
            async with asyncio.timeout(patience):
                producer = await self._get()
                await (await producer.send(topic, key, value, headers))
        except Exception as error:
            if producer is not None and self._producer is producer:
                self._producer = None
                await _drop(producer)
            raise KafkaUnavailableError(f"{type(error).__name__}: {error}") from error

    def another(self) -> "Sender":
        """Give a sender of its own, for what would spoil the others' producer."""
        return Sender(self._kafka)

    async def stop(self) -> None:
        """Hang up."""
        if self._producer is not None:
            await _drop(self._producer)

    async def _get(self) -> Producer:
        async with self._lock:
            if self._producer is None:
                producer = Producer(self._kafka, "drill-client")
                await producer.start()
                self._producer = producer
            return self._producer


async def _drop(producer: Producer) -> None:
    try:
        await asyncio.wait_for(producer.stop(), 3)
    except Exception:  # noqa: BLE001 - it has failed already; what it held is unknown, and noted so
        return


@dataclass
class Clients:
    """Everybody who starts sagas; `doors` are the gateways' addresses."""

    kafka: str
    exchange: str
    doors: list[str]
    chance: Random
    rate: float
    history: History = field(default_factory=History)
    sender: Sender = field(init=False)
    reports: int = 0
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])
    _loops: list["asyncio.Task[None]"] = field(default_factory=list["asyncio.Task[None]"])

    def __post_init__(self) -> None:
        self.sender = Sender(self.kafka)
        self._http = httpx.AsyncClient(timeout=PATIENCE, headers={"Content-Type": "application/json"})

    def start(self) -> None:
        """Begin, and go on until stopped."""
        self._loops = [asyncio.create_task(self._press(), name="load"), asyncio.create_task(self._feed(), name="feed")]

    async def stop_load(self) -> None:
        """Start nothing more, and wait for the answers that are due."""
        self._loops[0].cancel()
        await asyncio.wait([self._loops[0]])
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self) -> None:
        """Hang up."""
        left = [*self._loops, *self._tasks]
        for task in left:
            task.cancel()
        await asyncio.wait(left)
        await self.sender.stop()
        await self._http.aclose()

    def begin(self, plan: dict[str, str] | None = None) -> Request:
        """Think of a request."""
        chance = self.chance
        account, key = chance.choice(ACCOUNTS), f"{chance.getrandbits(80):020x}"
        saga_id = str(identity.saga_id(NAME, account, key))
        door = "http" if chance.random() < 0.6 else "kafka"
        wanted = draw_plan(chance) if plan is None else plan
        return self.history.requests.setdefault(saga_id, Request(saga_id, key, account, door, wanted))

    async def pursue(self, request: Request) -> None:
        """Send a request until somebody says what became of it; some send it again even then."""
        for again in range(6):
            told = await self.send(request)
            request.told.append(told)
            if told == "ok":
                break
            await asyncio.sleep(0.5 + again)
        if self.chance.random() < REPEATED:
            self.history.repeats += 1
            request.told.append(await self.send(request))
        if self.chance.random() < CONTESTED and request.result == "ok":
            await self._contest(request)

    async def send(self, request: Request) -> Told:
        """Send a request once, and give what was told."""
        asked = Asked(idempotency_key=request.key, account=request.account, plan=request.plan)
        if request.door == "kafka":
            return await self._send_record(asked)
        return await self._post(request, asked)

    async def _send_record(self, asked: Asked) -> Told:
        headers: list[Header] = [("ce_type", wire_type(NAME, Asked).encode())]
        try:
            await self.sender.send(starts_topic(NAME), asked.idempotency_key.encode(), asked.to_wire(), headers)
        except KafkaUnavailableError:
            return "unknown"
        return "ok"

    async def _post(self, request: Request, asked: Asked) -> Told:
        address = f"{self.chance.choice(self.doors)}/v1/trades"
        try:
            answer = await self._http.post(address, content=asked.to_wire())
        except httpx.HTTPError:
            return "unknown"
        if answer.status_code in {200, 202}:
            if answer.json()["saga_id"] != request.saga_id:
                request.odd.append(f"told of saga {answer.json()['saga_id']}")
            return "ok"
        if answer.status_code not in {429, 503}:
            request.odd.append(f"refused with {answer.status_code}: {answer.text[:200]}")
            return "fail"
        return "fail" if answer.json()["error"]["code"] in {"unavailable", "too-busy"} else "unknown"

    async def _contest(self, request: Request) -> None:
        """Send another request under the same key: it must never count."""
        asked = Asked(idempotency_key=request.key, account=request.account, plan={"reserve": "other"})
        self.history.conflicts += 1
        if request.door == "kafka":
            await self._send_record(asked)
            return
        try:
            answer = await self._http.post(f"{self.chance.choice(self.doors)}/v1/trades", content=asked.to_wire())
        except httpx.HTTPError:
            return
        if answer.status_code in {200, 202}:
            request.odd.append("another request under its key was accepted")

    async def _press(self) -> None:
        """Open loop: the next request comes when its time has come, not when the last one is answered."""
        while True:
            task = asyncio.create_task(self.pursue(self.begin()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(self.chance.expovariate(self.rate))

    async def _feed(self) -> None:
        """Tell the sagas what the exchange reports, some of it twice, as a venue's feed would."""
        after = 0
        while True:
            try:
                for number, key, kind in (await ask(self.exchange, kind="feed", after=after))["reports"]:
                    saga_id = UUID(key.removesuffix(":order"))
                    for _ in range(2 if self.chance.random() < REPEATED else 1):
                        await self.say(saga_id, Report(report_id=str(number), kind=kind))
                    after = number
                    self.reports += 1
            except (OSError, KafkaUnavailableError):
                await asyncio.sleep(0.5)
            await asyncio.sleep(0.2)

    async def say(self, saga_id: UUID, fact: Event) -> None:
        """Put a fact from outside on the events topic. Raises `KafkaUnavailableError`."""
        envelope = Envelope(
            type=wire_type(NAME, type(fact)), id=str(new_id()), source=f"{OURS}feed", saga_id=str(saga_id),
            time=format_time(SystemClock().now()),
        )  # fmt: skip
        key = str(saga_id).encode()
        await self.sender.send(events_topic(NAME), key, fact.to_wire(), envelope.to_headers())
