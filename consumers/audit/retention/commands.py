"""`tradesaga audit retention`, `tradesaga audit retire` and `tradesaga audit hold`."""

import asyncio
import getpass
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from tradesaga.consumers.audit.log.action_log import Action, ActionKind, action_log, trusted_keys
from tradesaga.consumers.audit.options import command_settings, read_time
from tradesaga.consumers.audit.retention import retire as retirement
from tradesaga.consumers.audit.retention.drop import RetiredTable, drop, read_evidence, waiting
from tradesaga.consumers.audit.retention.legal_holds import LegalHold, Scope, describe_hold, read_holds
from tradesaga.consumers.audit.retention.retire import RetireRequest, SegmentStatus
from tradesaga.infra.audit_log.note import read_signer
from tradesaga.infra.audit_log.schedule import parse_schedule
from tradesaga.infra.cli.console import AsJson, Directory, print_result, to_json
from tradesaga.infra.clock import read_id
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.settings import Settings

Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; it is signed and kept forever.")]

Operator = Annotated[str | None, typer.Option("--operator", help="Who decides; default: the user's name.")]

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def retention(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show each partition of the audit log: its records, whether it may be retired, and if not, why."""
    settings = command_settings(directory)
    statuses, retired = asyncio.run(_survey(settings))
    if as_json:
        parts, tables = [_look_json(look) for look in statuses], [_waiting_json(each) for each in retired]
        typer.echo(to_json({"schedule": settings.audit_retention, "partitions": parts, "retired_not_dropped": tables}))
        return
    console = Console()
    console.print(f"schedule: {settings.audit_retention}", highlight=False)
    console.print(_table(statuses))
    for each in retired:
        console.print(f"{each.table} is retired and can be dropped with --drop --partition {each.name}")


def retire(
    *,
    partition: Annotated[
        list[str] | None,
        typer.Option("--partition", help="The partition; may be repeated. Default: the oldest that is due."),
    ] = None,
    reason: Reason,
    operator: Operator = None,
    dropping: Annotated[bool, typer.Option("--drop", help="Delete a retired partition with its records.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", help="With --drop: an export that contains its records.")
    ] = None,
    without_export: Annotated[
        bool, typer.Option("--without-export", help="With --drop: drop without an export.")
    ] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Retire the oldest partitions of the audit log or, with --drop, delete one that is retired.

    A signed record of what was there remains, so that the rest still verifies as unaltered and complete.
    """
    settings = command_settings(directory)
    decider = who(operator, reason)
    if not dropping:
        if export is not None or without_export:
            raise usage("--export and --without-export belong to --drop", "add --drop")
        told = asyncio.run(_retire(settings, RetireRequest(partition or [], decider, reason)))
    else:
        if not partition or len(partition) != 1 or (export is None) == (not without_export):
            raise usage(
                "--drop needs one partition and its evidence", "give --partition and --export or --without-export"
            )
        told = asyncio.run(_drop(settings, partition[0], {"operator": decider, "reason": reason}, export))
    if as_json:
        typer.echo(to_json(told))
        return
    done = "dropped" if dropping else "retired"
    typer.echo(f"{done}: {', '.join(told['partitions'])} ({told['records']:,} records)")


async def _survey(settings: Settings) -> tuple[list[SegmentStatus], list[RetiredTable]]:
    async with action_log(settings, trusted_keys(settings)) as log, log.sql.transaction(readonly=True):
        await log.sql.execute("SET LOCAL statement_timeout = 0")
        await log.read()
        found = await retirement.survey(log, parse_schedule(settings.audit_retention))
        return await found.all(log.sql), waiting(log.actions)


async def _retire(settings: Settings, order: RetireRequest) -> dict[str, Any]:
    signer, schedule = read_signer(settings.audit_key_file()), parse_schedule(settings.audit_retention)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,} records"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("verifying", total=None)
        async with action_log(settings, trusted_keys(settings)) as log:
            action = await retirement.retire(
                log, signer, schedule, order, lambda rows: progress.update(task, completed=rows)
            )
    logs = action.detail["logs"]
    return {
        "partitions": [each["name"] for each in action.detail["partitions"]],
        "records": sum(each["records"] for each in logs),
        "logs": [{name: each[name] for name in ("topic", "partition", "first", "next", "records")} for each in logs],
    }


