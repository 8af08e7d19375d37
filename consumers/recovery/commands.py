"""`tradesaga recover`: rebuilding the database from the topics, or the topics from the database."""

import asyncio
import getpass
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.comparison import Comparison, compare
from tradesaga.consumers.recovery.rebuild import RebuildRequest, rebuild
from tradesaga.consumers.recovery.refusals import Report, refused
from tradesaga.consumers.recovery.topics import republish
from tradesaga.consumers.runtime.service import KNOWN
from tradesaga.infra.cli.console import AsJson, Directory, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import count_partitions, read_ends
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.ledger.recovery import TABLES, format_counts, read_rows, sort_lines
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.registry.participants import registered_participants
from tradesaga.infra.registry.sagas import sagas_with_participants
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries
from tradesaga.schemas.topics import commands_topic, events_topic

_BEGIN: Final = """
INSERT INTO lane ("group", topic, partition, epoch, next_offset)
SELECT $1, * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) AS t (topic, partition, epoch, next_offset)
"""

_RUNNING: Final = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1)
"""

_OFFSETS: Final = 'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1'


async def begin_group(settings: Settings, name: str, after: str | None) -> dict[Partition, int]:
    """Create the lanes of a participant that is new to its database, and return their offsets.

    They begin where the group of participant `after` has stopped, or else at the ends of the topics. Raises
    `CommandError`: exit 3 for an unknown participant, or a group `after` that has never run, exit 4 if the group
    has begun already or one of the two services still runs.
    """
    participant = _find(settings, name)
    topics = [events_topic(participant.saga.name), commands_topic(participant.saga.name)]
    counts = await count_partitions(settings.brokers(), topics)
    places = [(topic, number) for topic in topics for number in range(counts[topic])]
    async with session(settings.database_for(name), application_name="tradesaga recover begin") as sql:
        await _refuse_running(sql, name)
        if await sql.fetchval(KNOWN, participant.group):
            what, do = (
                f"the group {participant.group} has begun already",
                "start its service: it resumes there",
            )
            raise refused("group-begun", what, "PostgreSQL", do)
        if after is None:
            offsets = await read_ends(settings.brokers(), places)
        else:
            offsets = await _offsets_of(settings, f"{participant.saga.name}-{after}", after, places)
        await _begin(sql, participant.group, offsets)
    return offsets


def _find(settings: Settings, name: str) -> Participant:
    known = [each for each in registered_participants(settings) if isinstance(each, Participant)]
    for participant in known:
        if participant.name == name:
            return participant
    do = f"known: {', '.join(sorted(each.name for each in known))}; give its module with TRADESAGA_APP"
    what = f"there is no participant {name}"
    raise CommandError("participant-unknown", what, "recover begin", do, ExitCode.NOT_FOUND)


async def _offsets_of(settings: Settings, group: str, name: str, places: Sequence[Partition]) -> dict[Partition, int]:
    """Return the offsets of the other group from its database; those committed to Kafka may be seconds old."""
    async with session(settings.database_for(name), application_name="tradesaga recover begin") as sql:
        await _refuse_running(sql, name)
        rows = await sql.fetch(_OFFSETS, group)
    found = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
    if missing := [place for place in places if place not in found]:
        what = f"the database of {name} has no lane of group {group} on {missing[0][0]}[{missing[0][1]}]"
        do = f"set TRADESAGA_DATABASE_URL_{name.upper()} to its database"
        raise CommandError("group-unknown", what, "PostgreSQL", do, ExitCode.NOT_FOUND)
    return {place: found[place] for place in places}


async def _refuse_running(sql: Connection, name: str) -> None:
    if await sql.fetchval(_RUNNING, f"tradesaga {name}"):
        what, do = f"the service {name} is connected", "stop it first, then run this again"
        raise refused("service-running", what, "PostgreSQL", do)


async def _begin(sql: Connection, group: str, offsets: Mapping[Partition, int]) -> None:
    """Write the lanes as if they had been acquired once: a new lane would begin at the first record."""
    topics, numbers = zip(*offsets, strict=True)
    await sql.execute(_BEGIN, group, topics, numbers, [1] * len(offsets), list(offsets.values()))


commands = typer.Typer()

recover = typer.Typer(
    no_args_is_help=True,
    help="Recover from the loss of PostgreSQL or Kafka; docs/disaster-recovery.md explains which command to run when.",
)


commands.add_typer(recover, name="recover")

Other = Annotated[
    str | None, typer.Option("--compare", metavar="URL", help="A database to compare the rebuilt one with.")
]

ParkUnknown = Annotated[bool, typer.Option("--park-unknown", help="Park facts of unknown types and versions.")]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and write nothing.")]

BookFile = Annotated[Path | None, typer.Option("--book", help="The file of `tradesaga recover save`; loaded first.")]


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
    """Rebuild a lost database from the topics into an empty, migrated one. Nothing is published.

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
        _show_comparison(asyncio.run(compare(settings.database_for(SAGA_LOG), other)), as_json=as_json)


