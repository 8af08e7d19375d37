"""The front door on real Kafka: starts in every mode, repeated, in conflict, and broken."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import (
    _DefaultRecordBatchBuilderPy,  # pyright: ignore[reportPrivateUsage] - the one written in C takes text alone
)
from aiokafka.record.memory_records import MemoryRecords
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Producer

from tests.integration.consumers.saga_log.rig import Rig, open_rig
from tests.keys import HELD, KEYS, ROTATED
from tests.sagas import OrderAsked
from tests.waiting import until
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.processor import Received, Transaction
from tradesaga.infra.postgres.database import session
from tradesaga.infra.starts.accept import Accepted, Conflict, StartResult, accept, make_start
from tradesaga.schemas import identity
from tradesaga.schemas.envelope import Envelope, Header
from tradesaga.schemas.identity import RequestKeys

pytestmark = pytest.mark.stack


@pytest.fixture
async def rig(kafka: str, database_url: str) -> AsyncIterator[Rig]:
    """Give a saga with topics and a database of its own."""
    async with open_rig(kafka, database_url) as rig:
        yield rig


def payload(key: str = "k", **fields: str) -> bytes:
    """Give a start's JSON."""
    return json.dumps({"idempotency_key": key, "account": "A", **fields}).encode()


async def start(rig: Rig, value: bytes, headers: list[Header] | None = None, key: bytes = b"any") -> Record:
    """Put a record on the starts topic."""
    return await rig.put(rig.topic("starts"), key, value, headers or [])


async def answered(rig: Rig, count: int) -> None:
    """Wait until intake has answered so many starts, by its outbox."""

    async def there() -> bool:
        return await rig.pool.fetchval("SELECT count(*) FROM outbox") >= count

    await until(there)


async def test_packed_starts_are_unpacked(rig: Rig, kafka: str) -> None:
    """Whatever a client of any language compresses with, its start is taken, and what comes behind it too."""
    async with rig.running(Intake(rig.saga, KEYS)):
        for codec in ("gzip", "snappy", "lz4", "zstd"):
            client = Producer({"bootstrap.servers": kafka, "compression.type": codec})
            client.produce(rig.topic("starts"), key=b"x", value=payload(codec, symbol="A" * 500))
            assert client.flush(10) == 0
        await answered(rig, 4)
    begun = await rig.pool.fetchval("SELECT count(*) FROM start_request")
    assert begun == 4


class NoText(str):
    """A header's name as a client in C may send it."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Give no UTF-8."""
        return b"\xff\xfe"


