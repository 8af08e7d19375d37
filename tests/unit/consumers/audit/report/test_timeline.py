"""The drawing of a story: nothing lies outside it, later is never further left, and what was waited for is dotted."""

import itertools
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.consumers.audit.report.stories import Teller, compensated, completed, hard, resolved, story_of
from tradesaga.consumers.audit.report.drawing import NARROW, WIDE, Layout, Scale, draw, list_bars, list_states
from tradesaga.consumers.audit.report.formatting import harmless, span

TIMES = st.lists(st.integers(-(2**63), 2**63), min_size=1, max_size=60)


@given(TIMES, st.lists(st.integers(-(2**64), 2**64), max_size=20))
def test_later_is_never_further_left(times: list[int], others: list[int]) -> None:
    """And nothing is beyond the edges, whatever the clocks said."""
    scale = Scale.over(times, 10.0, 500.0)
    asked = sorted(times + others)
    places = [scale.at(time) for time in asked]
    assert all(10.0 - 1e-6 <= place <= 500.0 + 1e-6 for place in places)
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(places))


def test_short_times_can_be_seen_beside_long_ones() -> None:
    """A millisecond next to hours has some pixels; the hours are cut short and say so."""
    hour = 3600 * 10**9
    scale = Scale.over([0, 10**6, 2 * 10**6, hour], 0.0, 800.0)
    assert scale.at(10**6) > 8
    assert [gap.lasts for gap in scale.gaps] == [hour - 2 * 10**6]
    assert Scale.over([5], 3.0, 800.0).at(5) == 3.0


@pytest.mark.parametrize("layout", [WIDE, NARROW])
@pytest.mark.parametrize("make", [completed, compensated, resolved, hard])
def test_every_attempt_has_its_bar(make: Callable[[], Teller], layout: Layout) -> None:
    """Each once, with its result; dotted lines lead from what asked for it, or from the attempt before."""
    story = story_of(make())
    drawn = draw(story, layout)
    bars = list_bars(story)
    assert len(re.findall(r'class="bar ', drawn)) == len(bars) == sum(len(each.before) for each in story.records)
    assert drawn.count('class="wait"') == len(bars)
    for place in re.findall(r' (?:x|x1|x2|cx)="(-?[\d.]+)"', drawn):
        assert -1 <= float(place) <= layout.width
    states = list_states(story)
    assert [each.state for each in states][-1] == story.state
    assert all(one.ended == other.began for one, other in itertools.pairwise(states))


@pytest.mark.parametrize(
    ("nanoseconds", "told"),
    [
        (0, "0 ns"), (999, "999 ns"), (1000, "1 \N{MICRO SIGN}s"), (1_500_000, "1.5 ms"), (99_960_000, "100 ms"),
        (9_996_000_000, "10 s"), (61 * 10**9, "1 min 1 s"), (3661 * 10**9, "1 h 1 min"), (-2000, "-2 \N{MICRO SIGN}s"),
    ],
)  # fmt: skip
def test_spans_are_written_as_people_do(nanoseconds: int, told: str) -> None:
    """To three digits, in the unit that fits."""
    assert span(nanoseconds) == told


def test_what_would_steer_is_shown() -> None:
    """Control characters and direction marks become their numbers; what is too long is cut and says how much."""
    assert harmless("a\x1b[1m\u202eb\n") == "a\\u{1b}[1m\\u{202e}b\\u{a}"
    assert harmless("x" * 12, 10) == "x" * 10 + "\N{HORIZONTAL ELLIPSIS} (2 more)"
