"""Loads on one, two and four processes of each service: rates, and what each side has spent on them."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psutil

from tests.benchmarks.load import End, Outcome, Told, judge, percentile
from tests.benchmarks.meter import log_bytes
from tests.benchmarks.on_kafka import ENDS_OF_PRODUCT
from tests.benchmarks.scale_out.crew import Crew, running
from tests.benchmarks.scale_out.stage import ROLES, Rig

BATCH: Final = 1000
"""The product's own bound."""
IDLE: Final = 2.0
"""Seconds over which it is measured what services cost that do nothing."""
_PRODUCT: Final = (sys.executable, "-m", "tests.benchmarks.product")
_SESSIONS: Final = "SELECT pid, usename FROM pg_stat_activity WHERE usename LIKE 'scale_%'"
_STATEMENTS: Final = """
SELECT rolname AS name, sum(calls)::float8 AS calls, sum(s.wal_bytes)::float8 AS wal,
    sum(total_exec_time)::float8 AS ms, sum(calls * (1 + (query LIKE 'COPY %')::int))::float8 AS trips
FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid GROUP BY rolname
"""
"""A COPY is answered twice: once it may begin, and once it has ended."""
_TABLES: Final = """
SELECT (relname LIKE 'outbox%') AS outbox, sum(pg_total_relation_size(relid))::float8 AS bytes
FROM pg_stat_user_tables GROUP BY 1
"""


class Plan(NamedTuple):
    """How much is measured: sagas of a load, processes of each service, delays in ms, and what bounds batches there."""

    rounds: int
    sagas: int
    workers: Sequence[int]
    delays: Sequence[float]
    bound: int
    rate: int
    seconds: float


class Load(NamedTuple):
    """One load: where, on how many processes, delayed by how much, at which rate; 0 is flat out."""

    where: str
    workers: int
    delay_ms: float
    rate: int
    sagas: int


@dataclass(frozen=True)
class Meter:
    """What has been spent up to now: CPU-seconds, statements, bytes, batches and messages, by name."""

    values: Mapping[str, float]

    def since(self, before: "Meter") -> dict[str, float]:
        """Give what has been spent since then."""
        return {name: value - before.values.get(name, 0.0) for name, value in self.values.items()}


Say = Callable[[str], None]
Run = dict[str, Any]


def measure(rig: Rig, plan: Plan, say: Say) -> list[Run]:
    """Measure all loads, round by round, each round beginning with another crew."""
    subprocess.run([*_PRODUCT, "init"], env=rig.stage.environment, check=True)
    crews = [(where, count) for count in plan.workers for where in ("loopback", "network")]
    runs: list[Run] = []
    for number in range(plan.rounds):
        first = number % len(crews)
        for where, count in (*crews[first:], *crews[:first]):
            say(f"round {number + 1} of {plan.rounds}: {where}, {count} of each service")
            runs += _networked(rig, plan, count) if where == "network" else _direct(rig, plan, count)
    return runs


def _direct(rig: Rig, plan: Plan, count: int) -> Iterator[Run]:
    """Run without a network, a sealer and a bystander beside: what a saga costs in large batches and in small ones."""
    with running(rig, count, BATCH, networked=False, beside=("sealer", "bystander")) as crew:
        _warm_up(rig, plan)
        idle = _idle(rig, crew)
        for rate, sagas in ((0, plan.sagas), (plan.rate, max(1, round(plan.rate * plan.seconds)))):
            yield {**_take(rig, crew, Load("loopback", count, 0.0, rate, sagas)), "idle_cores": idle}


