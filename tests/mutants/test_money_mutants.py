"""Mutants of what money believes: an attack moves money with each of them planted, and none as the code is shipped."""

import pytest

from tests.integration.consumers.services.rig import trade_rig
from tests.mutants.money import MONEY_MUTANTS, MoneyMutant
from tradesaga.infra.postgres.database import session

pytestmark = [
    pytest.mark.stack,
    pytest.mark.parametrize("mutant", MONEY_MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_")),
]


async def test_the_ledger_gives_it_away(mutant: MoneyMutant, database_url: str) -> None:
    """With the comparison dropped, the attack succeeds."""
    with mutant.plant():
        async with session(database_url) as sql, trade_rig(sql) as rig:
            with pytest.raises(AssertionError):
                await mutant.attack(rig)


async def test_the_shipped_code_withstands_the_attack(mutant: MoneyMutant, database_url: str) -> None:
    """Nothing moves."""
    async with session(database_url) as sql, trade_rig(sql) as rig:
        await mutant.attack(rig)
