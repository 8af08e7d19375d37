"""`tradesaga demo`, `demo-check` and `demo-selftest`."""

import asyncio
import shutil
import tempfile
import time
from collections import Counter
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
from tradesaga.producers.demo.corruption import CORRUPTIONS, corrupted, failing_checks
from tradesaga.producers.demo.run import Chaos, Demo, DemoStack, Progress
from tradesaga.producers.demo.scenario import write_strategies, write_venue_config
from tradesaga.producers.demo.snapshot import Snapshot

BUILD: Final = Path("build")
_LINE_EVERY: Final = 5.0
_LEFT_OUT: Final = frozenset({"gateway", "audit-replayer"})
"""Services that the demo does not need: the HTTP API, and the auditor that folds the log again."""
SNAPSHOT: Final = BUILD / "demo"


def demo(
    *,
    sagas: Annotated[int, typer.Option(min=1, help="Least number of trades to start.")] = 1000,
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder of the demo's own stack; it is emptied first.")
    ] = Path(".tradesaga/demo"),
    chaos: Annotated[bool, typer.Option("--chaos", help="Kill each process once while it trades.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run over 1000 trades at real prices through a stack of its own, of which some fail, and check every cent.

    Example: `tradesaga demo --json`
    """
    began = time.monotonic()
    killer = Chaos(directory) if chaos else None
    with _running_stack(directory, together=False if chaos else None) as stack, _display(quiet=as_json) as report:
        snapshot = asyncio.run(Demo(stack, sagas, report, killer).run())
    snapshot.save(SNAPSHOT)
    results = run_checks(snapshot)
    summary = _summarize(snapshot, results, time.monotonic() - began, killer)
    (BUILD / "demo.json").write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    _show(summary, as_json=as_json)


def demo_check(
    folder: Annotated[Path, typer.Argument(help="Folder of a saved snapshot.")] = SNAPSHOT, *, as_json: AsJson = False
) -> None:
    """Check a saved snapshot of the demo again, without servers.

    Example: `tradesaga demo-check`
    """
    snapshot = _load(folder)
    _show(_summarize(snapshot, run_checks(snapshot), 0.0, None), as_json=as_json)


def demo_selftest(folder: Annotated[Path, typer.Argument(help="Folder of a saved snapshot.")] = SNAPSHOT) -> None:
    """Corrupt copies of the last demo's snapshot, and verify that the checks detect each corruption.

    Example: `tradesaga demo-selftest`
    """
    snapshot = _load(folder)
    table = Table(title="corruptions, and the checks that detect them")
    for heading in ("corruption", "detected by"):
        table.add_column(heading)
    undetected: list[str] = []
    if found := failing_checks(snapshot):
        raise CommandError("snapshot-bad", f"the snapshot itself fails {found}", str(folder), "run the demo again")
    for corrupt, copy in corrupted(snapshot):
        found = failing_checks(copy)
        name = corrupt.__name__.replace("_", " ")
        table.add_row(name, ", ".join(check.replace("_", " ") for check in found) or "[red]none[/red]")
        if not found or _exit_code(copy) != ExitCode.CHECK_FAILED:
            undetected.append(name)
    Console().print(table)
    if undetected:
        raise CommandError("unnoticed", f"no check detects: {', '.join(undetected)}", str(folder), "correct the checks")
    Console().print(f"all {len(CORRUPTIONS)} corruptions are detected")


def _exit_code(snapshot: Snapshot) -> int:
    """Return the exit code of `demo-check` for a snapshot that is saved and loaded again."""
    with tempfile.TemporaryDirectory() as folder:
        snapshot.save(Path(folder))
        loaded = Snapshot.load(Path(folder))
    return ExitCode.CHECK_FAILED if failing_checks(loaded) else ExitCode.FINE


def _load(folder: Path) -> Snapshot:
    try:
        return Snapshot.load(folder)
    except (OSError, ValueError, TypeError) as error:
        what = f"there is no readable snapshot: {error}"
        raise CommandError(
            "snapshot-missing", what, str(folder), "run `make demo` first", ExitCode.NOT_FOUND
        ) from error


@contextmanager
def _running_stack(home: Path, *, together: bool | None) -> Generator[DemoStack]:
    """Start a stack with new data, and stop it at the end in any case."""
    console = Console(stderr=True)
    _erase(home, console)
    home.mkdir(parents=True)
    venue_config, strategies = home / "venue.json", home / "strategies.json"
    write_venue_config(venue_config)
    write_strategies(strategies)
    names = [name for name in service_names(load_settings(home)) if name not in _LEFT_OUT]
    try:
        state = bring_up(home, load_settings(home), StackOptions(names, together, venue_config), console.log)
        key = (home / "venue" / "admin.key").read_text().strip()
        yield DemoStack(home, load_settings(home).brokers(), state.database_url, state.venue_url, key, strategies)
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
            f"{progress.completed} completed, {progress.aborted} rolled back, {progress.failed} failed, "
            f"{progress.seconds:.0f} s"
        )

    with console.status("") as spinner:

        def report(progress: Progress) -> None:
            nonlocal last
            spinner.update(line(progress))
            if not console.is_terminal and time.monotonic() - last > _LINE_EVERY:
                last = time.monotonic()
                console.print(line(progress), highlight=False)

        yield report


def _summarize(
    snapshot: Snapshot, results: dict[str, list[str]], seconds: float, chaos: Chaos | None
) -> dict[str, Any]:
    return {
        "ok": not any(results.values()),
        "sagas": len(snapshot.tables["saga"]),
        "states": Counter(row["state"] for row in snapshot.tables["saga"]),
        "reasons": reasons(snapshot),
        "orders_at_venue": len(snapshot.venue["orders"]),
        "trades_at_venue": len(snapshot.venue["trades"]),
        "records": len(snapshot.records),
        "snapshots_of_the_ledger": len(snapshot.run.samples),
        "killed": chaos.killed if chaos else [],
        "seconds": round(seconds, 1),
        "checks": [{"name": name, "ok": not found, "findings": found[:20]} for name, found in results.items()],
    }


def _show(report: dict[str, Any], *, as_json: bool) -> None:
    """Print the summary. Raises CommandError (exit 1) if a check fails."""
    failed = [check["name"] for check in report["checks"] if not check["ok"]]
    if as_json:
        typer.echo(to_json(report))
    else:
        _print(report)
    if failed:
        raise CommandError("demo-failed", f"failed checks: {', '.join(failed)}", str(BUILD), "read demo.json")


def _print(report: dict[str, Any]) -> None:
    console = Console()
    figures = Table(title=f"{report['sagas']} trades in {report['seconds']} s", show_header=False)
    rows = {**report["states"], **{f"rolled back: {name}": count for name, count in report["reasons"].items()}}
    rows |= {"orders at the venue": report["orders_at_venue"], "fills at the venue": report["trades_at_venue"]}
    rows |= {"records on the topics": report["records"], "killed": ", ".join(report["killed"]) or "none"}
    for name, value in rows.items():
        figures.add_row(name, str(value))
    checks = Table(title="checks, computed from venue, database and topics", show_header=False)
    for check in report["checks"]:
        mark = "[green]passed[/green]" if check["ok"] else "[red]FAILED[/red]"
        checks.add_row(check["name"].replace("_", " "), mark, "\n".join(check["findings"][:3]))
    console.print(figures, checks)
