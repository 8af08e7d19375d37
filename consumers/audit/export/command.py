"""`tradesaga audit export` and `tradesaga audit verify --export`."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.exporter import Exporter
from tradesaga.consumers.audit.export.folder import FreshFolder
from tradesaga.consumers.audit.export.manifest import Manifest, Query, sign, write_readme
from tradesaga.consumers.audit.export.orders import OrderSheet
from tradesaga.consumers.audit.export.parquet import ParquetFile
from tradesaga.consumers.audit.export.retired import RetiredRecords
from tradesaga.consumers.audit.export.source import Seals, Source
from tradesaga.consumers.audit.export.verify import Keys, verify_export
from tradesaga.consumers.audit.log.log_check import Report
from tradesaga.consumers.audit.log.rows import estimate_rows, snapshot
from tradesaga.consumers.audit.options import (
    audit_session,
    believing_witnesses,
    command_settings,
    named_witnesses,
    progress_bar,
)
from tradesaga.infra.audit_log.note import Signer, Verifier, public_path, read_signer, read_trusted
from tradesaga.infra.cli.console import AsJson, Directory, to_json
from tradesaga.infra.clock import format_time, parse_time
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.garbage_collection import tune_garbage_collector
from tradesaga.infra.postgres.database import Session
from tradesaga.infra.registry.sagas import find_saga, registered_sagas, registered_texts
from tradesaga.infra.saga_queries import start_events
from tradesaga.infra.settings import Settings
from tradesaga.sagas.audit_text import OrderText
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.compatibility.contract import contracts_of
from tradesaga.schemas.topics import events_topic

_ALWAYS: Final = (layout.EVENTS, layout.SAGAS, layout.CHECKPOINTS, layout.PROOFS)


@dataclass(frozen=True)
class Maker:
    """Makes exports. `sagas` and the texts of `orders` are by the saga's name; `trusted` are the keys of the seals."""

    signer: Signer
    trusted: Mapping[bytes, Verifier]
    log_id: str
    sagas: Mapping[str, AnySaga]
    orders: Mapping[str, OrderText]

    async def make(self, sql: Session, query: Query, folder: FreshFolder, advance: Callable[[int], None]) -> Manifest:
        """Write an export of one snapshot of the database; the folder appears when it is complete.

        Raises `CommandError` if nothing is sealed, if the log does not match its seal, or without disk space.
        """
        starts = start_events(self.sagas.values())
        columns = ParquetFile.open(folder.at(layout.PARQUET))
        try:
            for name in _ALWAYS:
                folder.file(name)
            orders = OrderSheet(folder.file(layout.ORDERS), self.orders)
            orders.begin()
            async with snapshot(sql):
                retired = await RetiredRecords.read(sql, self.log_id, self.trusted)
                seals = Seals(self.trusted)
                exporter = Exporter(Source(sql, query, starts), folder, seals, retired, orders, columns, advance)
                never = await self._export(exporter, query)
            if columns is not None:
                columns.close()
                folder.adopt(layout.PARQUET)
        finally:
            if columns is not None:
                columns.abandon()
        return self._finish(exporter, query, never)

    async def _export(self, exporter: Exporter, query: Query) -> int:
        """Export all logs; return the number of records in logs that were never sealed."""
        topic = events_topic(query.saga) if query.saga is not None else None
        logs = await exporter.source.logs(topic)
        never = await exporter.source.never_sealed(topic)
        if not logs:
            do = "run `tradesaga run audit-sealer`, and try again in a second"
            raise CommandError("not-sealed", "nothing is sealed yet", topic or "audit log", do, ExitCode.REFUSED)
        for log in logs:
            await exporter.export_log(log)
        if not exporter.records:
            do = "see what there is with `tradesaga list`; what is not sealed yet comes within a second"
            raise CommandError("nothing-found", "no sealed record fits", "the query", do, ExitCode.NOT_FOUND)
        return never

    def _finish(self, exporter: Exporter, query: Query, never: int) -> Manifest:
        """Write schemas, actions, keys, README and manifest, and sign the manifest."""
        folder = exporter.folder
        types = [each for saga in self.sagas.values() for each in saga.message_types.items()]
        for ce_type, contract in sorted(contracts_of(types).items()):
            if ce_type in exporter.types:
                folder.write(f"{layout.SCHEMAS}/{ce_type}.json", layout.write_line(contract.published()))
        if any(log.retired for log in exporter.logs):
            folder.write(layout.ACTIONS, exporter.retired.lines())
        keys = {str(key) for key in self.trusted.values()}
        folder.write(layout.KEYS, "".join(f"{key}\n" for key in sorted(keys | {str(self.signer.verifier)})).encode())
        draft = Manifest(
            log_id=self.log_id,
            made_at=format_time(time.time_ns()),
            software=f"tradesaga {version('tradesaga')}",
            query=query,
            records=exporter.records,
            sagas=exporter.sagas,
            orders=exporter.orders.written,
            not_yet_sealed=never + sum(log.not_yet_sealed for log in exporter.logs),
            logs=tuple(exporter.logs),
            types=dict(sorted(exporter.types.items())),
            definitions={name: saga.version for name, saga in sorted(self.sagas.items())},
            clock=exporter.seals.clock(),
            seal_keys=tuple(sorted(keys)),
            export_key=str(self.signer.verifier),
            files=(),
        )
        folder.write(layout.README, write_readme(draft, parquet=exporter.further is not None).encode())
        manifest = draft.model_copy(update={"files": folder.close_files()})
        text = manifest.to_bytes()
        folder.write(layout.MANIFEST, text)
        folder.write(layout.SIGNATURE, sign(self.signer, text).encode())
        folder.finish()
        return manifest


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
    settings = command_settings(directory)
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
    maker = Maker(
        read_signer(sign_with or key),
        read_trusted([public_path(key)]),
        settings.audit_log_id,
        sagas,
        {name: text.orders for name, text in registered_texts(settings.app).items() if text.orders is not None},
    )
    manifest = asyncio.run(_export(settings, maker, query, out))
    typer.echo(to_json(_as_json(out, manifest))) if as_json else _show(out, manifest)


