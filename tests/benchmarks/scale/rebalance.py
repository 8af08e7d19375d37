"""Workers of one service that come and go under an open load: how long a partition stands still, and who feels it."""

import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tests.benchmarks.load import percentile
from tests.benchmarks.on_kafka import ENDS_OF_PRODUCT
from tests.benchmarks.scale.door import APP
from tests.benchmarks.scale.processes import LOG, STEPS, Service, environment_of, running, start
from tests.benchmarks.stage import Stage

Say = Callable[[str], None]
_PRODUCT: Final = (sys.executable, "-m", "tests.benchmarks.product")
_ANSWERS: Final = """
SELECT * FROM (
    SELECT partition, step_name, extract(epoch FROM recorded_at)::float8 AS at,
        extract(epoch FROM recorded_at - lag(recorded_at) OVER (PARTITION BY saga_id ORDER BY seq))::float8 AS waited
    FROM saga_event WHERE saga_id = ANY($1::uuid[])
) AS fact WHERE step_name IS NOT NULL AND waited IS NOT NULL
"""
# A record that is published again has the same id, and counts once.
_REPEATED: Final = """
SELECT count(*) FILTER (WHERE records > ids) AS said_again, count(*) FILTER (WHERE ids > types) AS done_twice FROM (
    SELECT count(*) AS records, count(DISTINCT headers::json ->> 'ce_id') AS ids, count(DISTINCT event_type) AS types
    FROM saga_event WHERE saga_id = ANY($1::uuid[]) GROUP BY saga_id
) AS each
"""
TAIL: Final = 1.0
"""Seconds before the next change whose sagas are left out: they would feel that one."""


class Change(NamedTuple):
    """Something that happens to a worker, and when; nothing at all is what the others are compared with."""

    name: str
    at: float


def measure(stage: Stage, workers: Sequence[int], rate: int, seconds: float, say: Say) -> dict[str, Any]:
    """For each number of workers: let one leave, one join, one be killed and one take its place, under load."""
    subprocess.run([*_PRODUCT, "init"], env=environment_of(stage, APP), check=True)
    rows: list[dict[str, Any]] = []
    for number in workers:
        rows += _rounds(stage, number, rate, seconds, say)
    return {"part": "rebalance", "offered_a_second": rate, "seconds_between": seconds, "rows": rows}


def _rounds(stage: Stage, workers: int, rate: int, seconds: float, say: Say) -> list[dict[str, Any]]:
    with running(stage, [LOG, *[STEPS] * workers], APP) as services:
        time.sleep(min(5.0, seconds))  # until the group has settled
        file = stage.home / "rebalance.json"
        file.unlink(missing_ok=True)
        argv = [*_PRODUCT, "load", str(round(rate * 5.5 * seconds)), str(rate), "happy", str(file)]
        there = _count(stage)
        loading = subprocess.Popen(argv, env=environment_of(stage, APP), stdout=subprocess.DEVNULL)
        while _count(stage) == there:
            if loading.poll() is not None:
                raise RuntimeError("the load has ended before any saga began")
            time.sleep(0.05)
        time.sleep(0.5 * seconds)
        changes = list(_change(stage, services, seconds))
        if loading.wait(300):
            raise RuntimeError(f"with {workers} workers sagas were lost: the load has not seen them end")
        starts: dict[str, float] = json.loads(file.read_text())
    rows = [{"workers": workers, **row} for row in _judge(stage, starts, changes, seconds)]
    for row in rows:
        say(f"{workers} workers, {row['change']}: still for {row['longest_pause_ms']:.0f} ms at most")
    return rows


def _count(stage: Stage) -> int:
    return stage.ask("SELECT count(*) FROM saga")[0][0]


def _change(stage: Stage, services: list[Service], seconds: float) -> Iterable[Change]:
    """Make the changes one after the other, each with time to be felt and to pass."""
    environment = environment_of(stage, APP)
    leaving, dying = services[1], services[2]
    yield Change("none", time.time())
    time.sleep(seconds)
    yield Change("one leaves (SIGTERM)", time.time())
    leaving.process.send_signal(signal.SIGTERM)
    time.sleep(seconds)
    yield Change("one joins", time.time())
    services.append(start(stage, STEPS, environment))
    time.sleep(seconds)
    yield Change("one is killed (SIGKILL)", time.time())
    dying.process.send_signal(signal.SIGKILL)
    time.sleep(seconds)
    yield Change("one joins in its place", time.time())
    services.append(start(stage, STEPS, environment))


def _judge(
    stage: Stage, starts: Mapping[str, float], changes: Sequence[Change], seconds: float
) -> Iterable[dict[str, Any]]:
    """Say of each change how long steps waited for their answers after it, and how long the sagas due then took.

    The longest wait of a step on a partition is how long that partition stood still, work being there.
    """
    sagas = list(starts)
    ends = {row["id"]: row["at"] for row in stage.ask(ENDS_OF_PRODUCT, sagas)}
    repeated = dict(stage.ask(_REPEATED, sagas)[0])
    answers = stage.ask(_ANSWERS, sagas)
    for change in changes:
        until = change.at + seconds - TAIL
        pauses: dict[int, float] = {}
        for row in answers:
            if change.at <= row["at"] - row["waited"] < until or change.at <= row["at"] < until:
                pauses[row["partition"]] = max(pauses.get(row["partition"], 0.0), row["waited"])
        waits = sorted(ends[saga] - due for saga, due in starts.items() if change.at <= due < until)
        yield {
            "change": change.name,
            "longest_pause_ms": 1000 * max(pauses.values()),
            "median_pause_ms": 1000 * statistics.median(pauses.values()),
            "p50_ms": 1000 * percentile(waits, 0.5),
            "p99_ms": 1000 * percentile(waits, 0.99),
            "slowest_ms": 1000 * waits[-1],
            "sagas": len(waits),
            "lost": len(sagas) - len(ends),
            **repeated,
        }
