"""`orders.csv`: order records under the names of MiFID II's; each saga's registered text has its own.

docs/mifid-order-records.md has the source of each column, and the fields of the regulation that are not held.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

import asyncpg
import orjson

from tradesaga.consumers.audit.export.folder import HashedFile
from tradesaga.consumers.audit.export.source import SealedLog, Source
from tradesaga.infra.clock import format_time
from tradesaga.sagas.audit_text import OrderText, RecordedMessage

COLUMNS: Final = (
    "saga_id", "topic", "partition", "sequence_number", "event", "order_status", "event_time", "recorded_time",
    "venue_time", "client_id", "client_reference", "order_id", "venue_order_id", "venue", "instrument", "side",
    "order_type", "limit_price", "time_in_force", "price_currency", "quantity_currency", "initial_quantity",
    "executed_quantity", "executed_price", "cumulative_quantity", "cumulative_amount", "remaining_quantity", "fee",
    "fee_currency", "venue_trade_id", "reason_code", "reason", "remark",
    "submitting_entity_lei", "client_lei", "direct_electronic_access", "investment_decision_within_firm",
    "execution_within_firm", "non_executing_broker", "trading_capacity", "liquidity_provision", "isin", "mic",
    "stop_price", "validity_until", "displayed_quantity", "minimum_executable_quantity", "passive_or_aggressive",
    "self_execution_prevention", "short_selling_indicator", "waiver_indicator", "routing_strategy",
)  # fmt: skip
"""All columns; a firm fills those that are not held from its own reference data."""
_FORMULA: Final = ("=", "+", "@", "\t", "\r")


@dataclass
class OrderSheet:
    """`orders.csv` while it is written; `texts` describe the order records of sagas by name."""

    file: HashedFile
    texts: Mapping[str, OrderText]
    written: int = 0

    def begin(self) -> None:
        """Write the header."""
        self._write([dict(zip(COLUMNS, COLUMNS, strict=True))])

    async def add(self, source: Source, log: SealedLog, span: tuple[int, int], sagas: Sequence[asyncpg.Record]) -> None:
        """Write the order records of these sagas between two offsets."""
        for name, text in self.texts.items():
            contexts = {row["saga_id"]: row["context"] for row in sagas if row["name"] == name}
            rows: dict[UUID, list[asyncpg.Record]] = {}
            for row in await source.messages(log, span, list(contexts), text.types) if contexts else ():
                rows.setdefault(row["saga_id"], []).append(row)
            for saga_id, found in rows.items():
                lines = describe_orders(text, log.place, saga_id, contexts[saga_id], [dict(row) for row in found])
                self._write(lines)
                self.written += len(lines)

    def _write(self, lines: Sequence[Mapping[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([[_cell(line.get(column, "")) for column in COLUMNS] for line in lines])
        self.file.write(text.getvalue().encode())


def describe_orders(
    text: OrderText, place: tuple[str, int], saga_id: UUID, context: str, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Return the order records of one saga from its rows, in order, and its context as JSON."""
    messages = [RecordedMessage(row["event_type"], _parse(row["value"])) for row in rows]
    return [
        {
            "saga_id": str(saga_id),
            "topic": place[0],
            "partition": str(place[1]),
            "sequence_number": str(row["offset"]),
            "event_time": format_time(row["event_time"]) if row["event_time"] is not None else "",
            "recorded_time": format_time(row["recorded_ms"] * 1_000_000),
            "remark": row["error"] or "",
            **described,
        }
        for row, described in zip(rows, text.describe(_parse(context), messages), strict=True)
    ]


def _parse(text: str | bytes | None) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    try:
        found = orjson.loads(text or b"")
    except orjson.JSONDecodeError:
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _cell(text: str) -> str:
    """Return a text that spreadsheet programs do not run as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
