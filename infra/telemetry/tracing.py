"""W3C trace context on every hop; spans only if the OpenTelemetry SDK is installed and the trace is sampled.

The header needs no SDK: a hop keeps the trace's id and flags and sets its own span id as the new parent.
"""

import random
import re
import secrets
from typing import Final

from opentelemetry import trace

from tradesaga.infra.errors import CommandError, ExitCode

_SHAPE: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SAMPLED: Final = 1


def new_traceparent(ratio: float = 0.0) -> str:
    """Return the traceparent of a new trace; `ratio` is the share of sampled traces."""
    sampled = random.random() < ratio  # noqa: S311 - sampling, not security
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{_SAMPLED if sampled else 0:02x}"


def next_traceparent(parent: str) -> str:
    """Return the traceparent of the next hop, with a new span id; empty if `parent` is not a traceparent."""
    return _next_hop(parent) if _SHAPE.fullmatch(parent) else ""


def _next_hop(parent: str) -> str:
    return f"{parent[:36]}{random.getrandbits(64) | 1:016x}{parent[52:]}"


def record_span(name: str, parent: str, started: int, ended: int, **attributes: str | int) -> str:
    """Record one hop of a sampled trace and return the traceparent to pass on; times are nanoseconds since 1970.

    An unsampled trace costs only a new span id. A batch that is rolled back and handled again records its hops again.
    """
    if not _SHAPE.fullmatch(parent):
        return ""
    if not int(parent[-2:], 16) & _SAMPLED:
        return _next_hop(parent)
    trace_id, span_id = int(parent[3:35], 16), int(parent[36:52], 16)
    above = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(_SAMPLED))
    own = trace.get_tracer("tradesaga").start_span(
        name,
        context=trace.set_span_in_context(trace.NonRecordingSpan(above)),
        kind=trace.SpanKind.CONSUMER,
        attributes=attributes,
        start_time=started,
    )
    own.end(end_time=ended)
    made = own.get_span_context()
    # Without an SDK the span is its parent.
    return f"{parent[:36]}{made.span_id:016x}{parent[52:]}" if made.span_id != span_id else _next_hop(parent)


def configure_tracing(ratio: float, service: str) -> None:
    """Export spans as the standard OTEL_ variables configure it, if any trace is sampled.

    Raises `CommandError` (exit 2) when the packages are not installed.
    """
    if not ratio:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise CommandError(
            "tracing-missing", "tracing is enabled, but the tracing extra is not installed", "TRADESAGA_TRACE_RATIO",
            "run `pip install 'tradesaga[tracing]'`, or set it to 0", ExitCode.USAGE,
        ) from error  # fmt: skip
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
