"""A small saga with one step of each kind, and the participants that run it as its start's plan says."""

from dataclasses import dataclass
from typing import Any

from tests.e2e import desk, port
from tests.e2e import messages as m
from tests.e2e.far import FarSide
from tests.e2e.steps import PATIENCE, QUICK, Steps, make_steps
from tradesaga.consumers.participant import Participant, StepContext
from tradesaga.sagas.definition import Saga, saga, seconds
from tradesaga.sagas.step import Retry


@dataclass(frozen=True)
class Kit:
    """A saga and its participants: `desk` runs the local steps, `port` those of the far side."""

    saga: Saga[Any]
    steps: Steps
    desk: Participant
    port: Participant


def make_kit(
    name: str, far: FarSide, *, deadline: float = 60.0, patience: float = PATIENCE, retry: Retry = QUICK
) -> Kit:
    """Define the saga under a name of the test's own; times are seconds."""
    steps = make_steps(patience, retry)
    named = saga(name, version=1, deadline=seconds(deadline)).then(steps.book).then(steps.pay)
    whole = named.then(steps.ship).then(steps.confirm).then(steps.close)
    kit = Kit(whole, steps, Participant("desk", whole, pauses=_holds), Participant("port", whole))
    desk.bind(kit.desk, steps, far)
    port.bind(kit.port, steps, far)
    return kit


def _holds(ctx: StepContext) -> list[tuple[str, str]]:
    return [("account", ctx.get(m.Asked).account)]
