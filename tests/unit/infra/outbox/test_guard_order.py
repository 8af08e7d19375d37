"""The guard looks while groups and the sealer are at work: no order in which they move makes it find a fault."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.audit_log.seals import SealTrust
from tradesaga.infra.clock import format_time
from tradesaga.infra.kafka.codec import Record, checksum
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.inspector import Committed, Inspector, TopicState
from tradesaga.infra.outbox.guard import KEPT, KNOWN, Guard
from tradesaga.infra.outbox.guard_rules import Owner
from tradesaga.infra.outbox.ports import Clients
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.postgres.installation import IDENTITY, Identity
from tradesaga.schemas.topics import checkpoints_topic, events_topic, installation_topic

NOW = 1_700_000_000 * 10**9
HERE = Identity(UUID(int=7), 3)
EVENTS = events_topic("t")
STATE = TopicState(UUID(int=1), 1)
SIGNER = Signer.generate("test")
TRUST = SealTrust("test", {SIGNER.verifier.id: SIGNER.verifier})
READS = 24
"""More reads than a check makes."""


@dataclass
class World:
    """A saga log at work on a topic of one partition: it is asked by the guard, and moves before the reads in `moves`.

    A move reads what there is and one fact more, whose row the outbox has; it commits the offset, seals, and has the
    broker remove what was read before.
    """

    moves: Collection[int]
    reads: int = 0
    first: int = 0
    next_offset: int = 0
    facts: list[Record] = field(default_factory=list[Record])
    outbox: set[UUID] = field(default_factory=set[UUID])
    seals: list[Record] = field(default_factory=list[Record])

    def read(self) -> None:
        """Count a read, before which the world may move."""
        if self.reads in self.moves:
            self.move()
        self.reads += 1

    def move(self) -> None:
        """Have the saga log work."""
        ce_id, offset = uuid4(), len(self.facts)
        headers = [("ce_source", b"/t/log"), ("ce_id", str(ce_id).encode()), ("ce_time", format_time(NOW).encode())]
        self.outbox.add(ce_id)
        self.facts.append(Record(EVENTS, 0, offset, NOW // 10**6, b"k", b"{}", headers))
        self.first, self.next_offset = self.next_offset, len(self.facts)
        checkpoint = Checkpoint(f"test/{EVENTS}/0", self.next_offset, bytes(32), self.next_offset, "", NOW)
        note = SIGNER.sign(checkpoint.to_text()).encode()
        self.seals.append(Record(checkpoints_topic("t"), 0, len(self.seals), NOW // 10**6, b"k", note, ()))

    def log(self, topic: str) -> list[Record]:
        """Return the records of a topic."""
        owner = Owner(HERE.installation, "here", "2026-01-01").to_wire()
        claim = Record(installation_topic("t"), 0, 0, 1, b"t", owner, ())
        return {EVENTS: self.facts, checkpoints_topic("t"): self.seals, installation_topic("t"): [claim]}[topic]


class Kafka:
    """The world's topics and committed offsets."""

    def __init__(self, world: World) -> None:
        self._world = world

    @asynccontextmanager
    async def inspector(self) -> AsyncGenerator[Inspector]:
        """Yield itself."""
        yield cast("Inspector", self)

    def now(self) -> int:
        """Return the time."""
        return NOW

    async def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        """Return that there are all topics."""
        self._world.read()
        return dict.fromkeys(names, STATE)

    async def committed(self, groups: Collection[str]) -> dict[str, dict[Partition, Committed]]:
        """Return where the saga log is."""
        self._world.read()
        return {group: {(EVENTS, 0): Committed(self._world.next_offset, str(HERE))} for group in groups}

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offsets."""
        self._world.read()
        return {
            place: (self._world.first if place[0] == EVENTS else 0, len(self._world.log(place[0]))) for place in places
        }

    async def read(
        self, ranges: Mapping[Partition, tuple[int, int]], *, first: bool = False
    ) -> dict[Partition, list[Record]]:
        """Return records that were not removed."""
        self._world.read()
        found: dict[Partition, list[Record]] = {}
        for place, (start, end) in ranges.items():
            begin = max(start, self._world.first) if place[0] == EVENTS else start
            found[place] = self._world.log(place[0])[begin:end][: 1 if first else None]
        return found

    async def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> AsyncGenerator[list[Record]]:
        """Yield records that were not removed."""
        for records in (await self.read(ranges)).values():
            yield records


class Database:
    """The world's database."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def fetchrow(self, statement: str) -> Mapping[str, Any]:
        """Return the identity."""
        assert statement == IDENTITY
        self._world.read()
        identity = {"id": HERE.installation, "incarnation": HERE.incarnation, "claimed": True}
        return {**identity, "name": "here", "host": None, "port": None}

    async def fetch(self, statement: str, *arguments: Any) -> list[Mapping[str, Any]]:
        """Return the lane, or the rows of the outbox."""
        self._world.read()
        if statement == KEPT:
            return [{"id": each} for each in arguments[2] if each in self._world.outbox]
        assert statement == KNOWN
        last = self._world.facts[self._world.next_offset - 1]
        seen = checksum(last.offset, last.recorded_ms, last.key, last.value)
        lane = {"group": "t-log", "topic": EVENTS, "partition": 0, "next_offset": self._world.next_offset}
        return [
            {**lane, "topic_id": STATE.id, "partitions": 1, "seen_offset": seen.offset, "seen_crc": seen.crc},
        ]


@pytest.mark.parametrize("moves", [*[(n,) for n in range(READS)], range(READS)], ids=str)
def test_no_halt_while_the_saga_log_works_between_two_reads(moves: Collection[int]) -> None:
    """Whatever was read first, what is compared with it is as far at least."""
    world = World(moves)
    world.move()
    guard = Guard(cast("Clients", Kafka(world)), "t", "t-log", [EVENTS], trust=TRUST)
    assert asyncio.run(guard.refusal(cast("Connection", Database(world)))) == ""
    assert world.reads <= READS
