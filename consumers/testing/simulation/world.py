"""The simulated world of one schedule: broker, database, far side, worker processes, and planned faults."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that occurs when a failpoint is reached for the `nth` time; `draw`, in [0, 1), sets its size."""

    failpoint: Failpoint
    nth: int
    kind: str
    draw: float

    def __str__(self) -> str:
        """Return the fault as the trace prints it."""
        return f"{self.kind} at {self.failpoint} no. {self.nth} ({self.draw:.3f})"


CLIENT: Final = "/simulation"


@dataclass(frozen=True, slots=True)
class StartedSaga:
    """A started saga."""

    saga_id: UUID
    start: Event


class World:
    """The world of one schedule. No process runs before `begin`."""

    def __init__(self, seed: int, simulated: SimulatedSaga, faults: Sequence[Fault]) -> None:
        self.seed = seed
        self.simulated = simulated
        self.faults = list(faults)
        self.loop = SimLoop(seed)
        self.chance = Random(f"{seed} world")  # noqa: S311 - draws schedules, guards nothing
        self.broker = SimBroker(self.loop, simulated.partitions)
        self.broker.appended = self.note_record
        own_statements = {EFFECT: insert_effect, **simulated.statements}
        statements = {**lane_statements(), **row_statements(), **saga_statements(), **own_statements}
        self.database = SimDatabase(self.loop, statements)
        self.far = FarSide(self.loop, self.database)
        self.processes = Processes(self.loop, self.broker, self.database, self.chance)
        self.keys = RequestKeys.of(hashlib.sha256(f"{seed} keys".encode()).digest())
        self.sagas: list[StartedSaga] = []
        self.hits: Counter[tuple[str, str]] = Counter()
        self.trace: list[tuple[Any, ...]] = []
        self.reached: Counter[Failpoint] = Counter()
        self.outsiders: set[bytes] = set()
        """Ids of the records that clients, feeds and operators have published."""

    def begin(self) -> None:
        """Start the processes."""
        participants = self.simulated.participants(self.far, self.publish)
        self.processes.start_all(*participants, self.simulated.saga)

    def note(self, *what: Any) -> None:
        """Append a line to the trace."""
        self.trace.append((round(self.loop.time(), 6), *what))

    def note_record(self, record: Record) -> None:
        """Note an appended record in the trace."""
        kind = record.header("ce_type").decode()
        step = record.header("ts_step").decode()
        self.note("append", record.topic, record.partition, record.offset, kind, step)

    def hash(self) -> str:
        """Return a hash of the trace."""
        return hashlib.sha256("\n".join(map(repr, self.trace)).encode()).hexdigest()

    def start_saga(self) -> None:
        """Start a saga."""
        saga_id = UUID(int=self.chance.getrandbits(128), version=4)
        start = self.simulated.start(self.chance, len(self.sagas))
        self.sagas.append(StartedSaga(saga_id, start))
        self.note("start", len(self.sagas), getattr(start, "plan", ""))
        self.publish(saga_id, start)

    def publish(self, saga_id: UUID, event: Event, step: str = "") -> None:
        """Publish an event from outside the step path: a start, a report, or an operator's decision."""
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
        """Publish some old records again, in another order."""
        saga, chance = self.simulated.saga.name, Random(draw)  # noqa: S311 - draws schedules
        for topic in (events_topic(saga), commands_topic(saga)):
            old = [record for log in self.broker.logs.get(topic, ()) for record in log]
            for record in chance.sample(old, min(len(old), 1 + int(draw * 6))):
                self.broker.append(record.topic, record.key or b"", record.value, record.headers)
