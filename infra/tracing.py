"""W3C trace context over every hop; spans only where the OpenTelemetry SDK is installed and the trace is sampled.

The header needs no SDK: a hop keeps the trace's id and flags and names itself as the new parent.
"""

import random
import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace

_SHAPE: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SAMPLED: Final = 1


def new_traceparent(ratio: float = 0.0) -> str:
    """Begin a trace; `ratio` is the share of traces whose sampled flag is set."""
    sampled = random.random() < ratio  # noqa: S311 - chooses samples, guards nothing
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{_SAMPLED if sampled else 0:02x}"


def next_traceparent(parent: str) -> str:
    """Give the next hop of a trace: same trace and flags, a span id of its own; nothing for what is no traceparent."""
    if not _SHAPE.fullmatch(parent):
        return ""
    return f"{parent[:36]}{random.getrandbits(64) | 1:016x}{parent[52:]}"


def is_sampled(traceparent: str) -> bool:
    """Say whether the trace's sampled flag is set."""
    return bool(_SHAPE.fullmatch(traceparent)) and int(traceparent[-2:], 16) & _SAMPLED == _SAMPLED


@contextmanager
def span(name: str, traceparent: str, **attributes: str | int) -> Generator[str]:
    """Record one hop as a span and give the traceparent to send on; a trace that is not sampled costs only its id."""
    if not is_sampled(traceparent):
        yield next_traceparent(traceparent)
        return
    parent = trace.NonRecordingSpan(
        trace.SpanContext(
            int(traceparent[3:35], 16), int(traceparent[36:52], 16), is_remote=True, trace_flags=trace.TraceFlags(1)
        )
    )
    tracer = trace.get_tracer("tradesaga")
    context = trace.set_span_in_context(parent)
    with tracer.start_as_current_span(
        name, context=context, kind=trace.SpanKind.CONSUMER, attributes=attributes
    ) as own:
        made = own.get_span_context()
        # Without an SDK the span is its parent.
        recorded = own.is_recording() and made.is_valid
        yield f"{traceparent[:36]}{made.span_id:016x}{traceparent[52:]}" if recorded else next_traceparent(traceparent)
