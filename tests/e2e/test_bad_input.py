"""Whatever comes in: a clear error, a refusal or a place in the dead letters; nothing lost, no other saga held up."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import PATIENCE, Bench, open_bench
from tests.e2e.steps import BUSY
from tests.e2e.tail import Heard
from tests.keys import KEYS
from tests.waiting import until
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.schemas.identity import saga_id as identify
from tradesaga.schemas.messages.lifecycle import Bar, StartRefused, StepBarred
from tradesaga.schemas.topics import commands_topic, events_topic, starts_topic

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with everything running, the front door included."""
    async with open_bench(stack.kafka, module_database_url, patience=BUSY) as bench:
        await bench.serve_all()
        await bench.run(Intake(bench.saga, KEYS)).ready()
        yield bench


async def knock(bench: Bench, value: bytes, key: str = "any", *headers: tuple[str, bytes]) -> None:
    """Put something on the starts topic."""
    await (await bench.producer.send(starts_topic(bench.saga.name), key.encode(), value, list(headers)))


async def letters(bench: Bench, key: str) -> list[Heard]:
    """Wait for what came under a key to be in the dead letters."""

    def found() -> list[Heard]:
        return [heard for heard in bench.tail.records if "dead" in heard.topic and heard.key == key.encode()]

    async def any_found() -> bool:
        return bool(found())

    await until(any_found, PATIENCE)
    return found()


async def works(bench: Bench) -> None:
    """Run a saga from the front door to its end: nothing is held up."""
    key = uuid4().hex
    await knock(bench, m.Asked(idempotency_key=key).to_wire())
    assert (await bench.settled(identify(bench.saga.name, "alice", key)))["state"] == "COMPLETED"


def start(**changes: object) -> bytes:
    """Give the JSON of a start with some fields changed."""
    return json.dumps({"idempotency_key": "k", "account": "alice", "amount": "10.5"} | changes).encode()


KNOCKS = {
    "no bytes": (b"", "not-json"),
    "no UTF-8": (b"\xff\xfe\x00", "not-json"),
    "no JSON": (b"{", "not-json"),
    "a list": (b"[]", "invalid"),
    "a field missing": (b'{"account": "alice"}', "invalid"),
    "a field too many": (start(colour="red"), "invalid"),
    "a number for an amount": (start(amount=10.5), "invalid"),
    "NaN": (start(amount="NaN"), "invalid"),
    "a bare NaN": (b'{"idempotency_key": "k", "account": "alice", "amount": NaN}', "not-json"),
    "infinity": (start(amount="Infinity"), "invalid"),
    "a negative amount": (start(amount="-1"), "invalid"),
    "zero": (start(amount="0"), "invalid"),
    "an exponent": (start(amount="1e5"), "invalid"),
    "too many decimals": (start(amount="0.123456789"), "invalid"),
    "too deep": (b'{"plan":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "not-json"),
    "huge": (start(account="x" * 900_000), "too-large"),
}


@pytest.mark.parametrize(("value", "kind"), KNOCKS.values(), ids=KNOCKS.keys())
async def test_a_start_that_is_none(bench: Bench, value: bytes, kind: str) -> None:
    """It is in the dead letters whole, with its reason, and the door stays open."""
    key = uuid4().hex
    await knock(bench, value, key)
    (letter,) = await letters(bench, key)
    assert letter.value == value
    assert letter.header("ts_dlt_error_type") == kind
    assert letter.header("ts_dlt_error_message")
    assert letter.header("ts_dlt_topic") == starts_topic(bench.saga.name)
    await works(bench)


@pytest.mark.parametrize("ce_type", ["trade.trade-requested.v1", "{}.asked.v9", "{}.booked.v1"])
async def test_a_start_of_another_type_or_version(bench: Bench, ce_type: str) -> None:
    """What says that it is something else is not taken for a start."""
    key, kind = uuid4().hex, ce_type.format(bench.saga.name).encode()
    await knock(bench, m.Asked(idempotency_key=key).to_wire(), key, ("ce_type", kind))
    (letter,) = await letters(bench, key)
    assert letter.header("ts_dlt_error_type") == "wrong-type"
    await works(bench)


async def test_a_start_twice_and_one_that_differs(bench: Bench) -> None:
    """The same start is the same saga; another one under its key is recorded as refused and changes nothing."""
    key = uuid4().hex
    saga_id = identify(bench.saga.name, "alice", key)
    for _ in range(2):
        await knock(bench, m.Asked(idempotency_key=key).to_wire())
    await knock(bench, m.Asked(idempotency_key=key, plan={"pay": "refuse"}).to_wire())
    (refused,) = await bench.heard(saga_id, StartRefused)
    assert StartRefused.from_wire(refused.value).idempotency_key == key
    assert (await bench.settled(saga_id))["state"] == "COMPLETED"
    assert await bench.effects(saga_id) == [("book", "forward"), ("pay", "forward"), ("close", "forward")]
    assert len({heard.record for heard in bench.tail.of(saga_id, m.Asked)}) == 1


async def test_a_fact_for_a_saga_that_nobody_started(bench: Bench) -> None:
    """The saga log sets it aside with its reason; it shows in the audit log, and other sagas go on."""
    saga_id = uuid4()
    await bench.say(saga_id, m.Confirmed(reports=1), context=b'{"asked":%s}' % m.Asked(idempotency_key="k").to_wire())
    parked = await _parked(bench, saga_id)
    assert "start is not known" in parked
    error = await bench.pool.fetchval("SELECT error FROM saga_event WHERE saga_id = $1 ORDER BY 1 LIMIT 1", saga_id)
    assert error.startswith("parked: ")
    await works(bench)


@pytest.mark.parametrize("name", ["nonsense.v1", "booked.v7", "x" * 300])
async def test_a_fact_of_an_unknown_type_or_version(bench: Bench, name: str) -> None:
    """It is set aside with what follows it of its saga; a saga beside it does not notice."""
    saga_id = await bench.ask(confirm="wait")
    await bench.heard(saga_id, m.Shipped)
    await bench.say(saga_id, m.Report(report_id="r0", kind="progress"), context=b"", type=f"{bench.saga.name}.{name}")
    assert "no message" in await _parked(bench, saga_id)
    await works(bench)


STRAYS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "a bar for no step of the saga": ([("ce_type", b"{}.bar.v1"), ("ts_step", b"nothing")], "'nothing'"),
    "a bar that names no step": ([("ce_type", b"{}.bar.v1")], "for step ''"),
    "a retry for no step of the saga": ([("ce_type", b"{}.retry.v1"), ("ts_step", b"\xff")], "the saga does not have"),
    "a compensation of no step": ([("ce_type", b"{}.unsell.v1"), ("ts_step", b"pay")], ".unsell.v1"),
    "a command of a version to come": ([("ce_type", b"{}.refund.v9"), ("ts_step", b"pay")], ".refund.v9"),
    "another saga's command": ([("ce_type", b"other.refund.v1"), ("ts_step", b"pay")], "other.refund.v1"),
    "no headers": ([], "no command of type ''"),
    "a type that is no text": ([("ce_type", b"\xff")], "no command of type"),
}


