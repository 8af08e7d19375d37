"""Python's cycle collector, set for processes that make thousands of short-lived objects for each batch of records.

By default it looks after every 700 new objects, and a batch's records, rows and messages are alive together: it went
through all of them again and again and found nothing, for a third of the step path's CPU time.
"""

import gc
from typing import Final

YOUNG: Final = 100_000
"""Objects more than before that make it look at the youngest; a full batch of 1,000 records keeps some 30,000."""
MIDDLE: Final = 20
OLD: Final = 50
"""Looks at one generation that make it look at the next older one too."""


def tune_garbage_collector() -> None:
    """Look for cycles seldom, and never among what the process was started with; to be called once, after imports."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
