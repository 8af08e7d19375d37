"""The report of a saga: each record once, in order, in the right words; a stranger's text stays text."""

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.architecture.sources import ROOT
from tests.sagas import Filled, Held, OrderAsked, Partition, Placed, Settled, small_saga
from tests.unit.consumers.audit.report.stories import (
    HOME,
    RULES,
    SAGA,
    Teller,
    compensated,
    completed,
    hard,
    resolved,
    row_of,
    rows_of,
    story_of,
)
from tradesaga.consumers.audit.log.rows import Row
from tradesaga.consumers.audit.report.model import NOT_YET, RecordKind, Result, SagaTimeline
from tradesaga.consumers.audit.report.page import render
from tradesaga.consumers.audit.report.summary import build_timeline
from tradesaga.consumers.audit.report.terminal import show
from tradesaga.consumers.audit.report.timeline_builder import arrange, rehash
from tradesaga.consumers.saga_log.fold import fold_record, park_record
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.audit_log.clock_evidence import NO_TIER
from tradesaga.infra.cli.console import to_json
from tradesaga.infra.registry.sagas import UNKNOWN_VERSION
from tradesaga.sagas.audit_text import AuditText, Sentence
from tradesaga.sagas.errors import DefinitionError
from tradesaga.schemas.envelope import VERSION
from tradesaga.schemas.messages import lifecycle as life
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Message

ALL = [completed, compensated, resolved, hard]


def on_terminal(story: SagaTimeline, width: int) -> str:
    """Give what a terminal of that width is sent, without the colours."""
    console = Console(width=width, file=io.StringIO(), highlight=False, markup=False)
    with console.capture() as capture:
        console.print(show(story, width))
    return capture.get()


def test_a_purchase() -> None:
    """The price is what was paid for what was got; each step begins, completes, and adds to the context."""
    story = story_of(completed())
    assert story.headline == "Bought 100 GOOG/USD at 172.44 in two executions, settled"
    assert (story.state, story.result) == ("COMPLETED", Result.GOOD)
    kinds = [each.kind for each in story.records]
    assert (
        kinds
        == [RecordKind.START]
        + [RecordKind.STEP_COMPLETE] * 4
        + [RecordKind.REPORTED] * 3
        + [RecordKind.STEP_COMPLETE] * 2
    )
    begun = [moment for each in story.records for moment in each.before]
    assert [(each.kind, each.step) for each in begun] == [(RecordKind.STEP_START, step) for step in story.steps]
    assert [each.additions[0].name for each in story.records if each.additions] == [
        "trade-requested", "order-validated", "funds-reserved", "risk-accepted", "order-placed", "trade-filled",
        "trade-settled",
    ]  # fmt: skip


def test_a_breached_limit() -> None:
    """The cause, the number of compensated steps, the time it took, and that the last step came first."""
    story = story_of(compensated())
    told = "Aborted: the order would breach a risk limit; two steps compensated in 14.2 ms, last step first"
    assert (story.headline, story.result) == (told, Result.BACK)
    asked = [
        moment.step for each in story.records for moment in each.after if moment.kind is RecordKind.COMPENSATION_ASKED
    ]
    assert asked == ["reserve_funds", "validate_order"]
    why = "Reason for compensation: the order would breach a risk limit (17250 USD more than the account's 10000 USD)."
    assert why in story.summary


def test_a_person_who_closes_it() -> None:
    """Who decided what, and why; failed attempts at a compensation, and the round that the person began."""
    story = story_of(resolved())
    assert story.headline.startswith("Resolved as ABORTED by carol: the venue confirmed by mail 8841")
    assert [each.operator for each in story.records if each.kind is RecordKind.OPERATOR] == ["carol", "carol"]
    failed = [
        each for each in story.records if each.kind in {RecordKind.ATTEMPT_FAILED, RecordKind.COMPENSATION_FAILED}
    ]
    assert [(each.back, each.attempt, each.round) for each in failed] == [
        (True, 1, 1), (True, 2, 1), (True, 3, 1), (True, 4, 2),
    ]  # fmt: skip
    assert [each.before[0].kind for each in failed] == [
        RecordKind.STEP_START,
        RecordKind.RETRY,
        RecordKind.RETRY,
        RecordKind.RETRY,
    ]


def test_many_attempts_a_duplicate_and_a_latecomer() -> None:
    """Each attempt's failure is told, and what changed nothing is told as that."""
    story = story_of(hard())
    kinds = [each.kind for each in story.records]
    assert kinds.count(RecordKind.ATTEMPT_FAILED) == 6
    assert kinds[-2:] == [RecordKind.DUPLICATE, RecordKind.LATE]
    assert "settle_trade failed six times." in story.summary


