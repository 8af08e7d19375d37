"""`tradesaga audit hold`: legal holds, which keep records from being retired."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tradesaga.consumers.audit.replay.request import read_time
from tradesaga.consumers.audit.retention.action_log import action_log, trusted_keys
from tradesaga.consumers.audit.retention.actions import Action, ActionKind
from tradesaga.consumers.audit.retention.commands import Operator, Reason, usage, who
from tradesaga.consumers.audit.retention.legal_holds import LegalHold, Scope, describe_hold, read_holds
from tradesaga.infra.audit_log.keyring import read_signer
from tradesaga.infra.cli.options import AsJson, Directory
from tradesaga.infra.cli.output import print_result, to_json
from tradesaga.infra.clock import read_id
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.settings import Settings, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries

hold = typer.Typer(no_args_is_help=True, help="Keep records from being retired, for as long as a court may ask.")


@hold.command(epilog="Example: `tradesaga audit hold add account A-1001 --reason 'case 7/2026'`")
def add(
    scope: Annotated[Scope, typer.Argument(help="saga, account, symbol or time.")],
    key: Annotated[str, typer.Argument(help="Which one; of a span of recorded time its beginning.")],
    until: Annotated[str, typer.Argument(help="Of a span of time its end, which is not in it.")] = "",
    *,
    reason: Reason,
    operator: Operator = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Set a hold: whole partitions with records of what is named stay until it is released."""
    settings = load_settings(directory)
    silence_libraries()
    detail = _detail(scope, key.strip(), until)
    action = Action(ActionKind.HOLD, who(operator, reason), reason, time.time_ns(), detail)
    number = asyncio.run(_record(settings, action))
    print_result({"hold": number, **detail}, f"hold {number} is set", as_json=as_json)


@hold.command(name="list", epilog="Example: `tradesaga audit hold list --all`")
def list_command(
    *,
    every: Annotated[bool, typer.Option("--all", help="Those that were released too.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List the holds that are in force, with who set them and why."""
    settings = load_settings(directory)
    silence_libraries()
    holds = [each for each in asyncio.run(_read(settings)) if every or each.released_by is None]
    if as_json:
        typer.echo(to_json([_as_json(each) for each in holds]))
        return
    table = Table("hold", "scope", "what", "since", "by", "reason", "released", box=None, pad_edge=False)
    for each in holds:
        what = f"{each.key} to {each.until}" if each.until else each.key
        gone = each.released_by
        freed = f"{_moment(gone.at):%Y-%m-%d} by {gone.operator}: {gone.reason}" if gone is not None else ""
        since = f"{_moment(each.set_by.at):%Y-%m-%d %H:%M}"
        table.add_row(str(each.number), each.scope, what, since, each.set_by.operator, each.set_by.reason, freed)
    Console().print(table)


@hold.command(epilog="Example: `tradesaga audit hold release 3 --reason 'settled out of court'`")
def release(
    number: Annotated[int, typer.Argument(help="The hold, as `tradesaga audit hold list` names it.")],
    *,
    reason: Reason,
    operator: Operator = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Release a hold; that it was there, and who released it, stays."""
    settings = load_settings(directory)
    silence_libraries()
    action = Action(ActionKind.RELEASE, who(operator, reason), reason, time.time_ns(), {"hold": number})
    asyncio.run(_record(settings, action))
    print_result({"hold": number, "released": True}, f"hold {number} is released", as_json=as_json)


def _detail(scope: Scope, key: str, until: str) -> dict[str, Any]:
    if (scope is Scope.TIME) != bool(until):
        raise usage("a span of time has a beginning and an end, anything else one name", "give both, or one")
    if not key:
        raise usage("say what is to be held", "give its name")
    if scope is Scope.SAGA:
        try:
            return describe_hold(scope, str(read_id(key)))
        except ValueError as error:
            raise usage(f"{key!r} is no saga's id", "give all of it: a hold may be older than its saga") from error
    if scope is Scope.TIME:
        since, end = (_moment(read_time(text, "KEY")) for text in (key, until))
        if since >= end:
            raise usage("the span ends before it begins", "give its beginning first")
        return describe_hold(scope, since.isoformat(), end)
    return describe_hold(scope, key)


async def _record(settings: Settings, action: Action) -> int:
    signer = read_signer(settings.audit_key_file())
    async with action_log(settings, trusted_keys(settings)) as log, log.turn():
        if action.kind is ActionKind.RELEASE:
            _refuse_unknown(read_holds(log.actions), action.detail["hold"])
        return await log.record(signer, action)


def _refuse_unknown(holds: list[LegalHold], number: int) -> None:
    found = next((each for each in holds if each.number == number), None)
    if found is None:
        do = "see `tradesaga audit hold list`"
        raise CommandError("hold-unknown", f"there is no hold {number}", "audit log", do, ExitCode.NOT_FOUND)
    if found.released_by is not None:
        what = f"hold {number} was released by {found.released_by.operator}"
        raise CommandError("hold-released", what, "audit log", "there is nothing to release", ExitCode.REFUSED)


async def _read(settings: Settings) -> list[LegalHold]:
    async with action_log(settings, trusted_keys(settings)) as log:
        return read_holds(await log.read())


def _as_json(each: LegalHold) -> dict[str, Any]:
    gone = each.released_by
    return {
        "hold": each.number,
        "scope": each.scope,
        "key": each.key,
        "until": each.until or None,
        "operator": each.set_by.operator,
        "reason": each.set_by.reason,
        "set_at": _moment(each.set_by.at),
        "released": {"operator": gone.operator, "reason": gone.reason, "at": _moment(gone.at)} if gone else None,
    }


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC)
