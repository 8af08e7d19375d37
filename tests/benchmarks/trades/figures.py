"""From samples of trades to figures: one object per deployment and load, medians over the rounds."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tests.benchmarks.comparison import total
from tests.benchmarks.report import latency_of, medians, spread
from tests.benchmarks.trades.counters import Usage
from tests.benchmarks.trades.measuring import Idle, TradeSample
from tests.benchmarks.trades.plan import TradeLoad
from tests.benchmarks.trades.sustained import Sustained


def figures_of(samples: Iterable[TradeSample]) -> list[dict[str, Any]]:
    """Return one object per deployment and load, in the order in which they were first measured."""
    groups: dict[tuple[str, TradeLoad], list[TradeSample]] = {}
    for sample in samples:
        groups.setdefault((sample.system, sample.load), []).append(sample)
    return [_figure(group) for group in groups.values()]


def _figure(group: Sequence[TradeSample]) -> dict[str, Any]:
    load, fates = group[0].load, [sample.fate for sample in group]
    outcomes = [fate.outcome for fate in fates if fate.outcome is not None]
    answers = sum((Counter(fate.answers) for fate in fates), Counter[str]())
    return {
        "system": group[0].system,
        "load": {"rate": load.rate or None, "trades": load.trades},
        "runs": len(group),
        "load_average": [sample.load_average for sample in group],
        "per_second": spread([outcome.per_second for outcome in outcomes] or [0.0]),
        "accepted_ms": latency_of([fate.accepted for fate in fates]),
        "latency_ms": latency_of([outcome.latencies for outcome in outcomes]),
        "a_trade": usage_of([sample.usage for sample in group])
        | medians({"generator_cpu_ms": 1000 * sample.generator_cpu} for sample in group),
        "answers": dict(answers),
        "refused_yet_stored": sum(fate.refused_yet_stored for fate in fates),
        "counts": total([outcome.counts for outcome in outcomes])._asdict() if outcomes else {},
        "as_wanted": all(fate.as_wanted for fate in fates),
    }


def usage_of(usages: Sequence[Usage]) -> dict[str, Any]:
    """Return the medians of what was used; CPU in milliseconds by process."""
    written = [{"bytes": usage.postgres["wal_bytes"] + usage.kafka_bytes} for usage in usages]
    return {
        "cpu_ms": {name: 1000 * value for name, value in medians(usage.cpu for usage in usages).items()},
        "postgres": medians(usage.postgres for usage in usages),
        "bytes_written": medians(written)["bytes"],
    }


def idle_of(idles: Iterable[Idle]) -> list[dict[str, Any]]:
    """Return one object per deployment: what it used per second without trades."""
    groups: dict[str, list[Usage]] = {}
    for idle in idles:
        groups.setdefault(idle.system, []).append(idle.usage)
    return [{"system": system, "a_second": usage_of(usages)} for system, usages in groups.items()]


def sustained_of(found: Sustained) -> dict[str, Any]:
    """Return one object for a search: the highest rate that held, and each rate that was tried."""
    tried = [figures_of([sample])[0] for sample in found.samples]
    return {"system": found.system, "highest": found.highest, "finished": found.finished, "tried": tried}
