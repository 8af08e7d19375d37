"""One simulated world: broker, database, far side, processes and clients, and the faults to come."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any, Final
from uuid import UUID

from tradesaga.consumers.testing.simulation.broker import EPOCH_NS, SimBroker
from tradesaga.consumers.testing.simulation.database import SimDatabase
from tradesaga.consumers.testing.simulation.effects import EFFECT, FarSide, insert_effect
from tradesaga.consumers.testing.simulation.lane_statements import lane_statements
from tradesaga.consumers.testing.simulation.loop import SimLoop
from tradesaga.consumers.testing.simulation.processes import Processes
from tradesaga.consumers.testing.simulation.row_statements import row_statements
from tradesaga.consumers.testing.simulation.saga_statements import saga_statements
from tradesaga.consumers.testing.simulation.samples import SimulatedSaga
from tradesaga.infra.clock import format_time, new_id
from tradesaga.infra.failpoints import Failpoint
from tradesaga.infra.kafka.codec import Record
from tradesaga.schemas.envelope import Envelope, splice
from tradesaga.schemas.identity import RequestKeys
from tradesaga.schemas.messages.message import Event, wire_type
from tradesaga.schemas.topics import commands_topic, events_topic


class FaultKind(StrEnum):
    """What goes wrong at a failpoint."""

    CRASH = "crash"
    ZOMBIE = "zombie"
    PAUSE = "pause"
    REBALANCE = "rebalance"
    EARLY_DELIVERY = "early delivery"
    REUSED_GENERATION = "reused generation"
    CUT_COMMIT = "cut commit"
    CUT_CONNECTION = "cut connection"
    CONFLICT = "conflict"
    SLOW_DATABASE = "slow database"
    LOST_ACK = "lost ack"
    FAILED_SEND = "failed send"
    DUPLICATE_APPEND = "duplicate append"
    FETCH_ERROR = "fetch error"
    BROKER_DOWN = "broker down"
    REPUBLISH = "republish"
    DUPLICATE_START = "duplicate start"
    ABORT = "abort"
    RETRY = "retry"
    SLOW_FAR_SIDE = "slow far side"
    LOST_ANSWER = "lost answer"
    CLOCK_JUMP = "clock jump"


CELLS: Final[Sequence[tuple[Failpoint, FaultKind]]] = [
    (failpoint, kind) for kind in FaultKind for failpoint in Failpoint
]


"""Every failpoint with every kind of fault; schedule n includes cell n, so that none is left out for long."""

LEAST: Final = 5

MOST: Final = 7

_NTH: Final = 8


"""Times that a failpoint is reached at most before a fault occurs there, the schedule's own aside."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that occurs when a failpoint is reached for the `nth` time; `draw`, in [0, 1), sets its size."""

    failpoint: Failpoint
    nth: int
    kind: FaultKind
    draw: float

    def __str__(self) -> str:
        """Return the fault as the trace prints it."""
        return f"{self.kind} at {self.failpoint} no. {self.nth} ({self.draw:.3f})"


def draw_faults(seed: int, chance: Random) -> list[Fault]:
    """Draw the faults of one schedule."""
    first, kind = CELLS[seed % len(CELLS)]
    faults = [Fault(first, 1, kind, chance.random())]
    for _ in range(chance.randint(LEAST, MOST) - 1):
        failpoint, kind = CELLS[int(chance.random() * len(CELLS))]
        faults.append(Fault(failpoint, 2 + int(chance.random() * (_NTH - 1)), kind, chance.random()))
    return faults


CLIENT: Final = "/simulation"


@dataclass(frozen=True, slots=True)
class Started:
    """A saga that was started."""

    saga_id: UUID
    start: Event


@dataclass
class World:
    """All there is in one schedule."""

    seed: int
    simulated: SimulatedSaga
    faults: list[Fault]
    loop: SimLoop
    chance: Random
    broker: SimBroker
    database: SimDatabase
    far: FarSide
    processes: Processes
    keys: RequestKeys
    sagas: list[Started] = field(default_factory=list[Started])
    hits: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    trace: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    reached: Counter[Failpoint] = field(default_factory=Counter[Failpoint])
    outsiders: set[bytes] = field(default_factory=set[bytes])
    """Ids of records that clients, feeds and operators have published."""

    @classmethod
    def of(cls, seed: int, simulated: SimulatedSaga, faults: list[Fault]) -> "World":
        """Make a world in which nothing runs yet."""
        loop = SimLoop(seed)
        chance = Random(f"{seed} world")  # noqa: S311 - draws schedules, guards nothing
        broker = SimBroker(loop, simulated.partitions)
        statements = {
            **lane_statements(), **row_statements(), **saga_statements(), EFFECT: insert_effect, **simulated.statements
        }  # fmt: skip
        database = SimDatabase(loop, statements)
        far, processes = FarSide(loop, database), Processes(loop, broker, database, chance)
        keys = RequestKeys.of(hashlib.sha256(f"{seed} keys".encode()).digest())
        world = cls(seed, simulated, list(faults), loop, chance, broker, database, far, processes, keys)
        broker.appended = world.note_record
        return world

    def begin(self) -> None:
        """Start the processes."""
        participants = self.simulated.participants(self.far, self.publish)
        self.processes.start_all(*participants, self.simulated.saga)

    def note(self, *what: Any) -> None:
        """Write a line of the trace."""
        self.trace.append((round(self.loop.time(), 6), *what))

    def note_record(self, record: Record) -> None:
        """Write that a record has come to its topic."""
        kind = record.header("ce_type").decode()
        step = record.header("ts_step").decode()
        self.note("append", record.topic, record.partition, record.offset, kind, step)

    def hash(self) -> str:
        """Return a hash of all that happened."""
        return hashlib.sha256("\n".join(map(repr, self.trace)).encode()).hexdigest()

    def start_saga(self) -> None:
        """Start one more saga."""
        saga_id = UUID(int=self.chance.getrandbits(128), version=4)
        start = self.simulated.start(self.chance, len(self.sagas))
        self.sagas.append(Started(saga_id, start))
        self.note("start", len(self.sagas), getattr(start, "plan", ""))
        self.publish(saga_id, start)

    def publish(self, saga_id: UUID, event: Event, step: str = "") -> None:
        """Publish a fact from outside the step path: a start, a report, an operator's decision."""
        saga, value = self.simulated.saga, event.to_wire()
        is_start = isinstance(event, saga.start)
        envelope = Envelope(
            type=wire_type(saga.name, type(event)),
            id=str(new_id()),
            source=CLIENT,
            saga_id=str(saga_id),
            time=format_time(EPOCH_NS + int(self.loop.time() * 1e9)),
            step=step,
            request=self.keys.hash(event) if is_start else "",
            context=splice(b"", event.NAME, value) if is_start else b"",
            version=saga.version if is_start else 0,
        )
        self.outsiders.add(envelope.id.encode())
        self.broker.append(events_topic(saga.name), str(saga_id).encode(), value, envelope.to_headers())

    def republish(self, draw: float) -> None:
        """Republish old records in another order."""
        saga, chance = self.simulated.saga.name, Random(draw)  # noqa: S311 - draws schedules
        for topic in (events_topic(saga), commands_topic(saga)):
            old = [record for log in self.broker.logs.get(topic, ()) for record in log]
            for record in chance.sample(old, min(len(old), 1 + int(draw * 6))):
                self.broker.append(record.topic, record.key or b"", record.value, record.headers)
