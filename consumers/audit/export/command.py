"""`tradesaga audit export`: records as a signed folder; and `audit verify --export`, which needs no server for it."""

import asyncio
import re
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.folder import FreshFolder
from tradesaga.consumers.audit.export.manifest import Manifest, Query
from tradesaga.consumers.audit.export.run import Maker
from tradesaga.consumers.audit.export.verify import Keys, verify_export
from tradesaga.consumers.audit.log.rows import estimate_rows
from tradesaga.consumers.audit.options import believing_witnesses, named_witnesses, progress_bar
from tradesaga.consumers.audit.verify.log_check import Report
from tradesaga.infra.audit_log.keyring import public_path, read_signer, read_trusted
from tradesaga.infra.cli.options import AsJson, Directory
from tradesaga.infra.cli.output import to_json
from tradesaga.infra.clock import parse_time
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.garbage_collection import tune_garbage_collector
from tradesaga.infra.postgres.database import session
from tradesaga.infra.registry.sagas import find_saga, registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries

_MILLISECOND: Final = 1_000_000
_UTC: Final = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?Z?)?")

Times = "A time in UTC, as 2026-11-23T14:03:07; recorded by the broker"


def export(
    *,
    out: Annotated[Path, typer.Option("--out", help="The new folder.")],
    saga: Annotated[str | None, typer.Option("--saga", help="Only the logs of this saga definition.")] = None,
    since: Annotated[str | None, typer.Option("--from", help=f"{Times} then or later.")] = None,
    until: Annotated[str | None, typer.Option("--to", help=f"{Times} before then.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Only this saga; may be repeated.")] = None,
    account: Annotated[str | None, typer.Option("--account", help="Only sagas of this account.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Only sagas of this symbol.")] = None,
    sign_with: Annotated[
        Path | None, typer.Option("--sign-with", help="The key that signs the export; the sealer's if not given.")
    ] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Write sealed records into a new signed folder, which `audit verify --export` checks without any server."""
    tune_garbage_collector()
    settings = load_settings(directory)
    silence_libraries()
    key = settings.audit_key_file()
    sagas = registered_sagas(settings.app)
    query = Query(
        saga=find_saga(saga, settings.app).name if saga is not None else None,
        from_ms=_milliseconds("--from", since),
        to_ms=_milliseconds("--to", until),
        ids=tuple(dict.fromkeys(map(_saga_id, ids or ()))),
        account=account,
        symbol=symbol,
    )
    maker = Maker(read_signer(sign_with or key), read_trusted([public_path(key)]), settings.audit_log_id, sagas)
    manifest = asyncio.run(_export(settings, maker, query, out))
    typer.echo(to_json(_as_json(out, manifest))) if as_json else _show(out, manifest)


async def _export(settings: Settings, maker: Maker, query: Query, out: Path) -> Manifest:
    with FreshFolder(out) as folder, progress_bar() as progress:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga audit") as sql:
            task = progress.add_task("exporting", total=await estimate_rows(sql) or None)
            return await maker.make(sql, query, folder, lambda count: progress.advance(task, count))


def verify_folder(
    folder: Path, keys: list[Path] | None, export_keys: list[Path] | None, witnesses: list[Path] | None
) -> Report:
    """Check an export by itself; raises `CommandError`: exit 3 for what is not there, exit 2 for what is none."""
    trusted = Keys(read_trusted(keys or ()), read_trusted(export_keys or ())) if keys or export_keys else None
    seen = named_witnesses(witnesses or ())
    with progress_bar() as progress, believing_witnesses():
        task = progress.add_task("verifying", total=None)
        return verify_export(
            folder, trusted, seen, lambda rows, total: progress.update(task, completed=rows, total=total)
        )


def _milliseconds(option: str, text: str | None) -> int | None:
    """Read a time, rounded up to the broker's milliseconds; raises `CommandError` (exit 2)."""
    if text is None:
        return None
    try:
        found = -(-parse_time(text) // _MILLISECOND) if _UTC.fullmatch(text) else None
    except (ValueError, OverflowError):
        found = None
    if found is None:
        do = "give it in UTC, as 2026-11-23T14:03:07 or 2026-11-23T14:03:07.120Z"
        raise CommandError("bad-time", f"{text!r} is no time", option, do, ExitCode.USAGE)
    return found


def _saga_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        do = "give the whole id, as `tradesaga list` shows it"
        raise CommandError("bad-saga-id", f"{text!r} is no saga id", "--id", do, ExitCode.USAGE) from error


def _as_json(out: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "out": str(out),
        "records": manifest.records,
        "sagas": manifest.sagas,
        "orders": manifest.orders,
        "logs": len(manifest.logs),
        "not_yet_sealed": manifest.not_yet_sealed,
        "parquet": any(file.path == layout.PARQUET for file in manifest.files),
        "export_key": manifest.export_key,
    }


def _show(out: Path, manifest: Manifest) -> None:
    logs = f"{len(manifest.logs)} log{'s' * (len(manifest.logs) != 1)}"
    typer.echo(f"{out}: {manifest.records:,} records of {manifest.sagas:,} sagas in {logs}")
    if manifest.not_yet_sealed:
        typer.echo(f"{manifest.not_yet_sealed:,} newer records are not sealed yet, and not in it")
    if not any(file.path == layout.PARQUET for file in manifest.files):
        typer.echo("without events.parquet: `pip install 'tradesaga[parquet]'` to have it")
    typer.echo(f"whoever verifies needs {manifest.export_key}")
