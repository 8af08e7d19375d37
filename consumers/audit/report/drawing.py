"""Draws a timeline as SVG: a row per step, its attempts as bars, waiting as dotted lines."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from tradesaga.consumers.audit.report.formatting import clock, span
from tradesaga.consumers.audit.report.markup import Markup, element, join
from tradesaga.consumers.audit.report.model import RecordKind, SagaTimeline, TimelineRecord

_RESULTS: Final = {
    RecordKind.STEP_COMPLETE: "done",
    RecordKind.STEP_REFUSED: "refused",
    RecordKind.ATTEMPT_FAILED: "failed",
    RecordKind.STEP_FAILED: "failed",
    RecordKind.STEP_UNKNOWN: "unknown",
    RecordKind.COMPENSATED: "back",
    RecordKind.COMPENSATION_FAILED: "failed",
}
"""The result of an attempt by the kind of its outcome; also a class of its bar."""

_RESULT_TEXTS: Final = {
    "done": "completed",
    "refused": "rejected",
    "failed": "failed",
    "unknown": "outcome unknown",
    "back": "compensated",
}

_FLOOR: Final = 9.0
"""The minimum width in pixels of any time between two events, if there is room."""

_FLOOR_SHARE: Final = 0.45

_BREAK: Final = 1.5
"""A time that is longer than this multiple of all others is shortened."""

_BREAK_SHARE: Final = 0.09


class Bar(NamedTuple):
    """An attempt from start to outcome in nanoseconds; `asked` is the time of its trigger."""

    step: str
    back: bool
    attempt: int
    began: int
    ended: int
    asked: int
    result: str


class StateSpan(NamedTuple):
    """A state of the saga, with its time in nanoseconds."""

    state: str
    began: int
    ended: int


def list_bars(timeline: SagaTimeline) -> list[Bar]:
    """Return all attempts, each with its last known outcome."""
    said = {each.id: each.when for each in timeline.records}
    found: dict[tuple[str, bool, int], Bar] = {}
    for each in timeline.records:
        result = _RESULTS.get(each.kind)
        if result is None or each.started is None or not each.step or each.attempt < 1:
            continue
        ended = max(each.when, each.started)
        asked = min(said.get(each.caused_by, each.started), each.started)
        key = (each.step, each.back, each.started)
        found[key] = Bar(each.step, each.back, each.attempt, each.started, ended, asked, result)
    return list(found.values())


def list_states(timeline: SagaTimeline) -> list[StateSpan]:
    """Return the states of the saga by the times of the records that caused them."""
    turns: list[TimelineRecord] = []
    for each in timeline.records:
        if each.state and (not turns or turns[-1].state != each.state):
            turns.append(each)
    ends = [each.when for each in turns[1:]] + [max(each.when for each in timeline.records)]
    return [StateSpan(turn.state, turn.when, max(turn.when, until)) for turn, until in zip(turns, ends, strict=False)]


class Gap(NamedTuple):
    """A shortened time: its place in pixels, and its length in nanoseconds."""

    left: float
    right: float
    lasts: int


@dataclass(frozen=True)
class Scale:
    """Maps nanoseconds to pixels monotonically."""

    times: Sequence[int]
    places: Sequence[float]
    gaps: Sequence[Gap]

    @classmethod
    def over(cls, times: Iterable[int], left: float, right: float) -> "Scale":
        """Place all times between `left` and `right`.

        Each time between two events gets a minimum width and its share of the rest; times that would leave no room for
        the others are shortened.
        """
        points = sorted(set(times))
        spans = [later - earlier for earlier, later in pairwise(points)]
        if not spans:
            return cls(points, [left] * len(points), ())
        broken = _broken(spans)
        room = right - left
        floor = min(_FLOOR, _FLOOR_SHARE * room / len(spans))
        rest = room - floor * len(spans) - _BREAK_SHARE * room * len(broken)
        whole = sum(each for at, each in enumerate(spans) if at not in broken) or 1
        places, gaps = [left], list[Gap]()
        for at, each in enumerate(spans):
            width = floor + (_BREAK_SHARE * room if at in broken else rest * each / whole)
            places.append(places[-1] + width)
            if at in broken:
                gaps.append(Gap(places[-2], places[-1], each))
        places[-1] = min(places[-1], right)
        return cls(points, places, gaps)

    def at(self, time: int) -> float:
        """Return the place of a time, limited to the first and the last."""
        index = bisect_right(self.times, time) - 1
        if index < 0:
            return self.places[0]
        if index + 1 >= len(self.times):
            return self.places[-1]
        share = (time - self.times[index]) / (self.times[index + 1] - self.times[index])
        return self.places[index] + share * (self.places[index + 1] - self.places[index])


def _broken(spans: Sequence[int]) -> set[int]:
    """Return the indices of the times to shorten, at most four."""
    order = sorted(range(len(spans)), key=lambda at: -spans[at])
    rest, broken = sum(spans), set[int]()
    for at in order[:4]:
        rest -= spans[at]
        if not rest or spans[at] <= _BREAK * rest:
            break
        broken.add(at)
    return broken


_BAR: Final = 14

_LETTER: Final = 6.3
"""The approximate width in pixels of a letter."""

_LONGEST_NAME: Final = 24

_NUMBERED: Final = 10
"""The minimum width in pixels of a bar with a number."""


@dataclass(frozen=True)
class Layout:
    """Width, gutter and row height in pixels; without a gutter, names are above their bars."""

    width: int
    gutter: int
    row: int


WIDE: Final = Layout(960, 150, 30)

NARROW: Final = Layout(370, 0, 42)


def draw(timeline: SagaTimeline, layout: Layout) -> Markup:
    """Return the SVG of a timeline."""
    return _Drawing(timeline, layout).draw()


class _Drawing:
    def __init__(self, timeline: SagaTimeline, layout: Layout) -> None:
        self.timeline = timeline
        self.layout = layout
        self.bars = list_bars(timeline)
        self.seals = sorted({each.seal.time for each in timeline.records if each.seal.time})
        times = [_placed(each) for each in timeline.records] + self.seals
        times += [note for bar in self.bars for note in (bar.asked, bar.began, bar.ended)]
        self.scale = Scale.over(times, layout.gutter + 2, layout.width - 8)
        self.top = 44
        self.rows = self._rows()
        self.bottom = self.top + layout.row * len(self.rows)

    def _rows(self) -> list[str]:
        """Return the rows: steps with attempts, reports from outside, and operators."""
        shown = {bar.step for bar in self.bars}
        rows = [step for step in self.timeline.steps if step in shown]
        if any(_mark(each) == "outside" for each in self.timeline.records):
            rows.append("\0outside")
        if any(_mark(each) == "person" for each in self.timeline.records):
            rows.append("\0person")
        return rows

    def _middle(self, row: str) -> float:
        return self.top + self.layout.row * (self.rows.index(row) + 1) - _BAR / 2 - 5

    def draw(self) -> Markup:
        height = self.bottom + (34 if self.seals else 10)
        parts = [self._gaps(), self._axis(), self._states(), *(self._row(row) for row in self.rows)]
        parts += [self._marks(), self._seals()]
        label = f"Timeline: {self.timeline.headline}"
        box = f"0 0 {self.layout.width} {height:.0f}"
        return element("svg", *parts, viewBox=box, role="img", aria_label=label, class_="timeline")

    def _gaps(self) -> Markup:
        """Draw shortened times with their length."""
        drawn: list[Markup] = []
        for left, right, lasts in self.scale.gaps:
            middle, height = (left + right) / 2, self.bottom - self.top + 8
            title, label = element("title", f"{span(lasts)}, not to scale"), span(lasts)
            shown = label if len(label) * _LETTER < right - left + 4 else ""
            drawn += [
                element("rect", title, x=left, y=self.top - 4, width=right - left, height=height, class_="gap"),
                element("text", shown, x=middle, y=self.top + 5, class_="label gap-label center"),
            ]
        return join(*drawn)

    def _axis(self) -> Markup:
        """Draw the times since the beginning where there is room."""
        drawn: list[Markup] = []
        free, begin = float(self.layout.gutter), self.scale.times[0]
        broken = [(gap.left, gap.right) for gap in self.scale.gaps]
        for time in self.scale.times:
            place, label = self.scale.at(time), f"+{span(time - begin)}" if time > begin else clock(time)
            width = len(label) * _LETTER
            if place < free or place + width > self.layout.width:
                continue
            if any(left < place < right for left, right in broken):
                continue
            drawn += [
                element("line", x1=place, x2=place, y1=16, y2=self.bottom, class_="tick"),
                element("text", label, x=place + 3, y=11, class_="label axis"),
            ]
            free = place + width + 18
        return join(*drawn)

    def _states(self) -> Markup:
        """Draw the states as a band."""
        drawn: list[Markup] = []
        for state, began, ended in list_states(self.timeline):
            left = self.scale.at(began)
            width = max(self.scale.at(ended) - left, 3)
            shown = state if len(state) * _LETTER + 8 < width else ""
            drawn.append(
                element("g", element("title", f"{state}: {span(ended - began)}"),
                        element("rect", x=left, y=18, width=width, height=14, rx=3, class_=f"state {state.lower()}"),
                        element("text", shown, x=left + 5, y=28.5, class_="label on"))
            )  # fmt: skip
        return join(*drawn)

    def _row(self, row: str) -> Markup:
        middle = self._middle(row)
        name = {"\0outside": "outside reports", "\0person": "operators, deadline"}.get(row, row)
        short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"
        bars = sorted((bar for bar in self.bars if bar.step == row), key=lambda bar: bar.began)
        base = element(
            "line", x1=self.layout.gutter, x2=self.layout.width, y1=middle + 12, y2=middle + 12, class_="base"
        )
        return join(
            base,
            self._name(short, middle + 4, middle - 12),
            self._waits(bars, middle),
            *(self._bar(bars, at, middle) for at in range(len(bars))),
        )

    def _waits(self, bars: Sequence[Bar], middle: float) -> Markup:
        """Draw the time between the trigger, or an attempt's end, and the next attempt as dotted lines."""
        drawn: list[Markup] = []
        for at, bar in enumerate(bars):
            since = _since(bars, at)
            left, right = self.scale.at(since), self.scale.at(bar.began)
            if right - left > 1:
                title = element("title", f"waited {span(bar.began - since)}")
                drawn.append(element("line", title, x1=left, x2=right, y1=middle, y2=middle, class_="wait"))
        return join(*drawn)

    def _bar(self, bars: Sequence[Bar], at: int, middle: float) -> Markup:
        bar = bars[at]
        left, right = self.scale.at(bar.began), self.scale.at(bar.ended)
        right = max(right, left + 3)
        waits = bar.step in self.timeline.waiting and not bar.back and bar.result in {"done", "refused"}
        look = f"bar {bar.result} waiting" if waits else f"bar {bar.result}"
        what = f"{'compensation of ' if bar.back else ''}{bar.step}, attempt {bar.attempt}: {_RESULT_TEXTS[bar.result]}"
        took = span(bar.ended - bar.began)
        parts = [
            element("title", f"{what}, {took}"),
            element("rect", x=left, y=middle - _BAR / 2, width=right - left, height=_BAR, rx=3, class_=look),
        ]
        if bar.result == "failed" and right - left >= _NUMBERED:
            number = element("text", str(bar.attempt), x=(left + right) / 2, y=middle + 3.5, class_="label on center")
            parts.append(number)
        shown = f"\N{LEFTWARDS ARROW} {took}" if bar.back and bar.result == "back" else took
        begins = min([self.scale.at(_since(bars, later)) for later in range(at + 1, len(bars))] + [self.layout.width])
        if begins - right > len(shown) * _LETTER + 8:
            parts.append(element("text", shown, x=right + 4, y=middle + 4, class_="label took"))
        return element("g", *parts)

    def _marks(self) -> Markup:
        """Draw reports from outside as dots, operators' decisions as diamonds and a deadline as a line."""
        drawn: list[Markup] = []
        for each in self.timeline.records:
            mark = _mark(each)
            if not mark:
                continue
            place, middle = self.scale.at(_placed(each)), self._middle(f"\0{mark}")
            title = element("title", f"{clock(each.when)} {each.sentence}")
            if mark == "outside":
                kind = "dot late" if each.kind in {RecordKind.LATE, RecordKind.DUPLICATE, RecordKind.PARKED} else "dot"
                drawn.append(element("circle", title, cx=place, cy=middle, r=4.5, class_=kind))
                continue
            if each.kind is RecordKind.DEADLINE:
                drawn.append(element("line", x1=place, x2=place, y1=self.top - 6, y2=self.bottom, class_="deadline"))
            turned = f"rotate(45 {place:.2f} {middle:.2f})"
            kind = "deadline-mark" if each.kind is RecordKind.DEADLINE else "person"
            drawn.append(
                element("rect", title, x=place - 5, y=middle - 5, width=10, height=10, transform=turned, class_=kind)
            )
        return join(*drawn)

    def _seals(self) -> Markup:
        """Draw the checkpoints at the time of their signature."""
        if not self.seals:
            return join()
        line = self.bottom + 14
        drawn = [element("line", x1=self.layout.gutter, x2=self.layout.width, y1=line, y2=line, class_="base")]
        for time in self.seals:
            place = self.scale.at(time)
            title = element("title", f"checkpoint signed {clock(time, 9)}")
            points = f"{place:.2f},{line - 6:.2f} {place + 6:.2f},{line + 5:.2f} {place - 6:.2f},{line + 5:.2f}"
            drawn.append(element("polygon", title, points=points, class_="seal"))
        return join(*drawn, self._name("checkpoints", line + 4, line + 16))

    def _name(self, text: str, wide: float, narrow: float) -> Markup:
        """Draw the name of a row: in the gutter at the height `wide`, or without a gutter at `narrow`."""
        gutter = self.layout.gutter
        if not gutter:
            return element("text", text, x=0, y=narrow, class_="label name")
        return element("text", text, x=gutter - 12, y=wide, class_="label name end")


def _since(bars: Sequence[Bar], at: int) -> int:
    """Return the end of the previous attempt, or the trigger of the first."""
    bar, before = bars[at], bars[at - 1] if at else None
    again = before is not None and before.back == bar.back and bar.attempt > 1
    return min(before.ended, bar.began) if before is not None and again else bar.asked


def _placed(told: TimelineRecord) -> int:
    """Return the time of a record; for a duplicate, when it was recorded."""
    return told.recorded if told.kind is RecordKind.DUPLICATE else told.when


def _mark(told: TimelineRecord) -> str:
    """Return the row of a record's mark; empty if it has none."""
    if told.kind in {RecordKind.OPERATOR, RecordKind.DEADLINE}:
        return "person"
    outside = told.attempt < 1 and told.kind is not RecordKind.START
    return "outside" if outside or told.kind in {RecordKind.DUPLICATE, RecordKind.LATE, RecordKind.PARKED} else ""
