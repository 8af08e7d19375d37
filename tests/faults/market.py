"""The steps that happen at the exchange: the order, which is remote, and its fill, which is waited for."""

from collections.abc import Sequence
from random import random
from typing import Any

from tests.faults import messages as m
from tests.faults.exchange import ask
from tests.faults.saga import Drill
from tradesaga.consumers.participant import CompensationImpossibleError, Participant, StepContext
from tradesaga.sagas.errors import OutcomeUnknownError


class NotTakenError(Exception):
    """The exchange has said that it did not take the order, and will not under this attempt."""


class Far:
    """The exchange as a participant asks it: an answer that does not come is an unknown outcome."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def ask(self, kind: str, ctx: StepContext, **asked: Any) -> Any:
        """Ask about the order of a saga."""
        try:
            return await ask(self._address, kind=kind, key=order_key(ctx.saga_id), attempt=ctx.attempt, **asked)
        except OSError as error:
            raise OutcomeUnknownError(f"{type(error).__name__}: {error}") from error


def order_key(saga_id: object) -> str:
    """Name the order of a saga at the exchange."""
    return f"{saga_id}:order"


def make_market(drill: Drill, far: Far) -> Participant:
    """Bind the order and its fill."""
    market = Participant("market", drill.saga)
    _bind_order(market, drill, far)
    _bind_order_back(market, drill, far)
    _bind_fill(market, drill, far)
    return market


def _bind_order(market: Participant, drill: Drill, far: Far) -> None:
    @market.calls(drill.order)
    async def order(event: m.Charged, ctx: StepContext) -> m.Ordered | m.OrderRefused:
        plan = ctx.get(m.Asked).plan
        ends = "lost" if plan.get("fill") == "lost" else "filled"
        told = await far.ask(
            "place", ctx, expires=ctx.expires_ns, mode=plan.get("order", ""), ends=ends, delay=random() * 0.8
        )
        if told["state"] == "expired":
            raise NotTakenError("it came when the attempt was void")
        return _answer(ctx, told["state"])

    @market.queries(drill.order)
    async def query(event: m.Charged, ctx: StepContext) -> m.Ordered | m.OrderRefused | None:
        state = (await far.ask("query", ctx))["state"]
        return None if state is None else _answer(ctx, state)


def _bind_order_back(market: Participant, drill: Drill, far: Far) -> None:
    @market.compensates_remotely(drill.order)
    async def cancel(command: m.CancelOrder, ctx: StepContext) -> m.OrderCancelled:
        if (await far.ask("cancel", ctx))["state"] == "filled":
            raise CompensationImpossibleError("the order is filled")
        return m.OrderCancelled()


def _bind_fill(market: Participant, drill: Drill, far: Far) -> None:
    @market.correlates(drill.fill)
    def correlate(report: m.Report) -> str:
        return report.report_id

    @market.concludes(drill.fill)
    def conclude(reports: Sequence[m.Report], ctx: StepContext) -> m.Filled | m.FillLost | None:
        kinds = {report.kind for report in reports}
        if "filled" in kinds:
            return m.Filled(ref=order_key(ctx.saga_id))
        return m.FillLost(reason=", ".join(sorted(kinds))) if kinds else None

    @market.contradicts(drill.fill)
    def contradict(answer: m.Filled | m.FillLost | None, report: m.Report) -> str | None:
        return "filled after all" if report.kind == "filled" and not isinstance(answer, m.Filled) else None

    @market.polls(drill.fill)
    async def poll(ctx: StepContext) -> Sequence[m.Report]:
        return _read((await far.ask("reports", ctx))["reports"])

    @market.bars(drill.fill)
    async def bar(ctx: StepContext) -> Sequence[m.Report]:
        await far.ask("cancel", ctx)
        return _read((await far.ask("reports", ctx))["reports"])


def _answer(ctx: StepContext, state: str) -> m.Ordered | m.OrderRefused:
    return m.OrderRefused(reason="planned") if state == "refused" else m.Ordered(ref=order_key(ctx.saga_id))


def _read(reports: Sequence[tuple[int, str]]) -> list[m.Report]:
    return [m.Report(report_id=str(number), kind=kind) for number, kind in reports]
