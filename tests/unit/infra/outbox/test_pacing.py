"""A worker pauses after a small batch only while its thread has no processor to spare."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tradesaga.infra.outbox.pacing import LONGEST, SMALL, BatchTimer, pause_after, read_waiting_time


@pytest.mark.parametrize(
    ("seconds", "busy", "records", "pause"),
    [
        (0.02, 0.019, 1, 0.02),
        (0.02, 0.019, SMALL, 0.02),
        (0.02, 0.019, SMALL + 1, 0.0),
        (0.02, 0.005, 1, 0.0),  # it waited for PostgreSQL
        (0.02, 0.015, 1, 0.0),  # three quarters are not more than three quarters
        (3.0, 3.0, 1, LONGEST),
        (0.0, 0.0, 0, 0.0),
    ],
)
def test_a_pause_is_as_long_as_a_small_batch_that_kept_the_thread_busy(
    seconds: float, busy: float, records: int, pause: float
) -> None:
    """A batch that waited for the server is followed at once, and so is a large one."""
    assert pause_after(seconds, busy, records) == pause


def test_a_thread_that_computes_is_busy_and_one_that_waits_is_not() -> None:
    """The time counts that a thread runs or stands in the processor's queue, not the time in which it sleeps."""
    timer = BatchTimer()
    threading.Event().wait(0.2)
    assert timer.pause(1) == 0.0
    timer = BatchTimer()
    while not timer.pause(1) > 0.0:
        sum(range(1000))


def test_the_queue_for_a_processor_is_measured_by_thread() -> None:
    """It never falls, and a thread that has just begun has hardly waited."""
    before = read_waiting_time()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(read_waiting_time).result() >= 0.0
    assert before <= read_waiting_time()
