"""Reads trades from the ledger database: order, amount held, and step rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.step_state import RowStatus
from tradesaga.sagas.trade.arithmetic import ZERO
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

_ORDERS: Final = """
SELECT o.saga_id, o.account, o.venue, o.symbol, o.side, o.quantity, o.order_type, o.limit_price, o.worst_price,
    o.time_in_force, o.quote, o.hold_asset, o.hold, o.notional, o.status, coalesce(
        (SELECT sum(e.amount) FROM ledger_entry e WHERE e.saga_id = o.saga_id AND e.kind = 'held'), 0)
FROM order_register o WHERE o.saga_id = ANY ($1::uuid[])
"""
_STEPS: Final = """
SELECT s.saga_id, s.step, s.status, CASE WHEN k.answered THEN s.answer END
FROM unnest($1::uuid[], $2::text[], $3::bool[]) AS k (saga_id, step, answered)
JOIN step_execution s ON (s.saga_id, s.step) = (k.saga_id, k.step)
"""


class StepQuery(NamedTuple):
    """A step's row to read; its answer only if `answered`."""

    saga_id: UUID
    step: str
    answered: bool


@dataclass(frozen=True, slots=True)
class RegisteredOrder:
    """A registered order. It holds `hold` of `hold_asset`, and `notional` counts towards the exposure."""

    account: str
    venue: str
    symbol: str
    side: Side
    quantity: Decimal
    order_type: OrderType
    limit_price: Decimal | None
    worst_price: Decimal
    time_in_force: TimeInForce
    quote: str
    hold_asset: str
    hold: Decimal
    notional: Decimal
    status: str

    @property
    def base(self) -> str:
        """The asset that is bought or sold."""
        return self.symbol.partition("/")[0]


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step's status, and the record of its answer."""

    status: RowStatus
    answer: bytes | None


@dataclass(slots=True)
class Trade:
    """A trade; `held` is the amount now held for it, in its order's hold asset.

    `stored` has reports of the venue by their ids within the order.
    """

    order: RegisteredOrder | None = None
    held: Decimal = ZERO
    steps: dict[str, StepRow] = field(default_factory=dict[str, StepRow])
    stored: dict[str, bytes] = field(default_factory=dict[str, bytes])


async def load_trades(
    sql: Connection, sagas: Collection[UUID], steps: Sequence[StepQuery] = ()
) -> Mapping[UUID, Trade]:
    """Read these trades in two statements; an unknown saga gives an empty `Trade`."""
    found = {saga_id: Trade() for saga_id in sagas}
    if not found:
        return found
    for row in await sql.fetch(_ORDERS, list(found)):
        trade = found[row[0]]
        trade.order = RegisteredOrder(
            row[1], row[2], row[3], Side(row[4]), row[5], OrderType(row[6]), row[7], row[8], TimeInForce(row[9]),
            row[10], row[11], row[12], row[13], row[14],
        )  # fmt: skip
        trade.held = row[15]
    if steps:
        for row in await sql.fetch(_STEPS, *zip(*steps, strict=True)):
            found[row[0]].steps[row[1]] = StepRow(RowStatus(row[2]), row[3])
    return found
