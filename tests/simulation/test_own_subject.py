"""Users simulate sagas of their own, with SQL of their own."""

from collections.abc import Sequence
from random import Random
from typing import Any
from uuid import UUID

import pytest

from tradesaga.consumers import Participant
from tradesaga.consumers.participant import StepContext
from tradesaga.consumers.testing.simulation import FarSide, Report, SimulatedSaga, run, take_effect
from tradesaga.consumers.testing.simulation.database import Transaction
from tradesaga.sagas import saga, seconds, step
from tradesaga.schemas.messages.message import Compensation, Event

BOOK = "INSERT INTO booking (saga_id) VALUES ($1)"
CANCEL = "DELETE FROM booking WHERE saga_id = $1"


class TripAsked(Event):
    """The start."""

    full: bool = False


class SeatBooked(Event):
    """The seat is taken."""


class UnbookSeat(Compensation):
    """Give the seat back."""


class SeatUnbooked(Event):
    """The seat is free."""


class TripPaid(Event):
    """The trip is paid."""


class TripUnpaid(Event):
    """The bank has refused."""


book = step("book", on=TripAsked, emits=SeatBooked, compensate=UnbookSeat, compensated=SeatUnbooked)
pay = step("pay", on=SeatBooked, emits=TripPaid, rejects=TripUnpaid)
trip = saga("trip-sim", version=1, deadline=seconds(20)).then(book).then(pay)


def participants(far: FarSide, report: Report) -> Sequence[Participant]:
    """Bind the steps: one by SQL of its own, one at the bank."""
    service = Participant("trips", trip)

    @service.handles(book)
    async def reserve(event: TripAsked, ctx: StepContext) -> SeatBooked:
        assert ctx.sql is not None
        await ctx.sql.execute(BOOK, ctx.saga_id)
        await take_effect(ctx)
        return SeatBooked()

    @service.compensates(book)
    async def give_back(command: UnbookSeat, ctx: StepContext) -> SeatUnbooked:
        assert ctx.sql is not None
        await ctx.sql.execute(CANCEL, ctx.saga_id)
        await take_effect(ctx)
        return SeatUnbooked()

    @service.calls(pay)
    async def charge(event: SeatBooked, ctx: StepContext) -> TripPaid | TripUnpaid:
        if ctx.get(TripAsked).full:
            return TripUnpaid()
        await far.place(ctx)
        return TripPaid()

    @service.queries(pay)
    async def ask(event: SeatBooked, ctx: StepContext) -> TripPaid | None:
        return TripPaid() if await far.find(ctx.key) is not None else None

    return [service]


async def insert_booking(tx: Transaction, saga_id: UUID) -> str:
    """Do what `BOOK` does."""
    tx.put("user", ("booking", saga_id), True)
    return "INSERT 0 1"


async def delete_booking(tx: Transaction, saga_id: UUID) -> str:
    """Do what `CANCEL` does."""
    tx.put("user", ("booking", saga_id), None)
    return "DELETE 1"


def start(chance: Random, number: int) -> TripAsked:
    """Draw a start: the first one is refused at the bank."""
    return TripAsked(full=number == 0 or chance.random() < 0.3)


def simulated(**statements: Any) -> SimulatedSaga:
    """Put together what is simulated."""
    return SimulatedSaga(trip, participants, start, statements=statements)


def test_a_saga_of_ones_own_holds_among_faults() -> None:
    """Two steps of a user's, one of them with SQL of its own, under twenty schedules."""
    own = simulated(**{BOOK: insert_booking, CANCEL: delete_booking})
    results = [run(own, seed) for seed in range(20)]

    assert [(result.seed, list(result.violations)) for result in results if result.violations] == []
    assert sum(result.hits.total() for result in results) >= 5 * len(results)


def test_a_bug_in_ones_own_compensation_is_found() -> None:
    """A compensation that says it has taken the step back, and has not, is told of."""

    def forgetful(far: FarSide, report: Report) -> Sequence[Participant]:
        (service,) = participants(far, report)

        async def nothing(command: UnbookSeat, ctx: StepContext) -> SeatUnbooked:
            return SeatUnbooked()

        service.bindings["book"].compensate = nothing
        return [service]

    own = SimulatedSaga(trip, forgetful, start, statements={BOOK: insert_booking, CANCEL: delete_booking})

    assert "book" in " ".join(run(own, 1).violations)


def test_a_statement_that_nobody_simulates_is_named() -> None:
    """The simulation cannot read SQL: it says which statement it needs a function for."""
    result = run(simulated(), 1, [])

    assert [each for each in result.violations if BOOK in each and "no function for this statement" in each]


@pytest.mark.parametrize("seed", [5, 6])
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    """Users can have a run again as well."""
    own = simulated(**{BOOK: insert_booking, CANCEL: delete_booking})

    assert run(own, seed).hash == run(own, seed).hash
