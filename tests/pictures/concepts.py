"""A trade that completes, and one that is rolled back, told by the definition, its owners and its state machine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.pictures.svg import BLUE, GREEN, GREY, INK, RED, Drawing
from tradesaga.infra.registry.participants import registered_participants
from tradesaga.infra.settings import Settings
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import AnyStep, StepKind
from tradesaga.sagas.testing import given
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Compensation, Event

CLIENT: Final = "client"
VENUE: Final = "venue"
LOG: Final = "saga log"
COLUMNS: Final = {CLIENT: 60, "risk": 215, "cash": 390, "execution": 565, VENUE: 720, "settlement": 865, LOG: 1030}
WIDTH: Final = 1180
ROW: Final = 27
BOX: Final = (124, 22)
HEAD: Final = 62
GAP: Final = 34
COMPLETED: Final = (
    t.TradeRequested, t.OrderValidated, t.FundsReserved, t.RiskAccepted, t.OrderPlaced, t.TradeFilled, t.TradeSettled,
)  # fmt: skip
ROLLED_BACK: Final = (
    t.TradeRequested, t.OrderValidated, t.FundsReserved, t.RiskRejected, t.FundsReleased, t.OrderWithdrawn,
)  # fmt: skip
_STATES: Final = {Status.COMPLETED: GREEN, Status.ABORTED: RED, Status.COMPENSATING: RED}


@dataclass(frozen=True, slots=True)
class Work:
    """What an owner does: a step, or its compensation."""

    owner: str
    step: AnyStep
    back: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """A record from one column to another, or to the saga log alone; `status` is the saga state that it leads to."""

    source: str
    target: str
    name: str
    command: bool = False
    status: Status | None = None


Row = Work | Sent


def draw() -> str:
    """Return the picture."""
    owners = {step: owner.name for owner in registered_participants(Settings(home=Path())) for step in owner.steps}
    stories = {
        "A trade that completes": list(_rows(COMPLETED, owners)),
        "A trade that risk rejects: what was done is compensated, last step first": list(_rows(ROLLED_BACK, owners)),
    }
    height = sum(HEAD + ROW * len(rows) + GAP for rows in stories.values()) + 44
    sheet = Drawing(WIDTH, height, "A trade that completes, and one that is rolled back")
    top = 30
    for title, rows in stories.items():
        _story(sheet, title, rows, top)
        top += HEAD + ROW * len(rows) + GAP
    _legend(sheet, top)
    return sheet.render()


def _rows(facts: Sequence[type[Event]], owners: Mapping[str, str]) -> Iterator[Row]:
    """Tell a saga by its facts; the saga log's states and commands are what the state machine makes of them."""
    scenario, status = given(trade), None
    for fact in facts:
        yield from _work(fact, owners)
        scenario = scenario.happened(fact)
        moved = scenario.status if scenario.status is not status else None
        status = scenario.status
        yield Sent(_source(fact, owners), _target(fact, owners), fact.__name__, status=moved)
        backs = [(trade.steps[order.step], _compensation(trade.steps[order.step])) for order in scenario.orders]
        for step, back in backs:
            yield Sent(LOG, owners[step.name], back.__name__, command=True)
        scenario = scenario.commands(*(back for _, back in backs))


def _work(fact: type[Event], owners: Mapping[str, str]) -> Iterator[Row]:
    for step in trade.steps:
        if fact in {step.emits, step.rejects}:
            if step.waits_for is not None:
                yield Sent(VENUE, owners[step.name], step.waits_for.__name__)
            yield Work(owners[step.name], step)
        elif step.back and step.back[1] is fact:
            yield Work(owners[step.name], step, back=True)


def _compensation(step: AnyStep) -> type[Compensation]:
    if step.back is None:
        raise ValueError(f"{step.name} has no compensation")
    return step.back[0]


