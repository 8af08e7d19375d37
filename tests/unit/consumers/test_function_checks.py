"""Functions that could not serve their step are refused when they are bound, each with one clear sentence."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from tradesaga.consumers import Participant, StepContext, Work
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas import saga, seconds, step
from tradesaga.sagas.errors import DefinitionError
from tradesaga.schemas.messages.message import Compensation, Event


class Asked(Event):
    """The start."""


class Held(Event):
    """The first step is done."""


class Refused(Event):
    """The first step refuses."""


class Unhold(Compensation):
    """Take it back."""


class Unheld(Event):
    """It is taken back."""


class Paid(Event):
    """The second step is done."""


hold = step("hold", on=Asked, emits=Held, rejects=Refused, compensate=Unhold, compensated=Unheld)
pay = step("pay", on=Held, emits=Paid)
deal = saga("deal", version=1, deadline=seconds(5)).then(hold).then(pay)


async def takes_wrong(event: Paid, ctx: StepContext) -> Held:
    """Takes what the step emits later."""
    return Held()


async def returns_wrong(event: Asked, ctx: StepContext) -> Paid:
    """Answers for another step."""
    return Paid()


async def returns_text(event: Asked, ctx: StepContext) -> str:
    """Answers with no event."""
    return ""


async def returns_nothing(event: Asked, ctx: StepContext) -> Held | None:
    """May answer nothing."""


async def one_argument(event: Asked) -> Held:
    """Takes no context."""
    return Held()


def not_async(event: Asked, ctx: StepContext) -> Held:
    """Is no coroutine function."""
    return Held()


async def wrong_batch(works: Sequence[Work[Paid]], sql: Connection) -> list[Held]:
    """Takes another step's messages."""
    return []


async def wrong_answers(works: Sequence[Work[Asked]], sql: Connection) -> list[Paid]:
    """Answers for another step."""
    return []


async def wrong_command(command: Asked, ctx: StepContext) -> Unheld:
    """Takes the start for the command."""
    return Unheld()


def method(name: str) -> Callable[[Any], Any]:
    """Bind to a step by the name of the decorator."""
    bind: Callable[[Any], Any] = getattr(Participant("desk", deal), name)
    return bind


@pytest.mark.parametrize(
    ("decorator", "of", "function", "sentence"),
    [
        ("handles", hold, takes_wrong, "takes_wrong takes Paid; it is called with Asked"),
        ("handles", hold, returns_wrong, "returns_wrong returns Paid; its step answers with Held or Refused"),
        ("handles", hold, returns_text, "returns_text returns str; its step answers with Held or Refused"),
        ("handles", hold, returns_nothing, "returns_nothing returns NoneType; its step answers with Held"),
        ("calls", hold, returns_nothing, "returns_nothing returns NoneType"),
        ("handles", hold, one_argument, "one_argument is called with 2 arguments, which it does not take"),
        ("handles", hold, not_async, "not_async is not `async def`"),
        ("handles", hold, 7, "7 is no function"),
        ("handles_batch", hold, wrong_batch, "wrong_batch takes Paid; it is called with Asked"),
        ("handles_batch", hold, wrong_answers, "wrong_answers returns Paid; its step answers with"),
        ("compensates", hold, wrong_command, "wrong_command takes Asked; it is called with Unhold"),
        ("compensates_remotely", hold, wrong_command, "wrong_command takes Asked; it is called with Unhold"),
        ("compensates", pay, wrong_command, "step 'pay' has no compensation"),
        ("handles", "hold", returns_wrong, "saga 'deal' has no step 'hold'"),
    ],
)
def test_what_cannot_serve_its_step_is_refused(decorator: str, of: Any, function: Any, sentence: str) -> None:
    """Before a record is read, naming the participant, the step and the function."""
    with pytest.raises(DefinitionError) as caught:
        method(decorator)(of)(function)
    assert sentence in str(caught.value)
    assert "'desk'" in str(caught.value)


async def narrower(event: Asked, ctx: StepContext) -> Held:
    """Never refuses."""
    return Held()


async def wider(event: Event, ctx: StepContext) -> Event:
    """Is typed for any step."""
    return event


async def untyped(event: Any, ctx: Any) -> Any:
    """Is typed for nothing."""
    return event


async def untyped_batch(works: Sequence[Any], sql: Any) -> Sequence[Any]:
    """Is typed for nothing, many at once."""
    return works


def makes(event: Asked, ctx: StepContext) -> Awaitable[Held]:
    """Returns what can be awaited."""
    return narrower(event, ctx)


class Desk:
    """Handlers as methods."""

    async def hold(self, event: Asked, ctx: StepContext) -> Held | Refused:
        """Hold."""
        return Held()


@pytest.mark.parametrize("function", [narrower, wider, untyped, makes, Desk().hold, partial(narrower)])
def test_what_could_serve_it_is_bound(function: Any) -> None:
    """Less than the step allows, a base class, a method: none of these is wrong."""
    participant = Participant("desk", deal)
    assert participant.handles(hold)(function) is function
    participant.handles_batch(hold)(untyped_batch)


@pytest.mark.parametrize(("name", "of"), [("desk", "deal"), ("desk", None), (deal, "desk")])
def test_a_participant_is_of_a_saga(name: Any, of: Any) -> None:
    """A name in the saga's place is told as that."""
    with pytest.raises(DefinitionError, match="is no saga with a step"):
        Participant(name, of)
