"""A story as one HTML page that needs nothing else: no scripts, nothing from elsewhere."""

from collections.abc import Iterable
from typing import Final

from tradesaga.consumers.audit.report.drawing import NARROW, WIDE, draw
from tradesaga.consumers.audit.report.formatting import clock, day, span, stamp
from tradesaga.consumers.audit.report.markup import Markup, element, join, text
from tradesaga.consumers.audit.report.model import Proof, RecordKind, SagaTimeline, Seal, TimelineNote, TimelineRecord
from tradesaga.consumers.audit.report.payload import list_fields
from tradesaga.consumers.audit.report.style import SHEET
from tradesaga.infra.audit_log.clock_tier import describe_span

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_TONES: Final = {
    RecordKind.START: "info",
    RecordKind.STEP_COMPLETE: "good",
    RecordKind.REPORTED: "info",
    RecordKind.OPERATOR: "info",
    RecordKind.COMPENSATED: "back",
    RecordKind.DUPLICATE: "calm",
    RecordKind.LATE: "calm",
    RecordKind.STEP_BARRED: "back",
    RecordKind.STEP_UNKNOWN: "calm",
}
_LEGEND: Final = (
    ("bar done", "l-done", "done"),
    ("bar failed", "l-failed", "failed"),
    ("bar refused", "l-failed", "refused"),
    ("bar unknown", "l-unknown", "nobody knew"),
    ("bar back", "l-back", "taken back"),
    ('"wait"', "l-wait", "waiting to begin"),
    ('waiting"', "l-waiting", "waiting for the outside"),
    ('"dot"', "l-dot", "heard from outside"),
    ('"dot late"', "l-late", "changed nothing, or waits"),
    ('"person"', "l-person", "decided by a person"),
    ('"deadline"', "l-deadline", "deadline"),
    ('"seal"', "l-seal", "checkpoint signed"),
)
"""What a drawing that has the first must explain; the look of its sign, and its meaning."""
_FOOT: Final = (
    "Event times are those of each record's writer (ce_time, ts_started), recorded times the broker's as it appended "
    "the record, sealing times those of the machine that signed. All is told from the bytes of the audit log alone: "
    "what a record means is found by folding them as the saga log did. In the drawing, times between two happenings "
    "have some room each, so that short ones can be seen, and shaded ones are cut short. The numbers are exact."
)


def render(timeline: SagaTimeline) -> str:
    """Write the page."""
    head = join(
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("title", f"{timeline.name} {timeline.saga_id[:8]}: {timeline.headline}"),
        element("style", SHEET),
    )
    parts = [_head(timeline), _timeline(timeline), _facts(timeline), _context(timeline), _seals(timeline)]
    body = element("body", *parts, element("footer", _FOOT), class_=timeline.result)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>{body}</html>\n'


def _head(timeline: SagaTimeline) -> Markup:
    version = f"version {timeline.version}" if timeline.version is not None else "definition not at hand"
    about = element(
        "div",
        element("span", timeline.state or "state unknown", class_="badge"),
        element("span", f"{timeline.name} {timeline.saga_id}"),
        element("span", version),
        class_="id",
    )
    lines = [element("li", each, class_="first") for each in timeline.summary]
    lines += [element("li", each, class_="warn" if _alarming(each) else "") for each in timeline.remarks]
    return element("header", about, element("h1", timeline.headline), element("ul", *lines, class_="summary"))


def _alarming(remark: str) -> bool:
    return any(word in remark for word in ("NOT PROVEN", "cannot be believed", "the clock was"))


def _timeline(timeline: SagaTimeline) -> Markup:
    wide, narrow = draw(timeline, WIDE), draw(timeline, NARROW)
    legend = [element("li", element("i", class_=look), label) for mark, look, label in _LEGEND if mark in wide]
    drawings = [element("div", wide, class_="wide"), element("div", narrow, class_="narrow")]
    panel = element("div", *drawings, element("ul", *legend, class_="legend"), class_="panel")
    return element("section", element("h2", "Timeline"), panel)


def _facts(timeline: SagaTimeline) -> Markup:
    began = timeline.began
    facts = [_fact(each, began) for each in timeline.records]
    return element("section", element("h2", "Fact by fact"), element("ol", *facts, class_="facts panel"))


def _fact(told: TimelineRecord, began: int) -> Markup:
    recorded = told.recorded_ms * 1_000_000
    when = element(
        "div",
        element("b", clock(told.when), element("small", clock(told.when, 9)[-6:])),
        element("span", f"+{span(told.when - began)}" if told.when > began else "the beginning"),
        Markup("<br>"),
        element("small", f"recorded {clock(recorded)}" if told.event_time is not None else "by the broker's clock"),
        class_="when",
        title=f"{stamp(told.when)}, by the clock of {told.writer}" if told.event_time is not None else "",
    )
    sentence = element(
        "div", told.sentence, element("span", told.kind, class_="kind"), class_=f"says t-{_TONES.get(told.kind, 'bad')}"
    )
    parts = [*(_moment(each) for each in told.before), sentence]
    if told.reason:
        parts.append(element("blockquote", told.reason, class_="reason"))
    if told.error and told.kind is not RecordKind.DUPLICATE:
        parts.append(element("div", f"The saga log: {told.error}", class_="then"))
    parts += [_moment(each) for each in told.after]
    parts += [_gain(each.name, each.value) for each in told.additions] or [_payload(told)]
    return element("li", when, element("div", *parts, _meta(told)), class_="fact")


