"""Counts the work of the shipped code as it runs: nothing of it is timed, and nothing of it is a copy.

Counted are: the instructions that Python executes; the bytes that each of them allocates, also for a moment (what is
copied in C, is allocated first); the length of what a method of C looks through; and the steps of each `re` pattern of
the shipped modules, as a matcher that backtracks takes them.
"""

import re
import sys
import tracemalloc
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, Final

from tests.linear.matching import Stepper

_SCANS: Final = frozenset({
    "count", "decode", "encode", "find", "index", "insert", "join", "partition", "remove", "replace", "rfind", "rindex",
    "rpartition", "rsplit", "sort", "split", "splitlines", "translate",
})  # fmt: skip
"""Methods of C that look through the object they belong to."""
_WORD: Final = 4
"""Bytes allocated that count as much as one instruction."""
_OWN: Final = 256
"""Bytes that an instruction may allocate uncounted: the meter's own numbers are among them."""


class Meter:
    """What has been counted so far."""

    def __init__(self) -> None:
        self.work = 0.0
        self._before = 0

    def step(self) -> None:
        """Count one."""
        self.work += 1

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """Count an instruction, and what has been allocated since the one before."""
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self.work += 1
        self.allocations()
        return self.trace

    def allocations(self) -> None:
        """Count what has been allocated since the last time, whether it is still held or not."""
        held, peak = tracemalloc.get_traced_memory()
        self.work += max(0, peak - self._before - _OWN) / _WORD
        tracemalloc.reset_peak()
        self._before = held

    def begin(self) -> None:
        """Leave uncounted what has been allocated so far."""
        tracemalloc.reset_peak()
        self._before = tracemalloc.get_traced_memory()[0]

    def profile(self, _frame: FrameType, event: str, called: Any) -> None:
        """Count what a method of C looks through."""
        if event == "c_call" and called.__name__ in _SCANS:
            owner = called.__self__
            if isinstance(owner, (bytes, bytearray, str, list, tuple)):
                self.work += len(owner)  # pyright: ignore[reportUnknownArgumentType]


class CountedPattern:
    """A pattern that answers as the one it stands for, and counts what finding the answer takes."""

    def __init__(self, pattern: "re.Pattern[Any]", meter: Meter) -> None:
        self._pattern = pattern
        self._meter = meter
        self._stepper = Stepper(pattern, meter.step)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pattern, name)
        if name not in {"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}:
            return found

        def counted(*arguments: Any) -> Any:
            text = arguments[-1] if name.startswith("sub") else arguments[0]
            text = text.decode("latin-1") if isinstance(text, bytes) else text
            trace, profile = sys.gettrace(), sys.getprofile()
            sys.settrace(None)
            sys.setprofile(None)
            self._meter.allocations()
            try:
                if name in {"match", "fullmatch"}:
                    self._stepper.match(text, 0, whole=name == "fullmatch")
                elif name == "search":
                    self._stepper.search(text, 0)
                else:
                    self._stepper.search_all(text)
                self._meter.begin()
                return found(*arguments)
            finally:
                sys.settrace(trace)
                sys.setprofile(profile)

        return counted


def measure(run: Callable[[], object], also: Iterable[ModuleType] = ()) -> float:
    """Return the work that `run` takes; patterns of the modules `also` are counted as the shipped ones are."""
    meter = Meter()
    trace, profile, traced = sys.gettrace(), sys.getprofile(), tracemalloc.is_tracing()
    with _counting_patterns(meter, also):
        if not traced:
            tracemalloc.start()
        meter.begin()
        sys.setprofile(meter.profile)
        sys.settrace(meter.trace)
        try:
            run()
        finally:
            sys.settrace(trace)
            sys.setprofile(profile)
            meter.allocations()
            if not traced:
                tracemalloc.stop()
    return meter.work


@contextmanager
def _counting_patterns(meter: Meter, also: Iterable[ModuleType]) -> Generator[None]:
    """Let counting patterns stand in for those of the shipped modules."""
    shipped = [module for name, module in sys.modules.items() if name.startswith("tradesaga.")]
    places: list[tuple[ModuleType, str, re.Pattern[Any]]] = [
        (module, name, value) for module in (*shipped, *also) for name, value in vars(module).items()
        if isinstance(value, re.Pattern)
    ]  # fmt: skip
    for module, name, value in places:
        setattr(module, name, CountedPattern(value, meter))
    try:
        yield
    finally:
        for module, name, value in places:
            setattr(module, name, value)
