"""The trade saga: validate, reserve, check, place, confirm, settle. The fill is the pivot."""

from tradesaga.sagas.definition import minutes, saga, seconds
from tradesaga.sagas.step import Retry, step
from tradesaga.schemas.messages import trade as t

validate_order = step(
    "validate_order", on=t.TradeRequested, emits=t.OrderValidated, rejects=t.ValidationRejected,
    compensate=t.WithdrawOrder, compensated=t.OrderWithdrawn, timeout=seconds(2),
)  # fmt: skip
reserve_funds = step(
    "reserve_funds", on=t.OrderValidated, emits=t.FundsReserved, rejects=t.FundsRejected,
    compensate=t.ReleaseFunds, compensated=t.FundsReleased, timeout=seconds(2),
)  # fmt: skip
check_risk = step(
    "check_risk", on=t.FundsReserved, emits=t.RiskAccepted, rejects=t.RiskRejected,
    compensate=t.ReleaseRisk, compensated=t.RiskReleased, timeout=seconds(2),
)  # fmt: skip
place_order = step(
    "place_order", on=t.RiskAccepted, emits=t.OrderPlaced, rejects=t.OrderRejected,
    compensate=t.CancelOrder, compensated=t.OrderCancelled, timeout=seconds(3), retry=Retry(attempts=3, maximum=2.0),
)  # fmt: skip
confirm_fill = step(
    "confirm_fill", on=t.OrderPlaced, emits=t.TradeFilled, rejects=t.TradeUnfilled,
    waits_for=t.VenueReport, timeout=seconds(5),
)  # fmt: skip
settle_trade = step("settle_trade", on=t.TradeFilled, emits=t.TradeSettled, timeout=seconds(5))

trade = (
    saga("trade", version=1, deadline=minutes(5), messages=t.MESSAGES)
    .then(validate_order)
    .then(reserve_funds)
    .then(check_risk)
    .then(place_order)
    .then(confirm_fill)
    .then(settle_trade)
)
