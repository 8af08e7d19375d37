"""A story on a terminal: a table where there is room, otherwise a paragraph a record."""

from collections.abc import Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from tradesaga.consumers.audit.report.formatting import clock, harmless, span
from tradesaga.consumers.audit.report.model import Gain, Kind, Moment, Outlook, Proof, Seal, Story, Told
from tradesaga.consumers.audit.report.payload import list_fields

WIDE: Final = 110
"""Columns from which on a table is drawn."""
_OUTLOOKS: Final = {
    Outlook.GOOD: "green",
    Outlook.BACK: "yellow",
    Outlook.STUCK: "red",
    Outlook.OPEN: "blue",
    Outlook.UNKNOWN: "default",
}
_STYLES: Final = {
    Kind.START: "blue",
    Kind.STEP_COMPLETE: "green",
    Kind.REPORTED: "blue",
    Kind.OPERATOR: "magenta",
    Kind.COMPENSATED: "yellow",
    Kind.STEP_BARRED: "yellow",
    Kind.STEP_UNKNOWN: "yellow",
    Kind.DUPLICATE: "bright_black",
    Kind.LATE: "bright_black",
}
_FIELDS_SHOWN: Final = 12


def show(story: Story, width: int) -> RenderableType:
    """Show a story on that many columns."""
    began = story.began
    body = _table(story, began) if width >= WIDE else Group(*(_paragraph(each, began) for each in story.records))
    return Group(*_head(story), "", body)


def _head(story: Story) -> list[RenderableType]:
    colour = _OUTLOOKS[story.outlook]
    version = f"version {story.version}" if story.version is not None else "definition not at hand"
    about = Text.assemble(
        (f" {story.state or 'state unknown'} ", f"bold reverse {colour}"),
        f"  {harmless(story.name)} {story.saga_id}, {version}",
    )
    lines: list[RenderableType] = [about, Text(harmless(story.headline), style="bold"), ""]
    lines += [Text(harmless(each)) for each in story.summary]
    lines += [Text(harmless(each), style="bright_black") for each in story.remarks]
    return lines


def _table(story: Story, began: int) -> Table:
    what, where = Column("what", ratio=1), Column("record, writer", no_wrap=True)
    table = Table("event time, recorded", what, where, "seal", box=None, pad_edge=False, padding=(0, 3, 1, 0))
    for each in story.records:
        where_told = Text(f"{each.position}\n{_number(each)} by {harmless(each.writer, 40)}", style="bright_black")
        table.add_row(_times(each, began), _what(each), where_told, _seal(each.seal, "\n"))
    return table


def _paragraph(told: Told, began: int) -> RenderableType:
    after = f"+{span(told.when - began)}" if told.when > began else "the beginning"
    recorded = f", recorded {clock(told.recorded_ms * 1_000_000)}" if told.event_time is not None else ""
    head = Text.assemble((clock(told.when, 6), "bold"), (f"  {after}{recorded}", "bright_black"))
    foot = Text(f"{told.position} {_number(told)} by {harmless(told.writer, 40)}\n", style="bright_black")
    foot.append_text(_seal(told.seal, " "))
    return Group(head, Padding(Group(_what(told), foot), (0, 0, 1, 2)))


def _times(told: Told, began: int) -> Text:
    times = Text(clock(told.event_time, 9) if told.event_time is not None else "none", style="bold")
    times.append(f"\n{clock(told.recorded_ms * 1_000_000)} recorded", style="not bold bright_black")
    if told.when > began:
        times.append(f"\n+{span(told.when - began)}", style="not bold bright_black")
    return times


def _what(told: Told) -> Text:
    """Give the sentence with what came before it and what follows from it."""
    lines = [_moment(each) for each in told.before]
    lines.append(
        Text.assemble(
            (harmless(told.says), f"bold {_STYLES.get(told.kind, 'red')}"), (f"  {told.kind}", "bright_black")
        )
    )
    if told.reason:
        lines.append(Text(f"\N{LEFT DOUBLE QUOTATION MARK}{harmless(told.reason)}\N{RIGHT DOUBLE QUOTATION MARK}"))
    if told.error:
        lines.append(Text(f"the saga log: {harmless(told.error)}", style="red"))
    lines += [_moment(each) for each in told.after]
    lines += _gains(told.gains)
    if told.payload is None and told.size:
        lines.append(Text(f"{told.size:,} bytes that are no JSON: sealed, or damaged", style="bright_black"))
    lines += [Text(harmless(each), style="bold red") for each in told.remarks]
    return Text("\n").join(lines)


def _moment(moment: Moment) -> Text:
    at = f"{clock(moment.time, 6)} " if moment.time is not None else "\N{RIGHTWARDS ARROW} "
    return Text(at + harmless(moment.says), style="bright_black")


def _gains(gains: Iterable[Gain]) -> list[Text]:
    """Give the members that the context gained, a line each."""
    lines: list[Text] = []
    for gain in gains:
        fields = list_fields(gain.value)
        shown = " ".join(f"{path}={value}" if path else value for path, value in fields[:_FIELDS_SHOWN])
        more = f" and {len(fields) - _FIELDS_SHOWN} more" if len(fields) > _FIELDS_SHOWN else ""
        lines.append(Text.assemble(("+ ", "bold green"), f"{harmless(gain.name)}: {harmless(shown)}{more}"))
    return lines


def _number(told: Told) -> str:
    number = f"record {told.seq}" if told.seq is not None else "not counted"
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
