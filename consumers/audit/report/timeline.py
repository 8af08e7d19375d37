"""When what happened: bars of attempts, marks, and a scale that lets short and long times stand side by side."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

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
_FLOOR: Final = 9.0
"""Pixels that any time between two happenings gets, if there is room."""
_FLOOR_SHARE: Final = 0.45
_BREAK: Final = 1.5
"""A time this often as long as all others together is drawn broken."""
_BREAK_SHARE: Final = 0.09


class Bar(NamedTuple):
    """One attempt, from its start to its outcome, in nanoseconds; `asked` is when what caused it was said."""

    step: str
    back: bool
    attempt: int
    began: int
    ended: int
    asked: int
    result: str


class StateSpan(NamedTuple):
    """A state that the saga was in."""

    state: str
    began: int
    ended: int


def list_bars(timeline: SagaTimeline) -> list[Bar]:
    """Return the attempts that records tell of, each once: what was unknown at first counts by how it came out."""
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
    """Return the states that the saga went through, by the times of the records that brought them about."""
    turns: list[TimelineRecord] = []
    for each in timeline.records:
        if each.state and (not turns or turns[-1].state != each.state):
            turns.append(each)
    ends = [each.when for each in turns[1:]] + [max(each.when for each in timeline.records)]
    return [StateSpan(turn.state, turn.when, max(turn.when, until)) for turn, until in zip(turns, ends, strict=False)]


class Gap(NamedTuple):
    """A time that is drawn broken: where, in pixels, and how long it really is, in nanoseconds."""

    left: float
    right: float
    lasts: int


@dataclass(frozen=True)
class Scale:
    """From nanoseconds to pixels: ever further right, never beyond `right`."""

    times: Sequence[int]
    places: Sequence[float]
    gaps: Sequence[Gap]

    @classmethod
    def over(cls, times: Iterable[int], left: float, right: float) -> "Scale":
        """Lay out all that happens between two edges.

        Every time between two happenings has some room and, beyond that, as much as is its share; one that would leave
        no room for the others is broken.
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
        """Return the place of a time; one before the first or after the last has theirs."""
        index = bisect_right(self.times, time) - 1
        if index < 0:
            return self.places[0]
        if index + 1 >= len(self.times):
            return self.places[-1]
        share = (time - self.times[index]) / (self.times[index + 1] - self.times[index])
        return self.places[index] + share * (self.places[index + 1] - self.places[index])


def _broken(spans: Sequence[int]) -> set[int]:
    """Choose the times that are drawn broken, four at most."""
    order = sorted(range(len(spans)), key=lambda at: -spans[at])
    rest, broken = sum(spans), set[int]()
    for at in order[:4]:
        rest -= spans[at]
        if not rest or spans[at] <= _BREAK * rest:
            break
        broken.add(at)
    return broken
