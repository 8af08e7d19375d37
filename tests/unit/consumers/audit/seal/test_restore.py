"""Checkpoints that the database has lost are read ahead of their records, a bounded number of each log."""

from pathlib import Path

import pytest

from tradesaga.consumers.audit.seal import sealer
from tradesaga.consumers.audit.seal.sealer import CheckpointRestore
from tradesaga.infra.audit_log.witness import WitnessEntry, WitnessError, WitnessFile

FAST, SLOW, OTHER = "desk/trade.events/0", "desk/trade.events/1", "desk/trade.events/2"


@pytest.fixture
def witness(tmp_path: Path) -> WitnessFile:
    """Give a witness of three logs, told in turn."""
    file = WitnessFile(tmp_path / "witness.jsonl")
    file.append(WitnessEntry(origin, size, "") for size in range(1, 31) for origin in (FAST, SLOW, OTHER))
    return file


def test_what_is_missing_comes_in_order(witness: WitnessFile) -> None:
    """Of the logs to which it is owed, between the sizes that are missing, and no more."""
    owed = CheckpointRestore(witness, {FAST: (10, 30), SLOW: (28, 29)})
    assert [owed.owes(origin) for origin in (FAST, SLOW, OTHER)] == [True, True, False]
    taken: list[int] = []
    while owed.owes(FAST):
        due = owed.next(FAST)
        assert due == owed.next(FAST)
        taken.append(owed.take(FAST).size)
    assert taken == list(range(11, 31))
    assert owed.take(SLOW).size == 29
    assert not owed.owes(SLOW)


def test_a_log_whose_records_do_not_come_bounds_what_is_read_ahead(
    witness: WitnessFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on as far as that reaches, wait, and go on once it has moved."""
    monkeypatch.setattr(sealer, "AHEAD", 5)
    owed = CheckpointRestore(witness, {FAST: (0, 30), SLOW: (0, 30)})
    while (due := owed.next(FAST)) is not None:
        assert owed.take(FAST) == due
    first = owed.next(SLOW)
    assert first is not None
    assert first.size == 1
    assert owed.take(SLOW) == first
    following = owed.next(FAST)
    assert following is not None
    assert 5 <= following.size <= 7


def test_a_witness_that_became_shorter_is_an_error(witness: WitnessFile) -> None:
    """It had a later checkpoint when it was looked at."""
    owed = CheckpointRestore(witness, {FAST: (29, 31)})
    owed.next(FAST)
    owed.take(FAST)
    with pytest.raises(WitnessError, match="ends before its last checkpoint"):
        owed.next(FAST)
