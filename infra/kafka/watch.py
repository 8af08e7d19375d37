"""Watches topics for one process and reports changes of their ids or partition counts.

One request every few seconds, however many groups the process runs; Kafka's clients would notice within a minute.
"""

import asyncio
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from typing import Final
from weakref import WeakKeyDictionary

import structlog

from tradesaga.infra.kafka.errors import KafkaUnavailableError
from tradesaga.infra.kafka.identity import TopicState, open_inspector

EVERY: Final = 2.0
"""Seconds between two checks."""
Changed = Callable[[], None]

_log = structlog.get_logger("topics")
_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, "_Watch"]] = WeakKeyDictionary()


@contextmanager
def watching(brokers: str, topics: Collection[str], changed: Changed) -> Generator[None]:
    """Call `changed` after each change of one of these topics while the context is open."""
    watches = _watches.setdefault(asyncio.get_running_loop(), {})
    watch = watches.setdefault(brokers, _Watch(brokers))
    watch.add(changed, topics)
    try:
        yield
    finally:
        watch.remove(changed)
        if not watch.listeners:
            watches.pop(brokers, None)


def differing(before: Mapping[str, TopicState], now: Mapping[str, TopicState]) -> set[str]:
    """Return the topics that were recreated, repartitioned or deleted."""
    return {name for name, state in before.items() if now.get(name) != state}


class _Watch:
    """Polls one cluster while there are listeners."""

    def __init__(self, brokers: str) -> None:
        self.listeners: dict[Changed, frozenset[str]] = {}
        self._brokers = brokers
        self._task: asyncio.Task[None] | None = None

    def add(self, changed: Changed, topics: Collection[str]) -> None:
        """Add a listener; the first one starts polling."""
        self.listeners[changed] = frozenset(topics)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"topics of {self._brokers}")

    def remove(self, changed: Changed) -> None:
        """Remove a listener; polling ends with the last one."""
        self.listeners.pop(changed, None)
        if not self.listeners and self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        known: dict[str, TopicState] = {}
        while True:
            try:
                async with open_inspector(self._brokers) as inspector:
                    while True:
                        names = frozenset[str]().union(*self.listeners.values())
                        now = await inspector.topics(sorted(names))
                        self._tell(differing(known, now))
                        known = dict(now)
                        await asyncio.sleep(EVERY)
            except KafkaUnavailableError as error:
                _log.info("topics are not watched", why=str(error))
                await asyncio.sleep(EVERY)

    def _tell(self, topics: Collection[str]) -> None:
        for changed, names in list(self.listeners.items()):
            if not names.isdisjoint(topics):
                changed()