def test_names_stay_as_they_are() -> None:
    """A person's name in a headline keeps its capitals; a decision that came to nothing closes nothing."""
    teller = completed()
    del teller.records[4:]
    desk: dict[str, Any] = {"source": "/trade/desk", "attempt": 0, "started": 0}
    teller.say(life.AbortRequested(operator="McKay", reason="a wrong click"), **desk)
    story = story_of(teller)
    assert story.headline == "Compensating: McKay requested an abort of the saga; waiting for place_order"
    teller.say(life.ResolveRequested(operator="McKay", outcome="ABORTED", reason="enough"), **desk)
    story = story_of(teller)
    assert story.headline.startswith("Compensating: ")
    assert story.records[-1].sentence == "rejected: McKay requested to resolve the saga as ABORTED"
    assert story.records[-1].error == "the saga is COMPENSATING, not FAILED"


def test_a_deadline_and_an_unknown_outcome() -> None:
    """A deadline turns the saga back; what nobody knows of is asked to settle, and is told once it is known."""
    teller = completed()
    teller.records = teller.records[:4]
    teller.say(life.StepUnknown(step="place_order", attempt=1, reason="timeout"), 3000)
    began = teller.now
    teller.say(life.DeadlineElapsed(deadline="2026-11-23T14:08:07Z"), source="/trade/saga-log", attempt=0, started=0)
    teller.say(life.StepBarred(step="place_order"), wait=5)
    story = story_of(teller)
    assert [each.kind for each in story.records[4:]] == [
        RecordKind.STEP_UNKNOWN,
        RecordKind.DEADLINE,
        RecordKind.STEP_BARRED,
    ]
    asked = [moment.kind for each in story.records[4:] for moment in each.after]
    assert asked == [RecordKind.STATE_CHANGE, RecordKind.BAR_ASKED, RecordKind.COMPENSATION_ASKED]
    assert story.headline.startswith("Compensating: the outcome of attempt 1 of place_order is unknown")
    assert began > 3000


def test_what_is_parked_and_let_go() -> None:
    """A record that cannot be folded waits, the next one behind it; once let go, both count and the context gains."""
    teller = completed()
    del teller.records[2:]
    bad = teller.say(t.FundsReserved(asset="USD", amount=Decimal(5)))
    teller.records[-1] = bad._replace(value=b"{not json")
    teller.say(t.FundsReserved(asset="USD", amount=Decimal(5)))
    teller.say(
        life.ParkReleased(
            operator="dave", reason="a bad deploy", topic=bad.topic, partition=bad.partition, offset=bad.offset,
            action="discard",
        ), source="/trade/desk", attempt=0, started=0,
    )  # fmt: skip
    story = story_of(teller)
    assert [each.kind for each in story.records[2:]] == [RecordKind.PARKED, RecordKind.PARKED, RecordKind.OPERATOR]
    assert [each.payload is None for each in story.records[2:]] == [True, False, False]
    last = story.records[-1]
    assert last.sentence == f"dave discarded the record parked at trade.events[{bad.partition}]@{bad.offset}"
    assert [each.kind for each in last.after] == [RecordKind.RELEASED, RecordKind.RELEASED]
    assert [each.name for each in last.additions] == ["funds-reserved"]


def test_what_does_not_belong_to_it() -> None:
    """A record on another partition, or under another key, is told in its place and counts for nothing."""
    teller = compensated()
    stray = teller.records[2]._replace(partition=(HOME + 1) % 12)
    wrong = teller.records[3]._replace(key=b"nobody")
    teller.records[2:2] = [stray, wrong._replace(offset=teller.records[1].offset + 1)]
    rows = arrange(rows_of(teller.records))
    story = build_timeline(SAGA, "trade", rows, rehash(rows, {}), rules=RULES, seals={}, tier=NO_TIER)
    aside = [each for each in story.records if each.kind is RecordKind.SET_ASIDE]
    assert {each.error.split(":")[0] for each in aside} == {"dead letter"}
    assert (len(aside), story.state) == (2, "ABORTED")
    assert all(each.seq is None and each.intact and not each.remarks for each in aside)


def test_without_the_definition() -> None:
    """What records say themselves is told, the states are not, and the story says why."""
    story = story_of(resolved(), rules=None)
    assert (story.state, story.result) == ("", Result.UNKNOWN)
    assert "not installed here" in story.remarks[0]
    kinds = [each.kind for each in story.records]
    assert kinds[0] is RecordKind.START
    assert kinds.count(RecordKind.STEP_COMPLETE) == 4
    assert kinds.count(RecordKind.OPERATOR) == 2


