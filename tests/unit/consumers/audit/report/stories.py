"""Stories of trades, as the rows that the saga log would have written of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from tests.sagas import headers_of
from tradesaga.consumers.audit.log.rows import Position, Row
from tradesaga.consumers.audit.report.model import NOT_YET, Proof, SagaTimeline, Seal
from tradesaga.consumers.audit.report.summary import build_timeline
from tradesaga.consumers.audit.report.timeline_builder import rehash
from tradesaga.consumers.saga_log.chain import StoredBytes, read_row
from tradesaga.consumers.saga_log.fold import FoldResult, fold_record
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.consumers.services.trade_text import TRADE_TEXT
from tradesaga.infra.audit_log.clock_evidence import ClockTier
from tradesaga.infra.clock import format_time
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.envelope import splice
from tradesaga.schemas.messages import lifecycle as life
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Event

SAGA = UUID("3f2b8c1e-7a54-5d09-9f11-b0c4d2e6a901")
BEGAN = 1_795_442_587_120_345_678
MS = 10**6
RULES = Rules(trade)
KEY = str(SAGA).encode()
HOME = partition_of(KEY, 12)
SERVICES = {
    "validate_order": "/trade/risk", "reserve_funds": "/trade/cash", "check_risk": "/trade/risk",
    "place_order": "/trade/execution", "confirm_fill": "/trade/execution", "settle_trade": "/trade/settlement",
}  # fmt: skip


@dataclass
class Teller:
    """Writes the records of one trade; times are milliseconds since its start."""

    records: list[Record] = field(default_factory=list[Record])
    context: bytes = b""
    now: float = 0
    cause: str = ""

    def say(self, event: Event, took: float = 0, *, wait: float = 1, **given: Any) -> Record:
        """Record an event that took some milliseconds and began some after the last."""
        started = self.now + wait
        self.now = started + took
        step = str(given.get("step", getattr(event, "step", "")) or _owner(event))
        fields: dict[str, str | int] = {
            "id": f"0195{len(self.records):04d}-0000-7000-8000-000000000000",
            "source": SERVICES.get(step, "/trade/gateway"),
            "time": format_time(BEGAN + int(self.now * MS)),
            "attempt": 1,
            "causation": self.cause,
            "started": BEGAN + int(started * MS),
            **given,
        }
        if not isinstance(event, life.AttemptFailed | t.VenueReport):
            self.cause = str(fields["id"])
        if type(event) in {trade.start, *(each.emits for each in trade.steps)}:
            self.context = splice(self.context, event.NAME, event.to_wire())
        headers = [*headers_of(trade, event, SAGA, **fields), ("ts_context", self.context)]
        return self.put(event.to_wire(), headers)

    def put(self, value: bytes, headers: list[tuple[str, bytes]]) -> Record:
        """Record any bytes."""
        recorded = (BEGAN + int(self.now * MS)) // MS + 2
        offset = 4211 + 3 * len(self.records)
        self.records.append(Record("trade.events", HOME, offset, recorded, KEY, value, headers))
        return self.records[-1]


def _owner(event: Event) -> str:
    return next(
        (each.name for each in trade.steps if type(event) in {each.emits, each.rejects, *(each.back or ())}), ""
    )


def rows_of(records: Iterable[Record], rules: Rules = RULES) -> list[Row]:
    """Enter records as the saga log does."""
    rows: list[Row] = []
    tracked: Tracked | None = Tracked(SAGA, HOME)
    for record in records:
        outcome = fold_record(rules, tracked, record)
        tracked = outcome.tracked
        rows.append(row_of(outcome))
    return rows


def row_of(outcome: FoldResult) -> Row:
    """Return the row that the saga log writes for a record."""
    record, entry, tracked = outcome.record, outcome.entry, outcome.tracked
    stored = StoredBytes(record.key, entry.headers, record.value, entry.hash)
    saga_id = tracked.saga_id if tracked is not None else None
    return Row(read_row(record[:4], stored), stored, saga_id, entry.seq, *entry[1:5], entry.added, entry.error, 3)


def sealed(rows: Iterable[Row], *, open_: int = 0, error: int = 40_000) -> dict[Position, Seal]:
    """Seal all rows but the last few, a second after the broker had them."""
    kept = list(rows)
    seals = dict.fromkeys((row.position for row in kept), NOT_YET)
    covered = kept[: len(kept) - open_]
    ends = {row.record.recorded_ms // 1000: row.position.offset + 3 for row in covered}
    return seals | {
        row.position: Seal(
            Proof.PROVEN, index=row.position.offset, size=ends[second], time=second * 10**9 + 1_004_511_208,
            clock="chrony", clock_error=error,
        )
        for row in covered
        for second in [row.record.recorded_ms // 1000]
    }  # fmt: skip


def story_of(teller: Teller, *, rules: Rules | None = RULES, tier: str = "off", open_: int = 0) -> SagaTimeline:
    """Tell it."""
    rows = rows_of(teller.records)
    seals = sealed(rows, open_=open_)
    clock = ClockTier.parse(tier)
    return build_timeline(SAGA, "trade", rows, rehash(rows, {}), rules=rules, seals=seals, tier=clock, text=TRADE_TEXT)


def _begin(side: t.Side = t.Side.BUY) -> Teller:
    teller = Teller()
    teller.say(
        t.TradeRequested(
            idempotency_key="desk-7-000123", account="alice", symbol="GOOG/USD", side=side, quantity=Decimal(100),
            order_type=t.OrderType.LIMIT, limit_price=Decimal("172.50"),
        ), wait=0, attempt=0, started=0, source="/trade/gateway",
    )  # fmt: skip
    teller.say(
        t.OrderValidated(
            base="GOOG", quote="USD", hold_asset="USD", hold=Decimal("17267.25"), notional=Decimal(17250),
            fee_rate=Decimal("0.001"),
        ), 3.2,
    )  # fmt: skip
    teller.say(t.FundsReserved(asset="USD", amount=Decimal("17267.25")), 2.8)
    return teller


def _report(kind: str, done: str, quote: str, fill: t.VenueFill | None = None) -> t.VenueReport:
    return t.VenueReport(
        venue="paper", report_id=f"r-{kind}-{done}", kind=kind, client_order_id="ts-3f2b8c1e", venue_order_id="9007",  # pyright: ignore[reportArgumentType]
        symbol="GOOG/USD", cumulative_quantity=Decimal(done), cumulative_quote=Decimal(quote), fill=fill,
        venue_time=BEGAN,
    )  # fmt: skip


def _fill(number: int, quantity: str, price: str) -> t.VenueFill:
    return t.VenueFill(
        trade_id=f"T-{number}", quantity=Decimal(quantity), price=Decimal(price), fee=Decimal("8.62"), fee_asset="USD"
    )


PLACED = t.OrderPlaced(venue="paper", client_order_id="ts-3f2b8c1e", venue_order_id="9007")
FILLED = t.TradeFilled(
    quantity=Decimal(100), quote_amount=Decimal(17244), fee=Decimal("17.24"), fee_asset="USD",
    executions=2, executions_hash=t.hash_trade_ids(["T-1", "T-2"]), complete=True,
)  # fmt: skip
SETTLED = t.TradeSettled(
    quantity=Decimal(100), quote_amount=Decimal(17244), fee=Decimal("17.24"), released=Decimal("6.01")
)


def _filled() -> Teller:
    """A purchase that the venue fills in two parts."""
    teller = _begin()
    teller.say(t.RiskAccepted(exposure=Decimal(17250)), 2.1)
    teller.say(PLACED, 11.4)
    teller.say(_report("acknowledged", "0", "0"), wait=2, source="/trade/venue/paper", attempt=0, started=0)
    report: dict[str, Any] = {"source": "/trade/venue/paper", "attempt": 0, "started": 0}
    teller.say(_report("partial_fill", "60", "10344", _fill(1, "60", "172.40")), wait=31, **report)
    teller.say(_report("fill", "100", "17244", _fill(2, "40", "172.50")), wait=18, **report)
    began = BEGAN + int((teller.now - 50) * MS)
    teller.say(FILLED, wait=1.5, started=began)
    return teller


def completed() -> Teller:
    """A purchase, filled in two parts."""
    teller = _filled()
    teller.say(SETTLED, 4.6)
    return teller


def compensated() -> Teller:
    """The limit is breached after the funds were reserved."""
    teller = _begin()
    teller.say(t.RiskRejected(code="GROSS_EXPOSURE", reason="17250 USD more than the account's 10000 USD"), 2.4)
    teller.say(t.FundsReleased(asset="USD", amount=Decimal("17267.25")), 6.3, wait=2)
    teller.say(t.OrderWithdrawn(), 3.9, wait=2)
    return teller


def resolved() -> Teller:
    """The venue cannot be reached to cancel, so that a person looks and closes it by hand, hours later."""
    teller = _begin()
    teller.say(t.RiskAccepted(exposure=Decimal(17250)), 2.1)
    teller.say(PLACED, 11.4)
    teller.say(t.TradeUnfilled(status="expired", reason="the day is over"), wait=120, took=4000)
    reason = "503 from the venue: down for maintenance"
    for attempt in (1, 2):
        teller.say(
            life.AttemptFailed(step="place_order", direction="back", attempt=attempt, reason=reason),
            820, wait=180, attempt=attempt,
        )  # fmt: skip
    teller.say(life.CompensationFailed(step="place_order", attempts=3, reason=reason), 900, wait=400, attempt=3)
    teller.say(t.RiskReleased(exposure=Decimal(17250)), 4)
    teller.say(t.FundsReleased(asset="USD", amount=Decimal("17267.25")), 5)
    teller.say(t.OrderWithdrawn(), 3.9)
    desk: dict[str, Any] = {"source": "/trade/desk", "attempt": 0, "started": 0}
    hour = 3_600_000
    teller.say(
        life.RetryRequested(operator="carol", reason="the venue says it is back", step="place_order"), wait=hour, **desk
    )
    teller.say(
        life.CompensationFailed(step="place_order", attempts=4, reason="404 from the venue: no such order"),
        310, wait=12, attempt=4, round=2,
    )  # fmt: skip
    teller.say(
        life.ResolveRequested(
            operator="carol", outcome="ABORTED", reason="the venue confirmed by mail 8841 that the order never stood"
        ), wait=hour / 3, **desk,
    )  # fmt: skip
    return teller


def hard() -> Teller:
    """Settling takes many attempts, a report comes twice, and one comes too late."""
    teller = _filled()
    reason = "could not serialize access due to concurrent update"
    for attempt in range(1, 7):
        fact = life.AttemptFailed(step="settle_trade", direction="forward", attempt=attempt, reason=reason)
        teller.say(fact, 9 + 4 * attempt, wait=40 * 1.7**attempt, attempt=attempt)
    teller.say(SETTLED, 5.1, wait=900, attempt=7)
    again = teller.records[6]
    teller.put(again.value, list(again.headers))
    teller.say(_report("cancelled", "100", "17244"), wait=40, source="/trade/venue/paper", attempt=0, started=0)
    return teller
