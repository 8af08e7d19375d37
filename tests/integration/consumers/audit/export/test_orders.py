"""Order records: an event a line, told from what was recorded of real trades."""

import csv
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.export.rig import ExportRig
from tests.integration.consumers.audit.rig import PARTITIONS, AuditRig
from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.manifest import Query
from tradesaga.consumers.audit.export.orders import COLUMNS, describe_orders
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.services.order_records import ORDER_RECORDS
from tradesaga.infra.cli.console import to_json
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Event, wire_type

pytestmark = [pytest.mark.stack]

ROOT = Path(__file__).parents[5]

ASKED = t.TradeRequested(
    idempotency_key="=k1", account="A-1", symbol="BTC/USD", side=t.Side.BUY, quantity=Decimal(2),
    order_type=t.OrderType.LIMIT,
    limit_price=Decimal("101.5"),
)  # fmt: skip
VALIDATED = t.OrderValidated(
    base="BTC", quote="USD", hold_asset="USD", hold=Decimal("203.2"), notional=Decimal(203), fee_rate=Decimal("0.001")
)
ACCEPTED = t.RiskAccepted(exposure=Decimal(203))
PLACED = t.OrderPlaced(venue="paper", client_order_id="c-1", venue_order_id="v-1")


def report(kind: str, cumulative: str, fill: t.VenueFill | None = None) -> t.VenueReport:
    """Give what the venue says."""
    told = {
        "venue": "paper", "report_id": f"r-{kind}-{cumulative}", "kind": kind, "client_order_id": "c-1",
        "venue_order_id": "v-1", "symbol": "BTC/USD", "cumulative_quantity": cumulative, "cumulative_quote": "0",
        "fill": fill, "venue_time": 1_790_000_000_000_000_007,
    }  # fmt: skip
    return t.VenueReport.model_validate(told)


def fill(number: int) -> t.VenueFill:
    """Give one execution."""
    return t.VenueFill(
        trade_id=f"x-{number}", quantity=Decimal(1), price=Decimal(101), fee=Decimal("0.1"), fee_asset="USD"
    )


FILLED = t.TradeFilled(
    quantity=Decimal(2),
    quote_amount=Decimal(202),
    fee=Decimal("0.2"),
    fee_asset="USD",
    executions=2,
    executions_hash=t.hash_trade_ids(["x-1", "x-2"]),
    complete=True,
)
SETTLED = t.TradeSettled(quantity=Decimal(2), quote_amount=Decimal(202), fee=Decimal("0.2"), released=Decimal(1))
STORY: tuple[Event, ...] = (
    ASKED, VALIDATED, t.FundsReserved(asset="USD", amount=Decimal("203.2")), ACCEPTED, PLACED,
    report("acknowledged", "0"), report("partial_fill", "1", fill(1)), report("fill", "2", fill(2)), FILLED, SETTLED,
)  # fmt: skip


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[ExportRig]:
    """Give a log of three trades."""
    sql = await asyncpg.connect(database_url)
    try:
        log = AuditRig(sql, tmp_path, rules=Rules(trade, PARTITIONS))
        rig = ExportRig(log, tmp_path)
        await rig.record(3, STORY)
        yield rig
    finally:
        await sql.close()


@pytest.mark.asyncio
async def test_an_export_of_trades_has_their_order_records(rig: ExportRig) -> None:
    """From the order's receipt to its settlement, in order, each traded quantity told once."""
    path, manifest = await rig.export("trades", Query(account="A-1"))
    assert rig.verify(path).findings == []
    rows = list(csv.DictReader((path / layout.ORDERS).read_text().splitlines()))
    assert manifest.orders == len(rows) == 3 * 7
    one = [row for row in rows if row["saga_id"] == rows[0]["saga_id"]]
    assert [(row["event"], row["order_status"]) for row in one] == [
        ("received", ""),
        ("submitted", "NEWO"),
        ("acknowledged by the venue", ""),
        ("executed in part", "PARF"),
        ("executed", "FILL"),
        ("executed, in sum", ""),
        ("settled", ""),
    ]
    assert [row["executed_quantity"] for row in one] == ["", "", "", "1", "1", "", ""]
    assert [row["remaining_quantity"] for row in one] == ["", "", "2", "1", "0", "0", "0"]
    for row in one:
        assert (row["client_id"], row["instrument"], row["side"]) == ("A-1", "BTC/USD", "BUY")
        assert (row["order_id"], row["venue"], row["price_currency"], row["limit_price"]) == (
            "c-1", "paper", "USD", "101.5",
        )  # fmt: skip
        assert row["client_reference"] == "'=k1"
        assert row["isin"] == ""
    assert one[3]["venue_time"] == "2026-09-21T14:13:20.000000007Z"


def rows_of(*events: Event) -> list[Mapping[str, Any]]:
    """Give records as the database gives them."""
    return [
        {
            "event_type": wire_type("trade", type(event)), "offset": number, "recorded_ms": number, "event_time": None,
            "value": event.to_wire(), "error": None,
        }
        for number, event in enumerate(events)
    ]  # fmt: skip


def statuses(events: Sequence[Event], context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give what each of these events is called, and its code."""
    told = describe_orders(ORDER_RECORDS, ("trade.events", 0), uuid4(), to_json(context), rows_of(*events))
    return [(line["event"], line["order_status"]) for line in told]


CONTEXT = {t.TradeRequested.NAME: orjson.loads(ASKED.to_wire())}


def test_orders_that_were_not_executed_say_how_they_ended() -> None:
    """By the desk, by the venue, or by nobody."""
    assert statuses([t.RiskRejected(code="limit", reason="too much")], CONTEXT) == [("refused before submission", "")]
    assert statuses([t.OrderRejected(code="r", reason="no")], CONTEXT) == [("rejected by the venue", "REMO")]
    assert statuses([t.OrderCancelled(client_order_id="c-1")], CONTEXT) == [("cancelled by the firm", "CAME")]
    assert statuses([report("expired", "0"), t.TradeUnfilled(status="expired")], CONTEXT) == [
        ("expired", "EXPI"),
        ("ended without execution", ""),
    ]
    assert statuses([t.TradeUnfilled(status="rejected")], CONTEXT) == [("ended without execution", "REMO")]
    assert statuses([report("busted", "0")], CONTEXT) == [("busted by the venue", "")]


def test_a_fill_that_no_report_tells_of_has_its_code() -> None:
    """In whole or in part."""
    assert statuses([FILLED], CONTEXT) == [("executed, in sum", "FILL")]
    assert statuses([FILLED.model_copy(update={"complete": False})], CONTEXT) == [("executed, in sum", "PARF")]


def test_payloads_that_cannot_be_read_leave_columns_empty() -> None:
    """Nothing is guessed, nothing raises."""
    rows = [
        {**row, "value": value} for row, value in zip(rows_of(*[PLACED] * 4), (b"", b"\xff", b"[]", None), strict=True)
    ]
    told = describe_orders(
        ORDER_RECORDS,
        ("trade.events", 0),
        UUID(int=1),
        '{"trade-requested": [], "order-validated": {"quote": 7}}',
        rows,
    )
    assert {line["order_status"] for line in told} == {"NEWO"}
    assert {line["price_currency"] + line["client_id"] for line in told} == {""}
    assert all(set(line) <= set(COLUMNS) for line in told)


def test_each_column_is_explained() -> None:
    """Where it comes from, or that it is not held."""
    page = (ROOT / "docs" / "mifid-order-records.md").read_text()
    assert [column for column in COLUMNS if f"`{column}`" not in page] == []
