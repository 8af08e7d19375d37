"""What cannot be read: kept with its reason, answered for by its own step, and no other saga is held up."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.e2e.tail import Heard
from tests.waiting import until
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.envelope import Header
from tradesaga.schemas.messages.lifecycle import CompensationFailed, Retry, StepFailed
from tradesaga.schemas.topics import PARTITIONS, commands_topic, events_topic

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with both participants running."""
    async with open_bench(stack.kafka, module_database_url) as bench:
        await bench.serve(bench.kit.desk, bench.kit.port)
        yield bench


def headers(bench: Bench, saga_id: UUID | str, name: str, **changes: bytes) -> list[Header]:
    """Give the headers of a good record, some of them changed."""
    good = {
        "ce_type": f"{bench.saga.name}.{name}.v1".encode(), "ce_id": str(new_id()).encode(), "ce_source": b"/test",
        "ce_time": format_time(SystemClock().now()).encode(), "ce_correlationid": str(saga_id).encode(),
        "ts_context": b'{"asked":%s}' % m.Asked(idempotency_key="k").to_wire(),
    }  # fmt: skip
    return [(key, value) for key, value in (good | changes).items() if value]


async def buried(bench: Bench, saga_id: UUID) -> Heard:
    """Wait for the copy of a saga's record on the dead letters."""

    def found() -> list[Heard]:
        return [heard for heard in bench.tail.records if "dead" in heard.topic and str(saga_id).encode() in heard.key]

    async def any_found() -> bool:
        return bool(found())

    await until(any_found)
    return found()[0]


async def still_works(bench: Bench) -> None:
    """Run another saga through both participants."""
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Shipped)


