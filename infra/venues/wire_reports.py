"""The venue's reports as facts: live ones one by one, and an order as it stands now as all that led there."""

from decimal import Decimal

from tradesaga.sagas.trade.arithmetic import EXACT, ZERO, multiply, round_down
from tradesaga.sagas.trade.venue import Fill, OrderReport, OrderStatus, ReportKind, VenueReport
from tradesaga.schemas.messages import trade as t

_ENDS = {
    OrderStatus.REJECTED: ReportKind.REJECTED,
    OrderStatus.EXPIRED: ReportKind.EXPIRED,
    OrderStatus.CANCELLED: ReportKind.CANCELLED,
}


def report_event(venue: str, report: VenueReport) -> t.VenueReport:
    """Write a live report as the fact that is published."""
    fill = report.fill
    return t.VenueReport(
        venue=venue,
        report_id=report.report_id,
        kind=report.kind.value,
        client_order_id=report.client_order_id,
        venue_order_id=report.venue_order_id,
        symbol=report.symbol,
        cumulative_quantity=report.cumulative_quantity,
        cumulative_quote=round_down(report.cumulative_quote),
        # A rebate is the house's: a fee is never below zero here.
        fill=fill and t.VenueFill(
            trade_id=fill.trade_id, quantity=fill.quantity, price=fill.price, fee=max(fill.fee, ZERO),
            fee_asset=fill.fee_asset,
        ),
        reason=report.reason[:500],
        venue_time=report.time,
    )  # fmt: skip


def report_order(venue: str, order: OrderReport) -> list[t.VenueReport]:
    """Write an order's fills, and its end if it has come, as the reports that told of them would have been."""
    quantity = quote = ZERO
    reports: list[t.VenueReport] = []
    for fill in order.fills:
        quantity = EXACT.add(quantity, fill.quantity)
        quote = EXACT.add(quote, multiply(fill.quantity, fill.price))
        kind = ReportKind.FILL if quantity >= order.quantity else ReportKind.PARTIAL_FILL
        reports.append(report_event(venue, _as_live(order, kind, quantity, quote, fill)))
    if (end := _ENDS.get(order.status)) is not None:
        reports.append(report_event(venue, _as_live(order, end, order.filled, order.quote)))
    return reports


def _as_live(
    order: OrderReport, kind: ReportKind, quantity: Decimal, quote: Decimal, fill: Fill | None = None
) -> VenueReport:
    return VenueReport(
        report_id=f"{order.symbol}:{order.venue_order_id}:{fill.trade_id if fill else kind}",
        kind=kind,
        client_order_id=order.client_order_id,
        venue_order_id=order.venue_order_id,
        symbol=order.symbol,
        cumulative_quantity=quantity,
        cumulative_quote=quote,
        time=fill.time if fill else order.time,
        cursor="",
        fill=fill,
        reason=order.reason,
    )
