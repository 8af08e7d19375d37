"""`tradesaga show`, `list`, `why` and `parked`: what is known of sagas."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from tradesaga.consumers.queries.diagnosis import diagnose, parked_records
from tradesaga.consumers.queries.tables import parked_table, plain_console, saga_page, saga_table, waiting_page
from tradesaga.infra.cli.console import AsJson, Directory, to_json
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import session
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.saga_queries import (
    PAGE,
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

SagaArgument = Annotated[str, typer.Argument(metavar="SAGA", help="The saga's id, or the beginning of it.")]
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@commands.command(epilog="Example: `tradesaga show 5b0d1080`")
def show(saga: SagaArgument, *, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show one saga and all that was recorded of it."""
    settings = load_settings(directory)

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga show") as sql:
            found = await read_saga(sql, await find_id(sql, saga))
        typer.echo(to_json(found)) if as_json else plain_console().print(saga_page(found))

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
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="How many; 0 for all.")] = 50,
    after: Annotated[str | None, typer.Option(help="Go on after this saga, the last one of the page before.")] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List sagas, newest first; with --json one a line."""
    settings = load_settings(directory)
    starts = start_events(registered_sagas(settings.app).values())
    begun = _moment(since)

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga list") as sql:
            last = await find_id(sql, after) if after else None
            shown = 0
            while True:
                size = min(PAGE, limit - shown) if limit else PAGE
                wanted = SagaFilter(state and state.value, account, symbol, begun, last)
                rows = await read_page(sql, starts, wanted, size)
                shown += len(rows)
                if as_json:
                    typer.echo("".join(f"{to_json(row)}\n" for row in rows), nl=False)
                else:
                    plain_console().print(saga_table(rows))
                if len(rows) < size or shown == limit:
                    break
                last = rows[-1]["saga_id"]
        if rows and shown == limit and not as_json:
            typer.echo(f"there may be more: --after {rows[-1]['saga_id']}", err=True)

    asyncio.run(run())


@commands.command(epilog="Example: `tradesaga why 5b0d1080`")
def why(saga: SagaArgument, *, directory: Directory = None, as_json: AsJson = False) -> None:
    """Say what a saga is waiting for, and what stands in its way."""
    settings = load_settings(directory)
    silence_libraries()

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga why") as sql:
            row = await read_row(sql, await find_id(sql, saga))
            if row is None:
                raise unknown_saga(saga)
            found = await diagnose(sql, settings, row)
        typer.echo(to_json(found)) if as_json else plain_console().print(waiting_page(found))

    asyncio.run(run())


@commands.command(epilog="Example: `tradesaga parked --json`")
def parked(
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 100,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List the records that wait for `tradesaga release`, oldest first."""
    settings = load_settings(directory)

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga parked") as sql:
            rows = await parked_records(sql, limit)
        if as_json:
            typer.echo("".join(f"{to_json(row)}\n" for row in rows), nl=False)
        else:
            plain_console().print(parked_table(rows))

    asyncio.run(run())


def _moment(text: str | None) -> datetime | None:
    """Read `10m` as ten minutes ago, anything else as a time; raises `CommandError` (exit 2)."""
    if text is None:
        return None
    if text[:-1].isdigit() and text[-1] in _UNITS:
        return datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        do = "give 90s, 10m, 2h, 1d, or a time like 2026-11-23T14:00:00Z"
        raise CommandError("usage", f"{text!r} is no time", "--since", do, ExitCode.USAGE) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
