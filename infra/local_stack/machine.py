"""The defaults of a stack that follow from the size of the machine."""

import os
from typing import Final, NamedTuple

from tradesaga.schemas.topics import PARTITIONS

SMALL_CORES: Final = 2
SMALL_PARTITIONS: Final = 3


class Defaults(NamedTuple):
    """The partitions of new topics, and whether all services share one process."""

    partitions: int
    together: bool


def defaults() -> Defaults:
    """Return the defaults on this machine.

    Where two cores serve everything, each process and each partition costs CPU and gains nothing (docs/scaling.md).
    """
    return Defaults(SMALL_PARTITIONS, together=True) if cores() <= SMALL_CORES else Defaults(PARTITIONS, together=False)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
