"""The command `tradesaga audit show`."""

import asyncio
import os
import sys
import webbrowser
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.console import Console

from tradesaga.consumers.audit.log.retired_ranges import read_saga_heads
from tradesaga.consumers.audit.log.rows import Position, Row, read_saga_rows, snapshot
from tradesaga.consumers.audit.options import TrustedKeys, audit_session, command_settings, progress_bar
from tradesaga.consumers.audit.report.formatting import harmless
from tradesaga.consumers.audit.report.model import Proof, SagaTimeline, Seal
from tradesaga.consumers.audit.report.page import render
from tradesaga.consumers.audit.report.seal_finder import SealFinder
from tradesaga.consumers.audit.report.summary import build_timeline
from tradesaga.consumers.audit.report.terminal import show as show_timeline
from tradesaga.consumers.audit.report.timeline_builder import arrange, rehash
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.audit_log.note import public_path, read_trusted
from tradesaga.infra.cli.console import AsJson, Directory, to_json
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Session
from tradesaga.infra.registry.sagas import registered_sagas, registered_texts
from tradesaga.infra.saga_queries import find_id, unknown_saga
from tradesaga.infra.settings import Settings
from tradesaga.schemas.topics import events_topic

_PIPED_WIDTH: Final = 160
_VERSION: Final = "SELECT name, version FROM saga WHERE saga_id = $1"


class Opening(StrEnum):
    """Whether to open the page in a browser."""

    YES = "yes"
    NO = "no"


def show(
    saga: Annotated[str, typer.Argument(metavar="SAGA", help="The saga's id, or the beginning of it.")],
    *,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as a self-contained HTML page.")] = None,
    opening: Annotated[Opening, typer.Option("--open", help="Open the page in a browser.")] = Opening.NO,
    key: TrustedKeys = None,
    proving: Annotated[
        bool, typer.Option("--proof/--no-proof", help="Prove each record to be in its checkpoint; reads the whole log.")
    ] = True,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show one saga: each record, what followed from it, and its seal."""
    settings = command_settings(directory)
    timeline = asyncio.run(_read(settings, saga, key, proving=proving))
    if html is not None:
        _write(html, render(timeline))
        if opening is Opening.YES:
            webbrowser.open(html.absolute().as_uri())
    if as_json:
        typer.echo(to_json(timeline.to_json()))
    elif html is not None:
        typer.echo(f"{harmless(timeline.headline)}\n{html}")
    else:
        width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or _PIPED_WIDTH)
        console = Console(highlight=False, markup=False, width=width)
        console.print(show_timeline(timeline, console.width))


async def _read(settings: Settings, text: str, keys: list[Path] | None, *, proving: bool) -> SagaTimeline:
    async with (
        audit_session(settings, "show") as sql,
        snapshot(sql),
    ):
        saga_id = await _find(sql, text)
        rows = arrange(await read_saga_rows(sql, saga_id))
        if not rows:
            raise unknown_saga(text)
        known = await sql.fetchrow(_VERSION, saga_id)
        name = known["name"] if known is not None else rows[0].position.topic.removesuffix(events_topic(""))
        hashes = rehash(rows, await read_saga_heads(sql, saga_id))
        seals = await _seal(settings, sql, list(zip(rows, hashes, strict=True)), keys, proving=proving)
        rules = _rules(settings, name, known["version"] if known is not None else None)
        own = registered_texts(settings.app).get(name)
        tier = settings.clock_tier()
        return build_timeline(saga_id, name, rows, hashes, rules=rules, seals=seals, tier=tier, text=own)


async def _find(sql: Session, text: str) -> UUID:
    """Find a saga by its id or its first digits; a saga that has records only, by its whole id."""
    try:
        return await find_id(sql, text)
    except CommandError as error:
        try:
            whole = UUID(text)
        except ValueError:
            raise error from None
        if error.exit_code is not ExitCode.NOT_FOUND:
            raise
        return whole


def _rules(settings: Settings, name: str, version: int | None) -> Rules | None:
    """Return the rules of the saga's definition if it is installed in the saga's version."""
    saga = registered_sagas(settings.app).get(name)
    return Rules(saga) if saga is not None and version in {None, *saga.versions} else None


async def _seal(
    settings: Settings, sql: Session, rows: list[tuple[Row, bytes]], keys: list[Path] | None, *, proving: bool
) -> dict[Position, Seal]:
    """Return the seals of the rows; without a public key they are unchecked."""
    try:
        trusted = read_trusted(keys or [public_path(settings.audit_key_file())])
    except CommandError as error:
        if keys:
            raise
        nothing = Seal(Proof.UNCHECKED, f"no public key is available: {error.where}")
        return dict.fromkeys((row.position for row, _ in rows), nothing)
    with progress_bar() as progress:
        task = progress.add_task("proving", total=None)
        finder = SealFinder(
            sql, settings.audit_log_id, trusted, settings.clock_tier(), proving,
            lambda count: progress.advance(task, count),
        )  # fmt: skip
        return await finder.look([(row.position, found) for row, found in rows])


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        what = f"the page cannot be written: {error.strerror}"
        raise CommandError("page-unwritable", what, str(path), "name another file", ExitCode.USAGE) from error
