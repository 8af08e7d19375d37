"""`python -m tests.faults`: break a whole stack for some minutes, then judge what it has kept of its promises."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop
from rich.console import Console

from tests.faults.corruption import notice_all
from tests.faults.drain import drain
from tests.faults.evidence import Evidence, Notes, collect
from tests.faults.invariants import Verdict, judge
from tests.faults.report import figures, save, show_figures, show_findings, show_progress, show_verdicts
from tests.faults.resources import usual_lag
from tests.faults.script import play
from tests.faults.stage import Stage, Wanted, open_stage
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.telemetry.logs import silence_libraries

BUILD: Final = Path("build")
FENCED: Final = b"another owner has acquired"
"""What a process says when it finds that its lane is not its own any more."""


def main(
    *,
    seed: Annotated[int, typer.Option(help="What is broken, where and when.")] = 1,
    minutes: Annotated[float, typer.Option(min=1, help="How long to go on breaking things, about.")] = 6.0,
    short: Annotated[bool, typer.Option("--short", help="Each phase once and briefly: under two minutes.")] = False,
    rate: Annotated[float, typer.Option(min=0.5, help="Sagas started a second.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False,
    selftest: Annotated[
        bool,
        typer.Option("--selftest", help="Afterwards corrupt the evidence in every way, to see that it is noticed."),
    ] = False,
    clusters: Annotated[
        bool, typer.Option("--clusters", help="On three brokers, and PostgreSQL with a standby that takes over.")
    ] = False,
    late_standby: Annotated[
        bool, typer.Option("--late-standby", help="Have nobody wait for the standby, to see that the loss is found.")
    ] = False,
    tmpfs: Annotated[bool, typer.Option(help="Fill a small memory disk, where one may be mounted.")] = True,
) -> None:
    """Run the fault run: exit 0 if every invariant holds and was tested, 1 if not, 5 if a server cannot be had."""
    console = Console(stderr=True)
    silence_libraries()
    folder = BUILD / "faults" / (f"clusters-{seed}" if clusters else f"seed-{seed}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ.setdefault("TRADESAGA_KAFKA_HEAP", "384m")
    began = time.monotonic()
    wanted = Wanted(seed, rate, short=short, clusters=clusters, tmpfs=tmpfs, late_standby=late_standby)
    seen = _played(run(folder, wanted, minutes * 60, console), console)
    verdicts = judge(seen)
    told = figures(seen, verdicts, seed, time.monotonic() - began)
    save(told, seen, folder)
    shutil.copy(folder / "chaos.json", BUILD / "chaos.json")
    show_verdicts(console, verdicts)
    show_figures(console, told)
    failed = not told["ok"] or _missed(console, seen.notes, short=short)
    if selftest:
        failed |= not _selftest(console, seen, verdicts)
    if as_json:
        sys.stdout.write((folder / "chaos.json").read_text())
    shutil.rmtree(folder / "kafka", ignore_errors=True)
    console.print(f"logs: {folder}")
    show_findings(console, verdicts)
    raise typer.Exit(int(ExitCode.CHECK_FAILED if failed else 0))


def _played(playing: Coroutine[None, None, Evidence], console: Console) -> Evidence:
    """Play the run to its end; one that cannot be played, or is ended by a signal, says so in a sentence."""
    try:
        return uvloop.run(playing)
    except CommandError as error:
        console.print(f"{error}", markup=False)
        raise typer.Exit(int(error.exit_code)) from error
    except TimeoutError as error:
        console.print(f"the run broke off, since something it waited for did not come: {error}", markup=False)
        raise typer.Exit(int(ExitCode.UNAVAILABLE)) from error
    except asyncio.CancelledError as error:
        console.print("the run was ended; its servers and processes are stopped")
        raise typer.Exit(int(ExitCode.CHECK_FAILED)) from error


async def run(folder: Path, wanted: Wanted, seconds: float, console: Console) -> Evidence:
    """Play the whole run and read the evidence."""
    console.print(f"seed {wanted.seed}: starting Kafka, PostgreSQL, the exchange and nine processes")
    _end_cleanly()
    async with open_stage(folder, wanted) as stage:
        showing = asyncio.create_task(show_progress(stage, console), name="progress")
        try:
            await _perform(stage, seconds)
        finally:
            showing.cancel()
            await asyncio.wait([showing])
        console.print("reading the evidence")
        _take_down(stage)
        return await collect(
            stage.broker.bootstrap, stage.database.url, stage.exchange.address, stage.clients.history, stage.notes
        )


def _take_down(stage: Stage) -> None:
    """Note what the processes have said and taken."""
    notes, members = stage.notes, list(stage.crew.members.values())
    notes.moves = stage.broker.moves
    notes.fenced = sum(member.count(FENCED) for member in members)
    for member in members:
        member.memory.begin(time.monotonic())  # this life counts too
    notes.peak_mb = {member.name: member.memory.peak for member in members}
    notes.growth = {member.name: max(member.memory.growth) for member in members if member.memory.growth}
    notes.lag_ms = {member.name: usual_lag(member.log) for member in members}


def _end_cleanly() -> None:
    """Have a signal unwind the run, so that no server or process of it is left behind."""
    running = asyncio.current_task()
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    if running is not None:
        for number in numbers:
            loop.add_signal_handler(number, running.cancel)


async def _perform(stage: Stage, seconds: float) -> None:
    """Load, faults, drain."""
    stage.clients.start()
    try:
        stage.watch.phase = "warming up"
        await asyncio.sleep(5.0 if stage.short else 15.0)
        await play(stage, seconds)
        stage.watch.phase = "drain"
        await stage.clients.stop_load()
        await drain(stage, 60.0 if stage.short else 120.0)
    finally:
        await stage.clients.stop()


def _missed(console: Console, notes: Notes, *, short: bool) -> bool:
    """Tell what was never tried; a whole run in which anything is missing does not count."""
    if missed := notes.missed():
        console.print(f"nobody died at: {', '.join(missed)}")
    for untried in notes.untried:
        console.print(f"not tried: {untried}", highlight=False)
    if idle := notes.idle():
        console.print(f"there were no {', no '.join(idle)}")
    return bool(idle) or (bool(missed) and not short)


def _selftest(console: Console, seen: Evidence, verdicts: list[Verdict]) -> bool:
    if any(verdict.findings for verdict in verdicts):
        console.print("the evidence is not clean: nothing could be learned from corrupting it")
        return False
    unnoticed = notice_all(seen, lambda line: console.print(line, highlight=False))
    return not unnoticed


if __name__ == "__main__":
    typer.run(main)
