"""What operators have paused: sagas, accounts and venues, with who and why, in the database of every service."""

import asyncio
import getpass
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import asyncpg
import typer

from tradesaga.infra.cli.console import AsJson, Directory, Operator, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.ledger.accounts import list_accounts
from tradesaga.infra.postgres.database import session
from tradesaga.infra.saga_queries import find_id
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings

SERVICES = ("risk", "cash", "execution", "settlement")

_PAUSE = """
INSERT INTO hold (scope, key, operator, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT (scope, key) DO UPDATE SET operator = excluded.operator, reason = excluded.reason
"""

_RESUME = "DELETE FROM hold WHERE scope = $1 AND key = $2"

_LIST = "SELECT scope, key, operator, reason, created_at FROM hold ORDER BY created_at"


class Scope(StrEnum):
    """What can be paused."""

    SAGA = "saga"
    VENUE = "venue"
    ACCOUNT = "account"


async def pause(settings: Settings, scope: Scope, key: str, operator: str, reason: str) -> None:
    """Keep the steps of what is named from starting, from each service's next batch on; a second pause says why anew.

    What is under way is brought to its end, and compensations and settlements go on.
    """
    for url in _databases(settings):
        async with session(url) as sql:
            await sql.execute(_PAUSE, scope.value, key, operator, reason)


async def resume(settings: Settings, scope: Scope, key: str) -> bool:
    """Remove a pause; False if there was none."""
    paused = False
    for url in _databases(settings):
        async with session(url) as sql:
            paused |= await sql.execute(_RESUME, scope.value, key) != "DELETE 0"
    return paused


async def list_holds(settings: Settings) -> Sequence[asyncpg.Record]:
    """Read what is paused, the oldest first."""
    found: dict[tuple[str, str], asyncpg.Record] = {}
    for url in _databases(settings):
        async with session(url) as sql:
            found |= {(row["scope"], row["key"]): row for row in await sql.fetch(_LIST)}
    return sorted(found.values(), key=lambda row: row["created_at"])


def _databases(settings: Settings) -> list[str]:
    return sorted({settings.database_for(service) for service in SERVICES})


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
