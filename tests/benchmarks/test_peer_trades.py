"""The real trade of the peers: the same ids and the same postings as the product, and what its check finds."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tests.benchmarks.peers import desk
from tests.benchmarks.peers.desk_ledger import differences
from tests.benchmarks.trades.generator import ORDER
from tradesaga.sagas.trade.definition import trade
from tradesaga.sagas.trade.postings import Fill, Holding, settle
from tradesaga.schemas.identity import saga_id
from tradesaga.schemas.messages.trade import Side

REQUEST = {**ORDER, "account": "desk-1", "idempotency_key": "k"}
TERMS = {"base": "EUR", "quote": "USD", "worst_price": "1.2", "hold": "24.024", "notional": "24"}
FILL = {"status": "FILLED", "received": "20", "spent": "22.5", "fee": "0.0225"}


class Cursor:
    """Keeps the values that are written."""

    rowcount = 1

    def __init__(self) -> None:
        """Start empty."""
        self.posted: dict[tuple[str, str, str], Decimal] = {}

    def execute(self, statement: str, values: Sequence[Any]) -> None:
        """Keep the postings."""
        if "ledger_entry" in statement:
            for start in range(0, len(values), 6):
                _, _, *place, amount = values[start : start + 6]
                self.posted[place[0], place[1], place[2]] = amount


def test_a_trade_has_the_id_that_the_product_gives_it() -> None:
    """The load generator knows it by that id."""
    assert desk.identify(REQUEST) == str(saga_id(trade.name, "desk-1", "k"))


def test_a_fill_is_posted_as_the_product_posts_it() -> None:
    """Hold, exchange, fee, and the rest that is released."""
    cursor = Cursor()
    desk.settle(cursor, "id", REQUEST, TERMS, FILL)
    holding = Holding("desk-1", "paper", Side.BUY, "EUR", "USD", Decimal("24.024"))
    expected = settle(holding, Fill(Decimal(20), Decimal("22.5"), Decimal("0.0225"), "USD")).postings
    assert cursor.posted == {(key.owner, key.asset, key.kind.value): amount for key, amount in expected.items()}


def test_the_check_compares_the_ledger_with_the_venue() -> None:
    """Each sum that differs is named."""
    row: dict[str, Any] = {
        "settled": 2, "open": 0, "held": Decimal(0), "exposed": Decimal(0), "unbalanced": 0, "usd": Decimal(45),
        "eur": Decimal(-40),
    }  # fmt: skip
    assert differences(row, 2, Decimal(45), Decimal(40)) == []
    assert differences({**row, "held": Decimal(1)}, 2, Decimal(45), Decimal(40)) == ["held is 1, should be 0"]
    assert differences(row, 3, Decimal(46), Decimal(40)) == ["settled is 2, should be 3", "usd is 45, should be 46"]
