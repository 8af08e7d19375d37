"""From a rate that is wanted to cells, processes, servers, bytes and money."""

import math
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.scale_out import capacity
from tests.benchmarks.scale_out.capacity import Beat, Limit
from tests.benchmarks.scale_out.costs import MICRO, Costs, Price, Prices, Service, Site

DAY: Final = 86_400
MONTH: Final = 30 * DAY
OUTBOX_DAYS: Final = 3
BROKER_CORES: Final = 2
"""The least that a broker is given."""
ELSEWHERE: Final = 2 / 3
"""The part of all traffic that goes to another of three zones."""
_ROUNDS: Final = 30


@dataclass(frozen=True)
class Crew:
    """All processes of one service in one cell."""

    name: str
    service: Service
    processes: int
    beat: Beat
    """Of the fullest process."""
    cores: float


@dataclass(frozen=True)
class Cell:
    """One set of servers and services at its rate."""

    rate: float
    crews: tuple[Crew, ...]
    databases: dict[str, float]
    """The cores that each is busy with."""
    sealer: float

    @property
    def processes(self) -> int:
        """Count services' processes and the sealer."""
        return sum(crew.processes for crew in self.crews) + 1


@dataclass(frozen=True)
class Plan:
    """What a rate takes."""

    rate: float
    cells: int
    cell: Cell
    """The fullest one; all are built alike."""
    postgres_cores: int
    """Of the busiest database, as rented."""
    broker_cores: int
    brokers: int
    latency: float
    network_mb: float
    disk_gb_day: float
    kept_gb_day: float
    bill: dict[str, Price]
    cores: int

    @property
    def in_flight(self) -> float:
        """Give the sagas under way, by Little's law."""
        return self.rate * self.latency

    @property
    def month(self) -> Price:
        """Add up the bill."""
        return Price(sum(each.low for each in self.bill.values()), sum(each.high for each in self.bill.values()))


def cell_at(costs: Costs, site: Site, rate: float) -> Cell | None:
    """Man one cell for a rate, as thinly as the utilisation allows; none if it cannot bear it."""
    stretch, cell = 1.0, None
    for _ in range(_ROUNDS):
        cell = _manned(costs, site, rate, stretch)
        if cell is None:
            return None
        following = capacity.stretch(max(cell.databases.values()) / site.postgres_cores, site.postgres_cores)
        if abs(following - stretch) < 1e-6:
            break
        stretch = following
    return cell


def _manned(costs: Costs, site: Site, rate: float, stretch: float) -> Cell | None:
    kinds = [(f"steps {number}", each) for number, each in enumerate(capacity.participants(costs, site), 1)]
    crews: list[Crew] = []
    for name, service in (*kinds, ("saga log", costs.log)):
        crew = _crew(name, service, site, rate, stretch)
        if crew is None:
            return None
        crews.append(crew)
    *steps, log = crews
    several = {crew.name: _postgres(crew, rate) for crew in steps}
    several[log.name] = _postgres(log, rate) + MICRO * rate * costs.postgres_rest_us
    for databases in ({"one for all": sum(several.values())}, several):
        cell = Cell(rate, tuple(crews), databases, MICRO * rate * costs.sealer_us)
        if _bears(costs, site, cell):
            return cell
    return None


def _postgres(crew: Crew, rate: float) -> float:
    return MICRO * rate * capacity.postgres_us(crew.service, crew.beat.batch)


def _crew(name: str, service: Service, site: Site, rate: float, stretch: float) -> Crew | None:
    most = site.utilisation * capacity.most_messages(service, site, stretch)
    for processes in range(1, site.partitions + 1):
        share = capacity.share_of(processes, site)
        if rate * service.messages * share <= most:
            beat = capacity.beat(service, site, rate * service.messages * share, stretch)
            return Crew(name, service, processes, beat, MICRO * rate * capacity.own_us(service, beat.batch))
    return None


def _bears(costs: Costs, site: Site, cell: Cell) -> bool:
    logs = [log for _, _, log in capacity.databases(costs, site, apart=len(cell.databases) > 1)]
    used = (
        cell.sealer,
        max(cell.databases.values()) / site.postgres_cores,
        cell.rate * max(logs) / (1e6 * site.postgres_log_mb),
        cell.rate * costs.kafka_bytes * site.copies / (1e6 * site.broker_mb * site.brokers),
    )
    return max(used) <= site.utilisation


