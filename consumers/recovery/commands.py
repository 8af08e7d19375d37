"""`tradesaga recover …`: the database from the topics, the topics from the database, and what neither holds."""

import asyncio
import getpass
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.comparison import Comparison, compare
from tradesaga.consumers.recovery.group_start import begin_group
from tradesaga.consumers.recovery.rebuild import RebuildRequest, rebuild
from tradesaga.consumers.recovery.report import Report
from tradesaga.consumers.recovery.topics import republish
from tradesaga.infra.cli.options import AsJson, Directory
from tradesaga.infra.cli.output import print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.ledger.keeping import TABLES, read_rows, sort_lines, summed
from tradesaga.infra.postgres.database import session
from tradesaga.infra.registry.sagas import sagas_with_participants
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries

commands = typer.Typer()
recover = typer.Typer(
    no_args_is_help=True,
    help="Come back after the loss of PostgreSQL or Kafka; docs/disaster-recovery.md says when to run which.",
)
commands.add_typer(recover, name="recover")

Other = Annotated[
    str | None, typer.Option("--compare", metavar="URL", help="A database to hold the rebuilt one against.")
]
ParkUnknown = Annotated[bool, typer.Option("--park-unknown", help="Park facts of types that nobody knows here.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")]
BookFile = Annotated[Path | None, typer.Option("--book", help="What `tradesaga recover save` wrote; loaded first.")]


