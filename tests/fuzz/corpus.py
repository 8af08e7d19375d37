"""Good records of a saga, one of each message and step, from which the bad ones are made."""

from collections.abc import Sequence
from random import Random
from uuid import UUID

from tests.fuzz.mutation import Mutator
from tests.fuzz.specimens import specimen
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.envelope import Envelope, splice
from tradesaga.schemas.messages.message import Command, Message, wire_type
from tradesaga.schemas.topics import PARTITIONS, commands_topic, events_topic

TIME = "2026-11-23T14:03:07.120000000Z"
RECORDED_MS = 1_790_000_000_123


class Corpus:
    """Records of some sagas; offsets go up with each that is made, good or bad."""

    def __init__(self, saga: AnySaga, seed: int, sagas: int = 20) -> None:
        self.saga = saga
        self.random = Random(seed)
        self.ids = [UUID(int=self.random.getrandbits(128), version=4) for _ in range(sagas)]
        self._offset = 0
        self._values = {name: specimen(message) for name, message in saga.registry.items()}
        self._messages: list[tuple[str, type[Message]]] = list(saga.registry.items())
        self._steps = [step.name for step in saga.steps]
        self._mutator = Mutator(self.random, _others([self.good() for _ in range(300)]))

    def good(self) -> Record:
        """Give the record of a random message about a random saga."""
        name, message = self.random.choice(self._messages)
        return self.about(self.random.choice(self.ids), name, message, self.random.choice(self._steps))

    def start(self, saga_id: UUID) -> Record:
        """Give a saga's start."""
        return self.about(saga_id, wire_type(self.saga.name, self.saga.start), self.saga.start, "")

    def about(self, saga_id: UUID, name: str, message: type[Message], step: str) -> Record:
        """Give a record as its owner would write it."""
        value, topic = self._values[name], commands_topic if issubclass(message, Command) else events_topic
        envelope = Envelope(
            type=name, id=str(UUID(int=self.random.getrandbits(128), version=4)), source="/fuzz", saga_id=str(saga_id),
            time=TIME, step=step, request="0" * 64, context=splice(b"", self.saga.start.NAME, value),
            round=self.random.choice((1, 1, 1, 2)), started=RECORDED_MS * 1_000_000,
        )  # fmt: skip
        key = str(saga_id).encode()
        self._offset += 1
        place = partition_of(key, PARTITIONS)
        return Record(topic(self.saga.name), place, self._offset, RECORDED_MS, key, value, envelope.to_headers())

    def bad(self) -> Record:
        """Give a record that was good once."""
        return self._mutator.mutate(self.good())

    def any(self) -> Record:
        """Give a record: one in five is good, so that there is something to spoil."""
        return self.good() if self.random.random() < 0.2 else self.bad()


def _others(records: Sequence[Record]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for record in records:
        for name, value in record.headers:
            found.setdefault(name, []).append(value)
    return found
