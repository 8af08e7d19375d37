"""Loads of one deployment: an idle stack, open rates, bursts; each with its latencies and costs."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from uuid import uuid4

from tests.benchmarks.meter import own_cpu
from tests.benchmarks.stage import Stage
from tests.benchmarks.trades import generator
from tests.benchmarks.trades.counters import FLUSH, Usage, read_cpu, read_usage
from tests.benchmarks.trades.deployment import Deployed, Deployment
from tests.benchmarks.trades.generator import Request
from tests.benchmarks.trades.plan import TradeLoad, TradePlan
from tests.benchmarks.trades.records import Fate, is_accepted, read_fate

WARM_UP = TradeLoad(10, 50)
PATIENCE = 120.0
_POLL = 0.1
LAST = 50
"""The trades asked for again and again; all are asked for only when these have ended, or the asking would cost."""


class Idle(NamedTuple):
    """What a stack used in a second without trades."""

    system: str
    usage: Usage


class Differences(NamedTuple):
    """What a deployment has found wrong with its money."""

    found: list[str]


class TradeSample(NamedTuple):
    """One load of one deployment: `usage` is for each trade that was started, the generator's CPU is apart."""

    system: str
    load: TradeLoad
    fate: Fate
    usage: Usage
    generator_cpu: float
    load_average: float


def measure(stage: Stage, deployment: Deployment, plan: TradePlan) -> Iterator[Idle | TradeSample | Differences]:
    """Deploy, warm up, and measure the idle stack and each load."""
    with deployment.running(stage) as deployed:
        prepare(deployed)
        if plan.idle_seconds:
            yield Idle(deployment.name, _idle(deployed, plan.idle_seconds))
        for load in plan.loads:
            yield take(deployed, load)
        yield Differences(deployed.find_differences())


def prepare(deployed: Deployed) -> None:
    """Run the first trades, which wait for whatever is still starting."""
    _await_ends(deployed, _start(deployed, WARM_UP))
    time.sleep(FLUSH)


def take(deployed: Deployed, load: TradeLoad) -> TradeSample:
    """Run a load until its last trade has ended, and read its cost and its records."""
    before, own = read_usage(deployed, read_cpu(deployed)), own_cpu()
    requests = _start(deployed, load)
    own = own_cpu() - own
    _await_ends(deployed, requests)
    cpu = read_cpu(deployed)
    time.sleep(FLUSH)
    after = read_usage(deployed, cpu)
    fate = read_fate(deployed.stage, deployed.records, requests)
    usage = after.since(before, max(1, fate.started))
    return TradeSample(deployed.name, load, fate, usage, own / load.trades, os.getloadavg()[0])


def _idle(deployed: Deployed, seconds: float) -> Usage:
    before = read_usage(deployed, read_cpu(deployed))
    time.sleep(seconds)
    return read_usage(deployed, read_cpu(deployed)).since(before, seconds)


def _start(deployed: Deployed, load: TradeLoad) -> list[Request]:
    file = deployed.stage.home / "requests.json"
    arguments = (deployed.gateway, uuid4().hex, str(load.trades), str(load.rate), str(file))
    subprocess.run([sys.executable, "-m", generator.__name__, *arguments], check=True)
    return generator.read(file)


def _await_ends(deployed: Deployed, requests: Sequence[Request]) -> None:
    """Wait until the accepted trades have ended, or for as long as patience lasts: the records tell which did not."""
    accepted = [request.saga for request in requests if is_accepted(request)]
    limit = time.monotonic() + PATIENCE + len(accepted) / 50
    for some in (accepted[-LAST:], accepted):
        while _count_ended(deployed, some) < len(some) and time.monotonic() < limit:
            time.sleep(_POLL)


def _count_ended(deployed: Deployed, sagas: Sequence[str]) -> int:
    records = deployed.records
    return deployed.stage.ask(records.ended, sagas, url=records.database)[0]["ended"]
