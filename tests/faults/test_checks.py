"""The judge of the fault run: it finds nothing where all is well, and each lie where one is told."""

import pytest

from tests.faults.corruption import LIES, Lie, notice_all
from tests.faults.invariants import CHECKS, judge
from tests.faults.specimen import make_evidence


def test_flawless_evidence_passes_every_check() -> None:
    """Every invariant looks at something and finds nothing."""
    verdicts = judge(make_evidence())
    assert {verdict.name: verdict.findings for verdict in verdicts if not verdict.holds} == {}
    assert [verdict.name for verdict in verdicts] == [f"I{number}" for number in range(1, 14)]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_each_lie_is_noticed(lie: Lie) -> None:
    """The invariant that is there for it says what is wrong, in words."""
    seen = make_evidence()
    lie.change(seen)
    check = next(check for name, _, check in CHECKS if name == lie.noticed_by)
    _, findings = check(seen)
    assert list(findings)


def test_every_invariant_has_a_lie_of_its_own() -> None:
    """A check that nothing can offend would hold for ever."""
    assert {lie.noticed_by for lie in LIES} == {name for name, _, _ in CHECKS}


def test_the_selftest_leaves_the_evidence_as_it_was() -> None:
    """Each lie is told on a copy, so that the next one starts from the truth."""
    seen = make_evidence()
    assert notice_all(seen, lambda _: None) == []
    assert all(verdict.holds for verdict in judge(seen))
