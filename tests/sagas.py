"""A small saga for tests of the machinery: two steps that can be taken back, a pivot, and one that must succeed."""

from datetime import timedelta
from uuid import UUID, uuid4

from tradesaga.infra.clock import format_time, new_id
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.sagas.definition import AnySaga, saga
from tradesaga.sagas.step import step
from tradesaga.schemas.envelope import Envelope, Header
from tradesaga.schemas.identity import request_hash
from tradesaga.schemas.messages.message import Compensation, Event, Message, wire_type

RECORDED_MS = 1_790_000_000_123


class OrderAsked(Event):
    """The start."""

    idempotency_key: str
    account: str
    symbol: str = "EUR/USD"
    quantity: str = "10"


class Held(Event):
    """Step 1 is done."""

    amount: str = "5"


class HoldRefused(Event):
    """Step 1 refuses."""


class Unhold(Compensation):
    """Take back step 1."""


class Unheld(Event):
    """Step 1 is taken back."""


class Placed(Event):
    """Step 2 is done."""


class Unplace(Compensation):
    """Take back step 2."""


class Unplaced(Event):
    """Step 2 is taken back."""


class Filled(Event):
    """The pivot is done."""


class Unfilled(Event):
    """The pivot refuses."""


class Settled(Event):
    """The last step is done."""


def small_saga(name: str = "small", deadline: timedelta = timedelta(minutes=5), version: int = 1) -> AnySaga:
    """Define the saga under a name of the caller's."""
    return (
        saga(name, version=version, deadline=deadline)
        .then(step("hold", on=OrderAsked, emits=Held, rejects=HoldRefused, compensate=Unhold, compensated=Unheld))
        .then(step("place", on=Held, emits=Placed, compensate=Unplace, compensated=Unplaced))
        .then(step("fill", on=Placed, emits=Filled, rejects=Unfilled))
        .then(step("settle", on=Filled, emits=Settled))
    )


def headers_of(of: AnySaga, event: Message, saga_id: UUID, **given: str | int) -> list[Header]:
    """Write the headers of a fact as its owner would; `given` are fields of the envelope."""
    owners = {message: each.name for each in of.steps for message in (each.emits, each.rejects, *(each.back or ()))}
    named = str(getattr(event, "step", "") or owners.get(type(event), ""))
    fields: dict[str, str | int] = {
        "type": wire_type(of.name, type(event)),
        "id": str(new_id()),
        "source": "/test",
        "saga_id": str(saga_id),
        "time": format_time(RECORDED_MS * 1_000_000),
        "step": named,
        "request": request_hash(event) if type(event) is of.start else "",
        **given,
    }
    return Envelope(**fields).to_headers()  # pyright: ignore[reportArgumentType] - the caller names the fields


class Partition:
    """Makes the records of one partition, in memory, in the order in which they are asked for."""

    def __init__(self, of: AnySaga, saga_id: UUID | None = None, partitions: int = 12) -> None:
        self.of = of
        self.saga_id = saga_id or uuid4()
        self.number = partition_of(str(self.saga_id).encode(), partitions)
        self.offset = 100

    def start(self, quantity: str = "10") -> Record:
        """Give a start."""
        return self.record(OrderAsked(idempotency_key="k", account="A", quantity=quantity))

    def record(self, event: Message, **given: str | int) -> Record:
        """Give the record of an event."""
        return self.raw(event.to_wire(), headers_of(self.of, event, self.saga_id, **given))

    def raw(self, value: bytes, headers: list[Header], key: bytes | None = b"") -> Record:
        """Give a record of any bytes; its key is the saga's unless another is given."""
        self.offset += 1
        chosen = str(self.saga_id).encode() if key == b"" else key
        topic = f"{self.of.name}.events"
        return Record(topic, self.number, self.offset, RECORDED_MS + self.offset, chosen, value, headers)


def new_saga(partition: int, partitions: int) -> UUID:
    """Give a new saga's id that belongs to this partition: by chance a partition may be left without sagas."""
    while True:
        saga_id = uuid4()
        if partition_of(str(saga_id).encode(), partitions) == partition:
            return saga_id
