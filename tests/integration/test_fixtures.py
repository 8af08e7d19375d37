"""The fixtures that every other test on real servers stands on."""

import asyncpg
import pytest

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_has_a_database_of_its_own(database_url: str, turn: int) -> None:
    """A table that one test makes is not there for the next."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("CREATE TABLE only_mine (turn int)")
        await connection.execute("INSERT INTO only_mine VALUES ($1)", turn)
        assert await connection.fetchval("SELECT sum(turn) FROM only_mine") == turn
    finally:
        await connection.close()