async def _export(settings: Settings, maker: Maker, query: Query, out: Path) -> Manifest:
    with FreshFolder(out) as folder, progress_bar() as progress:
        async with audit_session(settings) as sql:
            task = progress.add_task("exporting", total=await estimate_rows(sql) or None)
            return await maker.make(sql, query, folder, lambda count: progress.advance(task, count))


def verify_folder(
    folder: Path, keys: list[Path] | None, export_keys: list[Path] | None, witnesses: list[Path] | None
) -> Report:
    """Verify an export. Raises `CommandError`: exit 3 for a missing file, exit 2 for an invalid one."""
    trusted = Keys(read_trusted(keys or ()), read_trusted(export_keys or ())) if keys or export_keys else None
    seen = named_witnesses(witnesses or ())
    with progress_bar() as progress, believing_witnesses():
        task = progress.add_task("verifying", total=None)
        return verify_export(
            folder, trusted, seen, lambda rows, total: progress.update(task, completed=rows, total=total)
        )


def _milliseconds(option: str, text: str | None) -> int | None:
    """Parse a time, rounded up to the broker's milliseconds. Raises `CommandError` (exit 2)."""
    if text is None:
        return None
    try:
        found = -(-parse_time(text) // _MILLISECOND) if _UTC.fullmatch(text) else None
    except (ValueError, OverflowError):
        found = None
    if found is None:
        do = "give it in UTC, as 2026-11-23T14:03:07 or 2026-11-23T14:03:07.120Z"
        raise CommandError("bad-time", f"{text!r} is not a time", option, do, ExitCode.USAGE)
    return found


def _saga_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        do = "give the whole id, as `tradesaga list` shows it"
        raise CommandError("bad-saga-id", f"{text!r} is not a saga id", "--id", do, ExitCode.USAGE) from error


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
