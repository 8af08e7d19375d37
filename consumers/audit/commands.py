"""The commands `tradesaga audit`: generate keys, verify, export, replay, show, and manage retention."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from tradesaga.consumers.audit.export.command import export, verify_folder
from tradesaga.consumers.audit.log.log_check import Report
from tradesaga.consumers.audit.log.rows import estimate_rows
from tradesaga.consumers.audit.options import (
    TrustedKeys,
    audit_session,
    believing_witnesses,
    command_settings,
    named_witnesses,
    progress_bar,
)
from tradesaga.consumers.audit.replay.command import replay
from tradesaga.consumers.audit.report.command import show as show_saga
from tradesaga.consumers.audit.retention.commands import hold, retention, retire
from tradesaga.consumers.audit.verify.database import verify_database
from tradesaga.consumers.audit.verify.topics import verify_topics
from tradesaga.consumers.audit.verify.verdicts import as_json as describe
from tradesaga.consumers.audit.verify.verdicts import show
from tradesaga.infra.audit_log.note import public_path, read_trusted, write_new
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.cli.console import AsJson, Directory, print_result, to_json
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.garbage_collection import tune_garbage_collector
from tradesaga.infra.postgres.database import DATABASE_ERRORS
from tradesaga.infra.reconciliation.facts import check_facts
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import Settings

commands = typer.Typer()
audit = typer.Typer(no_args_is_help=True, help="Seal and verify the audit trail.")
commands.add_typer(audit, name="audit")


@audit.command(epilog="Example: `tradesaga audit keygen --name desk-7/2026 keys/audit.key`")
def keygen(
    path: Annotated[Path, typer.Argument(help="The new file; the public key is written to the same name with .pub.")],
    *,
    name: Annotated[
        str, typer.Option("--name", help="The key's name in signatures, without spaces or plus signs.")
    ] = "tradesaga",
    as_json: AsJson = False,
) -> None:
    """Generate the Ed25519 key that seals the audit log. Keep it where database administrators cannot read it."""
    key = write_new(path, name)
    told = {"private": str(path), "public": str(public_path(path)), "key": str(key)}
    print_result(told, f"{path} seals; whoever verifies needs {public_path(path)}:\n{key}", as_json=as_json)


@audit.command(epilog="Example: `tradesaga audit verify --key audit.key.pub --witness /mnt/elsewhere/witness.jsonl`")
def verify(
    *,
    key: TrustedKeys = None,
    witness: Annotated[list[Path] | None, typer.Option("--witness", help="A witness file; may be repeated.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--export", help="Verify this export instead; needs no server and no settings.")
    ] = None,
    export_key: Annotated[
        list[Path] | None, typer.Option("--export-key", help="A file of keys that may only sign exports.")
    ] = None,
    topics: Annotated[bool, typer.Option("--topics", help="Verify the topics instead of the database.")] = False,
    saga: Annotated[str | None, typer.Option("--saga", help="With --topics: only this saga's topic.")] = None,
    database: Annotated[
        bool, typer.Option("--database/--no-database", help="With --topics: read the database's checkpoints too.")
    ] = True,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Verify that the audit log is unaltered and complete; exit 1 with all deviations if it is not."""
    tune_garbage_collector()
    if folder is not None:
        _conclude(verify_folder(folder, key, export_key, witness), as_json=as_json)
        return
    settings = command_settings(directory)
    trusted = read_trusted(key or [public_path(settings.audit_key_file())])
    witnesses = named_witnesses(witness) if witness else [WitnessFile(settings.audit_witness_file())]
    with believing_witnesses():
        if topics:
            report = verify_topics(settings, trusted, witnesses, database=database, saga=saga)
        else:
            report = asyncio.run(_verify(settings, trusted, witnesses))
    _conclude(report, as_json=as_json)


def _conclude(report: Report, *, as_json: bool) -> None:
    typer.echo(to_json(describe(report))) if as_json else show(report)
    if report.findings:
        raise typer.Exit(ExitCode.CHECK_FAILED)


audit.command(epilog="Example: `tradesaga audit export --out 2026-11 --from 2026-11-01 --to 2026-12-01`")(export)


audit.command(epilog="Example: `tradesaga audit retention --json`")(retention)
audit.command(epilog="Example: `tradesaga audit retire --reason 'seven years have passed'`")(retire)
audit.add_typer(hold, name="hold")
audit.command(epilog="Example: `tradesaga audit replay --at 2026-11-23T14:03:07.120Z`")(replay)

audit.command("show", epilog="Example: `tradesaga audit show 0b1ce5ad --html trade.html --open yes`")(show_saga)


async def _verify(settings: Settings, trusted: Any, witnesses: list[WitnessFile]) -> Report:
    types = frozenset(kind for saga in registered_sagas(settings.app).values() for kind in saga.message_types)
    async with audit_session(settings) as sql:
        with progress_bar() as progress:
            task = progress.add_task("verifying", total=await estimate_rows(sql) or None)
            report = await verify_database(
                sql,
                settings.audit_log_id,
                trusted,
                witnesses,
                lambda rows: progress.update(task, completed=rows),
                types=types,
                tier=settings.clock_tier(),
            )
    await _check_facts(settings, report)
    return report


async def _check_facts(settings: Settings, report: Report) -> None:
    """Look for forged facts, if the services' databases are accessible."""
    try:
        report.facts = await check_facts(settings)
    except (CommandError, *DATABASE_ERRORS) as error:
        report.remarks.append(f"facts were not compared with the rows of the services: {error}")
