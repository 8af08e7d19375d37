"""Every state of twelve plays keeps its promises; each planted bug breaks one in the play that is meant to show it."""

from collections.abc import Callable

import pytest

from tests.model.bugs import BUGS
from tests.model.plays import PLAYS
from tests.model.search import Visited
from tradesaga.sagas.status import Status
from tradesaga.sagas.step_state import RowStatus

FORWARD_OR_BACK = {Status.COMPLETED, Status.ABORTED}
ENDS = {
    "trade": FORWARD_OR_BACK,
    "repeats": FORWARD_OR_BACK,
    "recheck": FORWARD_OR_BACK,
}
"""Where no person is needed, whatever happens; elsewhere some end FAILED, for a reason."""


@pytest.fixture(scope="module")
def visited() -> dict[str, Visited]:
    """Visit every state of every play, once for all tests."""
    return {name: billing.visit() for name, billing in PLAYS.items()}


@pytest.mark.parametrize("play", PLAYS)
def test_every_state_of_a_play_keeps_every_promise(
    visited: dict[str, Visited], play: str, record_property: Callable[[str, object], None]
) -> None:
    """Whole, taken back, or FAILED for a reason that a person can see: nothing twice, nothing in the wrong order."""
    record_property("states", visited[play].states)
    assert visited[play].broken == ""
    assert visited[play].ends.keys() == ENDS.get(play, {*FORWARD_OR_BACK, Status.FAILED})


def test_every_state_of_sagas_and_rows_is_visited(visited: dict[str, Visited]) -> None:
    """The plays together lead through all six states of a saga and all ten of a row."""
    assert frozenset[Status]().union(*(each.statuses for each in visited.values())) == set(Status)
    assert frozenset[RowStatus | None]().union(*(each.rows for each in visited.values())) == {None, *RowStatus}
    assert sum(each.states for each in visited.values()) > 150_000


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    """A way to build this wrong breaks the promise that it would break in earnest."""
    bug = BUGS[name]
    assert PLAYS[bug.play].visit(bug.make).broken.startswith(bug.broken)
