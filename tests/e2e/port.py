"""The remote step and the waiting one: their effect is at the far side."""

from collections.abc import Sequence

from tests.e2e import messages as m
from tests.e2e.far import FarSide
from tests.e2e.plan import PlannedError, misbehave, planned
from tests.e2e.steps import Steps
from tradesaga.consumers.participant import Participant, StepContext
from tradesaga.sagas.errors import OutcomeUnknownError


def bind(port: Participant, steps: Steps, far: FarSide) -> None:
    """Bind ship and confirm."""
    bind_ship(port, steps, far)
    bind_confirm(port, steps, far)


def bind_ship(port: Participant, steps: Steps, far: FarSide) -> None:
    """Bind ship."""
    _bind_ship(port, steps, far)
    _bind_ship_back(port, steps, far)


def bind_confirm(port: Participant, steps: Steps, far: FarSide) -> None:
    """Bind confirm."""
    _bind_confirm(port, steps)
    _bind_questions(port, steps, far)


def _bind_ship(port: Participant, steps: Steps, far: FarSide) -> None:
    @port.calls(steps.ship)
    async def ship(event: m.Paid, ctx: StepContext) -> m.Shipped | m.ShipRefused:
        word = planned(ctx, "ship")
        await far.heard(ctx.key, "place", ctx.expires_ns)
        if word == "refuse":
            return m.ShipRefused(reason="planned")
        if word == "fail":
            raise PlannedError("as planned")
        if word in {"dropped", "dark"}:
            raise OutcomeUnknownError("the line went dead")
        kind = ctx.get(m.Asked).plan.get("confirm", "done")
        await far.place(ctx.key, "" if kind == "wait" else kind)
        await misbehave(word, None)
        return m.Booked(amount="0") if word == "wrong" else m.Shipped(ref=ctx.key)  # pyright: ignore[reportReturnType]


def _bind_ship_back(port: Participant, steps: Steps, far: FarSide) -> None:
    @port.queries(steps.ship)
    async def query(event: m.Paid, ctx: StepContext) -> m.Shipped | m.ShipRefused | None:
        asked = await far.heard(ctx.key, "query")
        word, _, number = ctx.get(m.Asked).plan.get("ship", "").partition(":")
        if word == "dark" and asked <= int(number):
            raise OutcomeUnknownError("still dark")
        return m.Shipped(ref=ctx.key) if await far.state(ctx.key) is not None else None

    @port.compensates_remotely(steps.ship)
    async def recall(command: m.Recall, ctx: StepContext) -> m.Recalled:
        await far.heard(ctx.key, "recall")
        await misbehave(planned(ctx, "unship"), None)
        await far.move(ctx.get(m.Shipped).ref, "recalled")
        return m.Recalled()


def _bind_confirm(port: Participant, steps: Steps) -> None:
    @port.correlates(steps.confirm)
    def correlate(report: m.Report) -> str:
        return report.report_id

    @port.concludes(steps.confirm)
    def conclude(reports: Sequence[m.Report], ctx: StepContext) -> m.Confirmed | m.Lost | None:
        kinds = [report.kind for report in reports]
        if "bug" in kinds:
            raise PlannedError("as planned")
        if "done" in kinds:
            return m.Confirmed(reports=len(reports))
        return m.Lost(reason="lost") if "lost" in kinds else None

    @port.contradicts(steps.confirm)
    def contradict(answer: m.Confirmed | m.Lost | None, report: m.Report) -> str | None:
        if report.kind == "done" and not isinstance(answer, m.Confirmed):
            return "done after all"
        return "busted" if report.kind == "busted" else None


def _bind_questions(port: Participant, steps: Steps, far: FarSide) -> None:
    @port.polls(steps.confirm)
    async def poll(ctx: StepContext) -> Sequence[m.Report]:
        key = _order(ctx)
        await far.heard(key, "poll")
        return [m.Report(report_id=report_id, kind=kind) for report_id, kind in await far.reports(key)]

    @port.bars(steps.confirm)
    async def bar(ctx: StepContext) -> Sequence[m.Report]:
        key = _order(ctx)
        if await far.heard(key, "bar") == 1 and ctx.get(m.Asked).plan.get("bar") == "fail":
            raise PlannedError("as planned")
        await far.move(key, "cancelled")
        if not any(kind in {"done", "lost"} for _, kind in await far.reports(key)):
            await far.report(key, "cancelled", "lost")
        return [m.Report(report_id=report_id, kind=kind) for report_id, kind in await far.reports(key)]


def _order(ctx: StepContext) -> str:
    """Give the key under which the far side has this saga's order."""
    shipped = ctx.find(m.Shipped)
    return shipped.ref if shipped is not None else f"{ctx.saga_id}:ship"
