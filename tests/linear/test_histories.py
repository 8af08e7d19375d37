"""Work grows as the number of records does that somebody sends for one saga, whatever they say."""

from collections.abc import Callable

import pytest

from tests.linear.histories import HISTORIES
from tests.linear.meter import measure
from tests.linear.test_linear import is_linear
from tradesaga.consumers.saga_log import fold, tracked_saga
from tradesaga.sagas import machine

SIZES = (40, 160)
"""Records of the two histories that are compared."""


def works(history: Callable[[int], None]) -> tuple[float, float]:
    """Return the work of a short and of a long history."""
    history(3)  # what is remembered between two sagas is remembered from here on
    return measure(lambda: history(SIZES[0])), measure(lambda: history(SIZES[1]))


@pytest.mark.parametrize("name", HISTORIES)
def test_a_record_costs_the_same_however_many_came_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each history of one saga, with the limits on ids and on parked records let go below the shorter of the two."""
    monkeypatch.setattr(machine, "KNOWN_IDS", 16)
    if name == "deadlines one after another":
        monkeypatch.setattr(fold, "RELEASE_LIMIT", 8)
    work = works(HISTORIES[name])
    assert is_linear(work), work


@pytest.mark.parametrize("name", ["contradictions", "decisions"])
def test_ids_that_are_all_kept_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limit each of them copies all before it."""
    monkeypatch.setattr(machine, "KNOWN_IDS", 10**9)
    assert not is_linear(works(HISTORIES[name]))


def test_parked_records_that_are_copied_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a history of its own for each value, each parked record copies all before it."""

    def copied(records: tracked_saga.ParkedRecords) -> tuple[tracked_saga._History, int]:  # pyright: ignore[reportPrivateUsage]
        return tracked_saga._History(records), 0  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(tracked_saga.ParkedRecords, "_continued", copied)
    assert not is_linear(works(HISTORIES["records that cannot be read"]))
