"""Tables and pages of sagas for the terminal: coloured there, plain text elsewhere."""

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
    """Return a console on stdout that ignores markup in data, and does not cut lines in a pipe."""
    return Console(soft_wrap=True, highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def state_text(state: str) -> Text:
    """Return a state in its colour."""
    return Text(state, style=_COLOURS.get(Status(state), ""))


def saga_table(rows: Sequence[Json]) -> Table:
    """Return a table of sagas, one per line."""
    saga = Column("saga", no_wrap=True, min_width=36)  # so that an id can be copied
    table = Table(saga, "state", "step", "account", "order", "started", "took", box=None, pad_edge=False)
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
    """Return a page on one saga with its records."""
    about = _grid()
    about.add_row("saga", f"{saga['name']} {saga['saga_id']} (version {saga['version']})")
    about.add_row("state", state_text(saga["state"]))
    about.add_row("done", ", ".join(saga["completed_steps"]) or "nothing")
    about.add_row("compensated", ", ".join(saga["compensated_steps"]) or "nothing")
    about.add_row("started", f"{_clock(saga['created_at'])}, last record {_clock(saga['updated_at'])}")
    about.add_row("deadline", _clock(saga["deadline"]) if saga["deadline"] else "none")
    for name, value in saga["context"].items():
        about.add_row(name, Text(_fields(value)))
    return Group(about, "", event_table(saga["events"], saga["created_at"]))


def event_table(events: Sequence[Json], began: datetime) -> Table:
    """Return a table of records with the time since the saga's start."""
    table = Table("", "after", "event", "step", "error", box=None, pad_edge=False)
    for event in events:
        table.add_row(*event_cells(event, began))
    return table


def event_cells(event: Json, began: datetime) -> tuple[str, str, str, str, Text]:
    """Return the cells of one record."""
    after = (event["recorded_at"] - began).total_seconds()
    kind = str(event["event_type"] or "unreadable")
    wrong = _red(event["error"] or read_reason(event["value"]))
    return str(event["seq"] or "-"), f"{after:8.3f} s", kind, str(event["step_name"] or ""), wrong


def waiting_page(found: Json) -> RenderableType:
    """Return a page on what a saga waits for."""
    about = _grid()
    about.add_row("saga", str(found["saga_id"]))
    about.add_row("state", state_text(found["state"]))
    about.add_row("why", Text(found["summary"], style="bold"))
    if found["cause"]:
        about.add_row("compensating", found["cause"])
    for failure in found["failures"]:
        about.add_row("failed", _red(f"{failure['step']}, {failure['event']}: {failure['reason']}"))
    about.add_row("deadline", _deadline(found["deadline"]["in_seconds"]))
    about.add_row("saga log", _behind(found["saga_log"], reached=found["kafka"]))
    for group, why in found["halted"].items():
        about.add_row("halted", _red(f"{group}: {why}"))
    for step in found["waits_for"]:
        texts = [f"to {step['to']}", f"{step['service'] or 'unknown service'}: {_behind(step, reached=found['kafka'])}"]
        if step["status"]:
            due = "" if step["due_in"] is None else f", due in {step['due_in']:.1f} s"
            texts.append(f"{step['status']}, attempt {step['attempt']}{due}")
        about.add_row(step["step"], "; ".join(texts))
    for parked in found["parked"]:
        about.add_row("parked", _red(f"{place_of(parked)}: {parked['reason']}"))
    for hold in found["holds"]:
        about.add_row("paused", f"{hold['scope']} {hold['key']} by {hold['operator']}: {hold['reason']}")
    return about


def place_of(record: Json) -> str:
    """Return the topic, partition and offset of a record, as `tradesaga release` takes them."""
    return f"{record['topic']} {record['partition']} {record['offset']}"


def read_reason(value: object) -> str:
    """Return the reason in a fact, with its attempt if it has one; empty without a reason."""
    if not isinstance(value, dict):
        return ""
    fact: Json = value  # pyright: ignore[reportUnknownVariableType] - any JSON object
    reason = str(fact.get("reason") or "")
    attempt = fact.get("attempt", fact.get("attempts"))
    return f"attempt {attempt}: {reason}" if reason and isinstance(attempt, int) else reason


def parked_table(rows: Sequence[Json]) -> Table:
    """Return a table of parked records, with the arguments of `tradesaga release`."""
    table = Table("topic", "partition", "offset", "saga", "since", "why", box=None, pad_edge=False)
    for row in rows:
        place = (row["topic"], str(row["partition"]), str(row["offset"]))
        table.add_row(*place, str(row["saga_id"] or "-"), _clock(row["recorded_at"]), Text(row["reason"]))
    return table


def count_line(counts: dict[str, int]) -> Text:
    """Return the number of sagas in each state."""
    line = Text()
    for state in Status:
        line.append_text(state_text(state.value)).append(f" {counts.get(state.value, 0):,}   ")
    return line


def _request(row: Json) -> dict[str, object]:
    """Return the start of the saga, the first member of its context."""
    context: dict[str, dict[str, object]] = row["context"]
    nothing: dict[str, object] = {}
    return next(iter(context.values()), nothing)


def _last_step(row: Json) -> str:
    done, back = len(row["completed_steps"]), len(row["compensated_steps"])
    return f"{done} done" + (f", {back} back" if back else "")


def _behind(progress: Json, *, reached: bool) -> str:
    if progress["owner"] is None:
        return "has never run here"
    lag = f"{progress['lag']} records behind" if reached else "Kafka is unavailable"
    return f"{lag}, {progress['unpublished']} unpublished, owner {progress['owner']}"


def _deadline(seconds: float | None) -> str:
    if seconds is None:
        return "none"
    return f"in {seconds:.0f} s" if seconds >= 0 else f"passed {-seconds:.0f} s ago"


def _grid() -> Table:
    return Table.grid(padding=(0, 2))


def _red(text: str) -> Text:
    return Text(text, style="red")


def _clock(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"


def _fields(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    return " ".join(f"{name}={text}" for name, text in value.items())  # pyright: ignore[reportUnknownVariableType]
