"""PostgreSQL has no NUL in text, and headers and JSON do: no record that holds one stops whoever reads it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast
from uuid import UUID, uuid4

import orjson
import pytest
from pydantic import SecretStr

from tests.book import order
from tests.fuzz.specimens import specimen
from tests.integration.consumers.services.rig import OPENING, TradeRig, trade_rig
from tradesaga.consumers.audit.export.manifest import Query
from tradesaga.consumers.audit.export.source import Source
from tradesaga.consumers.audit.log.action_log import Action
from tradesaga.consumers.audit.retention.legal_holds import ActiveHolds, LegalHold, Scope
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.postgres.database import session
from tradesaga.infra.reconciliation.run import reconcile
from tradesaga.infra.saga_queries import SagaFilter, read_page, start_events
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade.comparison import Flaw
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.envelope import SAGA_ID, STEP, TYPE, Header
from tradesaga.schemas.identity import saga_id
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Message, wire_type

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
        return {name: with_nul(each) for name, each in cast("dict[str, Any]", value).items()} | {"more\0": "\0"}
    if isinstance(value, list):
        return [with_nul(each) for each in cast("list[Any]", value)]
    return f"{value}\0" if isinstance(value, str) else value


def spoilt(rig: TradeRig, of: UUID, message: type[Message]) -> Iterator[Record]:
    """Put the message on its topic with a NUL in one place after the other."""
    good = message.from_wire(specimen(message))
    for step in ("", "check_risk", "check_risk\0"):
        record = rig.forge(of, good, step=step)
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
        for of in (running, uuid4()):
            for _ in spoilt(rig, of, message):
                pass
    await rig.settle()
    await rig.judge(OPENING)
    later = await rig.start(order(account="bob", price="1.06"))
    await rig.settle()
    rig.venue.step("EUR/USD")
    await rig.settle()
    assert await rig.state(later) == "COMPLETED"


@pytest.mark.parametrize("body", [b"{}", b"1", b'{"quantity":"\\u0000"}'], ids=["empty", "number", "nul"])
async def test_forged_facts_keep_nobody_from_looking(rig: TradeRig, database_url: str, body: bytes) -> None:
    """A saga that is COMPLETED by forged facts alone, with a NUL in its context: others are listed and compared."""
    good = await rig.start(order(account="alice", price="1.0"))
    request = order(account="bob")
    forged = saga_id("trade", "bob", request.idempotency_key)
    other = rig.forge(uuid4(), order(account="carol"))
    spelled = request.to_wire()[:-1] + b',"note":"\\u0000"}'
    said = [(t.TradeRequested, spelled), *((each.emits, body) for each in trade.steps)]
    for event, value in said:
        own = {SAGA_ID: str(forged).encode(), TYPE: wire_type("trade", event).encode()}
        rig.put(other.topic, str(forged), value, [(name, own.get(name, text)) for name, text in other.headers])
    await rig.deliver("log")
    assert await rig.state(forged) == "COMPLETED"
    await rig.settle()
    starts = start_events([trade])
    for account, found in (("alice", good), ("bob", forged)):
        page = await read_page(rig.sql, starts, SagaFilter(account=account, symbol="EUR/USD"), 9)
        assert [each["saga_id"] for each in page] == [found]
        hold = LegalHold(1, Scope.ACCOUNT, account, "", cast("Action", None))
        assert (await ActiveHolds.find(rig.sql, [hold])).named(Scope.ACCOUNT) == [hold]
        wanted = Source(rig.sql, Query(account=account), starts).wanted  # pyright: ignore[reportArgumentType]
        statement = "SELECT DISTINCT saga_id FROM saga_event WHERE ($1::int, $2::int, $3::int, $4::int) IS NOT NULL"
        rows = await rig.sql.fetch(f"{statement} {wanted.condition}", 0, 0, 0, 0, *wanted.args)
        assert [row[0] for row in rows] == [found]
    findings = await reconcile(rig.venue, Settings(database_url=SecretStr(database_url)))
    told = {(each.flaw, each.subject) for each in findings.discrepancies}
    assert (Flaw.NOT_SETTLED, str(forged)) in told
    assert (Flaw.FORGED_FACT, str(forged)) in told
    assert (Flaw.FORGED_FACT, str(good)) not in told