def small_story(text: AuditText | None) -> SagaTimeline:
    """Return the timeline of a completed saga of one's own."""
    partition = Partition(small_saga())
    rules = Rules(partition.of)
    tracked = Tracked(partition.saga_id, partition.number)
    rows: list[Row] = []
    for record in [partition.start(), *(partition.record(each) for each in (Held(), Placed(), Filled(), Settled()))]:
        outcome = fold_record(rules, tracked, record)
        assert outcome.tracked is not None
        tracked = outcome.tracked
        rows.append(row_of(outcome))
    saga_id = partition.saga_id
    return build_timeline(saga_id, "small", rows, rehash(rows, {}), rules=rules, seals={}, tier=NO_TIER, text=text)


def test_a_saga_without_texts_is_described_by_its_steps() -> None:
    """Step and message name each record; the headline counts the steps."""
    story = small_story(None)
    assert story.headline == "Completed: four steps done"
    assert [each.sentence for each in story.records][:2] == ["the saga started (order-asked)", "hold completed (held)"]


def test_a_saga_with_texts_is_described_by_them() -> None:
    """A template, a function and a headline; a message without a sentence, and one whose text fails, as without."""

    def fail(_: Mapping[str, Any]) -> str:
        raise KeyError("no such member")

    sentences: dict[type[Message], Sentence] = {
        OrderAsked: "{account} asks for {quantity}, by {by}",
        Held: lambda _: "the goods are reserved",
        Placed: fail,
    }
    text = AuditText(small_saga(), sentences, lambda context: f"Sold to {context['order-asked']['account']}")
    story = small_story(text)
    assert story.headline == "Sold to A"
    assert [each.sentence for each in story.records] == [
        "A asks for 10, by (by missing)",
        "the goods are reserved",
        "place completed (placed)",
        "fill completed (filled)",
        "settle completed (settled)",
    ]
    assert small_story(replace(text, completed=fail)).headline == "Completed: four steps done"


def test_texts_of_foreign_messages_are_refused() -> None:
    """A sentence for a message that the saga does not have can only be a mistake."""
    with pytest.raises(DefinitionError, match="small: TradeSettled has a sentence and is not one of its messages"):
        AuditText(small_saga(), {t.TradeSettled: "settled"})


@pytest.mark.parametrize("story", ALL, ids=lambda story: story.__name__)
def test_the_report_of_a_trade_is_the_golden_one(story: Callable[[], Teller]) -> None:
    """Every sentence, number and time, byte for byte."""
    golden = ROOT / "tests" / "golden" / f"audit-show-{story.__name__}.txt"
    assert on_terminal(story_of(story()), 140) == golden.read_text(encoding="utf-8")


def test_a_record_that_waited_for_its_version_is_parked_as_it_was() -> None:
    """A saga log that did not know the version parked the start; that it is known here raises no doubt on the row."""
    start = completed().records[0]
    start = start._replace(headers=[(VERSION, b"%d" % RULES.saga.version), *start.headers])
    outcome = park_record(RULES, Tracked(SAGA, HOME), start, f"{UNKNOWN_VERSION} {RULES.saga.version} of 'trade'")
    rows = [row_of(outcome)]
    [told] = build_timeline(SAGA, "trade", rows, rehash(rows, {}), rules=RULES, seals={}, tier=NO_TIER).records
    assert told.kind is RecordKind.PARKED
    assert told.remarks == ()


def test_a_row_that_was_altered_is_not_believed() -> None:
    """Changed bytes do not have the stored hash; a changed note is held against what the bytes come to."""
    rows = rows_of(compensated().records)
    record = rows[2].record
    rows[2] = rows[2]._replace(record=record._replace(value=record.value.replace(b"17267.25", b"1.25")))
    rows[4] = rows[4]._replace(error="forged")
    story = build_timeline(SAGA, "trade", rows, rehash(rows, {}), rules=RULES, seals={}, tier=NO_TIER)
    assert [each.intact for each in story.records] == [True, True, False, True, True, True]
    assert [bool(each.remarks) for each in story.records] == [False, False, True, False, True, False]
    assert "Two inconsistent records" in " ".join(story.remarks)


