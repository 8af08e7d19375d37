"""Sagas on a terminal: colour where it says something, a plain text everywhere else."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from tradesaga.infra.saga_queries import Json
from tradesaga.sagas.status import Status

_PIPED_WIDTH: Final = 240
_COLOURS: Final = {
    Status.COMPLETED: "green",
    Status.ABORTED: "yellow",
    Status.COMPENSATING: "yellow",
    Status.FAILED: "bold red",
}


def plain_console() -> Console:
    """Return a console on stdout that takes no markup from data and, piped into a file, cuts no line."""
    return Console(soft_wrap=True, highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def state_text(state: str) -> Text:
    """Show a state in its colour."""
    return Text(state, style=_COLOURS.get(Status(state), ""))


def saga_table(rows: Sequence[Json]) -> Table:
    """Show sagas, one a line."""
    whole = Column("saga", no_wrap=True, min_width=36)  # an id is there to be copied
    table = Table(whole, "state", "step", "account", "order", "started", "took", box=None, pad_edge=False)
    for row in rows:
        request = _request(row)
        order = " ".join(str(request[name]) for name in ("side", "quantity", "symbol") if name in request)
        took = (row["updated_at"] - row["created_at"]).total_seconds()
        table.add_row(
            str(row["saga_id"]),
            state_text(row["state"]),
            _last_step(row),
            str(request.get("account", "")),
            order,
            _clock(row["created_at"]),
            f"{took:.3f} s",
        )
    return table


def saga_page(saga: Json) -> RenderableType:
    """Show one saga with its records."""
    about = Table.grid(padding=(0, 2))
    about.add_row("saga", f"{saga['name']} {saga['saga_id']} (version {saga['version']})")
    about.add_row("state", state_text(saga["state"]))
    about.add_row("done", ", ".join(saga["completed_steps"]) or "nothing")
    about.add_row("taken back", ", ".join(saga["compensated_steps"]) or "nothing")
    about.add_row("started", f"{_clock(saga['created_at'])}, last record {_clock(saga['updated_at'])}")
    about.add_row("deadline", _clock(saga["deadline"]) if saga["deadline"] else "none")
    for name, value in saga["context"].items():
        about.add_row(name, Text(_fields(value)))
    return Group(about, "", event_table(saga["events"], saga["created_at"]))


def event_table(events: Sequence[Json], began: datetime) -> Table:
    """Show records with the time since the saga's start."""
    table = Table("", "after", "event", "step", "what is wrong", box=None, pad_edge=False)
    for event in events:
        table.add_row(*event_cells(event, began))
    return table


def event_cells(event: Json, began: datetime) -> tuple[str, str, str, str, Text]:
    """Show one record."""
    after = (event["recorded_at"] - began).total_seconds()
    kind = str(event["event_type"] or "unreadable")
    wrong = Text(event["error"] or told_reason(event["value"]), style="red")
    return str(event["seq"] or "-"), f"{after:8.3f} s", kind, str(event["step_name"] or ""), wrong


def waiting_page(found: Json) -> RenderableType:
    """Show what a saga waits for."""
    about = Table.grid(padding=(0, 2))
    about.add_row("saga", str(found["saga_id"]))
    about.add_row("state", state_text(found["state"]))
    about.add_row("why", Text(found["summary"], style="bold"))
    if found["cause"]:
        about.add_row("taken back", found["cause"])
    for failure in found["failures"]:
        about.add_row("failed", Text(f"{failure['step']}, {failure['event']}: {failure['reason']}", style="red"))
    about.add_row("deadline", _deadline(found["deadline"]["in_seconds"]))
    about.add_row("saga log", _behind(found["saga_log"], reached=found["kafka"]))
    for group, why in found["halted"].items():
        about.add_row("halted", Text(f"{group}: {why}", style="red"))
    for step in found["waits_for"]:
        told = [f"to {step['to']}", f"{step['service'] or 'unknown service'}: {_behind(step, reached=found['kafka'])}"]
        if step["status"]:
            due = "" if step["due_in"] is None else f", due in {step['due_in']:.1f} s"
            told.append(f"{step['status']}, attempt {step['attempt']}{due}")
        about.add_row(step["step"], "; ".join(told))
    for parked in found["parked"]:
        place = f"{parked['topic']} {parked['partition']} {parked['offset']}"
        about.add_row("parked", Text(f"{place}: {parked['reason']}", style="red"))
    for hold in found["holds"]:
        about.add_row("paused", f"{hold['scope']} {hold['key']} by {hold['operator']}: {hold['reason']}")
    return about


def told_reason(value: object) -> str:
    """Return the reason that a fact gives, of which attempt where it says so; empty where it gives none."""
    if not isinstance(value, dict):
        return ""
    said: Json = value  # pyright: ignore[reportUnknownVariableType] - any JSON object
    reason = str(said.get("reason") or "")
    attempt = said.get("attempt", said.get("attempts"))
    return f"attempt {attempt}: {reason}" if reason and isinstance(attempt, int) else reason


def parked_table(rows: Sequence[Json]) -> Table:
    """Show parked records, in the words that `tradesaga release` takes."""
    table = Table("topic", "partition", "offset", "saga", "since", "why", box=None, pad_edge=False)
    for row in rows:
        place = (row["topic"], str(row["partition"]), str(row["offset"]))
        table.add_row(*place, str(row["saga_id"] or "-"), _clock(row["recorded_at"]), Text(row["reason"]))
    return table


def count_line(counts: dict[str, int]) -> Text:
    """Show how many sagas are in which state."""
    line = Text()
    for state in Status:
        line.append_text(state_text(state.value)).append(f" {counts.get(state.value, 0):,}   ")
    return line


def _request(row: Json) -> dict[str, object]:
    """Return the saga's start, the first member of its context."""
    context: dict[str, dict[str, object]] = row["context"]
    nothing: dict[str, object] = {}
    return next(iter(context.values()), nothing)


def _last_step(row: Json) -> str:
    done: list[str] = row["compensated_steps"] or row["completed_steps"]
    return f"{len(row['completed_steps'])} done" + (f", {len(done)} back" if row["compensated_steps"] else "")


def _behind(progress: Json, *, reached: bool) -> str:
    if progress["owner"] is None:
        return "has never run here"
    lag = f"{progress['lag']} records behind" if reached else "Kafka does not answer"
    return f"{lag}, {progress['unpublished']} unpublished, owner {progress['owner']}"


def _deadline(seconds: float | None) -> str:
    if seconds is None:
        return "none"
    return f"in {seconds:.0f} s" if seconds >= 0 else f"passed {-seconds:.0f} s ago"


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"


def _fields(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    return " ".join(f"{name}={text}" for name, text in value.items())  # pyright: ignore[reportUnknownVariableType]