@recover.command(epilog="Example: `tradesaga recover restored --dry-run`")
def restored(
    *,
    park_unknown: ParkUnknown = False,
    dry_run: DryRun = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Load what was published after the backup from which the database was restored.

    Numbers continue in a new incarnation. Local effects are restored from the facts; remote ones are not repeated.

    Examples:
      tradesaga recover restored --dry-run

      tradesaga recover restored --json

    Run it before any service. Exit 4: services run, or the topics end before the database does.
    """
    request = RebuildRequest("restored", getpass.getuser(), unknown=park_unknown, dry_run=dry_run)
    _show(_run(load_settings(directory), request, as_json=as_json), as_json=as_json)


@recover.command(epilog="Example: `tradesaga recover topics`")
def topics(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Rewrite lost topics from the database: each fact at its former offset and time, and the commands.

    Examples:
      tradesaga recover topics

      TRADESAGA_KAFKA=new-broker:9092 tradesaga recover topics --json

    Missing topics are created. Exit 4: services run, topics hold records, or the audit log has a gap.
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
    """Compare this database with another, row by row; exit 1 if they differ.

    Example:
      tradesaga recover compare postgresql://tradesaga:secret@standby:5432/tradesaga
    """
    here = load_settings(directory).database_for(SAGA_LOG)
    _show_comparison(asyncio.run(compare(here, url)), as_json=as_json)


@recover.command(epilog="Example: `tradesaga recover begin till --after cashier`")
def begin(
    service: Annotated[str, typer.Argument(help="The participant that is new to its database.")],
    *,
    after: Annotated[str | None, typer.Option(help="The participant that it replaces, already stopped.")] = None,
    at_end: Annotated[bool, typer.Option("--at-end", help="Skip all earlier commands and events.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Set where the group of a new participant begins if another one has run its steps before.

    Examples:
      tradesaga recover begin newcash --after cash

      tradesaga recover begin newcash --at-end

    With --at-end, unfinished work of the former owner is never done: such sagas wait until they are aborted.
    """
    if (after is not None) == at_end:
        do = "give either --after PARTICIPANT or --at-end"
        raise CommandError("usage", "the place to begin is ambiguous", "recover begin", do, ExitCode.USAGE)
    offsets = asyncio.run(begin_group(load_settings(directory), service, after))
    found = [{"topic": topic, "partition": number, "offset": offset} for (topic, number), offset in offsets.items()]
    text = f"{service} begins at the offsets of {after}" if after else f"{service} begins at the ends of its topics"
    print_result(found, text, as_json=as_json)


@recover.command(epilog="Example: `tradesaga recover save book.jsonl`")
def save(
    file: Annotated[Path, typer.Argument(help="The file to write; it is replaced only when complete.")],
    *,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Save what no topic contains: accounts, payments, instruments, subscriptions, pauses, the venue's cursor.

    Example, once an hour beside the database's own backup:

      tradesaga recover save book.jsonl
    """
    counts = asyncio.run(_save(load_settings(directory), file))
    text = f"{file}: {format_counts(counts)}"
    print_result({"file": str(file), "rows": counts}, text, as_json=as_json)


async def _save(settings: Settings, file: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    if not file.name:
        do = "name the file to write"
        raise CommandError("file", f"{str(file)!r} is not a file name", "FILE", do, ExitCode.USAGE)
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
        do = "name a file in a writable folder"
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
    """Show a progress bar on a terminal; yield the functions that add to its total and advance it."""
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


def _show_comparison(found: Comparison, *, as_json: bool) -> None:
    _show(found, as_json=as_json)
    if not found.equal:
        raise typer.Exit(int(ExitCode.CHECK_FAILED))
