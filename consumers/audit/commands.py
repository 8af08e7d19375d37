"""`tradesaga audit`: make the keys that seal, verify what was sealed, replay the topics and compare."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from tradesaga.consumers.audit.export.command import export, verify_folder
from tradesaga.consumers.audit.log.log_check import Report
from tradesaga.consumers.audit.log.rows import estimate_rows
from tradesaga.consumers.audit.options import believing_witnesses, named_witnesses, progress_bar
from tradesaga.consumers.audit.replay.command import replay
from tradesaga.consumers.audit.report.command import show as show_story
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
from tradesaga.infra.postgres.database import DATABASE_ERRORS, session
from tradesaga.infra.reconciliation.facts import check_facts
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries

commands = typer.Typer()
audit = typer.Typer(no_args_is_help=True, help="Seal and verify the audit trail.")
commands.add_typer(audit, name="audit")


@audit.command(epilog="Example: `tradesaga audit keygen --name desk-7/2026 keys/audit.key`")
def keygen(
    path: Annotated[Path, typer.Argument(help="The new file; the public key goes into the same name with .pub.")],
    *,
    name: Annotated[str, typer.Option("--name", help="Whom signatures name; no spaces, no plus sign.")] = "tradesaga",
    as_json: AsJson = False,
) -> None:
    """Make the Ed25519 key that seals the audit log. Keep it where the database's people cannot read it."""
    key = write_new(path, name)
    told = {"private": str(path), "public": str(public_path(path)), "key": str(key)}
    print_result(told, f"{path} seals; whoever verifies needs {public_path(path)}:\n{key}", as_json=as_json)


@audit.command(epilog="Example: `tradesaga audit verify --key audit.key.pub --witness /mnt/elsewhere/witness.jsonl`")
def verify(
    *,
    key: Annotated[list[Path] | None, typer.Option("--key", help="A file of public keys that may be believed.")] = None,
    witness: Annotated[list[Path] | None, typer.Option("--witness", help="A witness's file; may be repeated.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--export", help="Check this export by itself, without any server or setting.")
    ] = None,
    export_key: Annotated[
        list[Path] | None, typer.Option("--export-key", help="A file of keys that may sign exports, and seal nothing.")
    ] = None,
    topics: Annotated[bool, typer.Option("--topics", help="Check the topics themselves, not the database.")] = False,
    saga: Annotated[str | None, typer.Option("--saga", help="With --topics: only the topic of this saga.")] = None,
    database: Annotated[
        bool, typer.Option("--database/--no-database", help="With --topics: ask the database for checkpoints too.")
    ] = True,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Check that the audit log is unaltered and complete; exit 1, with where it breaks, if it is not."""
    tune_garbage_collector()
    if folder is not None:
        _conclude(verify_folder(folder, key, export_key, witness), as_json=as_json)
        return
    settings = load_settings(directory)
    silence_libraries()
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

audit.command("show", epilog="Example: `tradesaga audit show 0b1ce5ad --html trade.html --open yes`")(show_story)


async def _verify(settings: Settings, trusted: Any, witnesses: list[WitnessFile]) -> Report:
    types = frozenset(kind for saga in registered_sagas(settings.app).values() for kind in saga.message_types)
    async with session(settings.database_for(SAGA_LOG), application_name="tradesaga audit") as sql:
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
    """Look for forged facts, where the databases of the services can be read from here."""
    try:
        report.facts = await check_facts(settings)
    except (CommandError, *DATABASE_ERRORS) as error:
        report.remarks.append(f"facts were not compared with the rows of the services: {error}")