@recover.command(epilog="Example: `tradesaga recover database --book book.jsonl`")
def database(
    *,
    book: BookFile = None,
    other: Other = None,
    park_unknown: ParkUnknown = False,
    dry_run: DryRun = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the lost database from the topics into an empty, migrated one; publishes nothing.

    Examples:
      tradesaga migrate && tradesaga recover database --book book.jsonl

      tradesaga recover database --dry-run --json

    Stop every service first. Exit 4: the database is not empty, services run, or the topics have lost records.
    """
    settings = load_settings(directory)
    rows = _read_book(book) if book is not None else None
    request = RebuildRequest("rebuilt", getpass.getuser(), unknown=park_unknown, dry_run=dry_run, book=rows)
    _show(_run(settings, request, as_json=as_json), as_json=as_json)
    if other is not None:
        _judge(asyncio.run(compare(settings.database_for(SAGA_LOG), other)), as_json=as_json)


@recover.command(epilog="Example: `tradesaga recover restored --dry-run`")
def restored(
    *,
    park_unknown: ParkUnknown = False,
    dry_run: DryRun = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Take in what was published after the moment to which a backup has brought the database back.

    Its numbers go on in a new incarnation; effects that facts tell of are made anew here, and nowhere else.

    Examples:
      tradesaga recover restored --dry-run

      tradesaga recover restored --json

    Run it before any service. Exit 4: services run, or the topics end before the database does.
    """
    request = RebuildRequest("restored", getpass.getuser(), unknown=park_unknown, dry_run=dry_run)
    _show(_run(load_settings(directory), request, as_json=as_json), as_json=as_json)


@recover.command(epilog="Example: `tradesaga recover topics`")
def topics(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Write the lost topics anew from the database: each fact at its own offset and time, and what followed it.

    Examples:
      tradesaga recover topics

      TRADESAGA_KAFKA=new-broker:9092 tradesaga recover topics --json

    Missing topics are made. Exit 4: services run, topics hold records, or the audit log has a gap.
    """
    settings = load_settings(directory)
    with _progress(quiet=as_json) as (sized, advance):
        report = asyncio.run(
            republish(settings, sagas_with_participants(settings, Participant), getpass.getuser(), sized, advance)
        )
    _show(report, as_json=as_json)


@recover.command("compare", epilog="Example: `tradesaga recover compare postgresql://user@db2:5432/tradesaga`")
def compare_command(
    url: Annotated[str, typer.Argument(metavar="URL", help="The other database.")],
    *,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Hold this database against another, row by row; exit 1 when they differ.

    Example:
      tradesaga recover compare postgresql://tradesaga:secret@standby:5432/tradesaga
    """
    here = load_settings(directory).database_for(SAGA_LOG)
    _judge(asyncio.run(compare(here, url)), as_json=as_json)


@recover.command(epilog="Example: `tradesaga recover begin till --after cashier`")
def begin(
    service: Annotated[str, typer.Argument(help="The participant that is new to its database.")],
    *,
    after: Annotated[str | None, typer.Option(help="The participant whose place it takes, stopped by now.")] = None,
    at_end: Annotated[bool, typer.Option("--at-end", help="Leave alone all that has been asked so far.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Say where a new participant's group begins, where others have done its steps before it.

    Examples:
      tradesaga recover begin newcash --after cash

      tradesaga recover begin newcash --at-end

    What the former owner has not dealt with at --at-end is never done: such sagas wait until somebody aborts them.
    """
    if (after is not None) == at_end:
        do = "give either --after PARTICIPANT or --at-end"
        raise CommandError("usage", "it is not clear where to begin", "recover begin", do, ExitCode.USAGE)
    offsets = asyncio.run(begin_group(load_settings(directory), service, after))
    found = [{"topic": topic, "partition": number, "offset": offset} for (topic, number), offset in offsets.items()]
    text = f"{service} begins at the offsets of {after}" if after else f"{service} begins at the ends of its topics"
    print_result(found, text, as_json=as_json)


@recover.command(epilog="Example: `tradesaga recover save book.jsonl`")
def save(
    file: Annotated[Path, typer.Argument(help="Written whole, or not at all.")],
    *,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Save what no topic carries: accounts, payments, instruments, subscriptions, pauses, the venue's cursor.

    Example, once an hour beside the database's own backup:

      tradesaga recover save book.jsonl
    """
    counts = asyncio.run(_save(load_settings(directory), file))
    text = f"{file}: {summed(counts)}"
    print_result({"file": str(file), "rows": counts}, text, as_json=as_json)


async def _save(settings: Settings, file: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    if not file.name:
        do = "name the file to write"
        raise CommandError("file", f"{str(file)!r} is no name of a file", "FILE", do, ExitCode.USAGE)
    draft = file.with_name(f".{file.name}.draft")
    try:
        with draft.open("w", encoding="utf-8") as out:
            for table, (service, _) in TABLES.items():
                async with session(settings.database_for(service), application_name="tradesaga recover") as sql:
                    async for line in read_rows(sql, table):
                        out.write(f"{line}\n")
                        counts[table] += 1
        draft.replace(file)
    except OSError as error:
        do = "give a file in a folder that may be written to"
        raise CommandError("book-unwritten", str(error), str(file), do, ExitCode.USAGE) from error
    return counts


def _read_book(file: Path) -> dict[str, list[str]]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise CommandError("book-missing", str(error), str(file), "name the file", ExitCode.NOT_FOUND) from error
    return sort_lines(lines, str(file))


def _run(settings: Settings, request: RebuildRequest, *, as_json: bool) -> Report:
    with _progress(quiet=as_json) as (sized, advance):
        return asyncio.run(rebuild(settings, sagas_with_participants(settings, Participant), request, sized, advance))


@contextmanager
def _progress(*, quiet: bool) -> Generator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Show how many facts are dealt with, on a terminal; gives what is told of more of them, and of done ones."""
    silence_libraries()
    console, total = Console(stderr=True), 0
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("facts", total=None)

        def sized(count: int) -> None:
            nonlocal total
            total += count
            bar.update(task, total=total)

        yield sized, lambda count: bar.advance(task, count)


def _show(report: Any, *, as_json: bool) -> None:
    print_result(report.as_json(), "\n".join(report.lines()), as_json=as_json)


def _judge(found: Comparison, *, as_json: bool) -> None:
    _show(found, as_json=as_json)
    if not found.equal:
        raise typer.Exit(int(ExitCode.CHECK_FAILED))
