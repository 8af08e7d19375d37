"""Real trades in short: both deployments on real servers, every trade and all money counted, and the file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]
BURST = 60
RATE = 10
SECONDS = 2
SEPARATE, TOGETHER = "trades", "trades, one process"
SERVICES = {
    "audit-replayer", "audit-sealer", "cash", "execution", "gateway", "intake", "risk", "saga-log", "settlement",
    "signal-router", "venue-feed",
}  # fmt: skip
OTHERS = {"venue", "supervisor", "PostgreSQL", "Kafka"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run one round of few trades as a person would."""
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    options = {
        "systems": "trades,trades-together", "pairs": 1, "trade-rates": RATE, "bursts": BURST, "seconds": SECONDS,
        "idle": 1, "out": out,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *(f"--{name}={value}" for name, value in options.items())],
        env={**os.environ, "TRADESAGA_KAFKA_HEAP": "256m"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())["trades"]


def test_each_trade_completes_once(measured: dict[str, Any]) -> None:
    """By the records, whichever deployment and load; all were accepted."""
    counted = {
        (figure["system"], figure["load"]["rate"]): (figure["answers"], figure["counts"])
        for figure in measured["figures"]
    }
    none = {"aborted": 0, "failed": 0, "lost": 0, "duplicated": 0}
    sizes = {RATE: RATE * SECONDS, None: BURST}
    assert counted == {
        (system, rate): ({"202": size}, {"completed": size, **none})
        for system in (SEPARATE, TOGETHER)
        for rate, size in sizes.items()
    }


def test_money_is_exact(measured: dict[str, Any]) -> None:
    """Ledger, topics and venue agree to the cent."""
    assert measured["differences"] == []


def test_costs_are_told_by_process(measured: dict[str, Any]) -> None:
    """Each service has its own line where it has its own process; the load generator is not among them."""
    for figure in measured["figures"]:
        cpu, postgres = figure["a_trade"]["cpu_ms"], figure["a_trade"]["postgres"]
        assert set(cpu) == OTHERS | (SERVICES if figure["system"] == SEPARATE else {"services"})
        assert figure["a_trade"]["generator_cpu_ms"] > 0
        assert postgres["commits"] > 0
        assert postgres["statements"] > postgres["commits"]
        assert postgres["rows_updated"] > postgres["lane_updates"] > 0
        assert postgres["wal_records"] > 0
        assert figure["a_trade"]["bytes_written"] > postgres["wal_bytes"] > 0
        assert figure["accepted_ms"]["p50"]["median"] < figure["latency_ms"]["p50"]["median"]
    assert [each["system"] for each in measured["idle"]] == [SEPARATE, TOGETHER]
    assert measured["machine"]["load_average_before"]