def test_a_saga_whose_beginning_was_retired() -> None:
    """Behind the head that was kept of it the hashes hold; states are not guessed."""
    rows = rows_of(completed().records)
    kept, head = rows[3:], {3: rows[2].hash}
    story = build_timeline(SAGA, "trade", kept, rehash(kept, head), rules=RULES, seals={}, tier=NO_TIER)
    assert all(each.intact for each in story.records)
    assert "first 3 records were retired" in story.remarks[0]
    assert (
        not build_timeline(SAGA, "trade", kept, rehash(kept, {}), rules=RULES, seals={}, tier=NO_TIER).records[0].intact
    )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_row_is_told_once_and_in_order(data: st.DataObject) -> None:
    """Whatever comes, in whatever order and however often, with whatever clocks."""
    records = data.draw(st.sampled_from([each().records for each in ALL]))
    chosen = data.draw(st.lists(st.sampled_from(records), min_size=1, max_size=30))
    clocks = data.draw(st.lists(st.integers(0, 10**6), min_size=len(chosen), max_size=len(chosen)))
    placed = [
        record._replace(offset=at, recorded_ms=record.recorded_ms + clock)
        for at, (record, clock) in enumerate(zip(chosen, clocks, strict=True))
    ]
    rows = rows_of(placed)
    shuffled = arrange(data.draw(st.permutations(rows)))
    assert shuffled == rows
    rules = data.draw(st.sampled_from([RULES, None]))
    story = build_timeline(SAGA, "trade", rows, rehash(rows, {}), rules=rules, seals={}, tier=NO_TIER)
    assert [each.position for each in story.records] == [row.position for row in rows]
    assert all(each.intact and not each.remarks for each in story.records)
    assert all(each.sentence for each in story.records)
    told = json.loads(to_json(story.to_json()))
    assert [each["offset"] for each in told["records"]] == [row.position.offset for row in rows]
    page = render(story)
    assert all(page.count(f"offset {row.position.offset} ") == 1 for row in rows)
    for width in (60, 140):
        assert all(on_terminal(story, width).count(f"{row.position} ") >= 1 for row in rows)


HOSTILE = (
    "</script><script>alert(1)</script>\" onload='x' \x1b[2J\x1b]0;gone\x07 \N{RIGHT-TO-LEFT OVERRIDE}evil"
    " &amp; [bold red]x"
)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def hostile() -> Teller:
    """Give a story in which everything that a stranger may write is hostile."""
    teller = completed()
    teller.records = teller.records[:4]
    for reason in (HOSTILE, "x" * 2000):
        teller.say(life.StepUnknown(step="place_order", attempt=1, reason=reason), source=f"/trade/{HOSTILE}")
    teller.say(
        life.AbortRequested(operator=HOSTILE[:90].replace("\0", ""), reason=HOSTILE), source=HOSTILE, id=HOSTILE,
        attempt=0, started=0,
    )  # fmt: skip
    for time in ("1700-01-01T00:00:00Z", "2262-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", HOSTILE):
        teller.say(life.AttemptFailed(step="place_order", direction="forward", attempt=2, reason=""), time=time)
    far: dict[str, Any] = {"attempt": 2**31 - 1, "round": 2**31 - 1, "started": 2**63 - 1}
    teller.say(life.StepUnknown(step="place_order", attempt=1, reason=""), **far)
    teller.put(b"\xff\xfe\x00 sealed", [*list(teller.records[2].headers), ("ts_step", HOSTILE.encode())])
    teller.put(orjson.dumps({HOSTILE: {HOSTILE: [HOSTILE]}}), [*teller.records[2].headers, ("ce_type", b"<b>.<i>.v1")])
    return teller


@pytest.mark.parametrize("with_rules", [True, False])
def test_a_strangers_text_stays_text(with_rules: bool) -> None:
    """No tag, no attribute, no control character and no turned direction comes out of a payload or a header."""
    story = story_of(hostile(), rules=RULES if with_rules else None)
    page, tags, usual = render(story), _Tags(), _Tags()
    tags.feed(page)
    usual.feed(render(story_of(resolved())) + render(story_of(hard())))
    assert tags.tags <= usual.tags
    assert tags.attributes <= usual.attributes
    assert "script" not in usual.tags
    assert "\\u{202e}evil" in page
    for shown in (page, on_terminal(story, 150), on_terminal(story, 70)):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert "[bold red]x" in on_terminal(story, 150)


def test_the_page_needs_nothing_else() -> None:
    """No scripts, no addresses of anything to be fetched, and a policy that would refuse both."""
    page = render(story_of(hard()))
    assert not re.search(r"<script|https?://|url\(|@import|<link|<img|<iframe", page)
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page


def test_seals_are_told() -> None:
    """How many records are sealed, which are not yet, and checkpoints of a clock outside its tier."""
    story = story_of(completed(), tier="10 us", open_=2)
    assert "Seals of 10 records: 8 sealed and proven, 2 not sealed yet." in story.remarks
    assert any(each.startswith("1 checkpoint was signed while the clock was outside 10 us") for each in story.remarks)
    assert [each.seal for each in story.records[-2:]] == [NOT_YET, NOT_YET]
    assert "\N{CHECK MARK} sealed 14:03:08" in on_terminal(story, 70)
    assert replace(story.records[0].seal, why="").to_json()["proof"] == "proven"
