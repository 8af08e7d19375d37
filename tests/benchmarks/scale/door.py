"""The front door of the benchmark's saga: its intake as a service, and a load that comes by it.

`tradesaga run bench-intake`, `bench-log` and `bench-steps`, with this module and `tests.benchmarks.noop` in
TRADESAGA_APP, run its services as `tradesaga run` runs any: told to stop, they leave their lanes in order.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import uuid4

import psutil
import uvloop

from tests.benchmarks.load import Load, Ran
from tests.benchmarks.meter import own_cpu
from tests.benchmarks.noop import bench, steps
from tests.benchmarks.on_kafka import Started
from tests.benchmarks.product import ENDED, LAST, REQUESTS
from tests.benchmarks.scale.processes import INTAKE, environment_of, start, stop
from tests.benchmarks.scale.waiting import fold
from tests.keys import KEYS
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime.service import serve
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.settings import Settings
from tradesaga.infra.starts.backpressure import make_backpressure
from tradesaga.infra.telemetry.metrics import register_worker
from tradesaga.schemas.identity import saga_id
from tradesaga.schemas.topics import starts_topic

APP = "tests.benchmarks.noop,tests.benchmarks.scale.door"
UNDER_WAY = 2_000
"""Sagas under way at which the intake waits: about what two cores end in two seconds, a fifth of the default."""
TICK = 0.005
"""Seconds between two looks at which starts are due."""


async def run_intake(settings: Settings) -> None:
    """Run the intake of this saga alone, with the backpressure that the service `intake` has."""
    async with await open_pool(settings.database_for(), max_size=2) as pool:
        backpressure = make_backpressure(settings, bench.name, pool)
        intake = Intake(bench, KEYS, backpressure=backpressure)
        worker = Worker(intake, pool, settings.brokers(), intake.group, session_ms=settings.session_timeout_ms)
        register_worker(intake.group, worker.health)
        async with asyncio.TaskGroup() as group:
            group.create_task(backpressure.watch())
            group.create_task(worker.run())


async def run_log(settings: Settings) -> None:
    """Run the saga log of this saga alone."""
    await fold(bench, settings)


async def run_steps(settings: Settings) -> None:
    """Run the participant."""
    await serve(steps, settings)


services = {"bench-intake": run_intake, "bench-log": run_log, "bench-steps": run_steps}


@dataclass(frozen=True)
class Doored(Started):
    """The product with its intake before it; loads come as requests on the topic of starts."""

    def run(self, load: Load) -> Ran:
        """Ask for the sagas at their rate, and wait for their ends."""
        before = own_cpu()
        starts = uvloop.run(_ask(self.environment["TRADESAGA_KAFKA"], load))
        spent = own_cpu() - before
        self._wait(list(starts), 120 + load.sagas / 100)
        return Ran(starts, spent)

    def _wait(self, sagas: Sequence[str], seconds: float) -> None:
        until = time.monotonic() + seconds
        for some in (sagas[-LAST:], sagas):
            while (ended := self.stage.ask(ENDED, some)[0][0]) < len(some):
                if time.monotonic() > until:
                    raise TimeoutError(f"{ended} of {len(some)} sagas have ended within {seconds:.0f} seconds")
                time.sleep(0.1)


def behind_its_door(stack: ExitStack, started: Started) -> Doored:
    """Run the intake before a product that runs, for as long as the stack is open."""
    limited = {**environment_of(started.stage, APP), "TRADESAGA_INTAKE_IN_FLIGHT": str(UNDER_WAY)}
    service = start(started.stage, INTAKE, limited)
    stack.callback(stop, [service])
    service.await_ready()
    services = (*started.services, psutil.Process(service.process.pid))
    return Doored(started.system, started.stage, services, started.command, started.environment)


async def _ask(brokers: str, load: Load) -> dict[str, float]:
    """Send requests, each when it is due or, flat out, at once; give the times at which they were."""
    producer = Producer(brokers, "scale-door")
    await producer.start()
    topic, run = starts_topic(bench.name), uuid4()
    starts: dict[str, float] = {}
    acks: list[asyncio.Future[object]] = []
    began = time.time()
    while len(acks) < load.sagas:
        now = time.time()
        due = min(load.sagas, int((now - began) * load.rate) + 1) if load.rate else load.sagas
        for index in range(len(acks), due):
            request = REQUESTS[load.kind].model_copy(update={"idempotency_key": f"{run}-{index}"})
            saga = str(saga_id(bench.name, request.account, request.idempotency_key))
            starts[saga] = began + index / load.rate if load.rate else time.time()
            acks.append(await producer.send(topic, saga.encode(), request.to_wire(), ()))
        await asyncio.sleep(TICK)
    await asyncio.gather(*acks)
    await producer.stop()
    return starts
