"""Pauses after small batches while the process is short of processor time, so that the next batch is larger."""

import os
import time
from typing import Final

from tradesaga.infra.clock import elapsed

SMALL: Final = 50
"""Records up to which a batch is small: the costs of its transaction are most of its costs."""
LONGEST: Final = 0.1
"""Maximum seconds of a pause."""
BUSY: Final = 0.75
"""Share of a batch's time in which its thread ran, or waited for a processor, from which the process is short."""
_SCHEDSTAT: Final = "/proc/thread-self/schedstat"


def pause_after(seconds: float, busy: float, records: int) -> float:
    """Return the seconds to pause after a batch that took `seconds`, in which the thread was `busy` for as many.

    A batch mostly waits for PostgreSQL. While its thread is busy all the time, with other batches or in the
    processor's queue, a pause as long as the batch leaves time to others and lets more records arrive.
    """
    return min(seconds, LONGEST) if records <= SMALL and busy > BUSY * seconds else 0.0


def read_waiting_time() -> float:
    """Return the seconds for which this thread has waited for a processor; 0 where Linux does not tell."""
    try:
        file = os.open(_SCHEDSTAT, os.O_RDONLY)
    except OSError:
        return 0.0
    try:
        return int(os.read(file, 80).split()[1]) / 1e9
    finally:
        os.close(file)


class BatchTimer:
    """Measures one batch: the seconds since it was made, and those in which the thread was busy."""

    def __init__(self) -> None:
        self._began = elapsed()
        self._busy = self._read()

    def _read(self) -> float:
        return time.thread_time() + read_waiting_time()

    def pause(self, records: int) -> float:
        """Return the seconds to pause after the batch."""
        return pause_after(elapsed() - self._began, self._read() - self._busy, records)
