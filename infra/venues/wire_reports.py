"""Converts the venue's reports to messages: single live reports, or an order's state as the reports that led to it."""

from tradesaga.infra.venues.report_tracker import ENDS, make_report
from tradesaga.sagas.trade.arithmetic import EXACT, ZERO, multiply, round_down
from tradesaga.sagas.trade.venue import OrderReport, ReportKind, VenueReport
from tradesaga.schemas.messages import trade as t


def report_event(venue: str, report: VenueReport) -> t.VenueReport:
    """Return the message that publishes a live report."""
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
        # A rebate is the firm's: the message's fee is never negative.
        fill=fill and t.VenueFill(
            trade_id=fill.trade_id, quantity=fill.quantity, price=fill.price, fee=max(fill.fee, ZERO),
            fee_asset=fill.fee_asset,
        ),
        reason=report.reason[:500],
        venue_time=report.time,
    )  # fmt: skip


def report_order(venue: str, order: OrderReport) -> list[t.VenueReport]:
    """Return the reports of an order's fills, and of its end if it has ended, as they would have come live."""
    quantity = quote = ZERO
    reports: list[t.VenueReport] = []
    for fill in order.fills:
        quantity = EXACT.add(quantity, fill.quantity)
        quote = EXACT.add(quote, multiply(fill.quantity, fill.price))
        kind = ReportKind.FILL if quantity >= order.quantity else ReportKind.PARTIAL_FILL
        reports.append(report_event(venue, make_report(order, kind, quantity, quote, fill=fill)))
    if (end := ENDS.get(order.status)) is not None:
        reports.append(report_event(venue, make_report(order, end, order.filled, order.quote)))
    return reports
