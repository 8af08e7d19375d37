"""The simulated PostgreSQL and the real one say the same to the same scripts."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.simulation.pause_scripts import PAUSE_SCRIPTS
from tests.simulation.rigs import Sessions, real_sessions, sim_sessions, simulate
from tests.simulation.saga_scripts import SAGA_SCRIPTS
from tests.simulation.sql_scripts import SCRIPTS

Script = Callable[[Sessions], Awaitable[Any]]


@pytest.mark.stack
@pytest.mark.parametrize("script", [*SCRIPTS, *SAGA_SCRIPTS, *PAUSE_SCRIPTS], ids=lambda script: script.__name__)
async def test_both_say_the_same(script: Script, database_url: str) -> None:
    """What a script sees of the simulated database is what it sees of PostgreSQL."""
    async with real_sessions(database_url) as sessions:
        real = await script(sessions)

    assert simulate(script, sim_sessions) == real
