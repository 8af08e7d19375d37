"""The execution service: places orders at the venue, and determines their outcome."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final, cast
from uuid import UUID

from tradesaga.consumers.participant import CompensationImpossibleError, Participant, StepContext
from tradesaga.consumers.runtime.service import serve
from tradesaga.consumers.services.trade_evidence import EVIDENCE, account_of, order_of
from tradesaga.infra.ledger.venue_reports import find_counted, load_ended, mark_counted, store_read
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.reconciliation.run import reconcile_at_start
from tradesaga.infra.settings import Settings
from tradesaga.infra.venues.wire_reports import report_order
from tradesaga.sagas.trade import fills
from tradesaga.sagas.trade.definition import confirm_fill, place_order, trade
from tradesaga.sagas.trade.orders import client_order_id
from tradesaga.sagas.trade.venue import (
    EXPIRED,
    NewOrder,
    OrderReport,
    OrderStatus,
    VenuePort,
    VenueRejected,
    VenueUnavailable,
    VenueUnknown,
)
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Event

IN_FLIGHT: Final = 512
"""Number of calls that a venue client with its hundred connections completes within the time limit of a step."""


async def execution(settings: Settings) -> None:
    """Run the service until it is cancelled."""
    from tradesaga.infra.venues.access import open_venue  # noqa: PLC0415  # an extra, which only the service itself needs

    port = open_venue(settings)
    comparing = asyncio.create_task(reconcile_at_start(port, settings), name="reconcile")
    try:
        await serve(execution_participant(port, settings.venue_name), settings)
    finally:
        comparing.cancel()
        await asyncio.wait([comparing])
        await port.close()


def execution_participant(port: VenuePort, venue: str) -> Participant:
    """Return the participant with the venue bound to its steps."""
    participant = Participant(
        "execution", trade, pauses=lambda ctx: [*account_of(ctx), ("venue", venue)], in_flight=IN_FLIGHT,
        evidence=EVIDENCE,
    )  # fmt: skip
    desk = Desk(port, venue)
    participant.calls(place_order)(desk.place)
    participant.queries(place_order)(desk.query)
    participant.compensates_remotely(place_order)(desk.cancel)
    participant.stores_reports(confirm_fill, StoredReports())
    participant.correlates(confirm_fill)(fills.identify)
    participant.concludes(confirm_fill)(conclude)
    participant.polls(confirm_fill)(desk.poll)
    participant.bars(confirm_fill)(desk.bar)
    participant.contradicts(confirm_fill)(fills.contradict)
    return participant


def registered(settings: Settings) -> Participant:
    """Return the participant without a connection to a venue, for commands that only need to know its steps."""
    return execution_participant(cast("VenuePort", None), settings.venue_name)


class StoredReports:
    """The stored reports of the venue, which only the venue feed and this service write."""

    async def save(self, sql: Connection, reports: Sequence[tuple[UUID, Event]]) -> None:
        """Store the reports that a poll or a bar has read from the venue."""
        await store_read(sql, [(saga_id, each) for saga_id, each in reports if isinstance(each, t.VenueReport)])

    async def load(self, sql: Connection, sagas: Sequence[UUID]) -> Mapping[UUID, Sequence[Event]]:
        """Return the reports of ended orders."""
        return await load_ended(sql, sagas)

    async def mark_counted(self, sql: Connection, reports: Collection[tuple[UUID, str]]) -> None:
        """Mark the reports that an answer counts."""
        await mark_counted(sql, reports)

    async def find_counted(self, sql: Connection, reports: Collection[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
        """Return the reports that are marked as counted."""
        return await find_counted(sql, reports)


class Desk:
    """The calls to the venue: one order for each saga, under an id derived from the saga's."""

    def __init__(self, port: VenuePort, venue: str) -> None:
        self._port = port
        self._venue = venue

    async def place(self, event: t.RiskAccepted, ctx: StepContext) -> t.OrderPlaced | t.OrderRejected:  # noqa: ARG002
        """Place the order. If the venue rejects it because the attempt has expired, it may be tried again."""
        try:
            return self._placed(await self._port.place(_order(ctx)))
        except VenueRejected as refusal:
            if refusal.code == EXPIRED:
                raise VenueUnavailable(
                    f"the attempt had expired when it reached the venue: {refusal.reason}"
                ) from refusal
            return t.OrderRejected(code=refusal.code[:500], reason=refusal.reason[:500])

    async def query(self, event: t.RiskAccepted, ctx: StepContext) -> t.OrderPlaced | t.OrderRejected | None:  # noqa: ARG002
        """Query the outcome of a call that was not answered."""
        report = await self._find(ctx, fills=False)
        return None if report is None else self._placed(report)

    async def cancel(self, command: t.CancelOrder, ctx: StepContext) -> t.OrderCancelled:  # noqa: ARG002
        """Cancel the order; impossible once any of it is filled."""
        report = await self._end(ctx)
        if report.filled:
            raise CompensationImpossibleError(
                f"{format_decimal(report.filled)} {report.symbol} of order {report.client_order_id} are filled already"
            )
        return t.OrderCancelled(client_order_id=report.client_order_id)

    async def poll(self, ctx: StepContext) -> list[t.VenueReport]:
        """Query the venue for the order, because a report may have been lost.

        Fills are read only once the order has ended: before, they conclude nothing, and there may be thousands.
        """
        report = await self._find(ctx, fills=False)
        if report is None or not report.status.final:
            return []
        ended = await self._find(ctx)
        return [] if ended is None else report_order(self._venue, ended)

    async def bar(self, ctx: StepContext) -> list[t.VenueReport]:
        """End the order, and return the reports of all that was filled before."""
        return report_order(self._venue, await self._end(ctx))

    async def _find(self, ctx: StepContext, *, fills: bool = True) -> OrderReport | None:
        return await self._port.query(client_order_id(ctx.saga_id), order_of(ctx).symbol, fills=fills)

    async def _end(self, ctx: StepContext) -> OrderReport:
        """Cancel the order and return it. Raises `VenueUnknown` if it has not ended yet, or is not found."""
        order_id = client_order_id(ctx.saga_id)
        report = await self._port.cancel(order_id, order_of(ctx).symbol)
        if report is None:
            raise VenueUnknown(f"{self._venue} does not find order {order_id}, which it has accepted")
        if not report.status.final:
            raise VenueUnknown(f"{self._venue} has not ended order {order_id} yet: it is {report.status}")
        return report

    def _placed(self, report: OrderReport) -> t.OrderPlaced | t.OrderRejected:
        if report.status is OrderStatus.REJECTED:
            return t.OrderRejected(code="rejected", reason=report.reason[:500])
        return t.OrderPlaced(
            venue=self._venue, client_order_id=report.client_order_id, venue_order_id=report.venue_order_id
        )


def conclude(reports: Sequence[t.VenueReport], ctx: StepContext) -> t.TradeFilled | t.TradeUnfilled | None:
    """Return the outcome of the order once it is known."""
    order = order_of(ctx)
    return fills.conclude(reports, order.quantity, (order.quote, order.base))


def _order(ctx: StepContext) -> NewOrder:
    """Return the order for the venue. A market order becomes an immediate-or-cancel order at its worst price."""
    order = order_of(ctx)
    market = order.order_type is t.OrderType.MARKET
    return NewOrder(
        client_order_id=client_order_id(ctx.saga_id),
        symbol=order.symbol,
        side=order.side,
        type=t.OrderType.LIMIT,
        quantity=order.quantity,
        expires=ctx.expires_ns,
        price=order.worst_price if market else order.limit_price,
        time_in_force=t.TimeInForce.IOC if market else order.time_in_force,
    )
