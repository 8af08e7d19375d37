"""Commands of the saga log: the owners of steps take them, whatever the record held that brought them about."""

import pytest

from tests.sagas import Held
from tests.unit.consumers.saga_log.rig import RULES, Log
from tradesaga.consumers.saga_log.commands import command
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.lifecycle import AbortRequested

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "headers",
    [
        {"ce_id": b"a\0b"},
        {"ce_id": b"x" * 1500, "traceparent": TRACE, "tracestate": b"x" * 900_000},
        {"traceparent": TRACE, "tracestate": b"a\0b"},
        {"traceparent": b"\0", "tracestate": b"a\0b"},
    ],
    ids=["nul in id", "large state", "nul in state", "no trace"],
)
def test_headers_of_a_forged_record_keep_no_command_from_its_step(log: Log, headers: dict[str, bytes]) -> None:
    """An id with a NUL, or a trace's state that fills a record: the command is small, and its owner reads it."""
    log.say(Held())
    abort = log.partition.record(AbortRequested(operator="eve", reason="x"))
    outcome = log.fold(abort._replace(headers=[*abort.headers, *headers.items()]))
    assert outcome.orders
    for order in outcome.orders:
        made = command(RULES, log.tracked, order, outcome.record, now=1)
        Envelope.from_headers(made.headers)
        assert made.size < 4096


def test_a_command_goes_on_with_the_trace(log: Log) -> None:
    """Where the record that brought it about names one, with its state."""
    log.say(Held())
    abort = log.partition.record(
        AbortRequested(operator="ann", reason="x"), traceparent=TRACE.decode(), tracestate="v=1"
    )
    outcome = log.fold(abort)
    made = Envelope.from_headers(command(RULES, log.tracked, outcome.orders[0], outcome.record, now=1).headers)
    assert (made.traceparent[:35], made.tracestate) == (TRACE.decode()[:35], "v=1")
    assert made.causation.encode() == abort.header("ce_id")
