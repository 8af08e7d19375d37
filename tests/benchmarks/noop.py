"""A saga of five steps that do nothing, and the participant that runs them: what the step path itself costs.

Started with a quantity of 0 it is refused at its fourth step, and the three before are taken back.
"""

from collections.abc import Sequence

from tradesaga.consumers.participant import Participant, Work
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.definition import minutes, saga
from tradesaga.sagas.step import step
from tradesaga.schemas.messages.message import Compensation, Event


class BenchRequested(Event):
    """The start."""

    idempotency_key: str
    account: str
    symbol: str
    side: str
    quantity: str
    limit: str


class Validated(Event):
    """Step 1."""

    ref: str
    qty: str
    px: str


class ValidatedBack(Compensation):
    """Take back step 1."""


class ValidatedUndone(Event):
    """Step 1 is taken back."""


class Reserved(Validated):
    """Step 2."""


class ReservedBack(Compensation):
    """Take back step 2."""


class ReservedUndone(Event):
    """Step 2 is taken back."""


class Placed(Validated):
    """Step 3."""


class PlacedBack(Compensation):
    """Take back step 3."""


class PlacedUndone(Event):
    """Step 3 is taken back."""


class Confirmed(Validated):
    """Step 4, the pivot."""


class Unconfirmed(Event):
    """Step 4 refuses."""


class Settled(Validated):
    """Step 5."""


validate = step(
    "validate_order", on=BenchRequested, emits=Validated, compensate=ValidatedBack, compensated=ValidatedUndone
)
reserve = step("reserve_funds", on=Validated, emits=Reserved, compensate=ReservedBack, compensated=ReservedUndone)
place = step("place_order", on=Reserved, emits=Placed, compensate=PlacedBack, compensated=PlacedUndone)
confirm = step("confirm_fill", on=Placed, emits=Confirmed, rejects=Unconfirmed)
settle = step("settle", on=Confirmed, emits=Settled)

bench = (
    saga("bench", version=1, deadline=minutes(5)).then(validate).then(reserve).then(place).then(confirm).then(settle)
)
steps = Participant("steps", bench)


@steps.handles_batch(validate)
async def validate_all(works: Sequence[Work[BenchRequested]], sql: Connection) -> list[Validated]:
    """Answer each."""
    return [Validated(ref=str(work.saga_id)[:8], qty=work.event.quantity, px="101.25") for work in works]


@steps.handles_batch(reserve)
async def reserve_all(works: Sequence[Work[Validated]], sql: Connection) -> list[Reserved]:
    """Answer each."""
    return [Reserved(ref=str(work.saga_id)[:8], qty=work.event.qty, px="101.25") for work in works]


@steps.handles_batch(place)
async def place_all(works: Sequence[Work[Reserved]], sql: Connection) -> list[Placed]:
    """Answer each."""
    return [Placed(ref=str(work.saga_id)[:8], qty=work.event.qty, px="101.25") for work in works]


@steps.handles_batch(confirm)
async def confirm_all(works: Sequence[Work[Placed]], sql: Connection) -> list[Confirmed | Unconfirmed]:
    """Answer each; there is nothing to fill where nothing is ordered."""
    return [
        Confirmed(ref=str(work.saga_id)[:8], qty="100", px="101.25") if work.event.qty != "0" else Unconfirmed()
        for work in works
    ]


@steps.handles_batch(settle)
async def settle_all(works: Sequence[Work[Confirmed]], sql: Connection) -> list[Settled]:
    """Answer each."""
    return [Settled(ref=str(work.saga_id)[:8], qty="100", px="101.25") for work in works]


@steps.compensates_batch(validate)
async def unvalidate_all(works: Sequence[Work[ValidatedBack]], sql: Connection) -> list[ValidatedUndone]:
    """Answer each."""
    return [ValidatedUndone() for _ in works]


@steps.compensates_batch(reserve)
async def unreserve_all(works: Sequence[Work[ReservedBack]], sql: Connection) -> list[ReservedUndone]:
    """Answer each."""
    return [ReservedUndone() for _ in works]


@steps.compensates_batch(place)
async def unplace_all(works: Sequence[Work[PlacedBack]], sql: Connection) -> list[PlacedUndone]:
    """Answer each."""
    return [PlacedUndone() for _ in works]
