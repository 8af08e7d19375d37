"""The sagas that the saga log keeps in memory: those heard of last, bounded by number and by bytes."""

from collections import OrderedDict
from typing import Final
from uuid import UUID

from tradesaga.consumers.saga_log.checkpoint import Tracked

CACHED: Final = 20_000
"""Sagas kept: about 3 kB each."""
CACHED_BYTES: Final = 64 * 1024 * 1024
"""Bytes of contexts and parked records kept."""


class SagaCache:
    """What does not fit is forgotten, the longest unheard of first, and read again when it is heard of."""

    def __init__(self, sagas: int = CACHED, size: int = CACHED_BYTES) -> None:
        self._sagas = sagas
        self._limit = size
        self._known: OrderedDict[UUID, tuple[Tracked, int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        """Count the sagas."""
        return len(self._known)

    def get(self, saga_id: UUID) -> Tracked | None:
        """Give a saga as it was kept, if it is still there."""
        found = self._known.get(saga_id)
        return found[0] if found is not None else None

    def keep(self, tracked: Tracked) -> None:
        """Keep a saga in place of what was known of it; one that would not fit alone pushes no other out."""
        self.forget(tracked.saga_id)
        size = _size(tracked)
        if size > self._limit:
            return
        self._known[tracked.saga_id] = (tracked, size)
        self.bytes += size
        while len(self._known) > self._sagas or self.bytes > self._limit:
            _, (_, dropped) = self._known.popitem(last=False)
            self.bytes -= dropped

    def forget(self, saga_id: UUID) -> None:
        """Let a saga go."""
        found = self._known.pop(saga_id, None)
        if found is not None:
            self.bytes -= found[1]

    def clear(self) -> None:
        """Let all go."""
        self._known.clear()
        self.bytes = 0


def _size(tracked: Tracked) -> int:
    context = len(tracked.checkpoint.context) if tracked.checkpoint is not None else 0
    return context + tracked.parked.size
