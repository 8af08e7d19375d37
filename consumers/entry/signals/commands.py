"""`tradesaga subscribe` and `tradesaga subscriptions`: the strategies that accounts follow, and their limits."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final

import typer

from tradesaga.consumers.entry.signals.store import Stream, list_subscriptions, write_subscription
from tradesaga.infra.cli.console import AsJson, Directory, parse_option, print_result, to_json
from tradesaga.infra.ledger.accounts import list_accounts
from tradesaga.infra.postgres.database import session
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.sagas.trade.routing import Subscription
from tradesaga.schemas.amounts import Quantity, format_decimal
from tradesaga.schemas.messages.signals import StrategyName
from tradesaga.schemas.messages.trade import AccountId, Symbol

_FACTOR_CEILING: Final = Decimal(10) ** 8


def subscribe(
    strategy: Annotated[str, typer.Argument(help="The strategy's name.")],
    symbol: Annotated[str, typer.Argument(help="BASE/QUOTE.")],
    account: Annotated[str, typer.Argument(help="The account that follows it.")],
    *,
    size_factor: Annotated[str, typer.Option(help="Factor for the signal's quantity.")] = "1",
    max_quantity: Annotated[str | None, typer.Option(help="Reduce larger orders to this quantity.")] = None,
    max_notional: Annotated[str | None, typer.Option(help="Refuse orders worth more than this.")] = None,
    max_per_minute: Annotated[int | None, typer.Option(min=1, help="Maximum accepted signals per minute.")] = None,
    max_age: Annotated[int | None, typer.Option(min=1, help="Maximum age of a signal in seconds.")] = None,
    disable: Annotated[bool, typer.Option("--disable", help="Keep the subscription without trading.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Subscribe an account to a strategy's signals in a symbol. The options given here replace all earlier ones.

    Example: `tradesaga subscribe trend EUR/USD alice --max-per-minute 5`
    """
    stream = Stream(parse_option(StrategyName, strategy, "STRATEGY"), parse_option(Symbol, symbol, "SYMBOL"))
    factor = parse_option(Quantity, size_factor, "--size-factor")
    if factor >= _FACTOR_CEILING:
        raise typer.BadParameter(f"--size-factor: give less than {_FACTOR_CEILING}")
    subscription = Subscription(
        account=parse_option(AccountId, account, "ACCOUNT"),
        size_factor=factor,
        max_quantity=_limit("--max-quantity", max_quantity),
        max_notional=_limit("--max-notional", max_notional),
        max_per_minute=max_per_minute,
        max_age=max_age,
        enabled=not disable,
    )
    row = asyncio.run(_subscribe(load_settings(directory), stream, subscription))
    print_result(_view(row), _sentence(row), as_json=as_json)


def subscriptions(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """List the subscriptions, with the numbers of accepted and refused signals.

    Example: `tradesaga subscriptions --json`
    """
    rows = asyncio.run(_list(load_settings(directory)))
    if as_json:
        typer.echo(to_json([_view(row) for row in rows]))
        return
    for row in rows:
        typer.echo(f"{_sentence(row)}; {row['accepted']} accepted, {row['refused']} refused")


async def _subscribe(settings: Settings, stream: Stream, subscription: Subscription) -> dict[str, Any]:
    """Write the subscription. Raises `CommandError` (exit 3) if the account does not exist."""
    async with session(settings.database_for(SAGA_LOG), application_name="tradesaga subscribe") as sql:
        await list_accounts(sql, subscription.account)
        return await write_subscription(sql, stream, subscription)


async def _list(settings: Settings) -> list[dict[str, Any]]:
    async with session(settings.database_for(SAGA_LOG), application_name="tradesaga subscriptions") as sql:
        return await list_subscriptions(sql)


def _limit(name: str, text: str | None) -> Decimal | None:
    return None if text is None else parse_option(Quantity, text, name)


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    view = {name: format_decimal(value) if isinstance(value, Decimal) else value for name, value in row.items()}
    return {**view, "updated_at": row["updated_at"].isoformat()}


def _sentence(row: Mapping[str, Any]) -> str:
    limits = ("max_quantity", "max_notional", "max_per_minute", "max_age")
    view = _view(row)
    text = "".join(f", {name.replace('_', ' ')} {view[name]}" for name in limits if view[name] is not None)
    switched = "trades" if row["enabled"] else "does not trade"
    return f"{row['account']} {switched} {row['strategy']} in {row['symbol']}, size {view['size_factor']}{text}"
