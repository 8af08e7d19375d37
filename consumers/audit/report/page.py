"""Renders a report as one self-contained HTML page without scripts."""

from collections.abc import Iterable
from typing import Final

from tradesaga.consumers.audit.report.drawing import NARROW, WIDE, draw
from tradesaga.consumers.audit.report.formatting import clock, day, list_fields, span, stamp
from tradesaga.consumers.audit.report.markup import Markup, element, join, text
from tradesaga.consumers.audit.report.model import Proof, RecordKind, SagaTimeline, Seal, TimelineNote, TimelineRecord
from tradesaga.infra.audit_log.clock_evidence import describe_span

SHEET: Final = Markup("""
:root{color-scheme:light dark;--bg:#faf9f7;--ink:#1d1c1a;--soft:#67635c;--line:#e3dfd8;--card:#fff;--good:#1d7a4c;
--back:#b06a08;--bad:#b3261e;--info:#2c5fb8;--calm:#8a8f98;--plus:#e8f4ec;--on:#fff;
--mono:ui-monospace,SFMono-Regular,"SF Mono",Menlo,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){:root{--bg:#14161a;--ink:#e9e7e3;--soft:#a09d97;--line:#2d3138;--card:#1b1e24;
--good:#5cc98f;--back:#efb050;--bad:#ff8078;--info:#82b1ff;--calm:#7d828b;--plus:#17291f;--on:#14161a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1040px;padding:32px 28px 48px;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:27px;line-height:1.25;margin:10px 0 14px;font-weight:650;letter-spacing:-.01em;text-wrap:balance}
h2{font-size:13px;margin:36px 0 12px;font-weight:600;text-transform:uppercase;letter-spacing:.08em;color:var(--soft)}
.id{font:13px var(--mono);color:var(--soft);display:flex;flex-wrap:wrap;gap:8px 14px;align-items:center}
.badge{font:600 12px system-ui,sans-serif;padding:2px 10px;border-radius:99px;color:var(--on);background:var(--calm)}
.good .badge,.sure{background:var(--good)}.taken_back .badge{background:var(--back)}
.needs_a_person .badge{background:var(--bad)}.under_way .badge{background:var(--info)}
.summary{margin:0;padding:0;list-style:none;color:var(--soft)}.summary li{margin:2px 0}
.summary .first{color:var(--ink)}.warn{color:var(--bad)}
.panel{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px}
.timeline{display:block;width:100%;height:auto}.narrow{display:none}
.label{font-size:11px;fill:var(--soft)}.name{fill:var(--ink);font-family:var(--mono)}.on{fill:var(--on);font-weight:600}
.center{text-anchor:middle}.end{text-anchor:end}
.axis{font-variant-numeric:tabular-nums}.took{fill:var(--soft)}.gap-label{font-style:italic}
.tick{stroke:var(--line)}.base{stroke:var(--line)}.gap{fill:var(--line);opacity:.55}
.wait{stroke:var(--calm);stroke-width:1.6;stroke-dasharray:1.5 3.5;stroke-linecap:round}
.bar{fill:var(--good)}.bar.refused,.bar.failed{fill:var(--bad)}.bar.unknown{fill:var(--calm)}.bar.back{fill:var(--back)}
.bar.waiting{fill-opacity:.28;stroke:var(--good);stroke-dasharray:3 2}.bar.waiting.refused{stroke:var(--bad)}
.state{fill:var(--calm)}.state.running{fill:var(--info)}.state.completed{fill:var(--good)}
.state.compensating,.state.aborted{fill:var(--back)}.state.failed{fill:var(--bad)}
.dot{fill:var(--info)}.dot.late{fill:none;stroke:var(--calm);stroke-width:2}
.person{fill:var(--info)}.deadline-mark{fill:var(--bad)}.deadline{stroke:var(--bad);stroke-dasharray:4 3}
.seal{fill:var(--good)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:12px 0 0;padding:0;list-style:none;font-size:12px;
color:var(--soft)}.legend i{display:inline-block;width:18px;height:9px;border-radius:2px;margin-right:6px}
.legend .l-done{background:var(--good)}.legend .l-failed{background:var(--bad)}.legend .l-back{background:var(--back)}
.legend .l-unknown{background:var(--calm)}
.legend .l-person{width:9px;background:var(--info);transform:rotate(45deg)}
.legend .l-deadline{height:0;border-top:2px dashed var(--bad);vertical-align:4px}
.legend .l-wait{height:0;border-top:2px dotted var(--calm);vertical-align:4px}
.legend .l-waiting{border:1px dashed var(--good);background:var(--plus)}
.legend .l-dot{width:9px;border-radius:9px;background:var(--info)}
.legend .l-late{width:9px;border-radius:9px;border:2px solid var(--calm)}
.legend .l-seal{width:0;height:0;border:6px solid transparent;border-top:0;border-bottom:10px solid var(--good);
border-radius:0}
.facts{list-style:none;margin:0}.facts.panel{padding-top:4px;padding-bottom:4px}
.fact{display:grid;grid-template-columns:168px 1fr;gap:2px 20px;padding:14px 0;border-top:1px solid var(--line)}
.fact:first-child{border-top:0}
.when{font:12px/1.6 var(--mono);color:var(--soft)}.when b{display:block;font-size:15px;font-weight:600;color:var(--ink)}
.when small{font-size:11px;font-weight:400;color:var(--soft)}
.says{font-weight:600;font-size:16px}.says::before{content:"";display:inline-block;width:9px;height:9px;
border-radius:9px;margin-right:9px;background:var(--calm);vertical-align:1px}
.t-good::before{background:var(--good)}.t-bad::before{background:var(--bad)}.t-back::before{background:var(--back)}
.t-info::before{background:var(--info)}
.kind{font:11px var(--mono);color:var(--soft);font-weight:400;margin-left:10px;white-space:nowrap}
.reason{margin:6px 0 0;padding:2px 0 2px 12px;border-left:3px solid var(--line);color:var(--ink)}
.then{margin:5px 0 0;color:var(--soft);font-size:14px}
.then b{font:12px var(--mono);color:var(--ink)}
.diff{font:12.5px/1.6 var(--mono);margin:8px 0 0;padding:7px 12px;border-radius:8px;background:var(--plus);
white-space:pre-wrap}.diff b{font-weight:400;color:var(--calm)}.lines{columns:2 290px;column-gap:24px}
.lines div{break-inside:avoid}.lines div::before{content:"+ ";color:var(--good);font-weight:700}
.diff .key{color:var(--soft)}
.payload{background:none;border:1px solid var(--line)}.payload .lines div::before{content:"  "}
.meta{font:11.5px/1.6 var(--mono);color:var(--soft);margin:8px 0 0}
.meta .ok{color:var(--good)}.meta .no{color:var(--bad);font-weight:700}
table{border-collapse:collapse;width:100%;font-size:13px}th{text-align:left;font-weight:600;color:var(--soft)}
td,th{padding:6px 14px 6px 0;border-top:1px solid var(--line);vertical-align:top}tr:first-child th{border-top:0}
td{font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}
details summary{cursor:pointer;color:var(--soft)}
footer{margin-top:36px;padding-top:14px;border-top:1px solid var(--line);color:var(--soft);font-size:13px}
code{font-family:var(--mono);font-size:.92em}
@media (max-width:640px){body{padding:20px 16px 32px;font-size:14px}h1{font-size:21px}.panel{padding:14px 12px}
.wide{display:none}.narrow{display:block}.fact{grid-template-columns:1fr}.when b{display:inline;margin-right:8px}
.when span{margin-right:8px}.kind{display:block;margin-left:18px}}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb}
body{padding:0;max-width:none;font-size:11pt}
.fact,.panel{break-inside:avoid}.facts.panel{break-inside:auto}
h2{break-after:avoid}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
details::details-content{content-visibility:visible;display:block}}
""")

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
    ("bar done", "l-done", "completed"),
    ("bar failed", "l-failed", "failed"),
    ("bar refused", "l-failed", "rejected"),
    ("bar unknown", "l-unknown", "outcome unknown"),
    ("bar back", "l-back", "compensated"),
    ('"wait"', "l-wait", "waiting to start"),
    ('waiting"', "l-waiting", "waiting for a report"),
    ('"dot"', "l-dot", "outside report"),
    ('"dot late"', "l-late", "duplicate, late or parked"),
    ('"person"', "l-person", "operator action"),
    ('"deadline"', "l-deadline", "deadline"),
    ('"seal"', "l-seal", "checkpoint"),
)
"""The legend: text that occurs in the drawing, class of the sign, and label."""

