"""The measurement in little, as a person runs it: two processes of each service, every saga counted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.scale_out.costs import Costs

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
SAGAS = 160
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run one round of few sagas."""
    out = tmp_path_factory.mktemp("scale-out") / "scale-out.json"
    options = {"rounds": 1, "sagas": SAGAS, "workers": 2, "delays": "1", "seconds": 1, "rate": 40, "out": out}
    argv = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.scale_out", *argv],
        env={**os.environ, "TRADESAGA_KAFKA_HEAP": "256m"}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_no_saga_is_lost_on_two_processes_with_a_network_or_without(told: dict[str, Any]) -> None:
    """Each load ended all its sagas, once."""
    kinds = {(run["where"], run["workers"], run["rate"]): run for run in told["runs"]}
    assert set(kinds) == {("loopback", 2, 0), ("loopback", 2, 40), ("network", 2, 0)}
    for run in told["runs"]:
        none = {"aborted": 0, "failed": 0, "lost": 0, "duplicated": 0}
        assert run["counts"] == {"completed": run["sagas"], **none}
    assert told["as_wanted"] is True


def test_every_process_had_its_part(told: dict[str, Any]) -> None:
    """Five messages a saga for the steps and six for the log, in as many batches as were counted; the wire was slow."""
    for run in told["runs"]:
        spent = run["spent"]
        assert spent["messages_steps"] == 5 * run["sagas"]
        assert spent["messages_log"] == 6 * run["sagas"]
        assert spent["statements_steps"] > spent["batches_steps"] > 0
        if run["where"] == "network":
            assert run["trip_ms"] >= 2
            assert spent["messages_steps"] / spent["batches_steps"] <= run["bound"] * 2


def test_the_costs_are_those_that_the_model_takes(told: dict[str, Any]) -> None:
    """What was measured is a whole table of costs, with its origin."""
    costs = Costs.model_validate(told["costs"])
    assert costs.steps.messages == pytest.approx(5)
    assert costs.log.messages == pytest.approx(6)
    assert costs.kafka_bytes > 1000
    assert costs.fetched["fdatasync_a_second"] > 0
    assert len(told["efficiency"]) == 3
