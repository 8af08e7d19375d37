"""Two charts as SVG: sagas a second, on a scale of powers of ten, and latency at the open rates."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

WIDTH = 860
LEFT = 190
BAR = 16
GAP = 6
COLOURS = {"tradesaga": "#0b6e4f", "baseline": "#8a8a8a"}
OTHER = "#4a6fa5"


class Bar(NamedTuple):
    """One bar: from 0, or from `low`, to its value, with what is written beside it."""

    label: str
    value: float
    text: str
    colour: str
    low: float = 0.0
    high: float = 0.0


def draw(figures: Sequence[Mapping[str, Any]]) -> str:
    """Draw both charts, one above the other."""
    parts, top = list[str](), 10
    for title, bars in (
        ("sagas per second, flat out", _rates(figures)),
        ("latency, p50 and p99 in ms", _waits(figures)),
    ):
        if bars:
            drawn, height = chart(title, bars, top)
            parts.append(drawn)
            top += height
    style = "font-family:system-ui,sans-serif;font-size:12px;background:#fff"
    body = "".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" style="{style}">{body}</svg>\n'


def _rates(figures: Sequence[Mapping[str, Any]]) -> list[Bar]:
    bars: list[Bar] = []
    for figure in figures:
        if figure["load"]["rate"] or "per_second" not in figure:
            continue
        rate, kind = figure["per_second"], figure["load"]["kind"]
        label = figure["system"] if kind == "happy" else f"{figure['system']}, compensated"
        interval = rate["interval"]
        bars.append(
            Bar(label, rate["median"], f"{rate['median']:,.0f}", _colour(figure), interval["low"], interval["high"])
        )
    return bars


def _waits(figures: Sequence[Mapping[str, Any]]) -> list[Bar]:
    bars: list[Bar] = []
    for figure in sorted(figures, key=lambda one: one["load"]["rate"] or 0):
        latency = figure.get("latency_ms")
        if not latency:
            continue
        p50, p99 = (latency[name]["median"] for name in ("p50", "p99"))
        label = f"{figure['system']}, {figure['load']['rate']}/s"
        bars.append(Bar(label, p50, f"{p50:.0f} · {p99:.0f}", _colour(figure), p50, p99))
    return bars


def _colour(figure: Mapping[str, Any]) -> str:
    return COLOURS.get(figure["system"].split()[0].rstrip(","), OTHER)


def chart(title: str, bars: Sequence[Bar], top: int, left: int = LEFT, decades: int = 1) -> tuple[str, int]:
    """Draw one chart; every bar's line goes from the low to the high end of its interval.

    `left` is the room for labels, `decades` the least powers of ten that are shown.
    """
    most = max(max(bar.value, bar.high) for bar in bars)
    decades = max(decades, math.ceil(math.log10(max(most, 1.1))))

    def across(value: float) -> float:
        return (WIDTH - left - 90) * math.log10(max(value, 1.0)) / decades

    parts = [f'<text x="10" y="{top + 14}" font-weight="bold">{escape(title)}</text>']
    y = top + 26
    foot = y + len(bars) * (BAR + GAP)
    for decade in range(decades + 1):
        x = left + across(10**decade)
        parts.append(f'<line x1="{x:.0f}" y1="{y - 4}" x2="{x:.0f}" y2="{foot}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.0f}" y="{foot + 12}" text-anchor="middle" fill="#666">{_power(decade)}</text>')
    for bar in bars:
        low, high, end = (left + across(value) for value in (bar.low, bar.high, bar.value))
        middle = y + BAR / 2
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(bar.label)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="{BAR}" fill="{bar.colour}"/>')
        parts.append(f'<line x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}" stroke="#000"/>')
        parts.append(f'<text x="{max(end, high) + 6:.1f}" y="{y + 12}">{escape(bar.text)}</text>')
        y += BAR + GAP
    return "".join(parts), foot + 30 - top


def _power(decade: int) -> str:
    return f"{10**decade:,}" if decade < 6 else f"10^{decade}"
