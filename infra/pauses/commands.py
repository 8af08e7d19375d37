"""`tradesaga pause` and `tradesaga resume`: hold the trades of a saga, an account or a venue, and let them go on."""

import asyncio
import getpass
from typing import Annotated

import typer

from tradesaga.infra.cli.options import AsJson, Directory, Operator
from tradesaga.infra.cli.output import print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.ledger.accounts import list_accounts
from tradesaga.infra.pauses.store import Scope, list_holds, pause, resume
from tradesaga.infra.postgres.database import session
from tradesaga.infra.saga_queries import find_id
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings

commands = typer.Typer()

What = Annotated[Scope, typer.Argument(help="saga, venue or account.")]
Key = Annotated[str, typer.Argument(help="Which one: the saga's id or the beginning of it, or a name.")]


@commands.command("pause", epilog="Example: `tradesaga pause venue paper -m 'strange fills'`")
def pause_command(
    scope: Annotated[
        Scope | None, typer.Argument(help="saga, venue or account; without it, list what is paused.")
    ] = None,
    key: Annotated[str, typer.Argument(help="Which one: the saga's id or the beginning of it, or a name.")] = "",
    *,
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why; it is kept with the pause.")] = "",
    operator: Operator = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Keep steps from starting; what is under way ends, and taking back and settling go on."""
    settings = load_settings(directory)
    if scope is None:
        _show(settings, as_json=as_json)
        return
    if not key or not reason:
        raise CommandError("usage", "say which one and why", "tradesaga pause", "give KEY and --reason", ExitCode.USAGE)
    key = asyncio.run(_resolve(settings, scope, key))
    asyncio.run(pause(settings, scope, key, operator or getpass.getuser(), reason))
    print_result({"scope": scope, "key": key, "paused": True}, f"{scope} {key} is paused", as_json=as_json)


@commands.command("resume", epilog="Example: `tradesaga resume venue paper`")
def resume_command(scope: What, key: Key, *, directory: Directory = None, as_json: AsJson = False) -> None:
    """Resume a paused saga, account or venue."""
    settings = load_settings(directory)
    key = asyncio.run(_resolve(settings, scope, key))
    if not asyncio.run(resume(settings, scope, key)):
        do = "see what is paused with `tradesaga pause`"
        raise CommandError("not-paused", f"{scope} {key} is not paused", "database", do, ExitCode.NOT_FOUND)
    print_result({"scope": scope, "key": key, "paused": False}, f"{scope} {key} is resumed", as_json=as_json)


async def _resolve(settings: Settings, scope: Scope, key: str) -> str:
    """Find what is named; raises `CommandError` (exit 3) where there is no such saga, account or venue."""
    if scope is Scope.SAGA:
        async with session(settings.database_for(SAGA_LOG)) as sql:
            return str(await find_id(sql, key))
    async with session(settings.database_for("risk")) as sql:
        if scope is Scope.ACCOUNT:
            await list_accounts(sql, key)
        elif not await sql.fetchval("SELECT EXISTS (SELECT FROM instrument WHERE venue = $1)", key):
            do = "name one that instruments are traded at"
            raise CommandError("venue-unknown", f"there is no venue {key}", "database", do, ExitCode.NOT_FOUND)
    return key


def _show(settings: Settings, *, as_json: bool) -> None:
    for row in asyncio.run(list_holds(settings)):
        since = f"{row['created_at']:%Y-%m-%d %H:%M:%S}"
        text = f"{row['scope']} {row['key']}  since {since} by {row['operator']}: {row['reason']}"
        print_result({**row, "created_at": row["created_at"].isoformat()}, text, as_json=as_json)
