"""From runs to costs: what a batch and what a message takes, told apart by runs in large batches and in small ones."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.benchmarks.scale_out.capacity import beat, hop, most_messages
from tests.benchmarks.scale_out.costs import Costs, Service, Site

Run = dict[str, Any]
MEGA: Final = 1e6
FACTS: Final = 6
_LOOPBACK: Final = Site(round_trip_ms=0.0, sync_ms=0.0)


def split(points: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Find what a batch and what a message costs, from points (batches, messages, cost): least squares of shares.

    Each point counts alike, however many sagas it is of. Neither is less than nothing: what cannot be told apart is
    put on the messages. Raises ValueError where nothing was seen to cost anything: give more sagas.
    """
    scaled = [(batches / cost, messages / cost) for batches, messages, cost in points if cost > 0]
    if not scaled:
        raise ValueError("these runs are too short to see what they cost: give more sagas")
    aa, ab, bb = (sum(x * y for x, y in pairs) for pairs in _products(scaled))
    a, b = sum(x for x, _ in scaled), sum(y for _, y in scaled)
    determinant = aa * bb - ab * ab
    if determinant > 1e-9 * aa * bb:
        each_batch, each_message = (a * bb - b * ab) / determinant, (b * aa - a * ab) / determinant
        if each_batch >= 0 and each_message > 0:
            return each_batch, each_message
    return 0.0, b / bb


def _products(scaled: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], ...]:
    return (
        [(x, x) for x, _ in scaled],
        list(scaled),
        [(y, y) for _, y in scaled],
    )


def costs_of(runs: Sequence[Run], machine: dict[str, Any]) -> Costs:
    """Work out the costs from all runs without a network; sizes on the wire come from those with one."""
    direct = [run for run in runs if run["where"] == "loopback"]
    wired = [run for run in runs if run["where"] == "network"]
    flat = [run for run in direct if not run["rate"]]
    known = {
        "steps": _service(direct, "steps"),
        "log": _service(direct, "log"),
        "sealer_us": _each(flat, lambda run: run["spent"]["cpu_sealer"]),
        "postgres_rest_us": _each(flat, _rest),
        "kafka_us": _each(flat, lambda run: run["spent"]["cpu_kafka"]),
        "bystander_us": _each(flat, lambda run: _busy(run, "cpu_bystander")),
        "wal_rest_bytes": _each(flat, _wal_rest, scale=1.0),
        "process_mb": statistics.median(run["member_mb"] for run in flat),
        "fetched": machine,
    }
    for name in ("table_bytes", "outbox_bytes", "kafka_bytes"):
        known[name] = sum(run["spent"][name] for run in direct) / sum(run["sagas"] for run in direct)
    for name in ("postgres_wire_bytes", "kafka_wire_bytes"):
        known[name] = _each(wired, lambda run, name=name: run["spent"][name], scale=1.0)
    costs = Costs.model_validate({**known, "handover_ms": 0.0})
    return costs.model_copy(update={"handover_ms": _handover(costs, direct)})


def _service(runs: Sequence[Run], role: str) -> Service:
    own = split([(*_counts(run, role), _busy(run, f"cpu_{role}")) for run in runs])
    postgres = split([(*_counts(run, role), run["spent"][f"postgres_{role}"]) for run in runs])
    batches, messages = (sum(column) for column in zip(*(_counts(run, role) for run in runs), strict=True))
    sagas = sum(run["sagas"] for run in runs)
    return Service(
        batch_us=MEGA * own[0],
        message_us=MEGA * own[1],
        postgres_batch_us=MEGA * postgres[0],
        postgres_message_us=MEGA * postgres[1],
        messages=messages / sagas,
        trips=sum(run["spent"][f"trips_{role}"] for run in runs) / batches,
        wal_bytes=sum(run["spent"][f"wal_{role}"] for run in runs) / sagas,
    )


def _counts(run: Run, role: str) -> tuple[float, float]:
    return run["spent"][f"batches_{role}"], run["spent"][f"messages_{role}"]


def _busy(run: Run, name: str) -> float:
    """Give the CPU-seconds that a load took beyond what the same processes take when nothing is to be done."""
    return max(0.0, run["spent"][name] - run["idle_cores"][name] * run["seconds"])


def _rest(run: Run) -> float:
    """Give PostgreSQL's CPU-seconds that are neither services' nor of whoever asks how far the load is."""
    services = sum(run["spent"][f"postgres_{role}"] for role in ("steps", "log", "bystander"))
    return max(0.0, run["spent"]["cpu_postgres"] - services - run["spent"]["ms_generator"] / 1000)


def _wal_rest(run: Run) -> float:
    return max(0.0, run["spent"]["wal"] - run["spent"]["wal_steps"] - run["spent"]["wal_log"])


def _each(runs: Sequence[Run], spent: Callable[[Run], float], scale: float = MEGA) -> float:
    """Give the median over runs of something a saga, in millionths."""
    return statistics.median(scale * spent(run) / run["sagas"] for run in runs)


def _handover(costs: Costs, runs: Sequence[Run]) -> float:
    """Give what is left of the median latency at an open rate, once batches are taken off, for each message said.

    It is the least of all runs: whatever else the machine does only adds to it.
    """
    left: list[float] = []
    for run in runs:
        if not run["rate"]:
            continue
        inside = 0.0
        for service in costs.services:
            messages = run["rate"] * service.messages / run["workers"]
            hops = service.messages if service is costs.steps else 1.0
            inside += hops * hop(beat(service, _LOOPBACK, messages))
        left.append(max(0.0, (run["p50_ms"] - 1000 * inside) / FACTS))
    return min(left)


def expected_per_second(costs: Costs, run: Run) -> float:
    """Give the rate that the model expects of a run over the network: each process does full batches in turn.

    Round trips are as many as the run's own batches had: a batch has more of them the more steps meet in it.
    """
    site = Site(round_trip_ms=run["trip_ms"], sync_ms=0.0, batch=run["bound"])
    rates: list[float] = []
    for role, service in (("steps", costs.steps), ("log", costs.log)):
        trips = run["spent"][f"trips_{role}"] / run["spent"][f"batches_{role}"]
        each = most_messages(service.model_copy(update={"trips": trips}), site)
        rates.append(run["workers"] * each / service.messages)
    return min(rates)