VALUES = {
    "no JSON": b"\xff\xfe{",
    "empty": b"",
    "another schema": b'{"idempotency_key": 7}',
    "a float for an amount": b'{"amount": 10.5}',
    "too deep": b'{"amount":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "quotes without end": b'"' + b'\\"' * 400_000,
    "a million small members": b"{" + b",".join(b'"%d":1' % number for number in range(80_000)) + b"}",
    "huge": b'{"nothing":"' + b"9" * 900_000 + b'"}',
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize(("name", "step"), [("booked", "pay"), ("paid", "ship"), ("shipped", "confirm")])
async def test_an_unreadable_trigger_fails_its_step(bench: Bench, name: str, step: str, value: bytes) -> None:
    """The step of one saga fails with the reason, the bytes are kept whole, and others go on."""
    saga_id = uuid4()
    await bench.send(events_topic(bench.saga.name), saga_id, value, headers(bench, saga_id, name))
    (failed,) = await bench.heard(saga_id, StepFailed)
    said = StepFailed.from_wire(failed.value)
    assert said.step == step
    assert "cannot be processed" in said.reason
    letter = await buried(bench, saga_id)
    assert letter.value == value
    assert letter.header("ts_dlt_group") == f"{bench.saga.name}-{'desk' if step == 'pay' else 'port'}"
    assert letter.header("ts_dlt_error_message") == said.reason
    await still_works(bench)


async def test_an_unreadable_compensation_fails_in_its_round(bench: Bench) -> None:
    """A command that cannot be read is answered in the round it asked for, so that the saga can be settled."""
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    topic = commands_topic(bench.saga.name)
    await bench.send(topic, saga_id, b"{", headers(bench, saga_id, "refund", ts_step=b"pay", ts_round=b"2"))
    (failed,) = await bench.heard(saga_id, CompensationFailed)
    assert failed.header("ts_round") == "2"
    assert (await buried(bench, saga_id)).value == b"{"
    await bench.say(saga_id, m.Refund(), step="pay", round=3, context=bench.tail.of(saga_id, m.Paid)[0].context)
    await bench.heard(saga_id, m.Refunded)


async def test_a_step_that_failed_on_its_input_says_so_in_each_round(bench: Bench) -> None:
    """An operator's retry of a step whose stored input cannot be read fails again, in the new round."""
    saga_id = uuid4()
    await bench.send(events_topic(bench.saga.name), saga_id, b"{", headers(bench, saga_id, "confirmed"))
    await bench.heard(saga_id, StepFailed)
    await bench.say(saga_id, Retry(step="close", round=2), step="close", round=2, context=b"")
    failed = await bench.heard(saga_id, StepFailed, 2)
    assert [heard.header("ts_round") for heard in failed] == ["1", "2"]


async def test_an_unreadable_report_is_kept_and_changes_nothing(bench: Bench) -> None:
    """A report that cannot be read goes to the dead letters; the step still takes the next one."""
    saga_id = await bench.ask(confirm="wait")
    await bench.heard(saga_id, m.Shipped)
    await bench.send(events_topic(bench.saga.name), saga_id, b"[]", headers(bench, saga_id, "report"))
    assert (await buried(bench, saga_id)).value == b"[]"
    await bench.say(saga_id, m.Report(report_id="r1", kind="done"), context=b"")
    await bench.heard(saga_id, m.Confirmed)


async def test_a_context_past_its_ceiling_fails_the_step(bench: Bench) -> None:
    """A trigger with more context than any answer could carry on is refused before the effect."""
    saga_id = uuid4()
    big = b'{"asked":%s,"pad":"%s"}' % (m.Asked(idempotency_key="k").to_wire(), b"x" * 400_000)
    await bench.say(saga_id, m.Booked(amount="1"), context=big)
    (failed,) = await bench.heard(saga_id, StepFailed)
    assert "passes the ceiling" in StepFailed.from_wire(failed.value).reason
    assert await bench.effects(saga_id) == []


HEADERS: dict[str, dict[str, bytes]] = {
    "no id": {"ce_id": b""},
    "no time": {"ce_time": b""},
    "a round that is no number": {"ts_round": b"first"},
    "round zero": {"ts_round": b"0"},
    "a round past all rounds": {"ts_round": b"70000"},
    "no saga": {"ce_correlationid": b"nobody"},
    "no UTF-8": {"ce_source": b"\xff\xff"},
}


@pytest.mark.parametrize("changes", HEADERS.values(), ids=HEADERS.keys())
async def test_headers_that_cannot_be_trusted_go_to_the_dead_letters(bench: Bench, changes: dict[str, bytes]) -> None:
    """The record is copied with its reason and runs nothing."""
    saga_id = uuid4()
    value = m.Booked(amount="1").to_wire()
    await bench.send(events_topic(bench.saga.name), saga_id, value, headers(bench, saga_id, "booked", **changes))
    letter = await buried(bench, saga_id)
    assert letter.value == value
    assert letter.header("ts_dlt_error_type") == "headers"
    assert letter.header("ts_dlt_error_message")
    assert await bench.effects(saga_id) == []


async def test_two_types_in_one_record_are_not_trusted(bench: Bench) -> None:
    """A record with its type twice, the second one unknown, stops nobody."""
    saga_id = uuid4()
    doubled: list[Header] = [*headers(bench, saga_id, "booked"), ("ce_type", b"nothing.of.ours")]
    await bench.send(events_topic(bench.saga.name), saga_id, b"{}", doubled)
    assert "twice" in (await buried(bench, saga_id)).header("ts_dlt_error_message")
    await still_works(bench)


@pytest.mark.parametrize("spelling", ["upper", "braces"])
async def test_a_saga_has_one_spelling(bench: Bench, spelling: str) -> None:
    """Another spelling of a saga's id is another key, so it is not the saga."""
    saga_id = uuid4()
    text = str(saga_id).upper() if spelling == "upper" else f"{{{saga_id}}}"
    value = m.Booked(amount="1").to_wire()
    topic = events_topic(bench.saga.name)
    await (await bench.producer.send(topic, text.encode(), value, headers(bench, text, "booked")))

    async def buried_so() -> bool:
        return any("dead" in heard.topic and heard.key == text.encode() for heard in bench.tail.records)

    await until(buried_so)
    assert await bench.effects(saga_id) == []


async def test_a_record_in_the_wrong_place_is_not_judged(bench: Bench, kafka: str) -> None:
    """A record under a key, or on a partition, that is not its saga's goes to the dead letters and runs nothing."""
    from aiokafka import AIOKafkaProducer

    topic, value = events_topic(bench.saga.name), m.Booked(amount="1").to_wire()
    keyed, placed = uuid4(), uuid4()
    wrong = (partition_of(str(placed).encode(), PARTITIONS) + 1) % PARTITIONS
    producer: Any = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, key=b"\0odd", headers=headers(bench, keyed, "booked"))
        at = {"partition": wrong, "headers": headers(bench, placed, "booked")}
        await producer.send_and_wait(topic, value, key=str(placed).encode(), **at)
    finally:
        await producer.stop()
    assert "belongs to partition" in (await buried(bench, placed)).header("ts_dlt_error_message")

    async def odd() -> bool:
        return any("dead" in heard.topic and b"odd" in heard.key for heard in bench.tail.records)

    await until(odd)
    assert await bench.effects(keyed) == await bench.effects(placed) == []
