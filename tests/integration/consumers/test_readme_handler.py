"""The handler that the README shows does what it says, on the table that it names."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from tests.architecture.sources import ROOT
from tests.documents.blocks import blocks_of
from tradesaga.consumers import StepContext
from tradesaga.schemas.messages.trade import FundsRejected, FundsReserved, OrderValidated

pytestmark = pytest.mark.stack


async def test_the_handler_of_the_readme_sets_money_aside(database_url: str) -> None:
    """As long as there is enough; an account without a row has none."""
    shown: dict[str, Any] = {"__name__": "readme"}
    programs = [block for block in blocks_of(ROOT / "README.md") if block.language == "python"]
    for block in programs[:2]:
        exec(compile(block.body, str(block), "exec"), shown)
    hold = OrderValidated(
        base="EUR", quote="USD", hold_asset="USD", hold=Decimal(60), notional=Decimal(59), fee_rate=Decimal("0.001")
    )
    sql = await asyncpg.connect(database_url)
    await sql.execute(shown["TABLE"])
    await sql.execute("INSERT INTO my_cash VALUES ('alice', 100)")

    async def reserve(account: str) -> Any:
        asked = {"idempotency_key": "k", "account": account, "symbol": "EUR/USD", "side": "BUY", "quantity": "50"}
        facts = orjson.dumps({"trade-requested": {**asked, "order_type": "MARKET", "time_in_force": "IOC"}})
        ctx = StepContext(uuid4(), "reserve_funds", 1, "key", 0, facts=facts, sql=sql)
        return await shown["reserve"](hold, ctx)

    answers = [await reserve("alice"), await reserve("alice"), await reserve("bob")]
    assert [type(answer) for answer in answers] == [FundsReserved, FundsRejected, FundsRejected]
    assert await sql.fetchval("SELECT balance FROM my_cash") == 40
    await sql.close()
