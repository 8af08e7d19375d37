"""One cell as a simulation of discrete events, which knows nothing of the model's formulae: queues, batches, servers.

A saga's messages lie on the partition of its key. A worker takes all that waits for it, up to a bound; it computes,
asks PostgreSQL, whose cores all workers share, and commits; commits that wait together are synced together. Answers go
back to the same partition after a hand-over. Starts come at random (Poisson), whatever becomes of those before.
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import simpy

from tests.benchmarks.load import percentile
from tests.benchmarks.scale_out.capacity import participants
from tests.benchmarks.scale_out.costs import MICRO, Costs, Service, Site

Process = Generator[simpy.Event, Any, None]


class Token(NamedTuple):
    """One message: when its saga was started, its partition, and the step that it is for."""

    started: float
    partition: int
    step: int


@dataclass(frozen=True)
class Trial:
    """What is to be simulated; `warm_up` seconds are not counted. The outage is of all workers, from when to when."""

    rate: float
    steps: tuple[int, ...]
    """Processes of each service that does steps."""
    logs: int
    seconds: float
    warm_up: float = 1.0
    hot: float = 0.0
    """The share of sagas whose key is on the first partition, beyond its even share of the others."""
    outage: tuple[float, float] = (0.0, 0.0)
    seed: int = 1


@dataclass
class Tally:
    """What one worker has done since the warm-up."""

    batches: int = 0
    messages: int = 0
    computing: float = 0.0
    busy: float = 0.0


@dataclass(frozen=True)
class Result:
    """What a simulation came to, since the warm-up."""

    per_second: float
    """Sagas ended a second."""
    latencies: Sequence[float]
    """In order; of sagas that ended."""
    in_flight: float
    """Mean over time."""
    left: int
    """Sagas under way at the end."""
    postgres: float
    """The share of its cores that was busy."""
    steps: Sequence[Tally]
    logs: Sequence[Tally]
    seconds: float
    drained: float
    """When, after an outage, the queues were first as short again as they were before it; 0 without one."""

    def quantile(self, share: float) -> float:
        """Give a percentile of the latency."""
        return percentile(self.latencies, share)

    @property
    def mean(self) -> float:
        """Give the mean latency."""
        return sum(self.latencies) / len(self.latencies)


@dataclass
class Worker:
    """One process of one service, and what waits for it."""

    service: Service
    tally: Tally = field(default_factory=Tally)
    waiting: deque[Token] = field(default_factory=deque[Token])
    wake: simpy.Event | None = None

    def put(self, token: Token) -> None:
        """Let a message wait, and wake the process if it sleeps."""
        self.waiting.append(token)
        if self.wake is not None and not self.wake.triggered:
            self.wake.succeed()


class Simulation:
    """One run; everything that happens follows from the trial and its seed."""

    def __init__(self, costs: Costs, site: Site, trial: Trial) -> None:
        self._site, self._trial, self._random = site, trial, Random(trial.seed)
        self._environment = simpy.Environment()
        self._postgres = simpy.Resource(self._environment, site.postgres_cores)
        self._postgres_busy = 0.0
        self._sync: simpy.Event | None = None
        self._syncing = False
        self._handover = costs.handover_ms / 1000 + site.trip
        services = participants(costs, site)
        self._groups = [
            [Worker(service) for _ in range(count)] for service, count in zip(services, trial.steps, strict=True)
        ]
        self._logs = [Worker(costs.log) for _ in range(trial.logs)]
        self._doer = [group for group, part in zip(self._groups, site.split, strict=True) for _ in range(part)]
        self._started = self._ended = 0
        self._level = self._since = self._area = 0.0
        self._latencies: list[float] = []
        self._before, self._drained = 0.0, 0.0

    def run(self) -> Result:
        """Run to the end of the trial."""
        environment, trial = self._environment, self._trial
        environment.process(self._start())
        for worker in self._workers():
            environment.process(self._work(worker))
        environment.run(until=trial.warm_up + trial.seconds)
        self._move(0)
        ended = len(self._latencies)
        steps = [worker.tally for group in self._groups for worker in group]
        return Result(
            ended / trial.seconds, sorted(self._latencies), self._area / trial.seconds, self._started - self._ended,
            self._postgres_busy / (trial.seconds * self._site.postgres_cores), steps,
            [worker.tally for worker in self._logs], trial.seconds, self._drained,
        )  # fmt: skip

    def _workers(self) -> Sequence[Worker]:
        return [worker for group in (*self._groups, self._logs) for worker in group]

    @property
    def _counting(self) -> bool:
        return self._environment.now >= self._trial.warm_up

    def _start(self) -> Process:
        """Start sagas for ever, at random times, on random partitions."""
        while True:
            yield self._environment.timeout(self._random.expovariate(self._trial.rate))
            hot = self._random.random() < self._trial.hot
            partition = 0 if hot else self._random.randrange(self._site.partitions)
            self._started += 1
            self._move(1)
            self._hand_over([Token(self._environment.now, partition, 0)])

    def _hand_over(self, tokens: Sequence[Token]) -> None:
        """Let messages be read, a hand-over later, by who does the next step and by the saga log."""
        self._environment.process(self._arrive(tokens))

    def _arrive(self, tokens: Sequence[Token]) -> Process:
        yield self._environment.timeout(self._handover)
        for token in tokens:
            if token.step < len(self._doer):
                self._of(self._doer[token.step], token.partition).put(token)
            self._of(self._logs, token.partition).put(token)

    def _of(self, workers: Sequence[Worker], partition: int) -> Worker:
        """Find a partition's owner: ranges, as Kafka's range assignor deals them out."""
        each, more = divmod(self._site.partitions, len(workers))
        bound = more * (each + 1)
        return workers[partition // (each + 1) if partition < bound else more + (partition - bound) // each]

    def _work(self, worker: Worker) -> Process:
        """Take what waits, and do it, for ever."""
        environment, (down, up) = self._environment, self._trial.outage
        while True:
            if down <= environment.now < up:
                yield environment.timeout(up - environment.now)
            if not worker.waiting:
                worker.wake = environment.event()
                yield worker.wake
                continue
            batch = [worker.waiting.popleft() for _ in range(min(self._site.batch, len(worker.waiting)))]
            began = environment.now
            yield from self._commit(worker, len(batch))
            self._note(worker, len(batch), began)
            if worker in self._logs:
                self._fold(batch)
            else:
                self._hand_over([token._replace(step=token.step + 1) for token in batch])

    def _commit(self, worker: Worker, size: int) -> Process:
        """Compute, ask PostgreSQL as often as a batch does, and have the commit synced."""
        service, site = worker.service, self._site
        yield self._environment.timeout(service.trips * site.trip + MICRO * _own(service, size))
        core = self._postgres.request()
        yield core
        seconds = MICRO * (service.postgres_batch_us + size * service.postgres_message_us)
        yield self._environment.timeout(seconds)
        self._postgres_busy += seconds if self._counting else 0.0
        self._postgres.release(core)
        yield self._synced()

    def _synced(self) -> simpy.Event:
        """Wait for the next sync: one that is under way does not hold this commit."""
        if self._sync is None:
            self._sync = self._environment.event()
        if not self._syncing:
            self._syncing = True
            self._environment.process(self._flush())
        return self._sync

    def _flush(self) -> Process:
        while self._sync is not None:
            flushed, self._sync = self._sync, None
            yield self._environment.timeout(self._site.sync)
            flushed.succeed()
        self._syncing = False

    def _note(self, worker: Worker, size: int, began: float) -> None:
        if self._counting:
            tally = worker.tally
            tally.batches += 1
            tally.messages += size
            tally.computing += MICRO * _own(worker.service, size)
            tally.busy += self._environment.now - max(began, self._trial.warm_up)
        down, up = self._trial.outage
        if up and not self._drained:
            self._watch(down, up)

    def _watch(self, down: float, up: float) -> None:
        """Keep how much was under way before the outage, and notice when it is as little again."""
        if self._environment.now < down:
            self._before = max(self._before, self._level)
        elif self._environment.now > up and self._level <= self._before:
            self._drained = self._environment.now

    def _fold(self, batch: Sequence[Token]) -> None:
        """Count the sagas whose last fact is in the saga log; facts of a saga come in their order."""
        for token in batch:
            if token.step == len(self._doer):
                self._ended += 1
                self._move(-1)
                if self._counting:
                    self._latencies.append(self._environment.now - token.started)

    def _move(self, by: int) -> None:
        """Keep the time-weighted number of sagas under way."""
        now = self._environment.now
        if self._counting:
            self._area += self._level * (now - max(self._since, self._trial.warm_up))
        self._since = now
        self._level += by


def _own(service: Service, size: int) -> float:
    return service.batch_us + size * service.message_us


def simulate(costs: Costs, site: Site, trial: Trial) -> Result:
    """Run one trial."""
    return Simulation(costs, site, trial).run()
