"""What a handler receives besides the message: the step's context and evidence."""

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
    since 1970) is when the attempt expires: the remote system must reject it after that. `sql` is the
    batch's transaction for a local handler, and None for a remote one. `evidence` is what the participant's `Evidence`
    read about this saga in its database.
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
        """Return a logger with saga, step and attempt bound."""
        return structlog.get_logger("handler").bind(saga_id=str(self.saga_id), step=self.step, attempt=self.attempt)

    def get(self, event: type[E]) -> E:
        """Return an earlier event of the saga, parsed on first use; raises `ContextMissingError`."""
        found = self.find(event)
        if found is None:
            some = sorted(self._by_name)[:_SHOWN]
            raise ContextMissingError(f"saga {self.saga_id} has no {event.NAME!r}; it has {some}"[:_TEXT_LIMIT])
        return found

    def find(self, event: type[E]) -> E | None:
        """Return an earlier event of the saga, or None."""
        known = self._read.get(event)
        if known is None:
            raw = self._by_name.get(event.NAME)
            if raw is None:
                return None
            known = self._read[event] = event.read_object(raw)
        return known if isinstance(known, event) else None


@dataclass(frozen=True, slots=True)
class Work(Generic[M]):
    """One message for a batch handler, with its context."""

    event: M
    ctx: StepContext

    @property
    def saga_id(self) -> UUID:
        """Return the saga's id."""
        return self.ctx.saga_id


class ReportStore(Protocol):
    """Storage of a waiting step's reports in the participant's own database, instead of the step's row.

    The record of a report is then only a hint to read the store.
    """

    async def save(self, sql: Connection, reports: Sequence[tuple[UUID, Event]]) -> None:
        """Store reports read from the remote system, unless they are there."""
        ...

    async def load(self, sql: Connection, sagas: Sequence[UUID]) -> Mapping[UUID, Sequence[Event]]:
        """Read the reports of those of the sagas that have enough of them to conclude from."""
        ...

    async def mark_counted(self, sql: Connection, reports: Collection[tuple[UUID, str]]) -> None:
        """Mark reports, by saga and report id, as included in the answer, so that they are not published again."""
        ...

    async def find_counted(self, sql: Connection, reports: Collection[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
        """Return those of these reports that are marked."""
        ...


class Claim(NamedTuple):
    """What a record says about one step. `status` is that of the step's row, None without a row.

    `begun`: the row has its trigger already, so that another one is a duplicate.
    """

    kind: StepMessage
    step: str
    saga_id: UUID
    envelope: Envelope
    value: bytes
    status: RowStatus | None
    begun: bool


class Evidence(Protocol):
    """Checks records against the participant's database, a whole batch at a time."""

    async def load(self, sql: Connection, claims: Sequence[Claim], sagas: Sequence[UUID]) -> Mapping[UUID, Any]:
        """Read the evidence for these claims, in a fixed number of statements; handlers get it as `ctx.evidence`.

        `sagas` are all sagas of the batch, including those of due rows.
        """
        ...

    def refute(self, claim: Claim, found: Any) -> str | None:
        """Return how the database contradicts the record, or None. `found` is what `load` read, if anything."""
        ...
