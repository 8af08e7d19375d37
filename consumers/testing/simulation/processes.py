"""The simulated worker processes: two of every group, which can freeze, die and be restarted."""

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache, partial
from random import Random
from typing import Any, Final, cast

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.testing.simulation.broker import EPOCH_NS, SimBroker
from tradesaga.consumers.testing.simulation.clients import SimClients
from tradesaga.consumers.testing.simulation.connection import IDLE_LIMIT, SimConnection, SimPool
from tradesaga.consumers.testing.simulation.database import SimDatabase
from tradesaga.consumers.testing.simulation.loop import Process, SimLoop
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import Pool
from tradesaga.sagas.definition import AnySaga

SESSION_MS: Final = 1500
"""Milliseconds after which the session of a silent member expires."""
WORKERS: Final = 2
"""Workers of each group."""


@dataclass(frozen=True, slots=True)
class ProcessClock:
    """The wall clock of one process, which may jump."""

    loop: SimLoop
    process: Process

    def now(self) -> int:
        """Return the time in nanoseconds since 1970."""
        return EPOCH_NS + int((self.loop.time() + self.process.clock_offset) * 1e9)


@lru_cache(maxsize=32)
def rules_of(saga: AnySaga, partitions: int) -> Rules:
    """Return the compiled rules of a saga."""
    return Rules(saga, partitions)


Role = Participant | AnySaga
"""What a worker runs: a participant's steps, or the saga log."""


@dataclass
class Slot:
    """The place of one worker, kept across its restarts. `life` counts its processes."""

    role: Role
    name: str
    life: int = 0
    process: Process | None = None
    worker: Worker | None = None
    pool: SimPool | None = None
    failures: list[str] = field(default_factory=list[str])

    @property
    def alive(self) -> bool:
        """Return whether the slot has a process, frozen or not."""
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
            self._loop.after(self._chance.random() * 0.2, self.start, slot)

    def connections(self, process: Process) -> list[SimConnection]:
        """Return the open database connections of a process."""
        slot = self._by_process.get(process)
        return list(slot.pool.used) if slot is not None and slot.pool is not None else []

    def start(self, slot: Slot) -> None:
        """Start a process in a slot."""
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

        self._loop.outside.run(task.add_done_callback, partial(self._ended, slot, process))

    def _processor(self, role: Role, process: Process) -> Processor:
        clock = ProcessClock(self._loop, process)
        if isinstance(role, Participant):
            return StepProcessor(role, clock=clock, chance=self._chance.random, partitions=self._broker.partitions)
        return SagaLog(rules_of(role, self._broker.partitions), clock)

    def _ended(self, slot: Slot, process: Process, task: "asyncio.Task[None]") -> None:
        """Restart a process that has ended by itself, as its supervisor would."""
        if process.dead:
            return
        error = None if task.cancelled() else task.exception()
        if not isinstance(error, KafkaUnavailableError):
            slot.failures.append(f"{process.name}: {type(error).__name__}: {error}")
        self.kill(process, restart=0.3)

    def kill(self, process: Process, restart: float) -> None:
        """Kill a process, and start another in its slot after `restart` seconds.

        Its database sessions end, and its session in the group expires.
        """
        slot = self._by_process[process]
        self._loop.stop_process(process, dead=True)
        for connection in self.connections(process):
            opened = connection.open
            if opened is not None and connection.committing and not opened.failed and self._chance.random() < 0.5:  # noqa: PLR2004 - a coin: the COMMIT is on its way
                connection.open = None
                opened.commit()
            vanished = self._chance.random() < 0.2  # noqa: PLR2004 - the whole machine is gone, and no packet ends its sessions
            self._loop.after(IDLE_LIMIT if vanished else 0.0, connection.end)
        self._expire_sessions(process)
        self._loop.after(restart, self.start, slot)

    def freeze(self, process: Process, seconds: float) -> None:
        """Stop a process for a while. Its sessions expire at the servers, and it does not notice."""
        self._loop.stop_process(process)
        for connection in self.connections(process):
            self._loop.after(IDLE_LIMIT, _time_out, connection, connection.open)
        self._expire_sessions(process)
        self._loop.after(seconds, self._thaw, process)

    def _thaw(self, process: Process) -> None:
        if process.dead or not process.frozen:
            return
        self._loop.thaw(process)
        for member in self._members(process):
            member.resume()

    def _expire_sessions(self, process: Process) -> None:
        for member in self._members(process):
            self._loop.after(SESSION_MS / 1000, _expire, member)

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


def _expire(member: Any) -> None:
    if member.process.frozen:
        member.expire()


def _time_out(connection: Any, opened: Any) -> None:
    """End a session whose process is still frozen in the transaction that was open when it was stopped."""
    if opened is not None and connection.open is opened and connection.process.frozen:
        connection.end()
