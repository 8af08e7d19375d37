"""Mutants of pure rules: each is given away with the rule dropped, and the shipped code withstands the same attack."""

import pytest

from tests.mutants.rules import RULE_MUTANTS, RuleMutant

pytestmark = pytest.mark.parametrize("mutant", RULE_MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))


def test_the_rule_gives_it_away(mutant: RuleMutant) -> None:
    """With the rule dropped, the attack succeeds."""
    with mutant.plant(), pytest.raises(AssertionError):
        mutant.attack()


def test_the_shipped_code_withstands_the_attack(mutant: RuleMutant) -> None:
    """The rule holds."""
    mutant.attack()