def _moment(note: TimelineNote) -> Markup:
    at = element("b", clock(note.time, 6)) if note.time is not None else element("b", "\N{RIGHTWARDS ARROW}")
    goes = "goes" if "\N{RIGHTWARDS ARROW}" in note.sentence else "is"
    sentence = f"the saga {goes} {note.sentence}" if note.kind is RecordKind.STATE_CHANGE else note.sentence
    return element("div", at, f" {sentence}", class_="then", title=note.kind)


def _gain(name: str, value: str) -> Markup:
    lines = [
        element("div", element("span", f"{path}: " if path else "", class_="key"), shown)
        for path, shown in list_fields(value)
    ]
    head = element("b", f"@@ context gains {name} @@")
    return element("div", head, element("div", *lines, class_="lines"), class_="diff")


def _payload(told: TimelineRecord) -> Markup:
    """Show what a record says that the context did not take in, folded away."""
    if told.payload is None:
        what = f"{told.size:,} bytes that are no JSON: sealed, or damaged" if told.size else "no payload"
        return element("div", what, class_="then")
    known = {"reason": told.reason, "step": told.step, "operator": told.operator, "attempt": str(told.attempt)}
    fields = [(path, shown) for path, shown in list_fields(told.payload) if known.get(path) != shown]
    lines = [element("div", element("span", f"{path}: ", class_="key"), shown) for path, shown in fields]
    shown = element("div", element("div", *lines, class_="lines"), class_="diff payload")
    return element("details", element("summary", "what it says"), shown, class_="then") if lines else join()


def _meta(told: TimelineRecord) -> Markup:
    number = f"record {told.seq}" if told.seq is not None else "counted in no chain"
    where = f"{told.position.topic}[{told.position.partition}] offset {told.position.offset}"
    attempt = f"attempt {told.attempt}" + (f", round {told.round}" if told.round > 1 else "") if told.attempt else ""
    writer = f"by {told.writer or 'nobody named'}"
    parts = [number, where, writer, attempt, f"written under epoch {told.writer_epoch}", f"hash {told.hash[:16]}"]
    doubts = [element("div", each, class_="no") for each in told.remarks]
    return element("div", " \N{MIDDLE DOT} ".join(filter(None, parts)), Markup("<br>"), _seal(told.seal), *doubts,
                   class_="meta")  # fmt: skip


def _seal(seal: Seal) -> Markup:
    match seal.proof:
        case Proof.PROVEN:
            told = f"\N{CHECK MARK} sealed {clock(seal.time)}: leaf {seal.index:,} of {seal.size:,}, proven"
            return element("span", told, class_="ok")
        case Proof.UNPROVEN:
            return element("span", f"\N{BALLOT X} not proven: {seal.why}", class_="no")
        case Proof.NOT_YET:
            return text("not sealed yet")
        case _:
            return text(f"sealed {clock(seal.time)}, {seal.why}" if seal.time else seal.why)


def _context(timeline: SagaTimeline) -> Markup:
    """Show the context as it stands at the end."""
    additions = [addition for each in timeline.records for addition in each.additions]
    if not additions:
        return join()
    whole = element(
        "details", element("summary", f"{len(additions)} members"), *(_gain(g.name, g.value) for g in additions)
    )
    return element("section", element("h2", "The context at the end"), element("div", whole, class_="panel"))


def _seals(timeline: SagaTimeline) -> Markup:
    covered: dict[tuple[str, int, int], list[TimelineRecord]] = {}
    for each in timeline.records:
        if each.seal.size > 0:
            covered.setdefault((each.position.topic, each.position.partition, each.seal.size), []).append(each)
    if not covered:
        return join()
    titles = element(
        "tr", *(element("th", each) for each in ("signed", "log", "records of it", "of this saga", "clock"))
    )
    rows = [_checkpoint(log, told) for log, told in covered.items()]
    table = element("div", element("table", titles, *rows), class_="panel scroll")
    return element("section", element("h2", "Seals"), table)


def _checkpoint(log: tuple[str, int, int], told: Iterable[TimelineRecord]) -> Markup:
    seals = [each.seal for each in told]
    one = seals[0]
    proven = sum(1 for each in seals if each.proof is Proof.PROVEN)
    bound = (
        f"{one.clock}, within {describe_span(one.clock_error)}" if one.clock_error >= 0 else f"{one.clock}, no bound"
    )
    bound += " \N{EN DASH} outside its tier" if one.outside_tier else ""
    cells = (
        f"{day(one.time)} {clock(one.time)}",
        f"{log[0]}[{log[1]}]",
        f"{log[2]:,}",
        f"{proven} of {len(seals)} proven",
    )
    return element(
        "tr", *(element("td", each) for each in cells), element("td", bound, class_="warn" if one.outside_tier else "")
    )
