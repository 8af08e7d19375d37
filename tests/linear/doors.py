"""Every way in for the bytes of strangers, as a function of bytes that ends by reading or by refusing them."""

import asyncio
import io
import tempfile
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import SecretStr, TypeAdapter, ValidationError
from starlette.requests import Request

from tests.keys import KEYS
from tradesaga.consumers.audit.export.layout import FormatError, from_line, from_proof
from tradesaga.consumers.audit.export.manifest import Manifest
from tradesaga.consumers.audit.options import read_time
from tradesaga.consumers.context import StepContext
from tradesaga.consumers.entry.signals.routing import read_signal
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime.event_factory import Trigger, pack_trigger, split_packed
from tradesaga.consumers.runtime.message import Router
from tradesaga.consumers.saga_log.fold import fold_record
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.consumers.services import cash, risk, settlement
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.clock_evidence import ClockTier, parse_pmc_output
from tradesaga.infra.audit_log.note import NoteError, Verifier, open_note
from tradesaga.infra.audit_log.schedule import parse_schedule
from tradesaga.infra.audit_log.witness import WitnessError, WitnessFile
from tradesaga.infra.clock import parse_time
from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.codec import Record, dump_headers, load_headers, pack, unpack
from tradesaga.infra.kafka.dead_letters import RecordFault, dead_letter
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.settings import Dsn
from tradesaga.infra.starts.accept import StartInvalidError, read_start
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json
from tradesaga.infra.telemetry.logs import redact
from tradesaga.infra.telemetry.tracing import next_traceparent
from tradesaga.infra.venues import binance_json
from tradesaga.producers.gateway.responses import RequestError, read_body
from tradesaga.producers.start.lines import read_lines
from tradesaga.sagas.errors import ContextMissingError
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.envelope import ContextTooLargeError, Envelope, EnvelopeError, Header, splice
from tradesaga.schemas.messages.message import Message, wire_type
from tradesaga.schemas.messages.trade import RiskAccepted, TradeFilled, TradeRequested, VenueReport
from tradesaga.schemas.topics import PARTITIONS

Door = Callable[[bytes], object]
SAGA: Final = UUID("3f2b6c1e-0d4a-4b6e-9a57-1c2d3e4f5a6b")
TIME: Final = b"2026-11-23T14:03:07.120000000Z"
_STRUCTURED: Final[list[Header]] = [("content-type", b"application/cloudevents+json")]
REFUSALS: Final = (
    StrictJsonError, StartInvalidError, EnvelopeError, ContextTooLargeError, ContextMissingError, ValidationError,
    NoteError, WitnessError, FormatError, CommandError, RequestError, orjson.JSONDecodeError, ValueError, KeyError,
    TypeError, ArithmeticError, AttributeError,
)  # fmt: skip
"""What the doors refuse with; the tests of each door say which of them it may be."""

_DSN: Final = TypeAdapter[SecretStr](Dsn)
_intake, _rules = Intake(trade, KEYS), Rules(trade)
_routers = [Router(each.participant, PARTITIONS) for each in (risk, cash, settlement)]


def record(value: bytes, headers: list[Header] | None = None, topic: str = "trade.starts") -> Record:
    """Return a record of the saga, on its own partition."""
    key = str(SAGA).encode()
    return Record(topic, partition_of(key, PARTITIONS), 1, 0, key, value, headers or [])


def fact(message: type[Message], value: bytes, **given: bytes) -> Record:
    """Return a record as a service would have written it, with other headers where they are given."""
    known: dict[str, bytes] = {
        "ce_type": wire_type("trade", message).encode(), "ce_id": b"1", "ce_source": b"/s", "ce_time": TIME,
        "ce_correlationid": str(SAGA).encode(), **given,
    }  # fmt: skip
    return record(value, list(known.items()), "trade.events")


def _route(taken: Record) -> None:
    for router in _routers:
        router.reports_stray(taken.topic, taken.headers)
        if router.wants(taken.headers):
            for message in router.read(1, taken):
                trigger = Trigger.of(message)
                for part in split_packed(pack_trigger(trigger)):
                    Trigger.stored(part, dict(trade.message_types), lambda _: None)
                trigger.read()


def _fold(taken: Record) -> None:
    begun = fold_record(_rules, Tracked(SAGA, taken.partition), fact(TradeRequested, START)).tracked
    fold_record(_rules, begun, taken)


def _everywhere(taken: Record) -> None:
    """Take a record through all that looks at records of the saga's own topics."""
    dead_letter("trade", "group", taken, RecordFault("kind", "why"), 0)
    unpack(pack(taken.headers, taken.value))
    _fold(taken)
    _route(taken)


START: Final = (
    b'{"idempotency_key":"k","account":"a","symbol":"A/B","side":"BUY","quantity":"1","order_type":"LIMIT",'
    b'"limit_price":"1"}'
)


