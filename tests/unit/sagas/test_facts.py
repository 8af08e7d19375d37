"""From a record's headers to a fact, without reading the value unless it matters."""

import pytest
from pydantic import ValidationError

from tradesaga.sagas import Status
from tradesaga.sagas.facts import Fact, Meaning, Vocabulary
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages import lifecycle

WORDS = Vocabulary(trade)
UNREAD = b"not even JSON"


def read(name: str, step: str = "", round_: int = 1, value: bytes = UNREAD) -> Fact:
    """Read a record of the trade saga with the id `ce-1`."""
    return WORDS.read(f"trade.{name}.v1", "ce-1", step, round_, value)


@pytest.mark.parametrize(
    ("name", "meaning", "step"),
    [
        ("trade-requested", Meaning.STARTED, -1),
        ("funds-reserved", Meaning.DONE, 1),
        ("funds-rejected", Meaning.REFUSED, 1),
        ("funds-released", Meaning.COMPENSATED, 1),
        ("trade-unfilled", Meaning.REFUSED, 4),
        ("venue-report", Meaning.RECORDED, -1),
        ("start-refused", Meaning.RECORDED, -1),
        ("deadline-elapsed", Meaning.DEADLINE, -1),
    ],
)
def test_a_types_meaning_needs_no_value(name: str, meaning: Meaning, step: int) -> None:
    """Routing and folding need headers alone: an encrypted value is no obstacle."""
    assert read(name) == Fact(meaning, step, 1, "ce-1")


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("step-failed", Meaning.FAILED),
        ("step-unknown", Meaning.UNKNOWN),
        ("step-barred", Meaning.BARRED),
        ("attempt-failed", Meaning.ATTEMPTED),
        ("compensation-failed", Meaning.COMPENSATION_FAILED),
    ],
)
def test_a_fact_of_any_step_takes_step_and_round_from_the_headers(name: str, meaning: Meaning) -> None:
    """Without a known step such a fact cannot be read; it must not be taken for another step's."""
    assert read(name, "check_risk", 2) == Fact(meaning, 2, 2, "ce-1")
    for unknown in ("", "wash_hands"):
        with pytest.raises(KeyError):
            read(name, unknown)


def test_decisions_and_contradictions_are_read_from_their_values() -> None:
    """What a person decided, or the venue's id, stands in the payload; a payload that is wrong is unreadable."""
    who = {"operator": "ann", "reason": "seen at the desk"}
    contradiction = lifecycle.StepContradicted(step="confirm_fill", venue_id="f-1", reason="").to_wire()
    retry = lifecycle.RetryRequested(**who, step="settle_trade").to_wire()
    skip = lifecycle.SkipRequested(**who, step="reserve_funds").to_wire()
    resolve = lifecycle.ResolveRequested(**who, outcome="ABORTED").to_wire()

    assert read("step-contradicted", value=contradiction) == Fact(Meaning.CONTRADICTED, 4, id="f-1")
    assert read("retry-requested", value=retry) == Fact(Meaning.RETRY, 5, id="ce-1")
    assert read("skip-requested", value=skip) == Fact(Meaning.SKIP, 1, id="ce-1")
    assert read("resolve-requested", value=resolve) == Fact(Meaning.RESOLVE, id="ce-1", outcome=Status.ABORTED)
    decisions = ("retry-requested", "skip-requested", "resolve-requested", "abort-requested", "recheck-requested")
    for name in ("step-contradicted", *decisions):
        with pytest.raises(ValidationError):
            read(name, value=b"{}")


def test_an_unknown_type_and_a_command_are_no_facts() -> None:
    """Commands have a topic of their own; on the events topic they are as unknown as a stranger's type."""
    for name in ("funds-borrowed", "release-funds", "bar"):
        with pytest.raises(KeyError):
            read(name)


def test_only_finished_states_are_final_and_only_people_decide() -> None:
    """FAILED waits for a person, so it is not final."""
    assert [status for status in Status if status.final] == [Status.COMPLETED, Status.ABORTED]
    assert {meaning for meaning in Meaning if meaning.by_operator} == {
        Meaning.ABORT, Meaning.RETRY, Meaning.SKIP, Meaning.RESOLVE, Meaning.RECHECK,
    }  # fmt: skip
