"""The simulated processes: two workers of every group, each of which may stop, die and begin anew."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any, Final, cast

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.testing.simulation.broker import EPOCH_NS, SimBroker
from tradesaga.consumers.testing.simulation.clients import SimClients
from tradesaga.consumers.testing.simulation.connection import IDLE_LIMIT, SimPool
from tradesaga.consumers.testing.simulation.database import SimDatabase
from tradesaga.consumers.testing.simulation.loop import Process, SimLoop
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import Pool
from tradesaga.sagas.definition import AnySaga

SESSION_MS: Final = 1500
"""Milliseconds after which the group gives a silent member up."""
WORKERS: Final = 2
"""Workers of each group."""


@dataclass(frozen=True, slots=True)
class ProcessClock:
    """The wall clock of one process, which may jump."""

    loop: SimLoop
    process: Process

    def now(self) -> int:
        """Return nanoseconds since 1970."""
        return EPOCH_NS + int((self.loop.time() + self.process.clock_offset) * 1e9)


@lru_cache(maxsize=32)
def rules_of(saga: AnySaga, partitions: int) -> Rules:
    """Return a saga's rules, compiled once."""
    return Rules(saga, partitions)


Role = Participant | AnySaga
"""What a worker runs: a participant's steps, or the saga log."""


@dataclass
class Slot:
    """A place for one worker, which it holds over its lives."""

    role: Role
    name: str
    life: int = 0
    process: Process | None = None
    worker: Worker | None = None
    pool: SimPool | None = None
    failures: list[str] = field(default_factory=list[str])

    @property
    def alive(self) -> bool:
        """Return whether a process is there, standing still or not."""
        return self.process is not None and not self.process.dead


class Processes:
    """Starts, freezes and terminates processes."""

    def __init__(self, loop: SimLoop, broker: SimBroker, database: SimDatabase, chance: Random) -> None:
        self.slots: list[Slot] = []
        self._loop = loop
        self._broker = broker
        self._database = database
        self._chance = chance
        self._by_process: dict[Process, Slot] = {}

    def start_all(self, *roles: Role) -> None:
        """Make the slots and start a process in each."""
        for role in roles:
            name = role.group if isinstance(role, Participant) else f"{role.name}-log"
            self.slots += [Slot(role, f"{name}/{number}") for number in range(WORKERS)]
        for slot in self.slots:
            self._later(self._chance.random() * 0.2, lambda slot=slot: self.start(slot))

    def slot_of(self, process: Process) -> Slot | None:
        """Find the slot of a process."""
        return self._by_process.get(process)

    def start(self, slot: Slot) -> None:
        """Begin a new life."""
        slot.life += 1
        process = slot.process = self._loop.spawn(f"{slot.name}.{slot.life}")
        self._by_process[process] = slot
        pool = slot.pool = SimPool(self._database, process)
        worker = slot.worker = Worker(
            self._processor(slot.role, process),
            cast("Pool", pool),
            SimClients(self._broker, process),
            process.name,
            session_ms=SESSION_MS,
            batch=self._chance.choice((1, 3, 50)),
        )
        task = process.run(self._loop.create_task, worker.run())

        def ended(task: "asyncio.Task[None]") -> None:
            self._ended(slot, process, task)

        self._loop.outside.run(task.add_done_callback, ended)

    def _processor(self, role: Role, process: Process) -> Processor:
        clock = ProcessClock(self._loop, process)
        if isinstance(role, Participant):
            return StepProcessor(role, clock=clock, chance=self._chance.random, partitions=self._broker.partitions)
        return SagaLog(rules_of(role, self._broker.partitions), clock)

    def _ended(self, slot: Slot, process: Process, task: "asyncio.Task[None]") -> None:
        """Begin anew after a process has ended by itself, as its supervisor would."""
        if process.dead:
            return
        error = None if task.cancelled() else task.exception()
        if not isinstance(error, KafkaUnavailableError):
            slot.failures.append(f"{process.name}: {type(error).__name__}: {error}")
        self.terminate(process)
        self._later(0.3, lambda: self.start(slot))

    def terminate(self, process: Process) -> None:
        """End a process for good: its sessions break, the group gives it up when nothing is heard of it."""
        slot = self._by_process[process]
        self._loop.stop_process(process, dead=True)
        for connection in list(slot.pool.used if slot.pool is not None else ()):
            opened = connection.open
            if opened is not None and connection.committing and not opened.failed and self._chance.random() < 0.5:  # noqa: PLR2004 - a coin: the COMMIT is on its way
                connection.open = None
                opened.commit()
            vanished = self._chance.random() < 0.2  # noqa: PLR2004 - the whole machine is gone, and nobody says so
            self._later(IDLE_LIMIT if vanished else 0.0, connection.end)
        self._give_up(process)

    def kill(self, process: Process, restart: float) -> None:
        """Kill a process, and start another in its slot after a while."""
        slot = self._by_process[process]
        self.terminate(process)
        self._later(restart, lambda: self.start(slot))

    def freeze(self, process: Process, seconds: float) -> None:
        """Stop a process for a while: the servers give up on it as they do, and it does not know."""
        slot = self._by_process[process]
        self._loop.stop_process(process)
        for connection in list(slot.pool.used if slot.pool is not None else ()):
            opened = connection.open
            self._later(IDLE_LIMIT, lambda c=connection, o=opened: _time_out(c, o))
        self._give_up(process)
        self._later(seconds, lambda: self._thaw(process))

    def _thaw(self, process: Process) -> None:
        if process.dead or not process.frozen:
            return
        self._loop.thaw(process)
        for member in self._members(process):
            member.resume()

    def _give_up(self, process: Process) -> None:
        for member in self._members(process):
            self._later(SESSION_MS / 1000, lambda member=member: member.expire() if process.frozen else None)

    def _members(self, process: Process) -> list[Any]:
        return [
            member
            for group in self._broker.groups.values()
            for member in (*group.members, *group.former)
            if member.process is process
        ]

    def thaw_all(self) -> None:
        """Resume every stopped process."""
        for slot in self.slots:
            if slot.process is not None and slot.process.frozen:
                self._thaw(slot.process)

    def _later(self, seconds: float, function: Callable[[], Any]) -> None:
        self._loop.outside.run(self._loop.call_later, seconds, function)


def _time_out(connection: Any, opened: Any) -> None:
    """End a session whose process stands still in the transaction that was open then."""
    if opened is not None and connection.open is opened and connection.process.frozen:
        connection.end()
