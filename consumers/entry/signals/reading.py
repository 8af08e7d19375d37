"""A record of `trade.signals` as a signal, or as what is wrong with it."""

from typing import Final

import structlog
from pydantic import ValidationError

from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.dead_letters import READING_ERRORS, UNREADABLE, RecordFault
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json
from tradesaga.sagas.trade.routing import flaw
from tradesaga.schemas.envelope import SPEC, SPECVERSION, TYPE, foreign_specversion
from tradesaga.schemas.invalid import describe_invalid
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.signals import SignalRaised

SIZE_LIMIT: Final = 16 * 1024
"""Bytes of a signal's payload."""
HANDLER: Final = "signal-router"


def read_signal(saga: str, record: Record) -> SignalRaised | RecordFault:
    """Read a signal; a record without a type is taken by its payload alone, as starts are.

    A fault of ours in reading costs this record, and holds up nobody behind it.
    """
    try:
        return _read(saga, record)
    except READING_ERRORS as error:
        place = f"{record.topic}[{record.partition}]@{record.offset}"
        structlog.get_logger(HANDLER).exception("record cannot be read", place=place, exc_info=error)
        return RecordFault(UNREADABLE, f"the record cannot be read: {type(error).__name__}", HANDLER)


def _read(saga: str, record: Record) -> SignalRaised | RecordFault:
    if (version := record.header(SPECVERSION)) not in {b"", SPEC}:
        return RecordFault("specversion", foreign_specversion(version), HANDLER)
    ce_type = record.header(TYPE).decode("utf-8", "replace")
    wanted = wire_type(saga, SignalRaised)
    if ce_type and ce_type != wanted:
        return RecordFault("wrong-type", f"the type is {ce_type[:100]!r}; this topic takes {wanted!r}", HANDLER)
    if len(record.value) > SIZE_LIMIT:
        return RecordFault("too-large", f"the signal has {len(record.value)} bytes; {SIZE_LIMIT} are allowed", HANDLER)
    try:
        check_json(record.value)
        signal = SignalRaised.from_wire(record.value)
    except StrictJsonError as error:
        return RecordFault("not-json", f"the signal is not JSON that we take: {error}", HANDLER)
    except ValidationError as error:
        return RecordFault("invalid", describe_invalid(error, "signal"), HANDLER)
    wrong = flaw(signal)
    return RecordFault("invalid", wrong, HANDLER) if wrong else signal
