"""`tradesaga demo`, `demo-check` and `demo-selftest`."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table

from tradesaga.infra.cli.console import AsJson, to_json
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.assembly import StackOptions, bring_down, bring_up
from tradesaga.infra.local_stack.state import read_state
from tradesaga.infra.registry.services import service_names
from tradesaga.infra.settings import load_settings
from tradesaga.producers.demo.checks import reasons, run_checks
from tradesaga.producers.demo.corruption import CORRUPTIONS, corrupted, noticed
from tradesaga.producers.demo.plan import write_strategies, write_venue_config
from tradesaga.producers.demo.show import Chaos, Progress, Show, Stage
from tradesaga.producers.demo.snapshot import Snapshot

BUILD: Final = Path("build")
_LINE_EVERY: Final = 5.0
_LEFT_OUT: Final = frozenset({"gateway", "audit-replayer"})
"""Services that the demo does without: nobody asks over HTTP, and the auditor folds everything once more."""
SNAPSHOT: Final = BUILD / "demo"


def demo(
    *,
    sagas: Annotated[int, typer.Option(min=1, help="Trades to start at least.")] = 1000,
    directory: Annotated[Path, typer.Option("--dir", help="Folder of the demo's own stack; made anew.")] = Path(
        ".tradesaga/demo"
    ),
    chaos: Annotated[bool, typer.Option("--chaos", help="Kill each process once while it trades.")] = False,
    as_json: AsJson = False,
) -> None:
    """Trade on real prices through a stack of its own, see a part fail and be taken back, and check every cent.

    Example: `tradesaga demo --json`
    """
    began = time.monotonic()
    blows = Chaos(directory) if chaos else None
    with _stage(directory) as stage, _display(quiet=as_json) as tell:
        shot = asyncio.run(Show(stage, sagas, tell, blows).play())
    shot.save(SNAPSHOT)
    results = run_checks(shot)
    report = _report(shot, results, time.monotonic() - began, blows)
    (BUILD / "demo.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    _show(report, as_json=as_json)


def demo_check(
    folder: Annotated[Path, typer.Argument(help="What a demo has saved.")] = SNAPSHOT, *, as_json: AsJson = False
) -> None:
    """Check a saved snapshot of the demo again, without any server.

    Example: `tradesaga demo-check`
    """
    shot = _load(folder)
    _show(_report(shot, run_checks(shot), 0.0, None), as_json=as_json)


def demo_selftest(folder: Annotated[Path, typer.Argument(help="What a demo has saved.")] = SNAPSHOT) -> None:
    """Corrupt each source of the last demo's snapshot in turn, and see the checks notice.

    Example: `tradesaga demo-selftest`
    """
    shot = _load(folder)
    table = Table(title="corruptions, and which checks notice them")
    for heading in ("corruption", "noticed by"):
        table.add_column(heading)
    unnoticed: list[str] = []
    if found := noticed(shot):
        raise CommandError("snapshot-bad", f"the snapshot itself fails {found}", str(folder), "run the demo again")
    for corrupt, copy in corrupted(shot):
        found = noticed(copy)
        name = corrupt.__name__.replace("_", " ")
        table.add_row(name, ", ".join(check.replace("_", " ") for check in found) or "[red]nobody[/red]")
        if not found or _exit_code(copy) != ExitCode.CHECK_FAILED:
            unnoticed.append(name)
    Console().print(table)
    if unnoticed:
        raise CommandError("unnoticed", f"no check noticed: {', '.join(unnoticed)}", str(folder), "fix the checks")
    Console().print(f"all {len(CORRUPTIONS)} corruptions were noticed")


def _exit_code(shot: Snapshot) -> int:
    """Check a copy as a person would, from files, and give what the command would exit with."""
    with tempfile.TemporaryDirectory() as folder:
        shot.save(Path(folder))
        loaded = Snapshot.load(Path(folder))
    return ExitCode.CHECK_FAILED if noticed(loaded) else ExitCode.FINE


def _load(folder: Path) -> Snapshot:
    try:
        return Snapshot.load(folder)
    except (OSError, ValueError, TypeError) as error:
        what = f"no readable snapshot is there: {error}"
        raise CommandError(
            "snapshot-missing", what, str(folder), "run `make demo` first", ExitCode.NOT_FOUND
        ) from error


@contextmanager
def _stage(home: Path) -> Generator[Stage]:
    """Bring up a stack with fresh data, and take it down again however the demo ends."""
    console = Console(stderr=True)
    _erase(home, console)
    home.mkdir(parents=True)
    venue_config, strategies = home / "venue.json", home / "strategies.json"
    write_venue_config(venue_config)
    write_strategies(strategies)
    names = [name for name in service_names(load_settings(home)) if name not in _LEFT_OUT]
    try:
        state = bring_up(home, load_settings(home), StackOptions(names, venue_config=venue_config), console.log)
        key = (home / "venue" / "admin.key").read_text().strip()
        yield Stage(home, load_settings(home).brokers(), state.database_url, state.venue_url, key, strategies)
    finally:
        bring_down(home, console.log)


def _erase(home: Path, console: Console) -> None:
    if not home.exists():
        return
    bring_down(home, console.log)
    state = read_state(home)
    for folder in (state.postgres.data, str(home)):
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _display(*, quiet: bool) -> Generator[Any]:
    console = Console(stderr=True, quiet=quiet)
    last = 0.0

    def line(progress: Progress) -> str:
        return (
            f"{progress.phase}: {progress.started} of {progress.wanted} started, {progress.running} running, "
            f"{progress.completed} completed, {progress.aborted} taken back, {progress.failed} failed, "
            f"{progress.seconds:.0f} s"
        )

    with console.status("") as spinner:

        def tell(progress: Progress) -> None:
            nonlocal last
            spinner.update(line(progress))
            if not console.is_terminal and time.monotonic() - last > _LINE_EVERY:
                last = time.monotonic()
                console.print(line(progress), highlight=False)

        yield tell


def _report(shot: Snapshot, results: dict[str, list[str]], seconds: float, blows: Chaos | None) -> dict[str, Any]:
    states: dict[str, int] = {}
    for row in shot.tables["saga"]:
        states[row["state"]] = states.get(row["state"], 0) + 1
    return {
        "ok": not any(results.values()),
        "sagas": len(shot.tables["saga"]),
        "states": states,
        "reasons": reasons(shot),
        "orders_at_venue": len(shot.venue["orders"]),
        "trades_at_venue": len(shot.venue["trades"]),
        "records": len(shot.records),
        "snapshots_of_the_ledger": len(shot.run.samples),
        "killed": blows.struck if blows else [],
        "seconds": round(seconds, 1),
        "checks": [{"name": name, "ok": not found, "findings": found[:20]} for name, found in results.items()],
    }


def _show(report: dict[str, Any], *, as_json: bool) -> None:
    """Print the report; raises `CommandError` (exit 1) unless every check holds."""
    failed = [check["name"] for check in report["checks"] if not check["ok"]]
    if as_json:
        typer.echo(to_json(report))
    else:
        _print(report)
    if failed:
        raise CommandError("demo-failed", f"checks that do not hold: {', '.join(failed)}", str(BUILD), "read demo.json")


def _print(report: dict[str, Any]) -> None:
    console = Console()
    figures = Table(title=f"{report['sagas']} trades in {report['seconds']} s", show_header=False)
    rows = {**report["states"], **{f"taken back: {name}": count for name, count in report["reasons"].items()}}
    rows |= {"orders at the venue": report["orders_at_venue"], "fills at the venue": report["trades_at_venue"]}
    rows |= {"records on the topics": report["records"], "killed": ", ".join(report["killed"]) or "nobody"}
    for name, value in rows.items():
        figures.add_row(name, str(value))
    checks = Table(title="checks, computed anew from venue, database and topics", show_header=False)
    for check in report["checks"]:
        mark = "[green]holds[/green]" if check["ok"] else "[red]BROKEN[/red]"
        checks.add_row(check["name"].replace("_", " "), mark, "\n".join(check["findings"][:3]))
    console.print(figures, checks)
