"""What sealing costs: the product with and without the sealer beside it, in interleaved pairs on one stack.

Each pair is two flat-out loads of the same size on the same processes; every other pair begins with the sealer. The
figure is the median of the pairs' ratios, with the interval that order statistics give without any assumption.
`python -m tests.benchmarks --sealing` runs it: nine pairs take about five minutes.
"""

import asyncio
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import psutil
from rich.console import Console
from rich.table import Table

from tests.waiting import until
from tradesaga.infra.audit_log.note import write_new

PAIRS: Final = 9
SECONDS: Final = 10
"""How long one load of a pair lasts; nine pairs of two with their rests stay under six minutes."""
LIMIT: Final = 0.05
"""How much of the rate sealing may cost."""
CONFIDENCE: Final = 0.95
_PRODUCT: Final = (sys.executable, "-m", "tests.benchmarks.product")
_BEHIND: Final = """
SELECT count(*) FROM lane l LEFT JOIN audit_edge e USING (topic, partition)
WHERE l."group" = 'bench-log' AND l.next_offset > coalesce(e.next_offset, 0)
"""


class Interval(NamedTuple):
    """An interval for a median, and how certain it is."""

    low: float
    high: float
    confidence: float


def median_interval(values: Sequence[float]) -> Interval:
    """Give the narrowest pair of order statistics that holds the true median with 95 %, or else the widest there is.

    The k-th smallest and the k-th largest of n miss it with a chance of 2 P(Binomial(n, 1/2) < k).
    """
    ordered, count = sorted(values), len(values)
    chosen = Interval(ordered[0], ordered[-1], 1 - 2 * 0.5**count)
    missing = 0.0
    for k in range(1, count // 2 + 1):
        missing += 2 * math.comb(count, k - 1) * 0.5**count
        if 1 - missing < CONFIDENCE:
            break
        chosen = Interval(ordered[k - 1], ordered[-k], 1 - missing)
    return chosen


class Run(NamedTuple):
    """One load: sagas a second, and CPU-seconds a saga of the sealer and of the whole machine."""

    per_second: float
    sealer_cpu: float
    machine_cpu: float


def measure(environment: Mapping[str, str], home: Path, pairs: int, sagas: int | None) -> dict[str, Any]:
    """Measure the pairs on servers that run, and give all figures."""
    environment = {**environment, "TRADESAGA_APP": "tests.benchmarks.noop", "TRADESAGA_HOME": str(home)}
    write_new(home / "audit.key", "bench")
    subprocess.run([*_PRODUCT, "init"], env=environment, check=True)
    with _process(environment, "steps"), _process(environment, "log"):
        time.sleep(4)
        _load(environment, 500)
        count = sagas or round(SECONDS * _load(environment, 2000)["per_second"])
        runs: dict[str, list[Run]] = {"without": [], "with": []}
        for number in range(pairs):
            for name in ("without", "with") if number % 2 == 0 else ("with", "without"):
                runs[name].append(_run(environment, count, sealing=name == "with"))
            Console(stderr=True).print(f"pair {number + 1} of {pairs}: {_ratio(runs, number):.3f}", highlight=False)
    return _summary(runs, count)


def _run(environment: Mapping[str, str], count: int, *, sealing: bool) -> Run:
    if not sealing:
        return _timed(environment, count, None)
    with _process(environment, "sealer") as sealer:
        asyncio.run(_caught_up(environment))
        run = _timed(environment, count, psutil.Process(sealer.pid))
        asyncio.run(_caught_up(environment))
    return run


def _timed(environment: Mapping[str, str], count: int, sealer: psutil.Process | None) -> Run:
    machine, own = _machine_cpu(), _cpu(sealer)
    rate = _load(environment, count)["per_second"]
    return Run(rate, (_cpu(sealer) - own) / count, (_machine_cpu() - machine) / count)


async def _caught_up(environment: Mapping[str, str]) -> None:
    """Wait until all that was recorded is sealed."""
    sql = await asyncpg.connect(environment["TRADESAGA_DATABASE_URL"])

    async def sealed() -> bool:
        return await sql.fetchval(_BEHIND) == 0

    try:
        await until(sealed, 120)
    finally:
        await sql.close()


@contextmanager
def _process(environment: Mapping[str, str], role: str) -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*_PRODUCT, role], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
        if process.poll() is not None:
            raise RuntimeError(f"{role} has ended by itself")
    finally:
        process.terminate()
        process.wait(20)


def _load(environment: Mapping[str, str], count: int) -> dict[str, float]:
    command = [*_PRODUCT, "load", str(count), "0"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _cpu(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return times.user + times.system


def _machine_cpu() -> float:
    """Give the seconds that the processors have worked, whoever for."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _ratio(runs: Mapping[str, Sequence[Run]], number: int) -> float:
    return runs["with"][number].per_second / runs["without"][number].per_second


def _summary(runs: Mapping[str, Sequence[Run]], count: int) -> dict[str, Any]:
    ratios = [_ratio(runs, number) for number in range(len(runs["with"]))]
    machine = [one.machine_cpu - other.machine_cpu for one, other in zip(runs["with"], runs["without"], strict=True)]
    ratio = statistics.median(ratios)
    return {
        "sagas": count,
        "ratio": ratio,
        "interval": median_interval(ratios)._asdict(),
        "holds": ratio >= 1 - LIMIT,
        "ratios": ratios,
        "per_second": {name: statistics.median(run.per_second for run in each) for name, each in runs.items()},
        "cpu_seconds_a_saga": {
            "sealer": statistics.median(run.sealer_cpu for run in runs["with"]),
            "machine": {name: statistics.median(run.machine_cpu for run in each) for name, each in runs.items()},
            "machine_difference": statistics.median(machine),
        },
        "runs": {name: [run._asdict() for run in each] for name, each in runs.items()},
    }


def table_of(summary: Mapping[str, Any]) -> Table:
    """Show the figures."""
    low, high, confidence = summary["interval"].values()
    title = (
        f"with sealing {summary['ratio']:.3f} of the rate without, median of {len(summary['ratios'])} pairs of"
        f" {summary['sagas']:,} sagas; {low:.3f} to {high:.3f} at {confidence:.1%}"
    )
    table = Table("", "sagas/s", "CPU ms per saga, machine", "CPU ms per saga, sealer", title=title)
    cpu = summary["cpu_seconds_a_saga"]
    for name, rate in summary["per_second"].items():
        sealer = f"{1000 * cpu['sealer']:.4f}" if name == "with" else ""
        table.add_row(name, f"{rate:.0f}", f"{1000 * cpu['machine'][name]:.3f}", sealer)
    return table
