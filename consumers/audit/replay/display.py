"""Output of replays, on a terminal and as JSON."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from tradesaga.consumers.audit.replay.as_of import AsOfResult, describe_sagas
from tradesaga.consumers.audit.replay.comparison import ReplayReport
from tradesaga.consumers.audit.replay.differences import Difference
from tradesaga.consumers.audit.replay.request import AsOf
from tradesaga.consumers.audit.replay.state import ReplayState, SagaCounts
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.cli.console import to_json
from tradesaga.infra.clock import format_time


def show_report(report: ReplayReport, *, as_json: bool) -> None:
    """Print the result of a comparison."""
    if as_json:
        typer.echo(to_json(_report_json(report)))
        return
    console = Console()
    console.print(f"{report.records:,} records, {_states(report)}", highlight=False)
    _show_parked(console, report)
    if report.partial:
        some = ", ".join(map(str, report.partial_sagas[:3]))
        what = f"{report.partial:,} sagas began before the range, so only their rows were compared: {some}"
        console.print(f"{what}{', ...' if report.partial > 3 else ''}", highlight=False)  # noqa: PLR2004 - as shown
    if report.gone_on:
        console.print(
            f"{report.gone_on:,} sagas went on after the range; their state was not compared", highlight=False
        )
    agreed = "topics and database [green]agree"
    console.print(agreed if not report.differing else f"[bold red]{report.differing:,} differences")
    show_differences(console, report.differences)


def show_found(found: list[Difference], *, as_json: bool) -> None:
    """Print the differences that ended following, if any."""
    if as_json:
        typer.echo(to_json({"equal": not found, "differences": [each._asdict() for each in found]}))
        return
    console = Console()
    console.print("nothing has differed" if not found else f"[bold red]{len(found):,} differences")
    show_differences(console, found)


def show_differences(console: Console, differences: list[Difference]) -> None:
    """Print differences as a table."""
    if differences:
        table = Table("where", "field", "topics", "database", box=None, pad_edge=False)
        for each in differences:
            table.add_row(each.where, each.field, Text(each.topics), Text(each.database))
        console.print(table)


def show_known(
    rules: Rules, as_of: AsOf, known: AsOfResult, replay_state: ReplayState, limit: int, *, as_json: bool
) -> None:
    """Print the state at a time, with up to `limit` sagas, 0 for all."""
    total = known.sagas + known.unstarted
    shown = islice(describe_sagas(rules, replay_state), limit or total)
    if as_json:
        _stream_known(as_of, known, shown, max(0, total - (limit or total)))
        return
    console = Console()
    by = "had happened" if as_of.clock == "event" else "was known"
    console.print(f"what {by} at {format_time(as_of.at)}: {_states(known)}", highlight=False)
    console.print(f"{known.records:,} records up to then, {known.later:,} later ones", highlight=False)
    _show_parked(console, known)
    for place, first in known.gone.items():
        console.print(f"[bold red]{place} begins at offset {first}[/]: what was before is gone, this is not all")
    table = Table(Column("saga", no_wrap=True), "state", "steps", "last record", "why", box=None, pad_edge=False)
    for saga in shown:
        steps = ", ".join(f"{step} {status}" for step, status in saga.get("steps", {}).items() if status != "open")
        state = saga["state"] or "not started"
        table.add_row(saga["saga_id"], state, steps, saga.get("updated", ""), Text(saga["why"]))
    console.print(table)
    if limit and total > limit:
        console.print(f"and {total - limit:,} more: --limit 0 shows all", highlight=False)


def _stream_known(as_of: AsOf, known: AsOfResult, sagas: Iterator[dict[str, Any]], left: int) -> None:
    """Print one JSON object saga by saga, in constant memory."""
    told = {
        "at": format_time(as_of.at),
        "clock": as_of.clock.value,
        "records": known.records,
        "later_records": known.later,
        "sagas": known.sagas,
        "not_started": known.unstarted,
        "states": known.states,
        "parked": known.parked,
        "missing_before": known.gone,
        "sagas_not_shown": left,
    }
    typer.echo(f'{to_json(told).rstrip().removesuffix("}").rstrip()}, "shown": [', nl=False)
    for number, saga in enumerate(sagas):
        typer.echo(f"{', ' if number else ''}{to_json(saga)}", nl=False)
    typer.echo("]}")


def _report_json(report: ReplayReport) -> dict[str, Any]:
    return {
        "equal": not report.differing,
        "records": report.records,
        "sagas": report.sagas,
        "states": report.states,
        "parked": report.parked,
        "partly_in_range": report.partial,
        "partly_in_range_sagas": [str(saga_id) for saga_id in report.partial_sagas],
        "gone_on_after_range": report.gone_on,
        "differing": report.differing,
        "differences": [difference._asdict() for difference in report.differences],
    }


def _states(counts: SagaCounts) -> str:
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(counts.states.items()))
    return f"{counts.sagas:,} sagas: {states or 'none'}"


def _show_parked(console: Console, counts: SagaCounts) -> None:
    if counts.parked:
        console.print(f"{counts.parked:,} of them wait with parked records", highlight=False)
