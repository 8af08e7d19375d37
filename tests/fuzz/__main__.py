"""`python -m tests.fuzz`: strangers at every door and on every topic, good trades beside them, and a judge."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from random import Random
from typing import Annotated, Any, Final, NoReturn

import orjson
import typer
from rich.console import Console

from tests.fuzz.judging import Finding, Place, count_open, judge, read_lag
from tests.fuzz.strangers import Strangers
from tests.fuzz.trades import Trade, Traders, open_accounts
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.assembly import StackOptions, bring_down, bring_up
from tradesaga.infra.registry.services import service_names
from tradesaga.infra.settings import load_settings
from tradesaga.infra.telemetry.logs import silence_libraries
from tradesaga.producers.demo.scenario import write_venue_config
from tradesaga.schemas.topics import PARTITIONS

BUILD: Final = Path("build")
_SHOWN: Final = 20
_DRAIN: Final = 90.0
"""Seconds that the stack has, once nobody sends any more, to bring every good trade to its end."""


def main(
    *,
    minutes: Annotated[float, typer.Option(min=0.2, help="How long to send.")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="What strangers send, and when; by chance without it.")] = None,
    rate: Annotated[float, typer.Option(min=1, help="Records that strangers send a second.")] = 20.0,
    trades: Annotated[float, typer.Option(min=1, help="Good trades a minute.")] = 100.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Fuzz a whole stack: exit 0 if every rule holds, 1 if not, 5 if a server cannot be had."""
    console = Console(stderr=True)
    silence_libraries()
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    console.print(f"seed {seed}", highlight=False)
    home = BUILD / "fuzz"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    os.environ.setdefault("TRADESAGA_KAFKA_HEAP", "512m")
    try:
        with _stack(home, console) as place:
            report = asyncio.run(_play(place, (seed, minutes * 60, rate, trades), console))
    except CommandError as error:
        console.print(str(error), markup=False, highlight=False)
        raise typer.Exit(int(error.exit_code)) from error
    text = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    (BUILD / "fuzz.json").write_bytes(text)
    if as_json:
        sys.stdout.write(text.decode())
    _show(report, console)
    raise typer.Exit(int(ExitCode.FINE if report["ok"] else ExitCode.CHECK_FAILED))


@contextlib.contextmanager
def _stack(home: Path, console: Console) -> Generator[Place]:
    """Bring up a whole stack with fresh data, and take it down however the run ends."""
    signal.signal(signal.SIGTERM, _end)
    venue_config = home / "venue.json"
    write_venue_config(venue_config)
    try:
        os.environ["TRADESAGA_PARTITIONS"] = str(PARTITIONS)  # strangers choose among them
        settings = load_settings(home)
        plan = StackOptions(service_names(settings), together=False, venue_config=venue_config)
        state = bring_up(home, settings, plan, console.log)
        key = (home / "venue" / "admin.key").read_text().strip()
        yield Place(home, state.kafka, state.database_url, state.venue_url, key)
    finally:
        bring_down(home, console.log)


def _end(*_: object) -> NoReturn:
    sys.exit(int(ExitCode.CHECK_FAILED))


async def _play(place: Place, wanted: tuple[int, float, float, float], console: Console) -> dict[str, Any]:
    seed, seconds, rate, pace = wanted
    http = f"http://127.0.0.1:{load_settings(place.home).http_port}"
    opening = await open_accounts(place.database_url)
    traders = Traders(place.kafka, http, Random(seed + 1), pace)
    strangers = Strangers(place.kafka, http, seed, rate)
    began = time.monotonic()
    working = [
        asyncio.create_task(traders.run(), name="trades"),
        asyncio.create_task(strangers.run(), name="strangers"),
    ]
    try:
        while time.monotonic() - began < seconds:
            done, _ = await asyncio.wait(working, timeout=10.0, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            waiting = await count_open(place, traders.trades)
            sent = sum(strangers.sent.values())
            asked = strangers.answers.total()
            line = (
                f"{len(traders.trades)} good trades, {waiting} under way; strangers: {sent} records, {asked} requests"
            )
            console.print(f"{time.monotonic() - began:5.0f} s  {line}", highlight=False)
    finally:
        for task in working:
            task.cancel()
        await asyncio.wait(working)
    await traders.finish()
    await strangers.finish()
    await _drain(place, traders.trades, console)
    findings = await judge(place, traders.trades, opening)
    return _report(seed, time.monotonic() - began, traders.trades, strangers, findings)


async def _drain(place: Place, trades: list[Trade], console: Console) -> None:
    """Wait until all good trades have ended and everybody has read all, or for long enough."""
    until = time.monotonic() + _DRAIN
    while time.monotonic() < until:
        waiting, behind = await count_open(place, trades), sum((await read_lag(place)).values())
        console.print(f"waiting: {waiting} good trades under way, {behind} records unread", highlight=False)
        if not waiting and not behind:
            return
        await asyncio.sleep(3.0)


def _report(
    seed: int, seconds: float, trades: list[Trade], strangers: Strangers, findings: list[Finding]
) -> dict[str, Any]:
    return {
        "ok": not findings,
        "seed": seed,
        "seconds": round(seconds, 1),
        "good_trades": len(trades),
        "slowest_answer": round(max((trade.seconds for trade in trades), default=0.0), 2),
        "sent_by_strangers": dict(strangers.sent),
        "answers_to_strangers": dict(strangers.answers),
        "broken": dict(Counter(finding.rule for finding in findings)),
        "findings": [finding._asdict() for finding in findings],
    }


def _show(report: dict[str, Any], console: Console) -> None:
    for finding in report["findings"][:_SHOWN]:
        console.print(f"BROKEN {finding['rule']}: {finding['what']}", markup=False, highlight=False)
    if len(report["findings"]) > _SHOWN:
        console.print(f"and {len(report['findings']) - _SHOWN} more in {BUILD / 'fuzz.json'}")
    said = "every rule holds" if report["ok"] else f"{len(report['findings'])} findings"
    console.print(
        f"{said}: {report['good_trades']} good trades beside {sum(report['sent_by_strangers'].values())} records "
        f"of strangers in {report['seconds']} s, seed {report['seed']}", highlight=False,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
