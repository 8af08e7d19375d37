"""Conclude an order's fill from its venue's reports, in whatever order they came."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, Literal

from tradesaga.sagas.trade.arithmetic import EXACT, ZERO, multiply, round_down
from tradesaga.schemas.messages.trade import TradeFilled, TradeUnfilled, VenueFill, VenueReport, hash_trade_ids

ENDS: Final = frozenset({"fill", "rejected", "expired", "cancelled"})
_FILLS: Final = frozenset({"fill", "partial_fill"})
Ending = Literal["expired", "cancelled", "rejected"]


def identify(report: VenueReport) -> str:
    """Return the report's id within its order: for an execution the venue's trade id, otherwise its kind."""
    if report.fill is None:
        return report.kind
    return f"bust:{report.fill.trade_id}" if report.kind == "busted" else f"fill:{report.fill.trade_id}"


def conclude(reports: Sequence[VenueReport], ordered: Decimal, fee_assets: Sequence[str]) -> (
    TradeFilled | TradeUnfilled | None
):  # fmt: skip
    """Return how the order ended, once all executions up to its end are known; None before.

    Executions that the venue busted before that do not count. Only one fee is published: one in `fee_assets` is
    preferred; the house bears the others, and reconciliation shows them.
    """
    end = next((report for report in reports if report.kind in ENDS), None)
    fills = {report.fill.trade_id: report.fill for report in reports if report.fill and report.kind in _FILLS}
    if end is None or _sum([fill.quantity for fill in fills.values()]) < end.cumulative_quantity:
        return None
    busted = {report.fill.trade_id for report in reports if report.fill and report.kind == "busted"}
    stand = [fill for trade_id, fill in fills.items() if trade_id not in busted]
    if not stand:
        status: Ending = "cancelled" if end.kind in _FILLS else _ending(end)
        return TradeUnfilled(status=status, reason=end.reason or ("every execution was busted" if busted else ""))
    quantity = _sum([fill.quantity for fill in stand])
    fee_asset, fee = _fee(stand, fee_assets)
    return TradeFilled(
        quantity=quantity,
        quote_amount=round_down(_sum([multiply(fill.quantity, fill.price) for fill in stand])),
        fee=fee,
        fee_asset=fee_asset,
        executions=len(stand),
        executions_hash=hash_trade_ids(fill.trade_id for fill in stand),
        complete=quantity == ordered,
    )


def contradict(answered: TradeFilled | TradeUnfilled | None, report: VenueReport) -> str | None:
    """Return how a late report contradicts the answer (None: barred), or None if it does not.

    A report that the answer includes is never late: the step's row has its id.
    """
    if report.fill is None:
        return None
    trade = f"{report.fill.quantity:f} at {report.fill.price:f} (trade {report.fill.trade_id})"
    if report.kind == "busted":
        return f"the venue took back {trade}" if isinstance(answered, TradeFilled) else None
    return f"the venue filled {trade} after the step was answered"


def _ending(end: VenueReport) -> Ending:
    match end.kind:
        case "expired" | "rejected":
            return end.kind
        case _:
            return "cancelled"


def _fee(fills: Sequence[VenueFill], preferred: Sequence[str]) -> tuple[str, Decimal]:
    assets = {fill.fee_asset for fill in fills}
    asset = next((one for one in (*preferred, *sorted(assets)) if one in assets), fills[0].fee_asset)
    return asset, max(_sum([fill.fee for fill in fills if fill.fee_asset == asset]), ZERO)


def _sum(amounts: Sequence[Decimal]) -> Decimal:
    total = ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total
