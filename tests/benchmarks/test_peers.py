"""What is told of peers: those that are not installed, and what Temporal's histories come to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.load import Counts, End, Load, Told, judge
from tests.benchmarks.peers.on_temporal import ends_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("peer", ["dbos", "restate", "temporal"])
def test_a_peer_that_is_not_installed_is_left_out_and_that_is_told(peer: str, tmp_path: Path) -> None:
    """Where none of the systems asked for is there nothing is started, and the way to get it is named."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--systems", peer],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"not installed, and so left out: {peer}; run `make bench-peers`" in done.stderr
    assert "none of the systems asked for is installed" in done.stderr


def test_a_history_tells_how_a_saga_of_temporal_ended() -> None:
    """Five steps, or seven with the refusal: one more, or one begun again, is a duplicate; no answer is a failure."""
    histories = {
        "done": {"state": "COMPLETED", "steps": 5, "attempts": 1},
        "taken back": {"state": "ABORTED", "steps": 7, "attempts": 1},
        "step more": {"state": "COMPLETED", "steps": 6, "attempts": 1},
        "begun again": {"state": "COMPLETED", "steps": 5, "attempts": 2},
        "given up": {"state": "FAILED", "steps": 3, "attempts": 1},
    }
    ends = ends_of(dict.fromkeys(histories, 11.0), histories)
    assert ends["done"] == End("COMPLETED", 11.0, repeated=False)

    outcome = judge(Told(dict.fromkeys([*histories, "never ended"], 10.0), ends))
    assert outcome.counts == Counts(completed=3, aborted=1, failed=1, lost=1, duplicated=2)
    assert not outcome.counts.as_wanted(Load("happy", 0, 3))
    assert outcome.per_second == 5.0
