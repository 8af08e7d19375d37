"""What a system is asked to do, and what became of it, told by the system's own records."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

Kind = Literal["happy", "compensated"]
COMPLETED: Final = "COMPLETED"
ABORTED: Final = "ABORTED"


class Load(NamedTuple):
    """Some sagas of one kind, started at a rate a second; 0 is flat out."""

    kind: Kind
    rate: int
    sagas: int

    @property
    def name(self) -> str:
        """Name the load, whatever its size."""
        return f"{self.kind}, {f'{self.rate}/s' if self.rate else 'flat out'}"


class End(NamedTuple):
    """How one saga ended, by the system's records; `at` in seconds since 1970, when the end was durable."""

    state: str
    at: float
    repeated: bool
    """A step of it was recorded more often than once."""


class Ran(NamedTuple):
    """What a load's generator knows: when each saga was meant to start and, where it is told, how it was answered."""

    starts: Mapping[str, float]
    generator_cpu: float = 0.0
    """CPU-seconds of what started the sagas, where that is no part of the system."""
    answers: Mapping[str, tuple[str, float]] = {}


class Told(NamedTuple):
    """The times at which sagas were meant to start, and the ends that the system has recorded."""

    starts: Mapping[str, float]
    ends: Mapping[str, End]


class Counts(NamedTuple):
    """How many sagas ended how."""

    completed: int
    aborted: int
    failed: int
    lost: int
    duplicated: int

    def as_wanted(self, load: Load) -> bool:
        """Say whether every saga ended as its kind does, once."""
        wanted = self.completed if load.kind == "happy" else self.aborted
        return wanted == load.sagas and not self.duplicated


class Outcome(NamedTuple):
    """What one load came to; latencies in seconds, in order, from the moment a saga was meant to start."""

    per_second: float
    latencies: Sequence[float]
    counts: Counts


def judge(told: Told) -> Outcome:
    """Compare what was started with what was recorded.

    A start that came late counts from when it was due: what waits behind a slow system is not left out.
    """
    ends = {saga: told.ends[saga] for saga in told.starts if saga in told.ends}
    states = [end.state for end in ends.values()]
    completed, aborted = states.count(COMPLETED), states.count(ABORTED)
    counts = Counts(
        completed, aborted, len(ends) - completed - aborted, len(told.starts) - len(ends),
        sum(end.repeated for end in ends.values()),
    )  # fmt: skip
    seconds = max((end.at for end in ends.values()), default=0.0) - min(told.starts.values())
    latencies = sorted(end.at - told.starts[saga] for saga, end in ends.items())
    return Outcome(len(ends) / seconds if seconds > 0 else 0.0, latencies, counts)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Give the smallest value that at least this share of all does not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