_FOOT: Final = (
    "Event times (ce_time, ts_started) are by the clock of each record's writer, recorded times by the broker's clock "
    "when it appended the record, and sealing times by the clock of the machine that signed. The report uses only the "
    "bytes in the audit log: the meaning of a record is derived by folding them as the saga log did. The time scale of "
    "the timeline is not linear: each interval has a minimum width, and shaded ones are cut short. Numbers are exact."
)


def render(timeline: SagaTimeline) -> str:
    """Return the HTML page of a report."""
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
    about = element(
        "div",
        element("span", timeline.state or "state unknown", class_="badge"),
        element("span", f"{timeline.name} {timeline.saga_id}"),
        element("span", timeline.definition),
        class_="id",
    )
    lines = [element("li", each, class_="first") for each in timeline.summary]
    lines += [element("li", each, class_="warn" if _alarming(each) else "") for each in timeline.remarks]
    return element("header", about, element("h1", timeline.headline), element("ul", *lines, class_="summary"))


def _alarming(remark: str) -> bool:
    return any(word in remark for word in ("NOT PROVEN", "inconsistent", "the clock was"))


def _timeline(timeline: SagaTimeline) -> Markup:
    wide, narrow = draw(timeline, WIDE), draw(timeline, NARROW)
    legend = [element("li", element("i", class_=look), label) for mark, look, label in _LEGEND if mark in wide]
    drawings = [element("div", wide, class_="wide"), element("div", narrow, class_="narrow")]
    panel = element("div", *drawings, element("ul", *legend, class_="legend"), class_="panel")
    return element("section", element("h2", "Timeline"), panel)


