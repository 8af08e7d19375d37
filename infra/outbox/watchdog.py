"""Notices a consumer that is stuck: rebuilt first, and where that does not help, its process is to be started anew.

aiokafka shows no sign of health: a member that missed a rebalance, or whose fetcher has died, waits for ever and looks
like one for whom there is nothing to read. What tells them apart is a second reader, asked only in a long silence: if
the broker has a record for it where ours gets none, ours is stuck. A broker that is away proves nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from tradesaga.infra.clock import elapsed
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.errors import KafkaUnavailableError


class Action(Enum):
    """What is to be done."""

    FINE = "let it go on"
    REBUILD = "throw the consumer away and make another"
    END = "end the process, for its supervisor to start it anew"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, in seconds, a silence is borne, and how often a rebuilt consumer is given another chance.

    `hang`: the time after which a worker that has not come round once, whatever holds it up, is given up.
    """

    silence: float = 60.0
    rebuilds: int = 3
    hang: float = 120.0

    @property
    def pause(self) -> float:
        """Give the seconds between two looks."""
        return self.silence / 6


@dataclass(frozen=True, slots=True)
class Observation:
    """What one look at a worker shows.

    `polls` that have come back so far; `offsets` is where it would read on; `paused` says that it does not want any
    now, `assigned` that the group has given it its share; `turned` is when it last came round.
    """

    polls: int
    offsets: Mapping[Place, int]
    paused: bool
    assigned: bool
    turned: float


@dataclass
class Watchdog:
    """Judges what is seen; times are `elapsed()` seconds, and it asks no clock itself."""

    patience: Patience = field(default_factory=Patience)
    rebuilt: int = 0
    silent: dict[Place, int] = field(default_factory=dict[Place, int])
    """Partitions from which nothing has come for too long, and where they would be read on."""
    _polls: int = -1
    _begun: float = 0.0
    _polled: float = 0.0
    _assigned: float = 0.0
    _moved: dict[Place, tuple[int, float]] = field(default_factory=dict[Place, tuple[int, float]])

    def begin(self, now: float) -> None:
        """Watch from now on: another consumer, or the same one after a silence that was not its own."""
        self._polls, self._begun = -1, now
        self._polled = self._assigned = now
        self._moved.clear()
        self.silent.clear()

    def is_suspicious(self, now: float, sight: Observation) -> bool:
        """Say whether a silence has lasted so long that the broker should be asked."""
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
            self.rebuilt = 0  # the new one brings what the old one did not
        return doubted

    def _passed(self, now: float, since: float) -> bool:
        return now - since > self.patience.silence

    def is_hung(self, now: float, sight: Observation) -> bool:
        """Say whether the worker has been held up so long that nothing but a new process helps."""
        return now - max(sight.turned, self._begun) > self.patience.hang

    def decide(self, now: float, *, waits: bool) -> Action:
        """Decide, now that the broker has answered; `waits`: it has a record in one of the silent partitions."""
        if not waits and not self._passed(now, min(self._polled, self._assigned)):
            self.rebuilt = 0
            self._moved.clear()
            return Action.FINE
        self.rebuilt += 1
        return Action.REBUILD if self.rebuilt <= self.patience.rebuilds else Action.END


async def watch(
    watchdog: Watchdog, look: Callable[[], Observation], probe: Callable[[Mapping[Place, int]], Awaitable[bool]]
) -> Action:
    """Watch one consumer until something has to be done. `probe` says whether the broker has a record there."""
    watchdog.begin(elapsed())
    while True:
        before = elapsed()
        await asyncio.sleep(watchdog.patience.pause)
        if elapsed() - before > 3 * watchdog.patience.pause:
            watchdog.begin(elapsed())  # the process itself was stopped, or starved; it has seen nothing
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
            watchdog.begin(elapsed())  # the silence is the broker's
            continue
        # What has come while the broker was asked is no silence.
        if not watchdog.is_suspicious(elapsed(), look()) or asked.items() - watchdog.silent.items():
            continue
        if (verdict := watchdog.decide(elapsed(), waits=waits)) is not Action.FINE:
            return verdict


def stuck_consumer_error(group: str, rebuilds: int) -> CommandError:
    """Give the error with which a worker ends that no new consumer has helped."""
    what = f"the consumer of {group} brings nothing though there is something to read, or its worker hangs"
    return CommandError(
        "consumer-stuck", f"{what}; {rebuilds} rebuilt consumers have not helped", group,
        "start the process anew (`tradesaga up` and an orchestrator do it by themselves)", ExitCode.UNAVAILABLE,
    )  # fmt: skip
