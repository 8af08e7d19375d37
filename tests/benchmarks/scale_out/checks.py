"""Whether the model's arithmetic holds: its figures beside those of the simulation, with how far they may differ."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import NormalDist
from typing import Final

from tests.benchmarks.scale_out import capacity
from tests.benchmarks.scale_out.costs import MICRO, Costs, Site
from tests.benchmarks.scale_out.plan import Cell, cell_at, latency, most
from tests.benchmarks.scale_out.simulation import Result, Tally, Trial, simulate

_SAGAS: Final = 10_000
"""About as many as one trial has."""
ACCOUNTS: Final = 100_000
LEANING: Final = 0.5
"""How uneven accounts are: the n-th busiest has a share of n to the power of minus this."""


@dataclass(frozen=True)
class Check:
    """One figure, computed and simulated."""

    trial: str
    figure: str
    model: float
    simulated: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """Give the simulated figure as a multiple of the computed one."""
        return self.simulated / self.model

    @property
    def holds(self) -> bool:
        """Say whether they agree well enough."""
        return abs(self.ratio - 1) <= self.tolerance


def check(costs: Costs, site: Site) -> list[Check]:
    """Run all trials."""
    trials: Sequence[Callable[[Costs, Site], Iterator[Check]]] = (check_cells, _overload, _hot, _outage, _uneven)
    return [each for trial in trials for each in trial(costs, site)]


def _trial(cell: Cell, *, rate: float = 0.0, seconds: float = 0.0) -> Trial:
    rate = rate or cell.rate
    *steps, log = (crew.processes for crew in cell.crews)
    return Trial(rate, tuple(steps), log, seconds or max(2.0, _SAGAS / rate))


def check_cells(costs: Costs, site: Site) -> Iterator[Check]:
    """Run a cell at 100 and at 1,000 sagas a second, and one that has all it is planned for."""
    for rate in (100.0, 1000.0, most(costs, site)):
        cell = cell_at(costs, site, rate)
        if cell is None:
            raise ValueError(f"no cell bears {rate:.0f} sagas a second; give stronger machines")
        result = simulate(costs, site, _trial(cell))
        name, log, expected = f"{cell.rate:,.0f}/s", cell.crews[-1], latency(costs, site, cell)
        yield Check(name, "sagas ended per second", cell.rate, result.per_second, 0.05)
        yield Check(name, "busy cores, services", sum(crew.cores for crew in cell.crews), _cores(result), 0.1)
        postgres = result.postgres * site.postgres_cores
        rest = MICRO * cell.rate * costs.postgres_rest_us
        yield Check(name, "busy cores, PostgreSQL", sum(cell.databases.values()) - rest, postgres, 0.15)
        yield Check(name, "messages per batch, saga log", log.beat.batch, _batch(result.logs), 0.15)
        yield Check(name, "latency, mean ms", 1000 * expected, 1000 * result.mean, 0.15)
        yield Check(name, "sagas in flight", cell.rate * expected, result.in_flight, 0.15)
        yield Check(
            name, "in flight by Little's law, from simulated latency", cell.rate * result.mean, result.in_flight, 0.02
        )


def _cores(result: Result) -> float:
    return sum(tally.computing for tally in (*result.steps, *result.logs)) / result.seconds


def _batch(tallies: Sequence[Tally]) -> float:
    return sum(tally.messages for tally in tallies) / max(1, sum(tally.batches for tally in tallies))


def _overload(costs: Costs, site: Site) -> Iterator[Check]:
    """Offer one process more than it bears: it does all that it can, but less and less of that is sagas' ends."""
    alone = replace(site, split=(round(costs.steps.messages),))
    service = capacity.participants(costs, alone)[0]
    most_sagas = capacity.most_messages(service, alone) / service.messages
    for times in (1.0, 1.5):
        rate = times * most_sagas
        result = simulate(costs, alone, Trial(rate, (1,), 12, 20.0, warm_up=12.0))
        share = sum(tally.messages for tally in result.steps) / result.seconds / service.messages
        name = f"one process of steps, offered {times:g} times its limit"
        yield Check(name, "messages per second, as sagas", most_sagas, share, 0.05)
        if times > 1:
            yield Check(
                name, "sagas ended per second", ended(rate, most_sagas, alone.split[0]), result.per_second, 0.15
            )


def ended(rate: float, most_sagas: float, steps: int) -> float:
    """Give the sagas ended a second of a process that is offered too many.

    It takes what comes first: of each step's messages the same part r, so that r + r² + … = limit · steps / rate, and
    only r to the power of steps comes through.
    """
    low, high = 0.0, 1.0
    wanted = most_sagas * steps / rate
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**n for n in range(1, steps + 1)) < wanted else (low, middle)
    return rate * high**steps


def _hot(costs: Costs, site: Site) -> Iterator[Check]:
    """Let 30 % more of all sagas lie on one partition, and go beyond what its process bears by a fifth."""
    part = 0.3
    share = part + (1 - part) / site.partitions
    bears = capacity.most_messages(costs.log, site) / costs.log.messages / share
    rate = 1.2 * bears
    full = (site.partitions,) * len(site.split)
    result = simulate(costs, site, Trial(rate, full, site.partitions, 4.0, warm_up=2.0, hot=part))
    expected = rate * (1 - share) + bears * share
    yield Check(
        "one partition with 30 % more sagas, at 1.2 times its limit",
        "sagas ended per second",
        expected,
        result.per_second,
        0.05,
    )


def _outage(costs: Costs, site: Site) -> Iterator[Check]:
    """Lose one cell for five seconds: starts go on coming, and are caught up with at what the cell bears."""
    down, lost = 3.0, 5.0
    cell = cell_at(costs, site, min(2000.0, most(costs, site)))
    if cell is None:
        raise ValueError("no cell bears 2,000 sagas a second; give stronger machines")
    bears = min(
        capacity.most_messages(crew.service, site) / crew.service.messages / capacity.share_of(crew.processes, site)
        for crew in cell.crews
    )
    takes = lost * cell.rate / (bears - cell.rate) + latency(costs, site, cell)
    trial = replace(_trial(cell, seconds=down + lost + 2 * takes + 2), outage=(down, down + lost))
    result = simulate(costs, site, trial)
    name = f"a cell of {cell.rate:,.0f}/s down for {lost:.0f} s"
    yield Check(name, "seconds until caught up", takes, result.drained - down - lost, 0.2)


def _uneven(costs: Costs, site: Site) -> Iterator[Check]:
    """Deal accounts, some busier than others, to cells by a hash: how much fuller than the mean the fullest is."""
    cells = 16
    shares = [number**-LEANING for number in range(1, ACCOUNTS + 1)]
    whole = sum(shares)
    spread = math.sqrt((cells - 1) * sum((share / whole) ** 2 for share in shares))
    drawn = [_fullest(Random(seed), shares, cells) / (whole / cells) for seed in range(12)]
    name = f"{ACCOUNTS:,} accounts over {cells} cells"
    expected = 1 + spread * _highest(cells)
    yield Check(name, "fullest cell, as a multiple of the mean", expected, sum(drawn) / len(drawn), 0.05)


def _fullest(random: Random, shares: Sequence[float], cells: int) -> float:
    loads = [0.0] * cells
    for share in shares:
        loads[random.randrange(cells)] += share
    return max(loads)


def _highest(count: int) -> float:
    """Give the expected highest of so many normal values, in standard deviations (Blom's approximation)."""
    return NormalDist().inv_cdf((count - math.pi / 8) / (count - math.pi / 4 + 1))
