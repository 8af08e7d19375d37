"""What a participant's own database holds of a saga, against which each record is checked before it has any effect.

A record on a topic is a claim: whoever reaches the broker can write one. A participant with an `Evidence` believes it
only as far as rows of its own database say the same.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.decide import StepMessage
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.message import Event


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
