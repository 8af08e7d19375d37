"""Random sound sagas: chains, branches, joins, with and without a pivot, waiting steps, steps that must succeed."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from pydantic import create_model

from tradesaga.sagas.definition import AnySaga, saga, seconds
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import AnyStep, step
from tradesaga.schemas.messages.message import Compensation, Event

MOST_COMPENSATABLE = 4
MOST_RETRIABLE = 2
COMPENSATABLE = (3, 2, 4, 1, 0)
"""Counts to draw from, the most telling first: that is what a shrinking example tends to."""


@dataclass(frozen=True, slots=True)
class Words:
    """The messages of one step."""

    done: type[Event]
    refused: type[Event]
    report: type[Event]
    undo: type[Compensation]
    undone: type[Event]


class Started(Event):
    """The start of every random saga."""


def _words(index: int) -> Words:
    def event(name: str) -> type[Event]:
        return create_model(f"{name}{index}", __base__=Event)

    undo = create_model(f"Undo{index}", __base__=Compensation)
    return Words(event("Done"), event("Refused"), event("Report"), undo, event("Undone"))


WORDS = [_words(index) for index in range(MOST_COMPENSATABLE + 1 + MOST_RETRIABLE)]


@st.composite
def sagas(draw: st.DrawFn) -> AnySaga:
    """Draw a saga: steps that can be taken back in any causal shape, then perhaps a pivot, then what must succeed."""
    steps: list[AnyStep] = []
    for index in range(draw(st.sampled_from(COMPENSATABLE), label="compensatable")):
        steps.append(_compensatable(draw, index, steps))
    if draw(st.booleans(), label="pivot"):
        words = WORDS[len(steps)]
        waits = words.report if draw(st.booleans()) else None
        steps.append(step(_name(steps), on=_ends(steps), emits=words.done, rejects=words.refused, waits_for=waits))
    firm = _ends(steps)
    for _ in range(draw(st.integers(0 if steps else 1, MOST_RETRIABLE), label="retriable")):
        words = WORDS[len(steps)]
        on = draw(st.sampled_from([firm, _ends(steps)])) if steps else Started
        steps.append(step(_name(steps), on=on, emits=words.done))
    made: Any = saga("random", version=1, deadline=seconds(60)).then(steps[0])
    for each in steps[1:]:
        made = made.also(each)
    return made


def _compensatable(draw: st.DrawFn, index: int, earlier: list[AnyStep]) -> AnyStep:
    words, events = WORDS[index], [Started, *(each.emits for each in earlier)]
    on = tuple(draw(st.lists(st.sampled_from(events[::-1]), min_size=1, max_size=2, unique=True), label="on"))
    waits = words.report if earlier and draw(st.integers(0, 3)) == 0 else None
    return step(
        _name(earlier),
        on=on if earlier else Started,
        emits=words.done,
        rejects=words.refused,
        compensate=words.undo,
        compensated=words.undone,
        waits_for=waits,
    )


def _name(steps: list[AnyStep]) -> str:
    return f"step-{len(steps)}"


def _ends(steps: list[AnyStep]) -> tuple[type[Event], ...]:
    """Give the events that no step reacts to yet, so that reacting to all of them comes after every step."""
    used = {event for each in steps for event in each.on}
    return tuple(each.emits for each in steps if each.emits not in used) or (Started,)


STEP_MEANINGS = (
    Meaning.DONE,
    Meaning.REFUSED,
    Meaning.ATTEMPTED,
    Meaning.FAILED,
    Meaning.UNKNOWN,
    Meaning.BARRED,
    Meaning.COMPENSATED,
    Meaning.COMPENSATION_FAILED,
    Meaning.CONTRADICTED,
    Meaning.UNOWNED,
)


@st.composite
def step_facts(draw: st.DrawFn, steps: int) -> Fact:
    """Draw anything that an owner, or the saga log of one, may say, of any step and round."""
    meaning = draw(st.sampled_from(STEP_MEANINGS))
    return Fact(meaning, draw(st.integers(0, steps - 1)), draw(st.integers(1, 3)), draw(st.sampled_from("abc")))


@st.composite
def marks(draw: st.DrawFn, steps: int) -> Fact:
    """Draw a deadline or an operator's decision: what counts where it stands."""
    meanings = (Meaning.DEADLINE, Meaning.ABORT, Meaning.RETRY, Meaning.SKIP, Meaning.RESOLVE, Meaning.RECHECK)
    meaning = draw(st.sampled_from(meanings))
    outcome = draw(st.sampled_from([Status.ABORTED, Status.COMPLETED])) if meaning is Meaning.RESOLVE else None
    aimed = draw(st.integers(0, steps - 1)) if meaning in {Meaning.RETRY, Meaning.SKIP} else -1
    return Fact(meaning, aimed, id=f"decision-{draw(st.integers(0, 5))}", outcome=outcome)