def _source(fact: type[Event], owners: Mapping[str, str]) -> str:
    for step in trade.steps:
        if fact in {step.emits, step.rejects, step.back[1] if step.back else None}:
            return owners[step.name]
    return CLIENT


def _target(fact: type[Event], owners: Mapping[str, str]) -> str:
    return next((owners[step.name] for step in trade.steps if fact in step.on), LOG)


def _story(sheet: Drawing, title: str, rows: Sequence[Row], top: float) -> None:
    sheet.text(20, top, title, size=16, bold=True)
    bottom = top + HEAD + ROW * (len(rows) - 0.5)
    for name, x in COLUMNS.items():
        outside = name in {CLIENT, VENUE}
        colour = BLUE if name == LOG else GREY if outside else INK
        sheet.text(x, top + 30, name, anchor="middle", bold=not outside, colour=colour)
        sheet.line(x, top + 38, x, bottom, colour=BLUE if name == LOG else "#cbd2d9", thick=2 if name == LOG else 1)
    for number, row in enumerate(rows):
        y = top + HEAD + ROW * number
        _draw_work(sheet, row, y) if isinstance(row, Work) else _draw_sent(sheet, row, y)


def _draw_work(sheet: Drawing, work: Work, y: float) -> None:
    width, height = BOX
    x = COLUMNS[work.owner]
    pivot = work.step.kind is StepKind.PIVOT and not work.back
    sheet.box(
        x - width / 2, y - height / 2, width, height, radius=height / 2 if work.back else 4, thick=3 if pivot else 1,
        stroke=RED if work.back else INK, fill="#fdecea" if work.back else "#f5f7fa",
    )  # fmt: skip
    sheet.text(x, y + 4, work.step.name, size=12, anchor="middle", colour=RED if work.back else INK)
    if pivot:
        sheet.text(x - width / 2 - 8, y + 4, "pivot", size=12, anchor="end", bold=True)


def _draw_sent(sheet: Drawing, sent: Sent, y: float) -> None:
    source, target, log = COLUMNS[sent.source], COLUMNS[sent.target], COLUMNS[LOG]
    colour = RED if sent.command else GREY if sent.source == VENUE else GREEN
    if not sent.command:
        sheet.line(max(source, target) if sent.target != LOG else source, y, log, y, dashes="2 4", colour=GREY)
        sheet.dot(log, y, 4, fill=BLUE)
    if source != target and sent.target != LOG:
        sheet.line(source, y, target, y, colour=colour, thick=1.6, arrow=True, dashes="6 4" if sent.command else "")
    ends = (source, source + 160) if source == target or sent.target == LOG else (source, target)
    middle = log - 90 if sent.command else sum(ends) / 2
    sheet.label(middle, y, sent.name, colour=colour)
    if sent.status is not None:
        sheet.text(log + 14, y + 4, sent.status.value, size=12, bold=True, colour=_STATES.get(sent.status, INK))


def _legend(sheet: Drawing, y: float) -> None:
    x = 20
    sheet.line(x, y - 4, x + 34, y - 4, colour=GREEN, thick=1.6, arrow=True)
    sheet.text(x + 42, y, "event, which triggers the next step", size=12)
    sheet.line(x + 290, y - 4, x + 324, y - 4, colour=GREY, dashes="2 4")
    sheet.dot(x + 324, y - 4, 4, fill=BLUE)
    sheet.text(x + 336, y, "the saga log reads it too", size=12)
    sheet.line(x + 520, y - 4, x + 554, y - 4, colour=RED, thick=1.6, arrow=True, dashes="6 4")
    sheet.text(x + 562, y, "command of the saga log", size=12)
    sheet.box(x + 750, y - 14, 40, 18, fill="#f5f7fa")
    sheet.text(x + 798, y, "step", size=12)
    sheet.box(x + 850, y - 14, 40, 18, fill="#fdecea", stroke=RED, radius=9)
    sheet.text(x + 898, y, "its compensation", size=12)