def _facts(timeline: SagaTimeline) -> Markup:
    began = timeline.began
    facts = [_fact(each, began) for each in timeline.records]
    return element("section", element("h2", "Records"), element("ol", *facts, class_="facts panel"))


def _fact(told: TimelineRecord, began: int) -> Markup:
    when = element(
        "div",
        element("b", clock(told.when), element("small", clock(told.when, 9)[-6:])),
        element("span", f"+{span(told.when - began)}" if told.when > began else "start"),
        Markup("<br>"),
        element(
            "small", f"recorded {clock(told.recorded)}" if told.event_time is not None else "by the broker's clock"
        ),
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
        parts.append(element("div", f"Saga log: {told.error}", class_="then"))
    parts += [_moment(each) for each in told.after]
    parts += [_gain(each.name, each.value) for each in told.additions] or [_payload(told)]
    return element("li", when, element("div", *parts, _meta(told)), class_="fact")


def _moment(note: TimelineNote) -> Markup:
    at = element("b", clock(note.time, 6)) if note.time is not None else element("b", "\N{RIGHTWARDS ARROW}")
    sentence = f"state: {note.sentence}" if note.kind is RecordKind.STATE_CHANGE else note.sentence
    return element("div", at, f" {sentence}", class_="then", title=note.kind)


def _gain(name: str, value: str) -> Markup:
    lines = [
        element("div", element("span", f"{path}: " if path else "", class_="key"), shown)
        for path, shown in list_fields(value)
    ]
    head = element("b", f"@@ added to the context: {name} @@")
    return element("div", head, element("div", *lines, class_="lines"), class_="diff")


def _payload(told: TimelineRecord) -> Markup:
    """Show a payload that was not added to the context, collapsed."""
    if told.payload is None:
        what = f"{told.size:,} bytes, not JSON: encrypted or damaged" if told.size else "no payload"
        return element("div", what, class_="then")
    known = {"reason": told.reason, "step": told.step, "operator": told.operator, "attempt": str(told.attempt)}
    fields = [(path, shown) for path, shown in list_fields(told.payload) if known.get(path) != shown]
    lines = [element("div", element("span", f"{path}: ", class_="key"), shown) for path, shown in fields]
    shown = element("div", element("div", *lines, class_="lines"), class_="diff payload")
    return element("details", element("summary", "payload"), shown, class_="then") if lines else join()


def _meta(told: TimelineRecord) -> Markup:
    number = f"record {told.seq}" if told.seq is not None else "not in the saga's chain"
    where = f"{told.position.topic}[{told.position.partition}] offset {told.position.offset}"
    attempt = f"attempt {told.attempt}" + (f", round {told.round}" if told.round > 1 else "") if told.attempt else ""
    writer = f"by {told.writer or 'an unnamed writer'}"
    parts = [number, where, writer, attempt, f"epoch {told.writer_epoch}", f"hash {told.hash[:16]}"]
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
    """Show the context at the end."""
    additions = [addition for each in timeline.records for addition in each.additions]
    if not additions:
        return join()
    whole = element(
        "details", element("summary", f"{len(additions)} members"), *(_gain(g.name, g.value) for g in additions)
    )
    return element("section", element("h2", "Final context"), element("div", whole, class_="panel"))


def _seals(timeline: SagaTimeline) -> Markup:
    covered: dict[tuple[str, int, int], list[TimelineRecord]] = {}
    for each in timeline.records:
        if each.seal.size > 0:
            covered.setdefault((each.position.topic, each.position.partition, each.seal.size), []).append(each)
    if not covered:
        return join()
    titles = element(
        "tr",
        *(element("th", each) for each in ("signed", "log", "records in the log", "records of this saga", "clock")),
    )
    rows = [_checkpoint(log, told) for log, told in covered.items()]
    table = element("div", element("table", titles, *rows), class_="panel scroll")
    return element("section", element("h2", "Seals"), table)


def _checkpoint(log: tuple[str, int, int], told: Iterable[TimelineRecord]) -> Markup:
    seals = [each.seal for each in told]
    one = seals[0]
    proven = sum(1 for each in seals if each.proof is Proof.PROVEN)
    bound = (
        f"{one.clock}, within {describe_span(one.clock_error)}"
        if one.clock_error >= 0
        else f"{one.clock}, error unknown"
    )
    bound += " \N{EN DASH} outside the tier" if one.outside_tier else ""
    cells = (
        f"{day(one.time)} {clock(one.time)}",
        f"{log[0]}[{log[1]}]",
        f"{log[2]:,}",
        f"{proven} of {len(seals)} proven",
    )
    return element(
        "tr", *(element("td", each) for each in cells), element("td", bound, class_="warn" if one.outside_tier else "")
    )