async def _drop(settings: Settings, name: str, said: dict[str, str], export: Path | None) -> dict[str, Any]:
    signer, trusted = read_signer(settings.audit_key_file()), trusted_keys(settings)
    evidence = read_evidence(export, settings.audit_log_id, trusted) if export is not None else None
    async with action_log(settings, trusted) as log:
        action = await drop(log, signer, name, said, evidence)
        retired = dict(log.actions)[action.detail["retired"]]
    records = sum(each["records"] for each in retired.detail["logs"])
    return {"partitions": [action.detail["name"]], "records": records, "export": action.detail["export"]}


def who(operator: str | None, reason: str) -> str:
    """Return the operator. Raises `CommandError` (exit 2) without a reason."""
    if not reason.strip():
        raise usage("say why", "give --reason")
    return operator or getpass.getuser()


def usage(what: str, do: str) -> CommandError:
    """Return the error of wrong options."""
    return CommandError("usage", what, "tradesaga audit", do, ExitCode.USAGE)


def _look_json(look: SegmentStatus) -> dict[str, Any]:
    part = look.segment.parts[0]
    return {
        "partition": part.name,
        "from": part.start,
        "to": part.end,
        "records": look.records,
        "bytes": look.size,
        "first_recorded": min((each.since for each in look.extents), default=None),
        "last_recorded": max((each.until for each in look.extents), default=None),
        "open_sagas": look.open_sagas,
        "oldest_open": look.oldest_open,
        "holds": list(look.holds),
        "kept_until": look.due,
        "may_be_retired": not look.why_not,
        "why_not": list(look.why_not),
    }


def _waiting_json(each: RetiredTable) -> dict[str, Any]:
    at = datetime.fromtimestamp(each.action.at / 1e9, UTC)
    return {"partition": each.name, "table": each.table, "operator": each.action.operator, "retired_at": at}


def _table(statuses: list[SegmentStatus]) -> Table:
    table = Table(
        "partition", "records", "size", "oldest open saga", "holds", "may be retired", box=None, pad_edge=False
    )
    for look in statuses:
        oldest = f"{look.oldest_open:%Y-%m-%d} ({look.open_sagas:,})" if look.oldest_open else ""
        why = Text("; ".join(look.why_not) or "yes")
        name = look.segment.parts[0].name
        table.add_row(name, f"{look.records:,}", _size(look.size), oldest, str(len(look.holds) or ""), why)
    return table


def _size(count: int) -> str:
    power = min((max(count, 1).bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{count / 1024**power:.0f} {_UNITS[power]}"


hold = typer.Typer(no_args_is_help=True, help="Exempt records from retirement: legal holds.")


@hold.command(epilog="Example: `tradesaga audit hold add account A-1001 --reason 'case 7/2026'`")
def add(
    scope: Annotated[Scope, typer.Argument(help="saga, account, symbol or time.")],
    key: Annotated[str, typer.Argument(help="Its name; for a time range, the beginning by the broker's clock.")],
    until: Annotated[str, typer.Argument(help="For a time range, its end, excluded.")] = "",
    *,
    reason: Reason,
    operator: Operator = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Set a hold: no partition with a record of this scope can be retired until it is released."""
    settings = command_settings(directory)
    detail = _detail(scope, key.strip(), until)
    action = Action(ActionKind.HOLD, who(operator, reason), reason, time.time_ns(), detail)
    number = asyncio.run(_record(settings, action))
    print_result({"hold": number, **detail}, f"hold {number} is set", as_json=as_json)


@hold.command(name="list", epilog="Example: `tradesaga audit hold list --all`")
def list_command(
    *,
    every: Annotated[bool, typer.Option("--all", help="Include released holds.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List the active holds, who set them and why."""
    settings = command_settings(directory)
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
    number: Annotated[int, typer.Argument(help="The hold's number, from `tradesaga audit hold list`.")],
    *,
    reason: Reason,
    operator: Operator = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Release a hold; the record of it and of its release remains."""
    settings = command_settings(directory)
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
            raise usage(f"{key!r} is not a saga id", "give the whole id: a hold may be older than its saga") from error
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
