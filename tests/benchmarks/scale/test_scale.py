"""The measurement of size in little, on real servers, as a person runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
PARTS = "in-flight,growth,restart,rebalance"
"""Saturation is a matter of minutes, not of a short test; `make scale ARGS=--small` runs it too."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run all but saturation; what is printed as JSON is what the file holds."""
    out = tmp_path_factory.mktemp("scale") / "scale.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.scale", "--small", "--json", f"--parts={PARTS}", f"--out={out}"],
        env={**os.environ, "TRADESAGA_KAFKA_HEAP": "256m"}, cwd=Path(__file__).parents[3], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    assert json.loads(done.stdout) == told
    return {part["part"]: part for part in told}


def test_every_size_has_its_figures(parts: dict[str, dict[str, Any]]) -> None:
    """Sagas in flight, and sagas in the database, are as many as were asked for, and cost something."""
    flying, grown = parts["in_flight"]["rows"], parts["growth"]["rows"]
    assert [row["in_flight"] for row in flying] == [0, 50, 200]
    assert [row["sagas"] for row in grown] == [1000]
    for row in flying[1:]:
        assert row["ended_a_second"] > 0
        assert row["services_cpu_ms"] > 0
        assert set(row["memory_mb"]) == {"waiting-steps", "waiting-log"}
    for row in grown:
        assert {table["name"] for table in row["tables"]} == {"saga", "step_execution", "saga_event", "outbox"}
        assert row["cpu_ratio"] > 0
        assert row["pages"] > 0


def test_what_is_loaded_goes_on_where_it_is(parts: dict[str, dict[str, Any]]) -> None:
    """Sagas that were only ever copied into the tables are taken to their ends, and asked after when overdue."""
    without, loaded, overdue = parts["restart"]["rows"]
    assert (without["open"], loaded["open"], overdue["open"]) == (0, 1000, 900)
    for row in (without, loaded, overdue):
        assert "given_up" not in row
        assert row["first_end_seconds"] > 0
    assert overdue["asked"] > 0


def test_nothing_is_lost_or_done_twice_while_workers_come_and_go(parts: dict[str, dict[str, Any]]) -> None:
    """A worker that leaves, one that is killed, and those that join: each is felt, and no saga is lost or repeated."""
    rows = parts["rebalance"]["rows"]
    assert [row["change"].split(" (")[0] for row in rows] == [
        "none", "one leaves", "one joins", "one is killed", "one joins in its place",
    ]  # fmt: skip
    for row in rows:
        assert (row["lost"], row["done_twice"]) == (0, 0)
        assert row["longest_pause_ms"] >= row["median_pause_ms"] > 0
        assert row["p99_ms"] >= row["p50_ms"] > 0