@pytest.mark.parametrize("name", STRAYS)
async def test_a_command_that_nobody_takes(bench: Bench, name: str) -> None:
    """It is in the dead letters once, although several groups read it, and says why; a good one is still answered."""
    headers, told = STRAYS[name]
    saga_id, saga = uuid4(), bench.saga.name.encode()
    stray = [(header, value.replace(b"{}", saga)) for header, value in headers]
    await bench.send(commands_topic(bench.saga.name), saga_id, b"\x00", stray)
    beside = uuid4()
    await bench.say(beside, Bar(step="pay"), step="pay", context=b"")
    await bench.heard(beside, StepBarred)
    await works(bench)
    (letter,) = await letters(bench, str(saga_id))
    assert letter.header("ts_dlt_error_type") == "stray"
    assert told in letter.header("ts_dlt_error_message")
    assert letter.value == b"\x00"


async def test_a_fact_without_a_type(bench: Bench) -> None:
    """The saga log alone tells of it."""
    saga_id = uuid4()
    await bench.send(events_topic(bench.saga.name), saga_id, b"\x00", [("ce_type", b"\xff")])
    (letter,) = await letters(bench, str(saga_id))
    assert letter.header("ts_dlt_group") == f"{bench.saga.name}-log"
    await works(bench)


async def test_a_flood_of_rubbish_holds_nobody_up(bench: Bench) -> None:
    """Two hundred bad records beside thirty good sagas: the sagas end, and each bad record is in the dead letters."""
    rubbish = [uuid4().hex for _ in range(200)]
    good: list[UUID] = []
    for number, key in enumerate(rubbish):
        await knock(bench, b"{" * number, key)
        if number % 7 == 0:
            good.append(await bench.ask())
    found = await asyncio.gather(*map(bench.settled, good))
    assert {row["state"] for row in found} == {"COMPLETED"}
    for key in rubbish:
        assert len(await letters(bench, key)) == 1


async def _parked(bench: Bench, saga_id: UUID) -> str:
    """Wait until a record of the saga is set aside, and give the reason of the first."""
    statement = 'SELECT reason FROM parked WHERE saga_id = $1 ORDER BY "offset" LIMIT 1'

    async def there() -> bool:
        return await bench.pool.fetchval(statement, saga_id) is not None

    await until(there, PATIENCE)
    return await bench.pool.fetchval(statement, saga_id)
