"""What a handler is told besides the message."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import orjson
import structlog

from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.errors import ContextMissingError
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