def _networked(rig: Rig, plan: Plan, count: int) -> Iterator[Run]:
    """Run over the network, flat out, in batches so small that a process mostly waits: there more processes help."""
    with running(rig, count, plan.bound, networked=True) as crew:
        _warm_up(rig, plan)
        for delay in plan.delays:
            with _delayed(rig, delay):
                load = Load("network", count, delay, 0, max(1, plan.sagas * count // 8))
                yield {**_take(rig, crew, load), "bound": plan.bound, "trip_ms": rig.round_trip_ms()}


@contextmanager
def _delayed(rig: Rig, delay_ms: float) -> Generator[None]:
    rig.network.delay(delay_ms / 1000)
    try:
        yield
    finally:
        rig.network.delay(0)


def _warm_up(rig: Rig, plan: Plan) -> None:
    _start(rig, Load("warm-up", 0, 0.0, 0, min(200, plan.sagas)))
    time.sleep(1)


def _idle(rig: Rig, crew: Crew) -> dict[str, float]:
    before = _read(rig, crew)
    time.sleep(IDLE)
    spent = _read(rig, crew).since(before)
    return {name: spent[name] / IDLE for name in (f"cpu_{role}" for role in ROLES)}


def _take(rig: Rig, crew: Crew, load: Load) -> Run:
    before, began = _read(rig, crew), time.monotonic()
    starts = _start(rig, load)
    time.sleep(0.3)  # the last batches' marks and acknowledgements belong to the load
    spent, seconds = _read(rig, crew).since(before), time.monotonic() - began
    rows = rig.stage.ask(ENDS_OF_PRODUCT, list(starts))
    outcome = judge(Told(starts, {row["id"]: End(row["state"], row["at"], row["repeated"]) for row in rows}))
    return {
        **load._asdict(),
        **_told(outcome),
        "seconds": seconds,
        "spent": spent,
        "member_mb": _memory(crew),
        "load_average": os.getloadavg()[0],
    }


def _told(outcome: Outcome) -> Run:
    latencies = outcome.latencies
    quantiles = {name: 1000 * percentile(latencies, share) for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99))}
    return {"per_second": outcome.per_second, **quantiles, "counts": outcome.counts._asdict()}


def _start(rig: Rig, load: Load) -> dict[str, float]:
    """Start the sagas round the network, and wait for their ends."""
    file = rig.stage.home / "starts.json"
    command = [*_PRODUCT, "load", str(load.sagas), str(load.rate), "happy", str(file)]
    subprocess.run(command, env=rig.stage.environment, check=True, stdout=subprocess.DEVNULL)
    return json.loads(file.read_text())


def _read(rig: Rig, crew: Crew) -> Meter:
    """Read every meter."""
    values: dict[str, float] = {f"cpu_{role}": sum(_cpu(each.process.pid) for each in crew.of(role)) for role in ROLES}
    values |= dict.fromkeys((f"postgres_{role}" for role in ROLES), 0.0)
    for row in rig.stage.ask(_SESSIONS):
        values[row["usename"].replace("scale_", "postgres_")] += _cpu(row["pid"])
    for row in rig.stage.ask(_STATEMENTS):
        role = row["name"].removeprefix("scale_") if row["name"].startswith("scale_") else "generator"
        told = {"statements": row["calls"], "trips": row["trips"], "wal": row["wal"], "ms": row["ms"]}
        values |= {f"{name}_{role}": value for name, value in told.items()}
    for role in ROLES[:2]:
        values |= {f"{name}_{role}": float(count) for name, count in crew.batches(role).items()}
    for row in rig.stage.ask(_TABLES):
        values["outbox_bytes" if row["outbox"] else "table_bytes"] = row["bytes"]
    values |= {
        "cpu_postgres": _tree(rig.stage.postgres), "cpu_kafka": _cpu(rig.stage.kafka.pid),
        "wal": rig.stage.wal_bytes(), "kafka_bytes": float(log_bytes(rig.stage.kafka_data)),
        "postgres_wire_bytes": float(rig.network.postgres.carried),
        "kafka_wire_bytes": float(rig.network.kafka.carried),
    }  # fmt: skip
    return Meter(values)


def _cpu(pid: int) -> float:
    """Give the CPU-seconds of one process; none of one that has ended meanwhile."""
    with suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system
    return 0.0


def _tree(root: psutil.Process) -> float:
    """Give the CPU-seconds of a process, of its children, and of those of them that have ended."""
    times = root.cpu_times()
    ended = times.children_user + times.children_system
    return times.user + times.system + ended + sum(_cpu(child.pid) for child in root.children(recursive=True))


def _memory(crew: Crew) -> float:
    """Give the megabytes of one process of a service, what it shares counted in part."""
    return statistics.mean(psutil.Process(each.process.pid).memory_full_info().pss / 2**20 for each in crew.members)
