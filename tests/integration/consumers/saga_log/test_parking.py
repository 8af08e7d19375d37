"""Poison isolates one saga: parked records, dead letters and releases on real Kafka and PostgreSQL."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from tests.integration.consumers.saga_log.rig import PARTITIONS, Rig, open_rig
from tests.sagas import Filled, Held, OrderAsked, Placed, Settled, headers_of
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.messages.lifecycle import ParkReleased

pytestmark = pytest.mark.stack


@pytest.fixture
async def rig(kafka: str, database_url: str) -> AsyncIterator[Rig]:
    """Give a saga with topics and a database of its own."""
    async with open_rig(kafka, database_url) as rig:
        yield rig


def asked() -> OrderAsked:
    """Make a start."""
    return OrderAsked(idempotency_key="k", account="A")


async def poison(rig: Rig, saga_id: UUID) -> Record:
    """Publish a fact of the saga whose value is no JSON."""
    headers = headers_of(rig.saga, Held(), saga_id)
    return await rig.put(rig.topic("events"), str(saga_id).encode(), b'{"amount":', headers)


def release(record: Record, action: str) -> ParkReleased:
    """Make the release of a parked record."""
    return ParkReleased.model_validate(
        {
            "operator": "ann",
            "reason": "seen to",
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "action": action,
        }
    )


async def test_poison_holds_up_its_own_saga_alone(rig: Rig) -> None:
    """The record and its followers wait; every other saga runs on; the dead letters have the bytes and the reason."""
    sick, well = uuid4(), [uuid4() for _ in range(9)]
    async with rig.running():
        await rig.say(sick, asked())
        poisoned = await poison(rig, sick)
        await rig.say(sick, Held())
        for saga_id in well:
            for event in (asked(), Held(), Placed(), Filled(), Settled()):
                await rig.say(saga_id, event)
        for saga_id in well:
            await rig.reached(saga_id, "COMPLETED")
        row = await rig.reached(sick, "IDLE")
        assert row["seq"] == 3
        (letter,) = await rig.read("dead-letters", 1)
    assert (letter.key, letter.value) == (poisoned.key, poisoned.value)
    assert {name: text for name, text in letter.headers.items() if not name.startswith("ts_dlt")} == dict(
        poisoned.headers
    )
    assert letter.headers["ts_dlt_topic"] == poisoned.topic.encode()
    assert letter.headers["ts_dlt_partition"] == str(poisoned.partition).encode()
    assert letter.headers["ts_dlt_offset"] == str(poisoned.offset).encode()
    assert letter.headers["ts_dlt_error_type"] == b"invalid-value"
    errors = [event["error"] for event in await rig.events(sick)]
    assert errors[0] is None
    assert errors[1].startswith("parked: the value is not JSON")
    assert errors[2] == f"parked: waits behind offset {poisoned.offset}"
    parked = await rig.pool.fetch('SELECT "offset" FROM parked WHERE released IS NULL ORDER BY "offset"')
    assert [each["offset"] for each in parked] == [poisoned.offset, poisoned.offset + 1]


async def test_a_discard_lets_the_followers_go_after_a_restart(rig: Rig) -> None:
    """What waits is remembered by the database; the release folds it in order, and the saga goes on."""
    saga_id = uuid4()
    async with rig.running():
        await rig.say(saga_id, asked())
        poisoned = await poison(rig, saga_id)
        await rig.say(saga_id, Held(amount="7"))
        await rig.recorded(3)
    async with rig.running():
        await rig.say(saga_id, Placed())
        await rig.say(saga_id, release(poisoned, "discard"))
        await rig.say(saga_id, Filled())
        await rig.say(saga_id, Settled())
        row = await rig.reached(saga_id, "COMPLETED")
    assert '"held":{"amount":"7"}' in row["context"]
    assert row["seq"] == 7
    waiting = await rig.pool.fetch('SELECT released FROM parked ORDER BY "offset"')
    assert [each["released"] for each in waiting] == ["discard", "retry", "retry"]


async def test_a_retry_in_vain_says_why(rig: Rig) -> None:
    """A record that still cannot be folded stays where it is, and the release's row has the reason."""
    saga_id = uuid4()
    async with rig.running():
        await rig.say(saga_id, asked())
        poisoned = await poison(rig, saga_id)
        await rig.say(saga_id, release(poisoned, "retry"))
        await rig.recorded(3)
        await rig.read("dead-letters", 2)
    last = (await rig.events(saga_id))[-1]
    assert f"offset {poisoned.offset} cannot be folded" in last["error"]
    assert await rig.pool.fetchval("SELECT count(*) FROM parked WHERE released IS NULL") == 1


async def test_strays_of_every_kind_are_dead_letters(rig: Rig) -> None:
    """No headers, no key, binary rubbish, another saga's partition, a huge value: each recorded, nothing parked."""
    good = uuid4()
    topic, key = rig.topic("events"), str(good).encode()
    headers = headers_of(rig.saga, Held(), good)
    elsewhere = next(k for k in map(str, range(100)) if rig.rules.home(good) != partition_of(k.encode(), PARTITIONS))
    async with rig.running():
        await rig.say(good, asked())
        await rig.put(topic, b"", b"", [])
        await rig.put(topic, b"\xff\x00", b"\x00\xff" * 100, [("\u00e9", b"\xff"), ("ce_type", b"\x00\xff")])
        await rig.put(topic, b"x", b"x" * 1_000_000, [("ce_correlationid", b"no uuid")])
        await rig.put(topic, elsewhere.encode(), b"{}", headers)
        await rig.put(topic, key, b"{}", [*headers, ("ce_time", b"9999-12-31T23:59:59Z"), ("ts_started", b"9" * 40)])
        await rig.recorded(6)
        letters = await rig.read("dead-letters", 4)
        for event in (Held(), Placed(), Filled(), Settled()):
            await rig.say(good, event)
        await rig.reached(good, "COMPLETED")
    assert sorted(letter.headers["ts_dlt_error_type"] for letter in letters) == [
        b"no-saga", b"no-saga", b"no-saga", b"wrong-key",
    ]  # fmt: skip
    large = next(letter for letter in letters if b"ts_dlt_value_bytes" in {n.encode() for n in letter.headers})
    assert (large.value, large.headers["ts_dlt_value_bytes"]) == (b"", b"1000000")
    assert await rig.pool.fetchval("SELECT count(*) FROM parked") == 0
