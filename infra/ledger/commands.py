"""`tradesaga account` and `tradesaga migrate`."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import typer

from tradesaga.infra.cli.console import AsJson, Directory, parse_option, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.ledger.accounts import NewAccount, book_payment, create_account, list_accounts, set_status
from tradesaga.infra.postgres.database import Session, session
from tradesaga.infra.postgres.migrate import migrate_all
from tradesaga.infra.settings import load_settings
from tradesaga.infra.starts.request_keys import ensure_request_keys, keys
from tradesaga.schemas.amounts import Amount, format_decimal
from tradesaga.schemas.messages.trade import AccountId, Asset

commands = typer.Typer()
account = typer.Typer(no_args_is_help=True, help="Open, fund, list and close customers' accounts.")
commands.add_typer(account, name="account")
commands.add_typer(keys, name="keys")

T = TypeVar("T")
Id = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's name.")]
Fund = Annotated[
    list[str] | None, typer.Option("--fund", metavar="ASSET=AMOUNT", help="Initial deposit; may be repeated.")
]


@account.command(epilog="Example: `tradesaga account create alice --fund USD=100000`")
def create(
    account_id: Id,
    *,
    fund: Fund = None,
    venue: Annotated[str | None, typer.Option(help="The venue it trades at; default: the settings' venue.")] = None,
    max_order_notional: Annotated[str, typer.Option(help="Largest value of an order.")] = "100000",
    max_exposure: Annotated[str, typer.Option(help="Largest value of all open orders.")] = "1000000",
    max_open_orders: Annotated[int, typer.Option(min=0, help="Largest number of open orders.")] = 100,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Open an account, or set the limits of an existing one; limits apply per quote asset."""
    settings = load_settings(directory)
    opened = NewAccount(
        parse_option(AccountId, account_id, "ACCOUNT", "bad-account"),
        venue or settings.venue_name,
        _amount(max_order_notional),
        _amount(max_exposure),
        max_open_orders,
    )
    money = [_deposit(each) for each in fund or ()]

    async def run(sql: Session) -> bool:
        async with sql.transaction():
            new = await create_account(sql, opened)
            for asset, amount in money:
                await book_payment(sql, opened.id, asset, amount, f"opening {asset}")
        return new

    new = _in_database(directory, run)
    print_result({"account": opened.id, "new": new}, f"{opened.id} is {'open' if new else 'updated'}", as_json=as_json)


AssetName = Annotated[str, typer.Argument(metavar="ASSET", help="USD for example.")]
HowMuch = Annotated[str, typer.Argument(metavar="AMOUNT", help="A decimal number above zero.")]
Reference = Annotated[str | None, typer.Option(help="The payment's id; a payment with the same id is booked once.")]


@account.command(epilog="Example: `tradesaga account fund alice USD 100000`")
def fund(
    account_id: Id,
    asset: AssetName,
    amount: HowMuch,
    *,
    reference: Reference = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Deposit money to an account."""
    _pay(account_id, asset, _payment(amount), reference, directory, as_json=as_json)


@account.command(epilog="Example: `tradesaga account withdraw alice USD 500`")
def withdraw(
    account_id: Id,
    asset: AssetName,
    amount: HowMuch,
    *,
    reference: Reference = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw available money from an account."""
    _pay(account_id, asset, -_payment(amount), reference, directory, as_json=as_json)


@account.command("list", epilog="Example: `tradesaga account list --json`")
def list_command(
    account_id: Annotated[str | None, typer.Argument(metavar="ACCOUNT", help="One account; default: all.")] = None,
    *,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show accounts, limits and balances; with --json, one JSON object per line."""
    for row in _in_database(directory, lambda sql: list_accounts(sql, account_id)):
        shown = _shown(row)
        money = "  ".join(f"{name} {amount}" for name, amount in shown["balances"].items()) or "no money"
        print_result(shown, f"{shown['account']}  {shown['status']} at {shown['venue']}  {money}", as_json=as_json)


@account.command(epilog="Example: `tradesaga account close alice`")
def close(account_id: Id, *, directory: Directory = None, as_json: AsJson = False) -> None:
    """Stop accepting trades from an account; trades under way continue."""
    _set_status(account_id, "closed", directory, as_json=as_json)


@account.command("open", epilog="Example: `tradesaga account open alice`")
def reopen(account_id: Id, *, directory: Directory = None, as_json: AsJson = False) -> None:
    """Accept trades from a closed account again."""
    _set_status(account_id, "open", directory, as_json=as_json)


@commands.command("migrate", epilog="Example: `tradesaga migrate --json`")
def migrate_command(
    *,
    installation: Annotated[
        UUID | None, typer.Option(metavar="ID", help="The installation that these databases join.")
    ] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Migrate all services' databases; create the key for request hashes if there is none.

    Databases that are migrated together share one installation id. A further database, of a service of your own, joins
    the installation whose topics it uses:

      tradesaga migrate --installation 7f0c2c9e-54a5-4d3e-9c58-0f6f8f1d7f55

    Exit 4: a database is in use by another installation.
    """
    settings = load_settings(directory)
    urls = {settings.database_for(), *(settings.database_for(name) for name in settings.service_databases)}
    shared = migrate_all(urls, installation)
    ensure_request_keys(settings.request_keys_file())
    print_result(
        {"migrated": len(urls), "installation": str(shared)},
        f"{len(urls)} database{'s are' if len(urls) > 1 else ' is'} up to date, of installation {shared}",
        as_json=as_json,
    )


def _set_status(account_id: str, status: str, directory: Path | None, *, as_json: bool) -> None:
    _in_database(directory, lambda sql: set_status(sql, account_id, status))
    print_result({"account": account_id, "status": status}, f"{account_id} is {status}", as_json=as_json)


def _pay(
    account_id: str, asset: str, amount: Decimal, reference: str | None, directory: Path | None, *, as_json: bool
) -> None:
    name, unit = reference or uuid4().hex, _asset(asset)
    booked = _in_database(directory, lambda sql: book_payment(sql, account_id, unit, amount, name))
    text = f"{format_decimal(amount)} {unit} {'booked' if booked else 'were booked before'} under {name}"
    print_result({"account": account_id, "reference": name, "booked": booked}, text, as_json=as_json)


def _in_database(directory: Path | None, run: Callable[[Session], Awaitable[T]]) -> T:
    async def within() -> T:
        async with session(load_settings(directory).database_for("cash"), application_name="tradesaga account") as sql:
            return await run(sql)

    return asyncio.run(within())


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    balances = {name: format_decimal(Decimal(text)) for name, text in sorted(json.loads(row["balances"]).items())}
    limits = {name: format_decimal(row[name]) for name in ("max_order_notional", "max_exposure")}
    return {
        "account": row["id"], "venue": row["venue"], "status": row["status"], **limits,
        "max_open_orders": row["max_open_orders"], "balances": balances,
    }  # fmt: skip


def _deposit(text: str) -> tuple[str, Decimal]:
    asset, _, amount = text.partition("=")
    return _asset(asset), _payment(amount)


def _asset(text: str) -> str:
    return parse_option(Asset, text, "ASSET", "bad-asset")


def _payment(text: str) -> Decimal:
    amount = _amount(text)
    if not amount:
        raise CommandError(
            "bad-amount", "the amount is zero", "command line", "give an amount above zero", ExitCode.USAGE
        )
    return amount


def _amount(text: str) -> Decimal:
    return parse_option(Amount, text, "AMOUNT", "bad-amount")