def most(costs: Costs, site: Site) -> float:
    """Give the sagas a second that one cell is planned for at most, to the nearest one."""
    low, high = 0.0, max(limit.rate for limit in capacity.limits(costs, site, site.partitions, apart=True))
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (middle, high) if cell_at(costs, site, middle) else (low, middle)
    return low


def plan(costs: Costs, site: Site, prices: Prices, rate: float) -> Plan:
    """Work out what a rate takes; with more cells than one, the fullest has more than its share."""
    bears = most(costs, site)
    cells = 1 if rate <= bears else math.ceil(rate * site.uneven / bears) if bears else 0
    cell = cell_at(costs, site, rate * site.uneven / cells if cells > 1 else rate) if cells else None
    if cell is None:
        raise ValueError(f"no cell bears a part of {rate:.0f} sagas a second; give stronger machines")
    postgres = [max(1, math.ceil(used / site.utilisation)) for used in cell.databases.values()]
    kafka = MICRO * cell.rate * costs.kafka_us * site.copies / site.brokers
    broker = max(BROKER_CORES, math.ceil(kafka / site.utilisation))
    cores = cells * (cell.processes + site.postgres_copies * sum(postgres) + site.brokers * broker)
    network = rate * _wire_bytes(costs, site) / 1e6
    kept = rate * DAY * (costs.table_bytes + costs.kafka_bytes) / 1e9
    copied = rate * DAY * (site.postgres_copies * costs.table_bytes + site.copies * costs.kafka_bytes) / 1e9
    disk = copied * prices.days_on_disk + rate * DAY * costs.outbox_bytes * site.postgres_copies * OUTBOX_DAYS / 1e9
    bill = {
        "machines": _times(prices.core_month, cores),
        f"disk, {prices.days_on_disk} days": _times(prices.disk_month, disk),
        f"archive, after {prices.years_kept} years": _times(prices.archive_month, kept * 365 * prices.years_kept),
        "traffic between zones": _times(prices.traffic, ELSEWHERE * network * MONTH / 1000),
    }
    return Plan(
        rate, cells, cell, max(postgres), broker, cells * site.brokers, latency(costs, site, cell), network, copied,
        kept, bill, cores,
    )  # fmt: skip


def _times(price: Price, amount: float) -> Price:
    return Price(price.low * amount, price.high * amount)


def _wire_bytes(costs: Costs, site: Site) -> float:
    """Give the bytes a saga on the network: written once, copied, read by every service; SQL, and the standby's log."""
    kafka = costs.kafka_bytes * (site.copies + len(site.split) + 1)
    log = sum(service.wal_bytes for service in costs.services) + costs.wal_rest_bytes
    return kafka + costs.postgres_wire_bytes + log * (site.postgres_copies - 1)


def latency(costs: Costs, site: Site, cell: Cell) -> float:
    """Give the mean seconds from a start's record to the last fact in the saga log.

    Between two services lies a hand-over, and one before the first.
    """
    handover = costs.handover_ms / 1000 + site.trip
    *steps, log = cell.crews
    own = sum(crew.service.messages * capacity.hop(crew.beat) for crew in steps)
    return own + capacity.hop(log.beat) + (costs.steps.messages + 1) * handover


def stages(costs: Costs, site: Site) -> list[tuple[str, list[Limit]]]:
    """List the steps on the way up, and at each what gives out, first what does so first."""
    account = [most_of_one_account(costs, site)]
    return [
        ("one process per service", capacity.limits(costs, site, 1)),
        (f"{site.partitions} processes per service", capacity.limits(costs, site, site.partitions)),
        ("a database for each service", capacity.limits(costs, site, site.partitions, apart=True)),
        ("cells", account),
    ]


def most_of_one_account(costs: Costs, site: Site) -> Limit:
    """Say what one account bears: all batches that touch its row take turns, in whichever process they are."""
    cash = capacity.participants(costs, site)[0]
    rate = capacity.most_messages(cash, site) / cash.messages
    return Limit("one account: batches lock its row in turn", rate, "more accounts")
