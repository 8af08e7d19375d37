"""`tradesaga show`, `list`, `why` and `parked`."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from rich.console import RenderableType

from tradesaga.consumers.queries.diagnosis import diagnose, parked_records
from tradesaga.consumers.queries.tables import parked_table, plain_console, saga_page, saga_table, waiting_page
from tradesaga.infra.cli.console import AsJson, Directory, to_json
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import session
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.saga_queries import (
    PAGE,
    Json,
    SagaFilter,
    find_id,
    read_page,
    read_row,
    read_saga,
    start_events,
    unknown_saga,
)
from tradesaga.infra.settings import SAGA_LOG, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries
from tradesaga.sagas.status import Status

commands = typer.Typer()

SagaArgument = Annotated[str, typer.Argument(metavar="SAGA", help="The saga's id, or its first characters.")]
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@commands.command(epilog="Example: `tradesaga show 5b0d1080`")
def show(saga: SagaArgument, *, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show one saga and all of its records."""
    settings = load_settings(directory)

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga show") as sql:
            found = await read_saga(sql, await find_id(sql, saga))
        _print_one(found, saga_page, as_json=as_json)

    asyncio.run(run())


@commands.command("list", epilog="Example: `tradesaga list --state FAILED`")
def list_sagas(
    *,
    state: Annotated[Status | None, typer.Option(case_sensitive=False, help="Only those in this state.")] = None,
    account: Annotated[str | None, typer.Option(help="Only those of this account.")] = None,
    symbol: Annotated[str | None, typer.Option(help="Only those of this symbol.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only those started since then: 90s, 10m, 2h, 1d, or a time.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Maximum number; 0 for all.")] = 50,
    after: Annotated[
        str | None, typer.Option(help="Continue after this saga, the last one of the previous page.")
    ] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List sagas, newest first; with --json one per line."""
    settings = load_settings(directory)
    starts = start_events(registered_sagas(settings.app).values())
    begun = _parse_time(since)

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga list") as sql:
            last = await find_id(sql, after) if after else None
            shown = 0
            while True:
                size = min(PAGE, limit - shown) if limit else PAGE
                wanted = SagaFilter(state and state.value, account, symbol, begun, last)
                rows = await read_page(sql, starts, wanted, size)
                shown += len(rows)
                _print_rows(rows, saga_table, as_json=as_json)
                if len(rows) < size or shown == limit:
                    break
                last = rows[-1]["saga_id"]
        if rows and shown == limit and not as_json:
            typer.echo(f"there may be more: continue with --after {rows[-1]['saga_id']}", err=True)

    asyncio.run(run())


@commands.command(epilog="Example: `tradesaga why 5b0d1080`")
def why(saga: SagaArgument, *, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show what a saga is waiting for, and why."""
    settings = load_settings(directory)
    silence_libraries()

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga why") as sql:
            row = await read_row(sql, await find_id(sql, saga))
            if row is None:
                raise unknown_saga(saga)
            found = await diagnose(sql, settings, row)
        _print_one(found, waiting_page, as_json=as_json)

    asyncio.run(run())


@commands.command(epilog="Example: `tradesaga parked --json`")
def parked(
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Maximum number.")] = 100,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List the parked records, oldest first; `tradesaga release` releases them."""
    settings = load_settings(directory)

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga parked") as sql:
            rows = await parked_records(sql, limit)
        _print_rows(rows, parked_table, as_json=as_json)

    asyncio.run(run())


def _print_one(found: Json, page: Callable[[Json], RenderableType], *, as_json: bool) -> None:
    typer.echo(to_json(found)) if as_json else plain_console().print(page(found))


def _print_rows(rows: list[Json], table: Callable[[list[Json]], RenderableType], *, as_json: bool) -> None:
    if as_json:
        typer.echo("".join(f"{to_json(row)}\n" for row in rows), nl=False)
    else:
        plain_console().print(table(rows))


def _parse_time(text: str | None) -> datetime | None:
    """Parse `10m` as ten minutes ago, other texts as a timestamp. Raises `CommandError` (exit 2)."""
    if text is None:
        return None
    if text[:-1].isdigit() and text[-1] in _UNITS:
        return datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        do = "give 90s, 10m, 2h, 1d, or a time like 2026-11-23T14:00:00Z"
        raise CommandError("usage", f"{text!r} is not a time", "--since", do, ExitCode.USAGE) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
