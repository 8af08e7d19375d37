"""Definitions that can never work are refused when they are made, saying what to change."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, cast

import pytest

from tests.unit.sagas import shop as s
from tradesaga.consumers import Participant
from tradesaga.sagas import Retry, minutes, saga, seconds, step
from tradesaga.sagas.errors import DefinitionError
from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages.message import Compensation, Event


def begun(name: str = "shop", messages: Any = None) -> Any:
    """Begin a saga whose types nobody checks, as a program without a type checker would."""
    return saga(name, version=1, deadline=seconds(30), messages=messages)


def other_packed() -> type[Event]:
    """Make another class of the same wire name."""
    return type("Packed", (Event,), {"__module__": __name__, "__doc__": "Another."})


untyped: Any = step
half: Any = partial(step, "pack", on=s.Ordered, emits=s.Packed)


class Demanding(Compensation):
    """A compensation with a field that nobody could fill."""

    box: str


class Weighed(Event):
    """A message with a float inside of another type."""

    weights: list[float] | None = None


PLAIN = step("plain", on=s.Packed, emits=s.Labelled)

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a float in a message": (
        lambda: begun().then(step("weigh", on=s.Ordered, emits=Weighed)),
        r"Weighed\.weights is a float, which is not exact and may be NaN; use Decimal, int or str",
    ),
    "a compensation that is an event": (
        lambda: half(compensate=s.Packed, compensated=s.Thanked),
        r"step 'pack': compensate=Packed is no Compensation class",
    ),
    "an event that is a name": (lambda: half(rejects="Packed"), r"rejects='Packed' is no Event class"),
    "a timeout without a unit": (lambda: half(timeout=2), r"step 'pack': timeout=2 is no timedelta; give seconds\(2\)"),
    "a number of attempts": (lambda: half(retry=3), r"step 'pack': retry=3 is no Retry; give Retry\(attempts"),
    "a deadline without a unit": (
        lambda: saga("shop", version=1, deadline=60),  # pyright: ignore[reportArgumentType]
        r"shop: deadline=60 is no timedelta; give seconds\(60\)",
    ),
    "a version that is a text": (
        lambda: saga("shop", version="1", deadline=seconds(1)),  # pyright: ignore[reportArgumentType]
        r"shop: version '1' is no whole number",
    ),
    "a saga's function in the place of a step": (lambda: begun().then(step), r"is no step; make one with"),
    "name of a saga": (
        lambda: begun("Shop!").then(s.pack),
        r"name 'Shop!' must be lower case letters, digits, _ or -",
    ),
    "name of a step": (
        lambda: begun().then(step("Pack it", on=s.Ordered, emits=s.Packed)),
        r"name 'Pack it' must be lower case",
    ),
    "two steps of one name": (
        lambda: begun().then(s.pack).also(step("pack", on=s.Packed, emits=s.Shipped)),
        r"two steps are named 'pack'; give each its own name",
    ),
    "one event of two steps": (
        lambda: begun().then(s.pack).also(step("again", on=s.Ordered, emits=s.Packed)),
        r"steps 'pack' and 'again' share event Packed; one event says one thing",
    ),
    "one event as answer and refusal": (
        lambda: begun().then(step("pack", on=s.Ordered, emits=s.Packed, rejects=s.Packed)),
        r"steps 'pack' and 'pack' share event Packed",
    ),
    "a step that emits the start": (
        lambda: begun().then(s.pack).also(step("loop", on=s.Packed, emits=s.Ordered)),
        r"Ordered starts the saga, so no step may emit it",
    ),
    "an event of every saga as answer": (
        lambda: begun().then(step("pack", on=s.Ordered, emits=lifecycle.StepFailed)),
        r"StepFailed means the same in every saga; give the step its own event",
    ),
    "waiting for what the saga says itself": (
        lambda: begun().then(s.pack).also(step("wait", on=s.Packed, emits=s.Shipped, waits_for=s.Packed)),
        r"'wait' waits for Packed from outside, yet the saga itself says it; react to it with `on`",
    ),
    "a trigger that comes later": (
        lambda: begun().then(s.pack).also(s.ship),
        r"'ship' reacts to Labelled, which no earlier step emits; move it",
    ),
    "a trigger that is a refusal": (
        lambda: begun().then(s.pack).also(step("console", on=s.SoldOut, emits=s.Thanked)),
        r"'console' reacts to SoldOut, which no earlier step emits",
    ),
    "a first step with two triggers": (
        lambda: begun().then(step("both", on=(s.Ordered, s.Paid), emits=s.Packed)),
        r"'both' comes first and so reacts to one event, the start",
    ),
    "a step without a trigger": (
        lambda: step("idle", on=(), emits=s.Packed),
        r"step 'idle': `on` is empty; name the event or events",
    ),
    "an unregistered message": (
        lambda: begun(messages=(s.Ordered, s.Packed, s.SoldOut, s.Unpack)).then(s.pack),
        r"Unpacked is not registered; add it to the saga's messages",
    ),
    "two classes of one wire type": (
        lambda: begun(messages=(s.Packed, other_packed())).then(s.pack),
        r"share one wire type; rename one of them",
    ),
    "two pivots": (
        lambda: (
            begun()
            .then(step("first", on=s.Ordered, emits=s.Packed, rejects=s.SoldOut))
            .then(step("second", on=s.Packed, emits=s.Paid, rejects=s.Declined))
        ),
        r"'first' and 'second' may both fail and cannot be compensated; give one of them a compensation",
    ),
    "a step that may fail after the pivot": (
        lambda: (
            begun()
            .then(step("pivot", on=s.Ordered, emits=s.Labelled, rejects=s.SoldOut))
            .also(step("pay", on=s.Labelled, emits=s.Paid, compensate=s.Refund, compensated=s.Refunded))
        ),
        r"'pay' may fail after 'pivot', which cannot be compensated; put 'pay' before it, or give 'pivot' a comp",
    ),
    "a step that may fail after one that must succeed": (
        lambda: begun().then(s.pack).also(PLAIN).also(s.pay),
        r"'pay' may fail after 'plain', which cannot be compensated",
    ),
    "a step that may fail beside the pivot": (
        lambda: begun().then(s.pack).also(s.pay).also(step("go", on=s.Packed, emits=s.Labelled, rejects=s.Thanked)),
        r"'pay' may fail after 'go', which cannot be compensated",
    ),
    "a step that must succeed before the pivot": (
        lambda: begun().then(s.pack).also(PLAIN).also(step("go", on=s.Labelled, emits=s.Shipped, rejects=s.Declined)),
        r"'plain' cannot be compensated, yet 'go' may still fail after it; give 'plain' a compensation or let",
    ),
    "one command for two steps": (
        lambda: (
            begun()
            .then(s.pack)
            .also(step("pay", on=s.Ordered, emits=s.Paid, compensate=s.Unpack, compensated=s.Refunded))
        ),
        r"two steps are compensated by Unpack; give each its own command",
    ),
    "a compensation that asks for more": (
        lambda: begun().then(step("pack", on=s.Ordered, emits=s.Packed, compensate=Demanding, compensated=s.Unpacked)),
        r"Demanding has fields without a default; what was done is found in the saga's context",
    ),
    "half a compensation": (
        lambda: half(compensate=s.Unpack),
        r"step 'pack': give compensate and compensated together, or neither",
    ),
    "no time for an attempt": (
        lambda: step("pack", on=s.Ordered, emits=s.Packed, timeout=timedelta()),
        r"step 'pack': timeout 0:00:00 leaves an attempt no time; give more than zero",
    ),
    "no time for the saga": (
        lambda: saga("shop", version=1, deadline=timedelta()),
        r"deadline 0:00:00 above zero",
    ),
    "no version": (
        lambda: saga("shop", version=0, deadline=seconds(1)),
        r"version 0 must be 1 or more",
    ),
}


@pytest.mark.parametrize(("define", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_at_import(define: Callable[[], object], message: str) -> None:
    """Each refusal names the saga or step and what to change."""
    with pytest.raises(DefinitionError, match=message):
        define()


def test_a_saga_of_too_many_steps_is_refused() -> None:
    """Sets of steps are kept as bits of one number in the database."""
    events = [type(f"Event{index}", (Event,), {"__module__": __name__}) for index in range(64)]
    made = begun().then(step("step-0", on=events[0], emits=events[1]))
    for index in range(1, 62):
        made = made.also(step(f"step-{index}", on=events[index], emits=events[index + 1]))

    with pytest.raises(DefinitionError, match="63 steps are more than 62; split the saga"):
        made.also(step("step-62", on=events[62], emits=events[63]))


def test_a_saga_knows_its_start_and_its_steps() -> None:
    """Looking up a step that is not there names those that are."""
    assert s.shop.start is s.Ordered
    assert s.shop.step("pay") is s.pay
    with pytest.raises(KeyError, match=r"no step 'wash'.*'pack', 'pay', 'label', 'ship', 'thank'"):
        s.shop.step("wash")


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": "3"},
        {"attempts": 2.5},
        {"initial": -1.0},
        {"initial": float("nan")},
        {"factor": 0.5},
        {"initial": 9.0, "maximum": 1.0},
        {"maximum": float("inf")},
        {"maximum": "5"},
        {"jitter": 1.5},
    ],
)
def test_a_senseless_retry_is_refused(wrong: dict[str, Any]) -> None:
    """A retry that never tries, or waits backwards, is a mistake in the definition."""
    with pytest.raises(DefinitionError, match="Retry"):
        Retry(**wrong)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: cast("Any", seconds)("2"), r"seconds\('2'\) is no time; give a number of seconds"),
        (lambda: minutes(float("nan")), r"minutes\(nan\) is no time"),
        (lambda: seconds(10**30), "is no time"),
        (lambda: saga("s", version=True, deadline=seconds(1)), "version True is no whole number"),
        (lambda: begun(cast("Any", None)).then(s.pack), "name None must be lower case letters"),
        (lambda: untyped("one", on=None, emits=s.Packed), "step 'one': on=None is no Event class"),
        (lambda: untyped("one", on=s.Ordered, emits=None), "step 'one': emits=None is no Event class"),
        (lambda: Participant(cast("Any", None), s.shop), "participant None: use letters"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_in_one_sentence(make: Callable[[], Any], sentence: str) -> None:
    """Python's own errors would not name what to write instead."""
    with pytest.raises(DefinitionError, match=sentence):
        make()


def test_delays_grow_are_capped_and_keep_their_jitter_within_its_share() -> None:
    """Exponential from the first failure on; chance takes at most the jitter's share; large counts do not overflow."""
    retry = Retry(attempts=9, initial=1.0, factor=2.0, maximum=5.0, jitter=0.5)

    assert [retry.delay(attempt, 0.0) for attempt in (1, 2, 3, 4, 10_000)] == [seconds(n) for n in (1, 2, 4, 5, 5)]
    assert retry.delay(3, 0.999) >= seconds(2)
