"""The watchdog detects a stuck consumer, which is replaced; if that does not help, its process must be restarted.

aiokafka reports no health: a member that missed a rebalance, or whose fetcher has died, looks like one with nothing to
read. A second reader, used only after a long silence, tells them apart: if the broker returns a record to it where the
consumer gets none, the consumer is stuck. An unavailable broker proves nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from tradesaga.infra.clock import elapsed
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.connections import KafkaUnavailableError, Partition


class Action(Enum):
    """What to do with the consumer."""

    FINE = "continue"
    REBUILD = "replace the consumer"
    END = "end the process, for its supervisor to restart it"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a silence is tolerated, in seconds, and how often a consumer is rebuilt.

    `hang` is the time after which a worker whose loop has not completed a turn is considered hung.
    """

    silence: float = 60.0
    rebuilds: int = 3
    hang: float = 120.0

    @property
    def pause(self) -> float:
        """Seconds between two observations."""
        return self.silence / 6


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of a worker at one moment.

    `polls` counts the polls that have returned, `offsets` is where it reads next by partition; `paused`: it fetches
    nothing now; `assigned`: the group has assigned its partitions; `turned` is when its loop last completed a turn.
    """

    polls: int
    offsets: Mapping[Partition, int]
    paused: bool
    assigned: bool
    turned: float


@dataclass
class Watchdog:
    """Decides from observations; times are `elapsed()` seconds, passed in by the caller."""

    patience: Patience = field(default_factory=Patience)
    rebuilt: int = 0
    silent: dict[Partition, int] = field(default_factory=dict[Partition, int])
    """Partitions that have returned nothing for too long, with their next offset."""
    _polls: int = -1
    _begun: float = 0.0
    _polled: float = 0.0
    _assigned: float = 0.0
    _moved: dict[Partition, tuple[int, float]] = field(default_factory=dict[Partition, tuple[int, float]])

    def begin(self, now: float) -> None:
        """Start observing: a new consumer, or the same one after a silence that it did not cause."""
        self._polls, self._begun = -1, now
        self._polled = self._assigned = now
        self._moved.clear()
        self.silent.clear()

    def is_suspicious(self, now: float, sight: Observation) -> bool:
        """Return whether a silence has lasted so long that the broker should be asked."""
        if sight.polls != self._polls or sight.paused:
            self._polls, self._polled = sight.polls, now
        if sight.assigned:
            self._assigned = now
        before = {} if sight.paused else self._moved
        self._moved = {
            place: before[place] if place in before and before[place][0] == offset else (offset, now)
            for place, offset in sight.offsets.items()
        }
        self.silent = {place: offset for place, (offset, since) in self._moved.items() if self._passed(now, since)}
        doubted = bool(self.silent) or self._passed(now, min(self._polled, self._assigned))
        if not doubted and now - self._begun > 2 * self.patience.silence:
            self.rebuilt = 0  # the rebuilt consumer returns records
        return doubted

    def _passed(self, now: float, since: float) -> bool:
        return now - since > self.patience.silence

    def is_hung(self, now: float, sight: Observation) -> bool:
        """Return whether the worker has been blocked so long that only a restart of the process helps."""
        return now - max(sight.turned, self._begun) > self.patience.hang

    def decide(self, now: float, *, waits: bool) -> Action:
        """Decide after the broker has answered; `waits`: it has a record in one of the silent partitions."""
        if not waits and not self._passed(now, min(self._polled, self._assigned)):
            self.rebuilt = 0
            self._moved.clear()
            return Action.FINE
        self.rebuilt += 1
        return Action.REBUILD if self.rebuilt <= self.patience.rebuilds else Action.END


async def watch(
    watchdog: Watchdog, look: Callable[[], Observation], probe: Callable[[Mapping[Partition, int]], Awaitable[bool]]
) -> Action:
    """Watch one consumer until it must be replaced. `probe` returns whether the broker has a record there."""
    watchdog.begin(elapsed())
    while True:
        before = elapsed()
        await asyncio.sleep(watchdog.patience.pause)
        if elapsed() - before > 3 * watchdog.patience.pause:
            watchdog.begin(elapsed())  # the process itself was stopped or starved
            continue
        sight = look()
        if watchdog.is_hung(elapsed(), sight):
            return Action.END
        if not watchdog.is_suspicious(elapsed(), sight):
            continue
        asked = dict(watchdog.silent)
        try:
            async with asyncio.timeout(watchdog.patience.silence):
                waits = await probe(asked)
        except (KafkaUnavailableError, TimeoutError):
            watchdog.begin(elapsed())  # the broker is unavailable
            continue
        # Records may have arrived while the broker was asked.
        if not watchdog.is_suspicious(elapsed(), look()) or asked.items() - watchdog.silent.items():
            continue
        if (verdict := watchdog.decide(elapsed(), waits=waits)) is not Action.FINE:
            return verdict


def stuck_consumer_error(group: str, rebuilds: int) -> CommandError:
    """Return the error of a worker whose rebuilt consumers are stuck too."""
    what = f"the consumer of {group} returns no records although there are some, or its worker hangs"
    return CommandError(
        "consumer-stuck", f"{what}; {rebuilds} rebuilt consumers have not helped", group,
        "restart the process (`tradesaga up` and an orchestrator do so automatically)", ExitCode.UNAVAILABLE,
    )  # fmt: skip
