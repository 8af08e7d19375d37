"""A saga with one call to a venue that sleeps before it answers, and the participant that runs it."""

import asyncio
from collections.abc import Sequence

from tradesaga.consumers.participant import Participant, StepContext, Work
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.definition import minutes, saga, seconds
from tradesaga.sagas.step import step
from tradesaga.schemas.messages.message import Compensation, Event


class NapRequested(Event):
    """The start; `seconds` is how long the venue sleeps over it."""

    idempotency_key: str
    account: str
    seconds: str


class NapChecked(Event):
    """Step 1."""

    ref: str


class UncheckNap(Compensation):
    """Take back step 1."""


class NapUnchecked(Event):
    """Step 1 is taken back."""


class NapTaken(Event):
    """Step 2, the call."""

    ref: str


class NapRefused(Event):
    """The venue refuses."""


class NapBooked(Event):
    """Step 3."""

    ref: str


check = step("check", on=NapRequested, emits=NapChecked, compensate=UncheckNap, compensated=NapUnchecked)
nap = step("nap", on=NapChecked, emits=NapTaken, rejects=NapRefused, timeout=seconds(10))
book = step("book", on=NapTaken, emits=NapBooked)

sleepy = saga("sleepy", version=1, deadline=minutes(5)).then(check).then(nap).then(book)
steps = Participant("steps", sleepy)


class SleepingPort:
    """A venue that answers late; it knows how many wait for it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.most = 0

    async def place(self, seconds: float) -> None:
        """Take an order, sleeping over it."""
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            if seconds:
                await asyncio.sleep(seconds)
        finally:
            self.waiting -= 1


port = SleepingPort()


@steps.handles_batch(check)
async def check_all(works: Sequence[Work[NapRequested]], sql: Connection) -> list[NapChecked]:
    """Answer each."""
    return [NapChecked(ref=str(work.saga_id)[:8]) for work in works]


@steps.compensates_batch(check)
async def uncheck_all(works: Sequence[Work[UncheckNap]], sql: Connection) -> list[NapUnchecked]:
    """Answer each."""
    return [NapUnchecked() for _ in works]


@steps.calls(nap)
async def take(event: NapChecked, ctx: StepContext) -> NapTaken | NapRefused:
    """Call the port."""
    await port.place(float(ctx.get(NapRequested).seconds))
    return NapTaken(ref=event.ref)


@steps.queries(nap)
async def ask(event: NapChecked, ctx: StepContext) -> NapTaken | NapRefused | None:
    """Say that it took effect: what was called is never lost here."""
    return NapTaken(ref=event.ref)


@steps.handles_batch(book)
async def book_all(works: Sequence[Work[NapTaken]], sql: Connection) -> list[NapBooked]:
    """Answer each."""
    return [NapBooked(ref=str(work.saga_id)[:8]) for work in works]
