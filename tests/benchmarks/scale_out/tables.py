"""What was measured, and what the model makes of it, as tables for a terminal and for docs/scaling.md."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.scale_out.capacity import Limit
from tests.benchmarks.scale_out.checks import Check
from tests.benchmarks.scale_out.costs import Costs, Measured, Price, Prices, Site
from tests.benchmarks.scale_out.plan import Plan, most, plan, stages
from tests.benchmarks.scale_out.report import measured_sheet
from tests.benchmarks.scale_out.sheet import Sheet, number

DOCUMENT: Final = Path("docs/scaling.md")
RATES: Final = (1_000.0, 100_000.0)


def sheets(measured: Measured, site: Site, prices: Prices, checks: Iterable[Check]) -> dict[str, Sheet]:
    """Make all tables, by the names that the document calls them by."""
    costs = measured.costs
    plans = [plan(costs, site, prices, rate) for rate in RATES]
    return {
        "measured": measured_sheet(measured.efficiency),
        "costs": _costs(costs),
        "limits": _limits(costs, site),
        "plans": _plans(costs, site, plans),
        "money": _money(plans),
        "checks": _checks(checks),
    }


def _costs(costs: Costs) -> Sheet:
    rows = [
        (f"{name}: {what}", number(value), unit)
        for name, service in (("steps", costs.steps), ("saga log", costs.log))
        for what, value, unit in (
            ("CPU of its process, per batch", service.batch_us, "µs"),
            ("CPU of its process, per message", service.message_us, "µs"),
            ("CPU of PostgreSQL, per batch", service.postgres_batch_us, "µs"),
            ("CPU of PostgreSQL, per message", service.postgres_message_us, "µs"),
            ("messages per saga", service.messages, ""),
            ("round trips to PostgreSQL, per batch", service.trips, ""),
            ("WAL, per saga", service.wal_bytes, "bytes"),
        )
    ]
    for what, value, unit in (
        ("sealer: CPU, per saga", costs.sealer_us, "µs"),
        ("PostgreSQL, other work: CPU, per saga", costs.postgres_rest_us, "µs"),
        ("PostgreSQL, other work: WAL, per saga", costs.wal_rest_bytes, "bytes"),
        ("Kafka: CPU, per saga", costs.kafka_us, "µs"),
        ("participant that ignores every fact: CPU, per saga", costs.bystander_us, "µs"),
        ("stored in PostgreSQL, per saga", costs.table_bytes, "bytes"),
        ("stored in PostgreSQL for some days (outbox), per saga", costs.outbox_bytes, "bytes"),
        ("stored in Kafka, one copy, per saga", costs.kafka_bytes, "bytes"),
        ("traffic between services and PostgreSQL, per saga", costs.postgres_wire_bytes, "bytes"),
        ("traffic between services and Kafka, per saga", costs.kafka_wire_bytes, "bytes"),
        ("delay from commit to the next consumer", costs.handover_ms, "ms"),
        ("memory per process", costs.process_mb, "MB"),
    ):
        rows.append((what, number(value), unit))
    rows.append(("load average of the machine before the run", number(costs.fetched["load_average"][0]), ""))
    return Sheet("measured costs", ("what", "cost", "unit"), rows)


def _limits(costs: Costs, site: Site) -> Sheet:
    rows: list[Sequence[str]] = []
    for step, (title, limits) in enumerate(stages(costs, site), 1):
        for place, limit in enumerate(limits):
            first = place == 0
            rows.append(
                (
                    f"**{step}. {title}**" if first else "",
                    _limit(limit, first=first),
                    number(limit.rate),
                    limit.remedy,
                )
            )
    return Sheet("bottlenecks", ("setup", "bottleneck", "limit, sagas/s", "remedy"), rows)


def _limit(limit: Limit, *, first: bool) -> str:
    return f"**{limit.name}**" if first else limit.name


def _plans(costs: Costs, site: Site, plans: Sequence[Plan]) -> Sheet:
    at_most = number(most(costs, site))
    lines: Sequence[tuple[str, Callable[[Plan], str]]] = (
        ("cells", lambda one: str(one.cells)),
        (f"sagas/s in the fullest cell (at most {at_most})", lambda one: number(one.cell.rate)),
        ("processes per cell: each of the four services, saga log", _processes),
        ("processes in total, including sealers", lambda one: number(one.cells * one.cell.processes)),
        ("partitions per topic, in total", lambda one: number(one.cells * site.partitions)),
        ("PostgreSQL servers, without standbys", lambda one: number(one.cells * len(one.cell.databases))),
        ("cores of the busiest one", lambda one: str(one.postgres_cores)),
        ("brokers, cores of each", lambda one: f"{number(one.brokers)}, {one.broker_cores}"),
        ("cores rented", lambda one: number(one.cores)),
        ("memory of all processes, GB", lambda one: number(one.cells * one.cell.processes * costs.process_mb / 1000)),
        ("messages per batch: busiest service, saga log", _batches),
        ("latency, mean ms", lambda one: number(1000 * one.latency)),
        ("sagas in flight (Little)", lambda one: number(one.in_flight)),
        ("network, MB/s", lambda one: number(one.network_mb)),
        ("disk, GB per day, all copies", lambda one: number(one.disk_gb_day)),
        ("stored, TB per year, one copy", lambda one: number(one.kept_gb_day * 0.365)),
    )
    headings = ("", *(f"{number(rate)}/s" for rate in RATES))
    rows = [(name, *(tell(one) for one in plans)) for name, tell in lines]
    return Sheet("resources for a rate", headings, rows)


def _processes(one: Plan) -> str:
    return ", ".join(str(crew.processes) for crew in one.cell.crews)


def _batches(one: Plan) -> str:
    *steps, log = one.cell.crews
    return f"{number(max(crew.beat.batch for crew in steps))}, {number(log.beat.batch)}"


def _money(plans: Sequence[Plan]) -> Sheet:
    rows = [(name, *(_range(each.bill[name]) for each in plans)) for name in plans[0].bill]
    rows.append(("**total**", *(f"**{_range(each.month)}**" for each in plans)))
    rows.append(("per million sagas", *(_range(_each_million(each)) for each in plans)))
    return Sheet("US dollars per month, assumed prices", ("", *(f"{number(rate)}/s" for rate in RATES)), rows)


def _each_million(one: Plan) -> Price:
    millions = one.rate * 30 * 86_400 / 1e6
    return Price(one.month.low / millions, one.month.high / millions)


def _checks(checks: Iterable[Check]) -> Sheet:
    rows = [
        (
            check.trial,
            check.figure,
            number(check.model),
            number(check.simulated),
            f"{check.ratio:.2f}",
            f"{check.tolerance:.0%}",
        )
        for check in checks
    ]
    headings = ("trial", "figure", "model", "simulated", "ratio", "tolerance")
    return Sheet("model and simulation", headings, rows)


def _range(price: Price) -> str:
    return f"{number(price.low)} to {number(price.high)}"
