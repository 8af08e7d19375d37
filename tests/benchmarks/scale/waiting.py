"""A saga that can be held in flight: its third step waits for a report from outside, for hours if need be.

Its module is what TRADESAGA_APP names; `tradesaga run waiting-steps` and `waiting-log` run its two services.
"""

from collections.abc import Sequence
from datetime import timedelta

from tradesaga.consumers.context import StepContext
from tradesaga.consumers.participant import Participant, Work
from tradesaga.consumers.runtime.service import serve
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import Connection, open_pool
from tradesaga.infra.settings import Settings
from tradesaga.infra.telemetry.metrics import register_worker
from tradesaga.sagas.definition import AnySaga, saga
from tradesaga.sagas.step import step
from tradesaga.schemas.messages.message import Compensation, Event
from tradesaga.schemas.topics import PARTITIONS

LONG = timedelta(hours=12)
ASKED_AFTER = timedelta(hours=1)
"""How long a report may stay away before the far side is asked."""


class Requested(Event):
    """The start."""

    account: str
    symbol: str
    quantity: str


class Accepted(Event):
    """Step 1."""

    ref: str
    quantity: str


class AcceptedBack(Compensation):
    """Take back step 1."""


class AcceptedUndone(Event):
    """Step 1 is taken back."""


class Ordered(Accepted):
    """Step 2."""


class OrderedBack(Compensation):
    """Take back step 2."""


class OrderedUndone(Event):
    """Step 2 is taken back."""


class Report(Event):
    """What the outside says of the order."""

    report_id: str
    quantity: str


class Filled(Event):
    """Step 3, the pivot, which waits for the report."""

    quantity: str


class Unfilled(Event):
    """Step 3 refuses."""


class Settled(Event):
    """Step 4."""

    ref: str


accept = step("accept", on=Requested, emits=Accepted, compensate=AcceptedBack, compensated=AcceptedUndone)
order = step("order", on=Accepted, emits=Ordered, compensate=OrderedBack, compensated=OrderedUndone)
fill = step("fill", on=Ordered, emits=Filled, rejects=Unfilled, waits_for=Report, timeout=ASKED_AFTER)
settle = step("settle", on=Filled, emits=Settled)
waiting = saga("waiting", version=1, deadline=LONG).then(accept).then(order).then(fill).then(settle)
steps = Participant("steps", waiting)


@steps.handles_batch(accept)
async def accept_all(works: Sequence[Work[Requested]], sql: Connection) -> list[Accepted]:
    """Answer each."""
    return [Accepted(ref=str(work.saga_id)[:8], quantity=work.event.quantity) for work in works]


@steps.handles_batch(order)
async def order_all(works: Sequence[Work[Accepted]], sql: Connection) -> list[Ordered]:
    """Answer each."""
    return [Ordered(ref=work.event.ref, quantity=work.event.quantity) for work in works]


@steps.handles_batch(settle)
async def settle_all(works: Sequence[Work[Filled]], sql: Connection) -> list[Settled]:
    """Answer each."""
    return [Settled(ref=str(work.saga_id)[:8]) for work in works]


@steps.compensates_batch(accept)
async def unaccept_all(works: Sequence[Work[AcceptedBack]], sql: Connection) -> list[AcceptedUndone]:
    """Answer each."""
    return [AcceptedUndone() for _ in works]


@steps.compensates_batch(order)
async def unorder_all(works: Sequence[Work[OrderedBack]], sql: Connection) -> list[OrderedUndone]:
    """Answer each."""
    return [OrderedUndone() for _ in works]


@steps.correlates(fill)
def identify(report: Report) -> str:
    """Give the report's own id."""
    return report.report_id


@steps.concludes(fill)
def conclude(reports: Sequence[Report], ctx: StepContext) -> Filled | None:
    """Be filled by the first report."""
    return Filled(quantity=reports[0].quantity) if reports else None


@steps.polls(fill)
@steps.bars(fill)
async def ask(ctx: StepContext) -> list[Report]:
    """Know nothing: the far side has not filled it yet."""
    return []


async def run_steps(settings: Settings) -> None:
    """Run the participant."""
    await serve(steps, settings)


async def run_log(settings: Settings) -> None:
    """Run the saga log of this saga alone."""
    await fold(waiting, settings)


async def fold(saga: AnySaga, settings: Settings) -> None:
    """Run the saga log of one saga."""
    async with await open_pool(settings.database_for(), max_size=2) as pool:
        log = SagaLog(Rules(saga, PARTITIONS))
        worker = Worker(log, pool, settings.brokers(), log.group, session_ms=settings.session_timeout_ms)
        register_worker(log.group, worker.health)
        await worker.run()


services = {"waiting-steps": run_steps, "waiting-log": run_log}
