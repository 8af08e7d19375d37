"""Settings of Python's cycle collector for processes that create thousands of short-lived objects per batch.

By default it runs after every 700 new objects. A batch's records, rows and messages are alive together, so it scanned
all of them again and again and found nothing, for a third of the step path's CPU time.
"""

import gc
from typing import Final

YOUNG: Final = 100_000
"""Threshold of the youngest generation; a full batch of 1,000 records keeps about 30,000 objects."""
MIDDLE: Final = 20
OLD: Final = 50
"""Collections of one generation after which the next older one is collected too."""


def tune_garbage_collector() -> None:
    """Collect rarely, and never the objects that exist now; call it once, after imports."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
