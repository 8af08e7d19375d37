"""The cycle collector of a service's process."""

import subprocess
import sys

PROGRAM = """
import gc
from tradesaga.infra.garbage_collection import tune_garbage_collector
tune_garbage_collector()
frozen, before = gc.get_freeze_count(), [each["collections"] for each in gc.get_stats()]
alive = [[number] for number in range(75_000)]
after = [each["collections"] for each in gc.get_stats()]
loop = []
loop.append(loop)
del loop
more = [[number] for number in range(125_000)]
print(frozen > 0, after == before, gc.get_stats()[0]["collected"] > 0)
"""


def test_a_batch_is_not_searched_for_cycles_and_cycles_are_found_in_the_end() -> None:
    """What was started with is left out; thousands of living objects cause no search; garbage goes all the same."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "True", "True"]
