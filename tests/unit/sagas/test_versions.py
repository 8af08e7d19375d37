"""Several versions of one saga as one value: what may stand side by side, and what is refused with what to change."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.sagas import Held, OrderAsked, small_saga
from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime.message import Bindings
from tradesaga.sagas.definition import AnySaga, saga
from tradesaga.sagas.errors import DefinitionError
from tradesaga.sagas.step import step
from tradesaga.schemas.messages.message import Event

FIRST = small_saga()
SECOND = small_saga(version=2, deadline=timedelta(minutes=1))


class Told(Event):
    """Comes from outside, or is said by a step."""


def test_new_sagas_start_under_the_version_that_has_the_others_beside_it() -> None:
    """Forward and back: the value that is registered says which; the others are there all the same."""
    forward, back = SECOND.alongside(FIRST), FIRST.alongside(SECOND)

    assert (forward.version, list(forward.versions)) == (2, [2, 1])
    assert (back.version, list(back.versions)) == (1, [1, 2])
    assert forward.versions[1] == FIRST
    assert forward.alone == SECOND
    assert FIRST.alongside(forward) == back
    assert forward.alongside(FIRST, SECOND) == forward


def other_class() -> AnySaga:
    """Return a second version whose `Held` is another class of the same wire type."""

    class Held(Event):
        pass

    return saga("small", version=2, deadline=timedelta(minutes=5)).then(step("hold", on=OrderAsked, emits=Held))


def told_outside() -> AnySaga:
    """Return a version that waits for `Told`."""
    waits: Any = step("wait", on=OrderAsked, emits=Held, waits_for=Told)
    return saga("small", version=3, deadline=timedelta(minutes=5)).then(waits)


def told_inside() -> AnySaga:
    """Return a version that says `Told` itself."""
    return saga("small", version=2, deadline=timedelta(minutes=5)).then(step("say", on=OrderAsked, emits=Told))


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ((FIRST, small_saga("other", version=2)), "'other' is another saga"),
        ((FIRST, replace(FIRST, deadline=timedelta(1))), "two definitions have version 1; count one of them up"),
        ((FIRST, SECOND, small_saga(version=2)), "two definitions have version 2"),
        ((FIRST, other_class()), "read small.held.v1 with different classes; give the changed message a version"),
        ((told_inside(), told_outside()), "version 3 waits for Told from outside, yet version 2 says it itself"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(versions: tuple[AnySaga, ...], words: str) -> None:
    """When the definition is made, in a sentence that says what to change."""
    with pytest.raises(DefinitionError, match=words):
        versions[0].alongside(*versions[1:])


def test_a_step_that_versions_share_is_bound_once_and_a_changed_one_by_itself() -> None:
    """The functions of a step follow from the version, and from its name alone where nothing differs."""
    changed = step("hold", on=OrderAsked, emits=Held, timeout=timedelta(seconds=9))
    first = saga("small", version=1, deadline=timedelta(1)).then(step("hold", on=OrderAsked, emits=Held))
    kept = step("tell", on=Held, emits=Told)
    second = saga("small", version=2, deadline=timedelta(1)).then(changed).then(kept)
    participant = Participant("desk", second.alongside(first.then(kept)))

    async def hold(event: OrderAsked, ctx: Any) -> Held:
        return Held()

    async def tell(event: Held, ctx: Any) -> Told:
        return Told()

    participant.handles(first.steps[0])(participant.handles(changed)(hold))
    participant.handles(kept)(tell)
    participant.check()
    bindings = Bindings(participant)

    assert bindings.at("hold", 0).step == first.steps[0]
    assert bindings.at("hold", 1).step == first.steps[0]
    assert bindings.at("hold", 2).step == changed
    assert bindings.at("tell", 1) is bindings.at("tell", 2)
    assert participant.bindings["hold"].step == changed
