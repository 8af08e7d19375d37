"""Pauses of sagas, accounts and venues, stored in the databases of all participants, and the commands for them."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Annotated, Final, TypeVar

import asyncpg
import typer

from tradesaga.infra.cli.console import AsJson, Directory, Operator, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.ledger.accounts import list_accounts
from tradesaga.infra.postgres.database import Session, session
from tradesaga.infra.registry.participants import registered_participants
from tradesaga.infra.saga_queries import find_id
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings

PAUSE = """
INSERT INTO hold (scope, key, operator, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT (scope, key) DO UPDATE SET operator = excluded.operator, reason = excluded.reason
"""
RESUME = "DELETE FROM hold WHERE scope = $1 AND key = $2"
T = TypeVar("T")
_LIST = "SELECT scope, key, operator, reason, created_at FROM hold ORDER BY created_at"


class Scope(StrEnum):
    """What can be paused."""

    SAGA = "saga"
    VENUE = "venue"
    ACCOUNT = "account"


async def pause(settings: Settings, scope: Scope, key: str, operator: str, reason: str) -> None:
    """Keep steps of a saga, account or venue from starting, as of each service's next batch.

    Running steps end, and compensations and settlements continue. A step that is kept is written once, however long
    the pause lasts. A second pause replaces operator and reason.
    Raises `CommandError` as `_in_each` does.
    """
    await _in_each(settings, lambda sql: sql.execute(PAUSE, scope.value, key, operator, reason))


async def resume(settings: Settings, scope: Scope, key: str) -> bool:
    """Remove a pause; return False if there was none. The steps that it has kept start within about a second."""
    removed = await _in_each(settings, lambda sql: sql.execute(RESUME, scope.value, key))
    return any(each != "DELETE 0" for each in removed)


async def list_pauses(settings: Settings) -> Sequence[asyncpg.Record]:
    """Return the pauses, oldest first."""
    found = {
        (row["scope"], row["key"]): row
        for rows in await _in_each(settings, lambda sql: sql.fetch(_LIST))
        for row in rows
    }
    return sorted(found.values(), key=lambda row: row["created_at"])


async def _in_each(settings: Settings, run: Callable[[Session], Awaitable[T]]) -> list[T]:
    """Run a statement in the database of each participant, the ledger's first, and return the results.

    A database that fails does not keep the others from their turn, nor does a module of `--app` that cannot be
    imported: its participants may have any configured database, so all are used. Raises `CommandError` after the
    last database, with the exit code of the first failure.
    """
    results, failures = list[T](), list[CommandError]()
    try:
        names = {owner.name for owner in registered_participants(settings)}
    except CommandError as error:
        names = settings.service_databases.keys()
        failures.append(error)
    ledger = settings.database_for("risk")
    for url in [ledger, *sorted({settings.database_for(name) for name in names} - {ledger})]:
        try:
            async with session(url) as sql:
                results.append(await run(sql))
        except CommandError as error:
            failures.append(error)
    if failures:
        raise _incomplete(failures, len(results))
    return results


def _incomplete(failures: Sequence[CommandError], done: int) -> CommandError:
    first = failures[0]
    if not done:
        return first
    what = "; ".join(f"{each.what} ({each.where})" for each in failures)
    ran = f"{done} {'database has' if done == 1 else 'databases have'} been reached"
    do = f"{first.do}, and run the command again"
    return CommandError("partly-done", f"{ran}, but {what}", "participants", do, first.exit_code)


commands = typer.Typer()

_KEY: Final = typer.Argument(help="The saga's id or the beginning of it, or the name of the account or venue.")


@commands.command("pause", epilog="Example: `tradesaga pause venue paper -m 'strange fills'`")
def pause_command(
    scope: Annotated[Scope | None, typer.Argument(help="saga, venue or account; without it, list the pauses.")] = None,
    key: Annotated[str, _KEY] = "",
    *,
    reason: Annotated[str, typer.Option("--reason", "-m", help="The reason; it is stored with the pause.")] = "",
    operator: Operator = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Keep steps from starting; running steps end, and compensations and settlements continue."""
    settings = load_settings(directory)
    if scope is None:
        _show(settings, as_json=as_json)
        return
    if not key or not reason:
        what, do = "KEY or --reason is missing", "give KEY and --reason"
        raise CommandError("usage", what, "tradesaga pause", do, ExitCode.USAGE)
    key = asyncio.run(_resolve(settings, scope, key))
    asyncio.run(pause(settings, scope, key, operator or getpass.getuser(), reason))
    print_result({"scope": scope, "key": key, "paused": True}, f"{scope} {key} is paused", as_json=as_json)


@commands.command("resume", epilog="Example: `tradesaga resume venue paper`")
def resume_command(
    scope: Annotated[Scope, typer.Argument(help="saga, venue or account.")],
    key: Annotated[str, _KEY],
    *,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Resume a paused saga, account or venue."""
    settings = load_settings(directory)
    key = asyncio.run(_resolve(settings, scope, key))
    if not asyncio.run(resume(settings, scope, key)):
        do = "list the pauses with `tradesaga pause`"
        raise CommandError("not-paused", f"{scope} {key} is not paused", "database", do, ExitCode.NOT_FOUND)
    print_result({"scope": scope, "key": key, "paused": False}, f"{scope} {key} is resumed", as_json=as_json)


async def _resolve(settings: Settings, scope: Scope, key: str) -> str:
    """Return the whole key. Raises `CommandError` (exit 3) for an unknown saga, account or venue."""
    if scope is Scope.SAGA:
        async with session(settings.database_for(SAGA_LOG)) as sql:
            return str(await find_id(sql, key))
    async with session(settings.database_for("risk")) as sql:
        if scope is Scope.ACCOUNT:
            await list_accounts(sql, key)
        elif not await sql.fetchval("SELECT EXISTS (SELECT FROM instrument WHERE venue = $1)", key):
            do = "name a venue that has instruments"
            raise CommandError("venue-unknown", f"there is no venue {key}", "database", do, ExitCode.NOT_FOUND)
    return key


def _show(settings: Settings, *, as_json: bool) -> None:
    for row in asyncio.run(list_pauses(settings)):
        since = f"{row['created_at']:%Y-%m-%d %H:%M:%S}"
        text = f"{row['scope']} {row['key']}  since {since} by {row['operator']}: {row['reason']}"
        print_result({**row, "created_at": row["created_at"].isoformat()}, text, as_json=as_json)
