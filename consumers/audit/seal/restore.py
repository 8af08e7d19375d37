"""The witness's checkpoints that the database has lost: written into it again, once its records prove to be theirs.

A year of checkpoints is more than fits into memory: some thousands of each log are read ahead, and no more.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

from tradesaga.infra.audit_log.witness import WitnessEntry, WitnessError, WitnessFile

AHEAD: Final = 1000
"""Checkpoints of one log that are read ahead."""


class Restoring:
    """What is owed to some logs: `owed` has, by origin, the sizes between which checkpoints are missing."""

    def __init__(self, witness: WitnessFile, owed: Mapping[str, tuple[int, int]]) -> None:
        self._owed = dict(owed)
        self._queues = {origin: deque[WitnessEntry]() for origin in owed}
        self._lines = witness.read() if owed else iter(())

    def owes(self, origin: str) -> bool:
        """Say whether checkpoints of this log are still missing."""
        return origin in self._owed

    def next(self, origin: str) -> WitnessEntry | None:
        """Give this log's next checkpoint; None while too many of another log wait for its records.

        Raises `WitnessError`.
        """
        queue = self._queues[origin]
        while not queue and all(len(each) < AHEAD for each in self._queues.values()):
            line = next(self._lines, None)
            if line is None:
                raise WitnessError(f"the witness ends before its last checkpoint of {origin}")
            after, last = self._owed.get(line.origin, (0, 0))
            if after < line.size <= last:
                self._queues[line.origin].append(line)
        return queue[0] if queue else None

    def take(self, origin: str) -> WitnessEntry:
        """Give this log's next checkpoint, which is missing no more."""
        found = self._queues[origin].popleft()
        if found.size == self._owed[origin][1]:
            del self._owed[origin], self._queues[origin]
        return found
