"""The log of operators' actions: what is not ours, or not signed, is told and not believed."""

from typing import Any

import pytest

from tradesaga.consumers.audit.log.action_log import (
    Action,
    ActionError,
    ActionKind,
    Entry,
    actions_origin,
    check_actions,
    frontier_of,
)
from tradesaga.consumers.audit.log.log_check import Report, Verdict
from tradesaga.consumers.audit.log.retired_ranges import RetiredRange, RetiredRanges, retired_ranges_of
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.merkle import Frontier, hash_leaf

ORIGIN = actions_origin("desk")


def hold(key: str) -> Action:
    """Give an action."""
    return Action(ActionKind.HOLD, "eve", "case 7", 1, {"scope": "saga", "key": key})


def entries(*bodies: str) -> list[Entry]:
    """Give bodies as they are stored."""
    return [Entry(number, body, "") for number, body in enumerate(bodies)]


def sealed(*bodies: str) -> dict[int, Checkpoint]:
    """Give a checkpoint of each of a log's sizes."""
    sizes = range(1, len(bodies) + 1)
    return {size: Checkpoint(str(ORIGIN), size, frontier_of(bodies[:size]).root(), size, "", 1) for size in sizes}


BODIES = [hold(key).to_body() for key in "abc"]


def test_what_was_signed_is_believed() -> None:
    """An action comes back as it was written; the last checkpoint vouches for all before it."""
    for checkpoints in (sealed(*BODIES), {3: sealed(*BODIES)[3]}):
        report = Report()
        found = check_actions(report, ORIGIN, entries(*BODIES), checkpoints)
        assert (report.findings, found) == ([], [(number, hold(key)) for number, key in enumerate("abc")])


@pytest.mark.parametrize(
    ("bodies", "believed", "verdict"),
    [
        (BODIES[:2], 2, Verdict.INCOMPLETE),
        ([], 0, Verdict.INCOMPLETE),
        ([*BODIES, hold("d").to_body()], 3, Verdict.ALTERED),
        ([BODIES[0], hold("x").to_body(), BODIES[2]], 1, Verdict.ALTERED),
        ([BODIES[1], BODIES[0], BODIES[2]], 0, Verdict.ALTERED),
    ],
)
def test_what_was_not_is_not(bodies: list[str], believed: int, verdict: Verdict) -> None:
    """Taken away, added, altered, swapped: no action is believed that no checkpoint vouches for."""
    report = Report()
    found = check_actions(report, ORIGIN, entries(*bodies), sealed(*BODIES))
    assert not report.holds(verdict)
    assert [action.to_body() for _, action in found] == bodies[:believed]


def test_a_gap_in_the_numbers_is_told() -> None:
    """Whatever the rest looks like."""
    report = Report()
    check_actions(report, ORIGIN, [Entry(1, BODIES[0], "")], sealed(BODIES[0]))
    assert not report.holds(Verdict.INCOMPLETE)


@pytest.mark.parametrize("body", ["", "{}", "[]", "null", '{"kind":"burn"}', BODIES[0].replace("hold", "burn")])
def test_a_body_that_is_none_is_told_though_it_is_signed(body: str) -> None:
    """By a key that somebody has used for something else."""
    with pytest.raises(ActionError):
        Action.parse(body)
    report = Report()
    assert check_actions(report, ORIGIN, entries(body), sealed(body)) == []
    assert not report.holds(Verdict.ALTERED)


def test_a_retirement_that_cannot_be_read_retires_nothing() -> None:
    """It is told, and a log begins with its first record."""
    frontier = Frontier.empty()
    frontier.append(hash_leaf(b"record"))
    range_ = RetiredRange("trade.events", 0, 0, 1, 1, frontier)
    good = Action(ActionKind.RETIRE, "ann", "due", 1, {"partitions": [], "logs": [range_.to_json()]})
    assert retired_ranges_of(Action.parse(good.to_body())) == [range_]
    wrong: list[Any] = [
        [{**range_.to_json(), "edge": "AAAA"}],
        [{**range_.to_json(), "size": "many"}],
        [{}],
        [7],
        7,
    ]
    for logs in wrong:
        report = Report()
        bad = Action(ActionKind.RETIRE, "ann", "due", 1, {"logs": logs})
        assert RetiredRanges.believe(report, ORIGIN, [(0, good), (1, bad)]).ranges == {}
        assert not report.holds(Verdict.ALTERED)
    report = Report()
    assert (
        RetiredRanges.believe(report, ORIGIN, [(0, good), (1, Action(ActionKind.RETIRE, "a", "b", 1, {}))]).ranges == {}
    )
    assert not report.holds(Verdict.ALTERED)
