"""A record of `trade.signals` as a signal, or as what is wrong with it."""

from typing import Final

from pydantic import ValidationError

from infra.codec import Record
from infra.dead_letters import Fault
from infra.strict_json import StrictJsonError, check_json
from sagas.trading.routing import flaw
from schemas.envelope import SPEC, SPECVERSION, TYPE, foreign_specversion
from schemas.message import wire_type
from schemas.signals import SignalRaised

SIZE_LIMIT: Final = 16 * 1024
"""Bytes of a signal's payload."""
HANDLER: Final = "signal-router"
_SHOWN: Final = 3


def read_signal(saga: str, record: Record) -> SignalRaised | Fault:
    """Read a signal; a record without a type is taken by its payload alone, as starts are."""
    if (version := record.header(SPECVERSION)) not in {b"", SPEC}:
        return Fault("specversion", foreign_specversion(version), HANDLER)
    ce_type = record.header(TYPE).decode("utf-8", "replace")
    wanted = wire_type(saga, SignalRaised)
    if ce_type and ce_type != wanted:
        return Fault("wrong-type", f"the type is {ce_type[:100]!r}; this topic takes {wanted!r}", HANDLER)
    if len(record.value) > SIZE_LIMIT:
        return Fault("too-large", f"the signal has {len(record.value)} bytes; {SIZE_LIMIT} are allowed", HANDLER)
    try:
        check_json(record.value)
        signal = SignalRaised.from_wire(record.value)
    except StrictJsonError as error:
        return Fault("not-json", f"the signal is not JSON that we take: {error}", HANDLER)
    except ValidationError as error:
        return Fault("invalid", _explain(error), HANDLER)
    wrong = flaw(signal)
    return Fault("invalid", wrong, HANDLER) if wrong else signal


def _explain(error: ValidationError) -> str:
    """Name the fields, never their values."""
    wrong = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'signal'}: {each['msg']}" for each in wrong[:_SHOWN])
