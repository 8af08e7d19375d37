"""The accounts that trade, and the check of their money at the end of a run."""

from decimal import Decimal
from pathlib import Path
from typing import Final

from tests.benchmarks.stage import Stage
from tests.benchmarks.trades.plan import ACCOUNTS
from tradesaga.infra.ledger.accounts import NewAccount, book_payment, create_account
from tradesaga.infra.local_stack.state import read_state
from tradesaga.infra.postgres.database import session
from tradesaga.producers.demo import checks
from tradesaga.producers.demo.snapshot import RunData, sum_ledger, take_snapshot
from tradesaga.schemas.amounts import format_decimal

DEPOSIT: Final = Decimal(20_000_000)
_LIMIT: Final = Decimal(10_000_000)
CHECKS: Final[tuple[checks.Check, ...]] = (
    checks.one_saga_a_start, checks.all_ended, checks.fills_agree, checks.aborted_left_nothing, checks.one_order_a_saga,
    checks.ledger_is_closed, checks.nothing_is_held, checks.accounts_to_the_cent, checks.venue_agrees_with_clearing,
    checks.topics_fold_to_the_table, checks.audit_log_is_the_topic,
)  # fmt: skip
"""Those of the demo's checks that hold for every run, not for the demo's scenario alone."""


async def open_accounts(database_url: str) -> None:
    """Open and fund the accounts, with limits that no load reaches; those that are open keep their money."""
    async with session(database_url) as sql:
        for account in ACCOUNTS:
            await create_account(sql, NewAccount(account, "paper", _LIMIT, _LIMIT, max_open_orders=100_000))
            await book_payment(sql, account, "USD", DEPOSIT, "opening")


async def find_differences(stage: Stage) -> list[str]:
    """Compare the ledger, the topics and the venue to the cent; the venue must run, and nothing be under way."""
    state = read_state(stage.home)
    deposits = {account: {"USD": format_decimal(DEPOSIT)} for account in ACCOUNTS}
    async with session(state.database_url) as sql:
        run = RunData(opening=deposits, samples=[await sum_ledger(sql)])
    snapshot = await take_snapshot(state.kafka, state.database_url, state.venue_url, _admin_key(stage.home), run)
    return [finding for check in CHECKS for finding in check(snapshot)]


def _admin_key(home: Path) -> str:
    return (home / "venue" / "admin.key").read_text().strip()
