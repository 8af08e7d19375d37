"""A few thousand sagas in flight at once; `python -m tests.limits` does the same with ten thousand."""

import pytest

from tests.limits.measure import MEMORY_MB, environment_of, measure

SAGAS = 2000


@pytest.mark.stack
async def test_sagas_that_wait_for_the_venue_wait_together(kafka: str, database_url: str) -> None:
    """All asleep at the venue for a second take their work and that second, and no process passes its memory."""
    figures = await measure(environment_of(kafka, database_url), SAGAS, 1.0)

    assert figures.asleep.open_at_once == SAGAS
    assert figures.asleep.seconds <= figures.allowed
    assert max(*figures.awake.memory_mb.values(), *figures.asleep.memory_mb.values()) <= MEMORY_MB
