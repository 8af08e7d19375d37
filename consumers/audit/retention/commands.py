"""`tradesaga audit retention`, `tradesaga audit retire` and `tradesaga audit hold`."""

import asyncio
import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from tradesaga.consumers.audit.retention import retire as retirement
from tradesaga.consumers.audit.retention.action_log import action_log, trusted_keys
from tradesaga.consumers.audit.retention.drop import RetiredTable, drop, read_evidence, waiting
from tradesaga.consumers.audit.retention.retire import RetireRequest
from tradesaga.consumers.audit.retention.survey import SegmentStatus
from tradesaga.infra.audit_log.keyring import read_signer
from tradesaga.infra.audit_log.schedule import parse_schedule
from tradesaga.infra.cli.options import AsJson, Directory
from tradesaga.infra.cli.output import to_json
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.settings import Settings, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries

Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; it is signed, and kept for good.")]
Operator = Annotated[str | None, typer.Option("--operator", help="Who decides; default the user's name.")]

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def retention(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show each part of the audit log: what it holds, whether it may be retired, and if not, why."""
    settings = load_settings(directory)
    silence_libraries()
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
        list[str] | None, typer.Option("--partition", help="Which; may be repeated. Default the oldest that is due.")
    ] = None,
    reason: Reason,
    operator: Operator = None,
    dropping: Annotated[bool, typer.Option("--drop", help="Drop one that is retired: its records are gone.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", help="With --drop: an export that has its records.")
    ] = None,
    without_export: Annotated[bool, typer.Option("--without-export", help="With --drop: there is none.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Take the oldest partitions out of the audit log, and in a second step, --drop, out of the world.

    What stays is a signed record of what was there, so that the rest still proves to be unaltered and complete.
    """
    settings = load_settings(directory)
    silence_libraries()
    decider = who(operator, reason)
    if not dropping:
        if export is not None or without_export:
            raise usage("an export is asked for when a partition is dropped", "add --drop")
        told = asyncio.run(_retire(settings, RetireRequest(partition or [], decider, reason)))
    else:
        if not partition or len(partition) != 1 or (export is None) == (not without_export):
            raise usage("say what to drop, and by what evidence", "give --partition and --export or --without-export")
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
        task = progress.add_task("verifying what goes", total=None)
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
    """Name who decides. Raises `CommandError` (exit 2) without a reason."""
    if not reason.strip():
        raise usage("say why", "give --reason")
    return operator or getpass.getuser()


def usage(what: str, do: str) -> CommandError:
    """Return what is wrong with how the command was given."""
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
