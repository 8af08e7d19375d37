"""How much one set of servers bears: batch sizes, utilisations and limits, from measured costs alone.

Sources. Utilisation law, U = X · D, and Little's law, N = X · R (Denning and Buzen, 1978). A worker is a server with
batches: all that waits, up to a bound, is taken at once; it then takes A + b · m seconds for b messages. Response of a
server with c cores: S / (1 - U^c), the usual approximation of M/M/c (Gunther; it is exact for one core).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.scale_out.costs import MICRO, Costs, Service, Site

_ROUNDS: Final = 200
_LEAST_US: Final = 0.1
"""What a clock of a hundred ticks a second cannot see is taken for so much."""


@dataclass(frozen=True)
class Beat:
    """What one worker does at some rate: messages a batch, seconds a batch, and how much of its time is spent so."""

    batch: float
    seconds: float
    busy: float


@dataclass(frozen=True)
class Limit:
    """Something that gives out, the sagas a second at which it does, and what then helps."""

    name: str
    rate: float
    remedy: str


def participants(costs: Costs, site: Site) -> list[Service]:
    """Share the steps among services; each reads all facts, those too that it has no use for."""
    whole, wasted = costs.steps, costs.bystander_us / costs.log.messages
    return [
        whole.model_copy(
            update={
                "messages": share,
                "message_us": whole.message_us + wasted * (whole.messages - share) / share,
                "wal_bytes": whole.wal_bytes * share / whole.messages,
            }
        )
        for share in _shares(costs, site)
    ]


def _shares(costs: Costs, site: Site) -> list[float]:
    return [costs.steps.messages * part / sum(site.split) for part in site.split]


def waited(service: Service, site: Site) -> float:
    """Give the seconds of a batch in which neither side computes: round trips, and the sync of its commit."""
    return service.trips * site.trip + site.sync


def batch_seconds(service: Service, site: Site, size: float, stretch: float = 1.0) -> float:
    """Give the seconds of one batch; `stretch` is how much longer PostgreSQL takes than if it were idle."""
    own = service.batch_us + size * service.message_us
    postgres = service.postgres_batch_us + size * service.postgres_message_us
    return waited(service, site) + MICRO * (own + stretch * postgres)


def most_messages(service: Service, site: Site, stretch: float = 1.0) -> float:
    """Give the messages a second beyond which one worker's queue grows: its batches are full then."""
    return site.batch / batch_seconds(service, site, site.batch, stretch)


def beat(service: Service, site: Site, messages: float, stretch: float = 1.0) -> Beat:
    """Find the batch size at which a worker keeps up with messages a second: what comes during one batch is the next.

    An idle worker begins with the first message that comes: the mean is xT + exp(-xT) rather than xT.
    """
    size = 1.0
    for _ in range(_ROUNDS):
        expected = messages * batch_seconds(service, site, size, stretch)
        size = min(float(site.batch), expected + math.exp(-expected))
    seconds = batch_seconds(service, site, size, stretch)
    return Beat(size, seconds, min(1.0, messages * seconds / size))


def hop(beat: Beat) -> float:
    """Give the mean seconds of one message in one service: half a batch, if one is under way, and then its own."""
    return beat.seconds * (1 + beat.busy / 2)


def stretch(utilisation: float, cores: int) -> float:
    """Give how much longer something takes on cores that are busy already."""
    return 1 / (1 - min(utilisation, 0.99) ** cores)


def own_us(service: Service, batch: float) -> float:
    """Give the CPU time of a service for one saga, in batches of that size."""
    return service.messages * (service.message_us + service.batch_us / batch)


def postgres_us(service: Service, batch: float) -> float:
    """Give PostgreSQL's CPU time for a service and one saga."""
    return service.messages * (service.postgres_message_us + service.postgres_batch_us / batch)


def share_of(processes: int, site: Site) -> float:
    """Give the part of all messages that the fullest process has: partitions are dealt out whole."""
    return math.ceil(site.partitions / processes) / site.partitions


def limits(costs: Costs, site: Site, processes: int, *, apart: bool = False) -> list[Limit]:
    """List what gives out in one set of servers, first what does so first; `apart`: each service has a database."""
    kinds = [(f"steps: {_processes(processes)} per service", each) for each in participants(costs, site)]
    kinds.append((f"saga log: {_processes(processes)}", costs.log))
    remedy = "more processes" if processes < site.partitions else "another cell (more partitions need a new topic)"
    found = {name: math.inf for name, _ in kinds}
    for name, service in kinds:
        found[name] = min(found[name], most_messages(service, site) / service.messages / share_of(processes, site))
    several = [Limit(name, rate, remedy) for name, rate in found.items()]
    several.append(
        Limit("sealer: only one process seals", 1 / (MICRO * max(costs.sealer_us, _LEAST_US)), "another cell")
    )
    several += _of_postgres(costs, site, apart=apart) + _of_kafka(costs, site)
    return sorted(several, key=lambda limit: limit.rate)


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def databases(costs: Costs, site: Site, *, apart: bool) -> list[tuple[str, Callable[[float], float], float]]:
    """List the databases: name, CPU microseconds a saga by batch size, and bytes of log a saga."""
    steps = participants(costs, site)

    def logged(batch: float) -> float:
        return postgres_us(costs.log, batch) + costs.postgres_rest_us

    log = ("PostgreSQL, saga log", logged, costs.log.wal_bytes + costs.wal_rest_bytes)
    if apart:
        dearest = max(steps, key=lambda each: each.messages)
        return [
            ("PostgreSQL, busiest service", lambda batch: postgres_us(dearest, batch), dearest.wal_bytes),
            log,
        ]

    def together(batch: float) -> float:
        return logged(batch) + sum(postgres_us(each, batch) for each in steps)

    return [("PostgreSQL", together, log[2] + sum(each.wal_bytes for each in steps))]


def _of_postgres(costs: Costs, site: Site, *, apart: bool) -> list[Limit]:
    found: list[Limit] = []
    remedy = "another cell" if apart else "a database for each service"
    for name, micros, log_bytes in databases(costs, site, apart=apart):
        found.append(
            Limit(f"{name}: {site.postgres_cores} cores", site.postgres_cores / (MICRO * micros(site.batch)), remedy)
        )
        found.append(
            Limit(
                f"{name}: {site.postgres_log_mb:.0f} MB/s of WAL",
                1e6 * site.postgres_log_mb / log_bytes,
                remedy,
            )
        )
    return found


def _of_kafka(costs: Costs, site: Site) -> list[Limit]:
    rate = site.brokers * site.broker_mb * 1e6 / (costs.kafka_bytes * site.copies)
    return [Limit(f"{site.brokers} brokers: {site.broker_mb:.0f} MB/s into each", rate, "more brokers")]
