"""Shows a report on a terminal: a table on wide ones, otherwise a paragraph per record."""

from collections.abc import Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from tradesaga.consumers.audit.report.formatting import clock, harmless, list_fields, span
from tradesaga.consumers.audit.report.model import (
    ContextAddition,
    Proof,
    RecordKind,
    Result,
    SagaTimeline,
    Seal,
    TimelineNote,
    TimelineRecord,
)

WIDE: Final = 110
"""The minimum number of columns for a table."""
_OUTLOOKS: Final = {
    Result.GOOD: "green",
    Result.BACK: "yellow",
    Result.STUCK: "red",
    Result.OPEN: "blue",
    Result.UNKNOWN: "default",
}
_STYLES: Final = {
    RecordKind.START: "blue",
    RecordKind.STEP_COMPLETE: "green",
    RecordKind.REPORTED: "blue",
    RecordKind.OPERATOR: "magenta",
    RecordKind.COMPENSATED: "yellow",
    RecordKind.STEP_BARRED: "yellow",
    RecordKind.STEP_UNKNOWN: "yellow",
    RecordKind.DUPLICATE: "bright_black",
    RecordKind.LATE: "bright_black",
}
_FIELDS_SHOWN: Final = 12


def show(timeline: SagaTimeline, width: int) -> RenderableType:
    """Return a report for a terminal with `width` columns."""
    began = timeline.began
    body = _table(timeline, began) if width >= WIDE else Group(*(_paragraph(each, began) for each in timeline.records))
    return Group(*_head(timeline), "", body)


def _head(timeline: SagaTimeline) -> list[RenderableType]:
    colour = _OUTLOOKS[timeline.result]
    about = Text.assemble(
        (f" {timeline.state or 'state unknown'} ", f"bold reverse {colour}"),
        f"  {harmless(timeline.name)} {timeline.saga_id}, {timeline.definition}",
    )
    lines: list[RenderableType] = [about, Text(harmless(timeline.headline), style="bold"), ""]
    lines += [Text(harmless(each)) for each in timeline.summary]
    lines += [Text(harmless(each), style="bright_black") for each in timeline.remarks]
    return lines


def _table(timeline: SagaTimeline, began: int) -> Table:
    what, where = Column("event", ratio=1), Column("position, writer", no_wrap=True)
    table = Table("event time, recorded", what, where, "seal", box=None, pad_edge=False, padding=(0, 3, 1, 0))
    for each in timeline.records:
        where_told = Text(f"{each.position}\n{_number(each)} by {harmless(each.writer, 40)}", style="bright_black")
        table.add_row(_times(each, began), _what(each), where_told, _seal(each.seal, "\n"))
    return table


def _paragraph(told: TimelineRecord, began: int) -> RenderableType:
    after = f"+{span(told.when - began)}" if told.when > began else "start"
    recorded = f", recorded {clock(told.recorded)}" if told.event_time is not None else ""
    head = Text.assemble((clock(told.when, 6), "bold"), (f"  {after}{recorded}", "bright_black"))
    foot = Text(f"{told.position} {_number(told)} by {harmless(told.writer, 40)}\n", style="bright_black")
    foot.append_text(_seal(told.seal, " "))
    return Group(head, Padding(Group(_what(told), foot), (0, 0, 1, 2)))


def _times(told: TimelineRecord, began: int) -> Text:
    times = Text(clock(told.event_time, 9) if told.event_time is not None else "no event time", style="bold")
    times.append(f"\n{clock(told.recorded)} recorded", style="not bold bright_black")
    if told.when > began:
        times.append(f"\n+{span(told.when - began)}", style="not bold bright_black")
    return times


def _what(told: TimelineRecord) -> Text:
    """Return the sentence with the notes before and after it."""
    lines = [_moment(each) for each in told.before]
    lines.append(
        Text.assemble(
            (harmless(told.sentence), f"bold {_STYLES.get(told.kind, 'red')}"), (f"  {told.kind}", "bright_black")
        )
    )
    if told.reason:
        lines.append(Text(f"\N{LEFT DOUBLE QUOTATION MARK}{harmless(told.reason)}\N{RIGHT DOUBLE QUOTATION MARK}"))
    if told.error:
        lines.append(Text(f"saga log: {harmless(told.error)}", style="red"))
    lines += [_moment(each) for each in told.after]
    lines += _gains(told.additions)
    if told.payload is None and told.size:
        lines.append(Text(f"{told.size:,} bytes, not JSON: encrypted or damaged", style="bright_black"))
    lines += [Text(harmless(each), style="bold red") for each in told.remarks]
    return Text("\n").join(lines)


def _moment(note: TimelineNote) -> Text:
    at = f"{clock(note.time, 6)} " if note.time is not None else "\N{RIGHTWARDS ARROW} "
    return Text(at + harmless(note.sentence), style="bright_black")


def _gains(additions: Iterable[ContextAddition]) -> list[Text]:
    """Return a line for each member that was added to the context."""
    lines: list[Text] = []
    for addition in additions:
        fields = list_fields(addition.value)
        shown = " ".join(f"{path}={value}" if path else value for path, value in fields[:_FIELDS_SHOWN])
        more = f" and {len(fields) - _FIELDS_SHOWN} more" if len(fields) > _FIELDS_SHOWN else ""
        lines.append(Text.assemble(("+ ", "bold green"), f"{harmless(addition.name)}: {harmless(shown)}{more}"))
    return lines


def _number(told: TimelineRecord) -> str:
    number = f"record {told.seq}" if told.seq is not None else "not in the chain"
    return f"{number}, attempt {told.attempt}" if told.attempt > 1 else number


def _seal(seal: Seal, between: str) -> Text:
    match seal.proof:
        case Proof.PROVEN:
            return Text(f"\N{CHECK MARK} sealed{between}{clock(seal.time)}", style="green")
        case Proof.UNPROVEN:
            return Text(f"\N{BALLOT X} not proven:{between}{harmless(seal.why)}", style="bold red")
        case Proof.NOT_YET:
            return Text("not sealed yet", style="bright_black")
        case _:
            return Text(harmless(seal.why), style="bright_black")
