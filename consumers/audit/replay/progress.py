"""Who is told how far a replay is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reporting:
    """`sized` is told how many records there are, `advance` after each batch how many more have been dealt with."""

    sized: Callable[[int], object]
    advance: Callable[[int], object]


SILENT = Reporting(lambda _: None, lambda _: None)
"""Tells nobody."""
