"""W3C trace context, hop by hop."""

import re

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tradesaga.infra.telemetry.tracing import new_traceparent, next_traceparent, record_span

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SHAPE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")


def test_a_hop_keeps_the_trace_and_names_itself() -> None:
    """Trace id and flags stay; the span id is new each time."""
    hops = {next_traceparent(PARENT) for _ in range(100)}
    assert len(hops) == 100
    assert all(SHAPE.fullmatch(hop) and hop[:36] == PARENT[:36] and hop[-2:] == "01" for hop in hops)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "x",
        PARENT.upper(),
        f"{PARENT}-01",
        PARENT.replace("b7ad6b7169203331", "0" * 16),
        f"01{PARENT[2:]}",
        "é" * 55,
    ],
)
def test_what_is_no_traceparent_is_not_passed_on(broken: str) -> None:
    """A header that the standard does not allow ends with us."""
    assert next_traceparent(broken) == ""
    assert record_span("fold", broken, 1, 2) == ""


def test_the_share_of_sampled_traces_is_the_ratio() -> None:
    """None at 0, all at 1; every new trace is of the standard's shape."""
    assert {new_traceparent(0.0)[-2:] for _ in range(50)} == {"00"}
    assert {new_traceparent(1.0)[-2:] for _ in range(50)} == {"01"}
    assert SHAPE.fullmatch(new_traceparent(0.5))


@pytest.mark.parametrize("parent", [PARENT, f"{PARENT[:-2]}00"])
def test_without_an_sdk_a_span_is_one_hop(parent: str) -> None:
    """The trace goes on, sampled or not, with nobody to record it."""
    sent = record_span("fold", parent, 1, 2, saga="trade")
    assert sent[:36] == parent[:36]
    assert sent != parent
    assert sent[-2:] == parent[-2:]


def test_a_sampled_hop_is_recorded_under_the_id_that_is_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The span has the times of the attempt, hangs below the hop before, and the next hop below it."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    monkeypatch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)

    sent = record_span("reserve_funds", PARENT, 1_000, 3_000, saga="trade")
    record_span("check_risk", f"{PARENT[:-2]}00", 1_000, 3_000, saga="trade")

    (span,) = memory.get_finished_spans()
    assert (span.name, span.start_time, span.end_time) == ("reserve_funds", 1_000, 3_000)
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT[36:52]
    assert span.context is not None
    assert sent == f"{PARENT[:36]}{span.context.span_id:016x}-01"
