"""PostgreSQL has no NUL in text, and headers and JSON do: no record that holds one stops whoever reads it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from tests.book import order
from tests.fuzz.specimens import specimen
from tests.integration.trade_rig import OPENING, TradeRig, trade_rig
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.postgres.database import session
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.envelope import SAGA_ID, STEP, TYPE, Header
from tradesaga.schemas.messages.message import Message

pytestmark = pytest.mark.stack
HEADERS = (
    "ce_id", "ce_source", "ce_time", "ce_causationid", "ce_recordedtime", "traceparent", "tracestate", "content-type",
    "ts_request", "ts_context", "ts_attempt", "ts_started", "ts_overtakes", "ts_mac", "\0",
)  # fmt: skip


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[TradeRig]:
    """Give a rig on a database of its own."""
    async with session(database_url) as sql, trade_rig(sql) as made:
        yield made


def with_nul(value: Any) -> Any:
    """Put a NUL into every text, and one more member that has one, of a name that does too."""
    if isinstance(value, dict):
        return {name: with_nul(each) for name, each in value.items()} | {"more\0": "\0"}
    if isinstance(value, list):
        return [with_nul(each) for each in value]
    return f"{value}\0" if isinstance(value, str) else value


def spoilt(rig: TradeRig, saga_id: UUID, message: type[Message]) -> Iterator[Record]:
    """Put the message on its topic with a NUL in one place after the other."""
    good = message.from_wire(specimen(message))
    for step in ("", "check_risk", "check_risk\0"):
        record = rig.forge(saga_id, good, step=step)
        key = (record.key or b"").decode()
        for name in HEADERS:
            kept: list[Header] = [each for each in record.headers if each[0] != name]
            yield rig.put(record.topic, key, record.value, [*kept, (name, b"a\0b")])
        body = orjson.loads(record.value)
        yield rig.put(record.topic, key, orjson.dumps(with_nul(body)), record.headers)
        yield rig.put(record.topic, key, orjson.dumps(body | {"more\0": "\0"}), record.headers)
        for field in [name for name, value in body.items() if isinstance(value, str)]:
            yield rig.put(record.topic, key, orjson.dumps(body | {field: "\0"}), record.headers)
        yield rig.put(record.topic, key, record.value, [(n, v) for n, v in record.headers if n not in {TYPE, SAGA_ID}])
        yield rig.put(record.topic, key, record.value, [(n, v) for n, v in record.headers if n != STEP])


async def test_a_nul_anywhere_stops_nobody(rig: TradeRig) -> None:
    """Each message of the trade, with one in each header and field, for a running saga and an unknown one."""
    for message in dict.fromkeys(trade.message_types.values()):
        running = await rig.start(order(account="alice", quantity=1, price="1.0"))
        await rig.settle()
        for saga_id in (running, uuid4()):
            for _ in spoilt(rig, saga_id, message):
                pass
    await rig.settle()
    await rig.judge(OPENING)
    later = await rig.start(order(account="bob", price="1.06"))
    await rig.settle()
    rig.venue.step("EUR/USD")
    await rig.settle()
    assert await rig.state(later) == "COMPLETED"
