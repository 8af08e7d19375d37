"""What a handler is told besides the message."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

import orjson
import structlog

from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.decide import StepMessage
from tradesaga.sagas.errors import ContextMissingError
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.message import Event, Message

_SHOWN: Final = 20

_TEXT_LIMIT: Final = 2000

E = TypeVar("E", bound=Event)

M = TypeVar("M", bound=Message)


@dataclass
class StepContext:
    """One attempt at one step of one saga.

    `key` is the idempotency key: the same over all attempts, different for the compensation. `expires_ns` (nanoseconds
    since 1970) is when the attempt is void: what reaches the far side later must be refused there. `sql` is the
    batch's transaction for a local handler, and None for a remote one. `evidence` is what the participant's `Evidence`
    read of this saga in its database.
    """

    saga_id: UUID
    step: str
    attempt: int
    key: str
    expires_ns: int
    facts: bytes = b""
    traceparent: str = ""
    sql: Connection | None = None
    evidence: Any = None
    _read: dict[type[Event], Event] = field(default_factory=dict[type[Event], Event])

    @cached_property
    def _by_name(self) -> dict[str, Any]:
        return orjson.loads(self.facts) if self.facts else {}

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """Give a logger that carries the saga and the step."""
        return structlog.get_logger("handler").bind(saga_id=str(self.saga_id), step=self.step, attempt=self.attempt)

    def get(self, event: type[E]) -> E:
        """Give an earlier fact of the saga, typed; parsed when first asked for. Raises `ContextMissingError`."""
        found = self.find(event)
        if found is None:
            some = sorted(self._by_name)[:_SHOWN]
            raise ContextMissingError(f"saga {self.saga_id} has no {event.NAME!r}; it has {some}"[:_TEXT_LIMIT])
        return found

    def find(self, event: type[E]) -> E | None:
        """Give an earlier fact of the saga, or None."""
        known = self._read.get(event)
        if known is None:
            raw = self._by_name.get(event.NAME)
            if raw is None:
                return None
            known = self._read[event] = event.read_object(raw)
        return known if isinstance(known, event) else None


@dataclass(frozen=True, slots=True)
class Work(Generic[M]):
    """One item of a batch handler's list."""

    event: M
    ctx: StepContext

    @property
    def saga_id(self) -> UUID:
        """Give the saga's id."""
        return self.ctx.saga_id


class ReportStore(Protocol):
    """Where a waiting step's reports lie, if not in the step's row: rows of the participant's own database.

    A record of a report is then no more than a hint to look there.
    """

    async def save(self, sql: Connection, reports: Sequence[tuple[UUID, Event]]) -> None:
        """Store what was read from the far side, unless it is there."""
        ...

    async def load(self, sql: Connection, sagas: Sequence[UUID]) -> Mapping[UUID, Sequence[Event]]:
        """Read the reports of those sagas of which something can be concluded."""
        ...

    async def mark_counted(self, sql: Connection, reports: Collection[tuple[UUID, str]]) -> None:
        """Note reports, by saga and their own ids, that need not be told of again: the answer counts them."""
        ...

    async def find_counted(self, sql: Connection, reports: Collection[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
        """Return those of these reports that have been noted."""
        ...


class Claim(NamedTuple):
    """One record, as it concerns one step. `status` is that of the step's own row, None without a row.

    `begun` says that the row has its trigger already, so that another one is a duplicate.
    """

    kind: StepMessage
    step: str
    saga_id: UUID
    envelope: Envelope
    value: bytes
    status: RowStatus | None
    begun: bool


class Evidence(Protocol):
    """Reads what the database holds, for a whole batch at once, and judges records by it."""

    async def load(self, sql: Connection, claims: Sequence[Claim], sagas: Sequence[UUID]) -> Mapping[UUID, Any]:
        """Read what these claims are judged by, in a fixed number of statements; handlers get it as `ctx.evidence`.

        `sagas` are all sagas of the batch, those that go on without a record included.
        """
        ...

    def refute(self, claim: Claim, found: Any) -> str | None:
        """Return in what the database contradicts the record, or None. `found` is what `load` read, if anything."""
        ...
