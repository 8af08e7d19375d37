"""The comparison in short: floor and product on real servers, every saga counted, and the file that it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
SAGAS = 200
COSTS = {"services_cpu_ms", "servers_cpu_ms", "generator_cpu_ms", "bytes_written"}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run one round of few sagas as a person would."""
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    options = {"systems": "floor,product", "pairs": "1", "sagas": str(SAGAS), "rates": "20", "seconds": "1"}
    argv = [f"--{name}={value}" for name, value in {**options, "out": str(out)}.items()]
    environment = {**os.environ, "TRADESAGA_KAFKA_HEAP": "256m"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *argv],
        env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert out.with_suffix(".svg").read_text().count("<rect") == 5
    return json.loads(out.read_text())


def test_no_saga_is_lost_and_none_is_done_twice(figures: dict[str, Any]) -> None:
    """Every saga of every load ended as its kind does, by the records of the system itself."""
    told = {
        (figure["system"], figure["load"]["kind"], figure["load"]["rate"]): figure["counts"]
        for figure in figures["figures"]
    }
    none = {"completed": 0, "aborted": 0, "failed": 0, "lost": 0, "duplicated": 0}
    assert told == {
        ("baseline", "happy", None): {**none, "completed": SAGAS},
        ("baseline", "happy", 20): {**none, "completed": 20},
        ("tradesaga", "happy", None): {**none, "completed": SAGAS},
        ("tradesaga", "compensated", None): {**none, "aborted": SAGAS},
        ("tradesaga", "happy", 20): {**none, "completed": 20},
    }


def test_each_object_says_what_was_measured_and_under_which_settings(figures: dict[str, Any]) -> None:
    """One object a system and load, with rate, costs, memory and settings; latency where there was a rate."""
    for figure in figures["figures"]:
        assert figure["per_second"]["median"] > 0
        assert set(figure["a_saga"]) == COSTS
        assert figure["memory_mb"]["services"] > 10
        assert figure["memory_mb"]["servers"] > 10
        assert figure["a_saga"]["bytes_written"] > 1000
        assert figure["settings"]
        assert ("latency_ms" in figure) is (figure["load"]["rate"] is not None)
    assert figures["machine"]["fdatasync_a_second"] > 0
    assert len(figures["machine"]["load_average_before"]) == 3
    assert set(figures["ratios"]) == {"baseline"}