def _body(text: bytes) -> None:
    pieces = [text[at : at + 10] for at in range(0, len(text), 10)]
    events = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    events.append({"type": "http.request", "body": b"", "more_body": False})
    waiting = iter(events)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    asyncio.run(read_body(Request(scope, receive), trade, 1 << 20))


def _witness(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "witness"
        path.write_bytes(text)
        list(WitnessFile(path).read())


def _context(text: bytes) -> None:
    StepContext(SAGA, "reserve_funds", 1, "k", 0, facts=text).get(RiskAccepted)


def _many_headers(text: bytes) -> list[Header]:
    return [(text[at : at + 4].decode("latin-1"), text[at : at + 8]) for at in range(0, len(text), 8)]


def _order(text: bytes) -> None:
    view: dict[str, Any] = {
        "clientOrderId": "c", "orderId": text.decode("latin-1"), "side": "BUY", "type": "LIMIT", "timeInForce": "GTC",
        "origQty": text.decode("latin-1"), "price": "1", "status": "NEW", "executedQty": "1",
        "cummulativeQuoteQty": "1", "updateTime": text.decode("latin-1"),
    }  # fmt: skip
    binance_json.read_order("A/B", view)


DOORS: Final[Mapping[str, Door]] = {
    "strict JSON": check_json,
    "a start's value": lambda text: read_start(trade, text, 1 << 20),
    "a binary start": lambda text: _intake.read(record(text)),
    "a structured start": lambda text: _intake.read(record(text, _STRUCTURED)),
    "a start's headers": lambda text: _intake.read(record(START, _many_headers(text))),
    "a start's trace": lambda text: _intake.read(record(START, [("traceparent", text), ("tracestate", text)])),
    "a signal": lambda text: read_signal("trade", record(text)),
    "an HTTP body": _body,
    "lines from the command line": lambda text: list(read_lines(io.BytesIO(text), "-")),
    "an array from the command line": lambda text: list(read_lines(io.BytesIO(b"[" + text + b"]"), "-")),
    "a fact's value": lambda text: _everywhere(fact(TradeFilled, text)),
    "a report's value": lambda text: _everywhere(fact(VenueReport, text)),
    "a fact's type": lambda text: _everywhere(fact(TradeFilled, b"{}", ce_type=text)),
    "a fact's id": lambda text: _everywhere(fact(RiskAccepted, b"{}", ce_id=text)),
    "a fact's saga": lambda text: _everywhere(fact(RiskAccepted, b"{}", ce_correlationid=text)),
    "a fact's time": lambda text: _everywhere(fact(RiskAccepted, b"{}", ce_time=text)),
    "a fact's round": lambda text: _everywhere(fact(RiskAccepted, b"{}", ts_round=text, ts_started=text)),
    "a fact's trace": lambda text: _everywhere(fact(RiskAccepted, b"{}", traceparent=text, tracestate=text)),
    "a fact's context": lambda text: _everywhere(fact(RiskAccepted, b'{"exposure":"1"}', ts_context=text)),
    "a fact's headers": lambda text: _everywhere(record(b"{}", _many_headers(text), "trade.events")),
    "a context": _context,
    "a context spliced": lambda text: splice(text, "name", text, 1 << 20),
    "headers kept": lambda text: load_headers(dump_headers(_many_headers(text))),
    "headers read": lambda text: Envelope.from_headers(_many_headers(text)),
    "stored headers": lambda text: load_headers(text.decode("latin-1")),
    "a traceparent": lambda text: next_traceparent(text.decode("latin-1")),
    "a time": lambda text: parse_time(text.decode("latin-1")),
    "a moment": lambda text: read_time(text.decode("latin-1"), "--at"),
    "an order of the venue": _order,
    "an amount": lambda text: format_decimal(Decimal(text.decode("latin-1"))),
    "a signed note": lambda text: open_note(text.decode("latin-1"), {}),
    "a public key": lambda text: Verifier.parse(text.decode("latin-1")),
    "a checkpoint": lambda text: Checkpoint.parse(text.decode("latin-1")),
    "a witness": _witness,
    "an export's line": from_line,
    "an export's proof": from_proof,
    "an export's manifest": Manifest.parse,
    "a database's address": lambda text: _DSN.validate_python(text.decode("latin-1")),
    "a retention": lambda text: parse_schedule(text.decode("latin-1")),
    "a clock tier": lambda text: ClockTier.parse(text.decode("latin-1")),
    "the clock's answers": lambda text: parse_pmc_output(text.decode("latin-1")),
    "a log line": lambda text: redact(None, "info", {"event": text.decode("latin-1")}),
}


def knock(door: Door, text: bytes) -> None:
    """Send a text through a door."""
    try:
        door(text)
    except REFUSALS:
        return
