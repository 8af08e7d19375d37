"""`tradesaga watch`: follows one saga until it ends, or all sagas."""

import asyncio
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from tradesaga.consumers.queries.tables import count_line, event_cells, plain_console, saga_table, state_text
from tradesaga.infra.cli.console import AsJson, Directory, to_json
from tradesaga.infra.errors import ExitCode, unavailable
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.saga_queries import (
    Json,
    SagaFilter,
    count_states,
    find_id,
    read_events,
    read_page,
    read_row,
    start_events,
    unknown_saga,
)
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.sagas.status import Status

commands = typer.Typer()

_EVERY: Final = 0.25
_NEWEST: Final = 15


@commands.command(epilog="Example: `tradesaga watch 5b0d1080`")
def watch(
    saga: Annotated[
        str | None, typer.Argument(metavar="[SAGA]", help="The saga to follow; by default all of them.")
    ] = None,
    *,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds after which to give up (exit 5).")] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Follow a saga until it ends (exit 0 if it completes, 1 if not), or all sagas until Ctrl-C."""
    settings = load_settings(directory)

    async def run() -> Status | None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga watch") as sql:
            try:
                async with asyncio.timeout(timeout):
                    if saga is None:
                        return await _watch_all(sql, settings, as_json=as_json)
                    return await _watch_one(sql, saga, as_json=as_json)
            except TimeoutError:
                if saga is None:
                    return None
                what = f"the saga has not ended within {timeout:g} s"
                raise unavailable("timeout", what, saga, f"see `tradesaga why {saga}`") from None

    if asyncio.run(run()) in {Status.ABORTED, Status.FAILED}:
        raise typer.Exit(int(ExitCode.CHECK_FAILED))


async def _watch_one(sql: Connection, text: str, *, as_json: bool) -> Status:
    """Print each new record until the saga has ended or needs an operator."""
    saga_id = await find_id(sql, text)
    console, shown = plain_console(), 0
    while True:
        row = await read_row(sql, saga_id)
        if row is None:
            raise unknown_saga(text)
        events = await read_events(sql, saga_id)
        for event in events[shown:]:
            _print_event(console, event, row, as_json=as_json)
        shown = len(events)
        status = Status(row["state"])
        if status.final or status is Status.FAILED:
            if as_json:
                typer.echo(to_json({"saga_id": saga_id, "state": status.value}))
            else:
                console.print("the saga is", state_text(status.value))
            return status
        await asyncio.sleep(_EVERY)


def _print_event(console: Console, event: Json, row: Any, *, as_json: bool) -> None:
    if as_json:
        typer.echo(to_json(event))
        return
    line = Table.grid(padding=(0, 2))
    line.add_row(*event_cells(event, row["created_at"]))
    console.print(line)


async def _watch_all(sql: Connection, settings: Settings, *, as_json: bool) -> None:
    """Show counts by state and the newest sagas continuously; as JSON, one line for each change of the counts."""
    if as_json:
        last: dict[str, int] = {}
        while True:
            counts = await count_states(sql)
            if counts != last:
                typer.echo(to_json(counts))
            last = counts
            await asyncio.sleep(_EVERY)
    starts = start_events(registered_sagas(settings.app).values())
    with Live(auto_refresh=False, console=plain_console()) as live:
        while True:
            newest = await read_page(sql, starts, SagaFilter(), _NEWEST)
            live.update(Group(count_line(await count_states(sql)), "", saga_table(newest)), refresh=True)
            await asyncio.sleep(2 * _EVERY)
