"""Work grows as the input does, for every door and every shape of input; and the count sees what does not."""

import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Final

import pytest
import structlog

from tests.linear import doors, old_nesting
from tests.linear.doors import DOORS, knock
from tests.linear.meter import measure
from tests.linear.shapes import KNOWN, Shape, drawn
from tradesaga.infra.starts import strict_json
from tradesaga.infra.starts.strict_json import StrictJsonError

SEEDS: Final = (11, 12)
"""Seeds of drawn shapes; one that has found something is added and stays."""
DRAWN: Final = 6
SIZES: Final = (160, 640)
"""Bytes of the two inputs that are compared."""
STEEPEST: Final = 5.5
"""Times the work of the first that the second may take: four for linear work, less with a constant part, sixteen for
quadratic work."""
SLACK: Final = 3000.0
"""Work that may come with a branch that only the longer one takes, such as one more error described."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log to nobody, and leave room for a matcher that calls itself for each repetition."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    structlog.configure(processors=[_say_nothing], logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()
    sys.setrecursionlimit(limit)


def _say_nothing(*_: object) -> str:
    return ""


def works(run: Callable[[bytes], object], shape: Shape, also: Sequence[ModuleType] = ()) -> tuple[float, float]:
    """Return the work of a short and of a long input."""
    short, long = map(shape.grow, SIZES)
    run(short)  # what is remembered between two calls is remembered from here on
    return measure(lambda: run(short), also), measure(lambda: run(long), also)


def is_linear(work: tuple[float, float]) -> bool:
    """Judge the work of a short and of a long input."""
    return work[1] <= STEEPEST * work[0] + SLACK


@pytest.mark.parametrize("name", DOORS)
def test_what_has_broken_parsers_costs_in_proportion(name: str) -> None:
    """Each known shape, through each door."""
    found = {str(shape): works(lambda text: knock(DOORS[name], text), shape) for shape in KNOWN}
    assert {shape: work for shape, work in found.items() if not is_linear(work)} == {}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", DOORS)
def test_whatever_comes_costs_in_proportion(name: str, seed: int) -> None:
    """Shapes drawn by a seed, through each door."""
    found = {str(shape): works(lambda text: knock(DOORS[name], text), shape) for shape in drawn(seed, DRAWN)}
    assert {shape: work for shape, work in found.items() if not is_linear(work)} == {}, f"seed {seed}"


def test_the_pattern_that_was_quadratic_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bracket counter of before, the property fails for the value that once stopped every door."""
    monkeypatch.setattr(strict_json, "_check_nesting", old_nesting.check_nesting)
    assert not is_linear(works(lambda text: knock(DOORS["strict JSON"], text), KNOWN[0], [old_nesting]))


def scan_a_list(text: bytes) -> None:
    """Look for each member in a list."""
    names = list(text)
    for name in names:
        names.count(name)


def join_one_by_one(text: bytes) -> None:
    """Copy all for each byte."""
    whole = b""
    for byte in text:
        whole = whole + bytes([byte])


def cut_from_the_front(text: bytes) -> None:
    """Copy the rest for each byte."""
    while text:
        text = text[1:]


def rebuild_a_tuple(text: bytes) -> None:
    """Copy all for each member."""
    found: tuple[int, ...] = ()
    for byte in text:
        found = (*found, byte)


@pytest.mark.parametrize("run", [scan_a_list, join_one_by_one, cut_from_the_front, rebuild_a_tuple])
def test_quadratic_work_in_c_is_seen(run: Callable[[bytes], object]) -> None:
    """Each habit by which a loop in Python is linear and what it calls is not."""
    assert not is_linear(works(run, KNOWN[1]))


def test_no_door_lets_anything_else_out() -> None:
    """Beside its refusals a door raises nothing; the record before and the record behind are not its business."""
    for shape in (*KNOWN, *drawn(1, 40)):
        for size in (10, 1000):
            for name in ("a binary start", "a structured start", "a signal", "a start's headers", "a start's trace"):
                try:
                    DOORS[name](shape.grow(size))
                except (doors.StartInvalidError, StrictJsonError):
                    continue