async def test_a_header_name_that_is_no_text_stops_nobody(
    rig: Rig, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our client library cannot read it, others can; the start that has it is taken, and those before and behind it."""
    for module in ("producer", "message_accumulator"):
        monkeypatch.setattr(f"aiokafka.producer.{module}.DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
    monkeypatch.setattr("aiokafka.consumer.fetcher.MemoryRecords", MemoryRecords)  # and put back afterwards
    async with rig.running(Intake(rig.saga, KEYS)):
        for number in range(30):
            name = NoText("x") if number in {10, 11, 20} else "x"
            await start(rig, payload(f"k{number}"), [(name, b"1")], key=b"same")
        await answered(rig, 30)
    assert fetcher.MemoryRecords is not MemoryRecords
    assert await rig.pool.fetchval("SELECT count(*) FROM start_request") == 30


async def test_a_bare_payload_becomes_a_saga(rig: Rig) -> None:
    """One record of plain JSON, with no header and any key, starts the saga that its account and key name."""
    async with rig.running(Intake(rig.saga, KEYS)), rig.running(SagaLog(rig.rules)):
        await start(rig, payload("bare"))
        saga_id = identity.saga_id(rig.saga.name, "A", "bare")
        row = await rig.reached(saga_id, "IDLE")
    (event,) = await rig.read("events", 1)
    asked = OrderAsked(idempotency_key="bare", account="A")
    assert event.key == str(saga_id).encode()
    assert event.value == asked.to_wire()
    assert event.headers["ts_request"].decode() == KEYS.hash(asked) == row["request_hash"]
    assert json.loads(event.headers["ts_context"]) == {"order-asked": json.loads(asked.to_wire())}
    assert json.loads(row["context"]) == {"order-asked": json.loads(asked.to_wire())}


async def test_cloudevents_of_both_modes_are_taken(rig: Rig) -> None:
    """The client's id becomes the cause of ours, and its trace goes on; data may be JSON or base64."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ce_type = f"{rig.saga.name}.order-asked.v1"
    binary = [("ce_specversion", "1.0"), ("ce_id", "mine-1"), ("ce_source", "/me"), ("ce_type", ce_type)]
    binary += [("traceparent", trace), ("content-type", "application/json")]
    made = CloudEvent(attributes={"id": "mine-2", "source": "/me", "type": ce_type, "specversion": "1.0"})
    structured = {**made.get_attributes(), "data": json.loads(payload("structured"))}
    encoded = {**made.get_attributes(), "data_base64": base64.b64encode(payload("encoded")).decode()}
    kind = [("content-type", b"application/cloudevents+json; charset=utf-8")]
    async with rig.running(Intake(rig.saga, KEYS)):
        await start(rig, payload("binary"), [(name, text.encode()) for name, text in binary])
        await start(rig, json.dumps(structured, default=str).encode(), kind)
        await start(rig, json.dumps(encoded, default=str).encode(), kind)
        events = {event.key.decode(): event for event in await rig.read("events", 3)}
    ids = {key: str(identity.saga_id(rig.saga.name, "A", key)) for key in ("binary", "structured", "encoded")}
    assert events[ids["binary"]].headers["ce_causationid"] == b"mine-1"
    assert events[ids["binary"]].headers["traceparent"][:36] == trace[:36].encode()
    assert events[ids["structured"]].headers["ce_causationid"] == b"mine-2"
    assert events[ids["encoded"]].value == payload_of("encoded")


def payload_of(key: str) -> bytes:
    """Give the payload as it is published."""
    return OrderAsked(idempotency_key=key, account="A").to_wire()


async def test_the_same_again_is_the_same_and_another_is_refused(rig: Rig) -> None:
    """A repeated request is published again byte for byte; a differing one under its key is refused."""
    async with rig.running(Intake(rig.saga, KEYS)), rig.running(SagaLog(rig.rules)):
        for value in (payload(), payload(), payload(quantity="11"), payload(symbol="GOOG")):
            await start(rig, value)
        await rig.recorded(4)
        saga_id = identity.saga_id(rig.saga.name, "A", "k")
        row = await rig.reached(saga_id, "IDLE")
    first, again, *refused = await rig.read("events", 4)
    assert (first.value, first.headers) == (again.value, again.headers)
    assert [each.headers["ce_type"].decode().split(".")[1] for each in refused] == ["start-refused", "start-refused"]
    assert '"quantity":"10"' in row["context"]
    assert row["seq"] == 4
    assert await rig.pool.fetchval("SELECT count(*) FROM start_request") == 1


def structured_event(**data: str) -> bytes:
    """Give a structured CloudEvent with these data."""
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/me", "type": "", **data}).encode()


async def test_attributes_that_no_header_can_hold_are_made_fit(rig: Rig) -> None:
    """A NUL, or half a surrogate pair, in an event's id would make the start unreadable for every service."""
    plain = structured_event(data_base64=base64.b64encode(payload("fit")).decode())
    event = plain.replace(b'"id": "1"', b'"id": "a\\u0000\\ud800"')
    async with rig.running(Intake(rig.saga, KEYS)):
        await start(rig, event, [("content-type", b"application/cloudevents+json")])
        (begun,) = await rig.read("events", 1)
    assert begun.headers["ce_causationid"] == b"a?"
    Envelope.from_headers(list(begun.headers.items()))


async def test_a_batch_that_unfolds_without_end_is_refused_by_the_broker(rig: Rig, kafka: str) -> None:
    """A kilobyte stands for more than a process should hold: the topic's limit counts what it unfolds to."""
    told: list[object] = []
    client = Producer({"bootstrap.servers": kafka, "compression.type": "zstd", "message.max.bytes": 10**8})
    client.produce(
        rig.topic("starts"), value=bytes(40_000_000), on_delivery=lambda error, _: told.append(error and error.name())
    )
    assert client.flush(20) == 0
    assert told == ["MSG_SIZE_TOO_LARGE"]


@pytest.mark.parametrize("held", HELD)
async def test_a_start_is_the_same_across_the_upgrade_and_a_rotation(rig: Rig, held: str) -> None:
    """However its first hash was made: the stored record comes again byte for byte, and another request is refused."""
    async with rig.running(Intake(rig.saga, HELD[held])):
        await start(rig, payload())
        await answered(rig, 1)
    async with rig.running(Intake(rig.saga, ROTATED)), rig.running(SagaLog(rig.rules)):
        await start(rig, payload())
        await start(rig, payload(quantity="11"))
        await rig.recorded(3)
        row = await rig.reached(identity.saga_id(rig.saga.name, "A", "k"), "IDLE")
    first, again, refused = await rig.read("events", 3)
    assert (first.value, first.headers) == (again.value, again.headers)
    assert row["request_hash"] == HELD[held].hash(OrderAsked(idempotency_key="k", account="A"))
    assert refused.headers["ce_type"].decode().split(".")[1] == "start-refused"
    assert json.loads(refused.value)["request_hash"].startswith("hmac-sha256:")
    assert await rig.pool.fetch("SELECT error FROM saga_event WHERE error IS NOT NULL") == []


async def test_two_doors_with_keys_and_databases_of_their_own_start_one_saga(rig: Rig) -> None:
    """Neither knows of the other's start: the saga log compares the requests, and needs no secret for that."""
    same = OrderAsked(idempotency_key="k", account="A")
    async with rig.running(SagaLog(rig.rules)):
        for number, (keys, request) in enumerate(
            [
                (HELD["older key"], same),
                (HELD["key not here"], same),
                (ROTATED, same.model_copy(update={"quantity": "11"})),
            ]
        ):
            (verdict,) = await alone(rig, keys, request)
            assert isinstance(verdict, Accepted)
            headers, value = verdict.record.headers, verdict.record.value
            await rig.put(rig.topic("events"), str(verdict.saga_id).encode(), value, list(headers))
            await rig.recorded(number + 1)
    errors = await rig.pool.fetch('SELECT error FROM saga_event ORDER BY "offset"')
    assert [row["error"] is None for row in errors] == [True, True, False]
    assert await rig.pool.fetchval("SELECT count(*) FROM saga") == 1


async def alone(rig: Rig, keys: RequestKeys, request: OrderAsked) -> list[StartResult]:
    """Judge a start as a door does whose database knows nothing of it."""
    async with rig.pool.acquire() as sql:
        transaction = sql.transaction()
        await transaction.start()
        try:
            return await accept(sql, rig.saga, [make_start(rig.saga, request)], keys=keys, source="/test", now=0)
        finally:
            await transaction.rollback()


async def test_what_cannot_start_anything_is_a_dead_letter(rig: Rig) -> None:
    """Each kind of bad start goes to the dead letters with its reason; a good one behind them all is taken."""
    other = [("ce_type", b"other.order-asked.v1")]
    structured = [("content-type", b"application/cloudevents+json")]
    bad: list[tuple[bytes, list[Header], bytes]] = [
        (b"", [], b"not-json"),
        (b"\xff\xfe\x00", [], b"not-json"),
        (b"[" * 50_000, [], b"not-json"),
        (b'{"a":NaN}', [], b"not-json"),
        (b'{"account":"A","account":"B"}', [], b"not-json"),
        (b"x" * 70_000, [], b"too-large"),
        (b"[]", [], b"invalid"),
        (payload(unknown="1"), [], b"invalid"),
        (b'{"account":"A"}', [], b"invalid"),
        (payload(), other, b"wrong-type"),
        (b"[]", structured, b"not-an-event"),
        (b'{"specversion":"1.0"}', structured, b"not-an-event"),
        (b'{"specversion":"1.0","id":"\\ud800","source":"s","type":"\\udfff"}', structured, b"not-an-event"),
        (structured_event(data_base64="\N{LATIN SMALL LETTER E WITH ACUTE}"), structured, b"not-json"),
        (structured_event(data="[" * 30_000), structured, b"invalid"),
        (b'"' + b'\\"' * 32_000, [], b"not-json"),
        (b'{"data":"' + b'\\"' * 32_000, structured, b"not-json"),
        (b"[" + b'{"a":1},' * 8000 + b"1]", [], b"invalid"),
        (b"[]", [("content-type", b"application/cloudevents-batch+json")], b"batched"),
        (payload(), [("ce_specversion", b"9.9")], b"specversion"),
        (payload("k2"), [("ce_specversion", b"\xff1.0")], b"specversion"),
        (b'{"specversion":"9.9","id":"1","source":"s","type":"t","data":{}}', structured, b"specversion"),
        (b'{"specversion":1.0,"id":"1","source":"s","type":"t","data":{}}', structured, b"not-an-event"),
    ]
    async with rig.running(Intake(rig.saga, KEYS)):
        for value, headers, _ in bad:
            await start(rig, value, headers)
        await start(rig, payload("good"))
        letters = await rig.read("dead-letters", len(bad))
        await rig.read("events", 1)
    wanted = sorted((value, kind) for value, _, kind in bad)
    assert sorted((letter.value, letter.headers["ts_dlt_error_type"]) for letter in letters) == wanted
    assert all(letter.headers["ts_dlt_error_message"] for letter in letters)


async def test_doors_that_take_the_same_key_at_once_agree(rig: Rig) -> None:
    """Two intakes judge two requests under one key in open transactions: one wins, the other is refused."""

    async def judge(quantity: str) -> object:
        async with rig.pool.acquire() as sql, sql.transaction():
            request = OrderAsked(idempotency_key="race", account="A", quantity=quantity)
            starts = [make_start(rig.saga, request)]
            (verdict,) = await accept(sql, rig.saga, starts, keys=KEYS, source="/test", now=0)
            await asyncio.sleep(0.2)
            return type(verdict)

    assert {await each for each in asyncio.as_completed([judge("1"), judge("2")])} == {Accepted, Conflict}


async def test_a_batch_takes_as_many_statements_whatever_its_size(rig: Rig, database_url: str) -> None:
    """One insert and one read judge two hundred starts as they do two."""
    intake = Intake(rig.saga, KEYS)
    counts: list[int] = []
    async with session(database_url) as sql:
        (lane,) = await lane_rows.acquire(sql, intake.group, [(rig.topic("starts"), 0)], "test")
        seen: list[str] = []
        sql.add_query_logger(lambda query: seen.append(query.query))
        for size in (2, 4, 200):
            values = [payload(str(number // 2)) for number in range(size)]
            received = [Received(lane.id, Record("t", 0, 0, 0, None, value, [])) for value in values]
            async with sql.transaction():
                seen.clear()
                await intake.apply(Transaction(sql, {lane.id: lane}), received)
                counts.append(len(seen))
            intake.committed()
    # The first batch also teaches the driver the types of its parameters.
    assert counts[1:] == [2, 2]
