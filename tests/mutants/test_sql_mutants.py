"""Mutants in SQL, which PostgreSQL itself gives away."""

import pytest

from tests.mutants.sql import SQL_MUTANTS, SqlMutant
from tests.simulation.rigs import real_sessions, sim_sessions, simulate


@pytest.mark.stack
@pytest.mark.parametrize("mutant", SQL_MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
async def test_postgresql_gives_it_away(mutant: SqlMutant, database_url: str) -> None:
    """With the statement changed, a script sees something else than the shipped statement shows it."""
    shipped = simulate(mutant.script, sim_sessions)
    with mutant.plant():
        async with real_sessions(database_url) as sessions:
            changed = await mutant.script(sessions)

    assert changed != shipped
