"""Validate definitions at import, beyond what types can express."""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import chain

from pydantic import ValidationError

from tradesaga.sagas.errors import DefinitionError
from tradesaga.sagas.step import AnyStep, StepKind
from tradesaga.schemas.json_fields import find_unfit_field
from tradesaga.schemas.messages.lifecycle import MESSAGES as LIFECYCLE
from tradesaga.schemas.messages.message import Event, Message
from tradesaga.schemas.registry import Registry

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,99}")
MAX_STEPS = 62
"""Sets of steps are stored as bits of a `bigint`."""


def check(saga: str, steps: Sequence[AnyStep], registry: Registry) -> None:
    """Raise `DefinitionError`, with what to change, unless the steps can run and be compensated in every order."""
    _check_names(saga, steps)
    _check_fields(saga, registry)
    _check_events(saga, steps, registry)
    _check_order(saga, steps)
    _check_kinds(saga, steps)
    _check_compensations(saga, steps)


def check_versions(saga: str, versions: Mapping[int, tuple[Sequence[AnyStep], Registry]]) -> None:
    """Raise `DefinitionError` unless versions of a saga can run side by side.

    Participants read a message by its wire type, whatever its saga's version. So the versions must agree on the class
    of each type, and on the events that come from outside, which have no version.
    """
    known: dict[str, tuple[type[Message], int]] = {}
    for version, (_, registry) in versions.items():
        for ce_type, message in registry.items():
            other, before = known.setdefault(ce_type, (message, version))
            if other is not message:
                raise DefinitionError(
                    f"{saga}: versions {before} and {version} read {ce_type} with different classes; "
                    f"give the changed message a version of its own (`class {message.__name__}(..., version=2)`)"
                )
    outside = {step.waits_for: version for version, (steps, _) in versions.items() for step in steps if step.waits_for}
    for version, (steps, _) in versions.items():
        for event in (steps[0].on[0], *chain.from_iterable(map(_answers, steps))):
            if event in outside:
                raise DefinitionError(
                    f"{saga}: version {outside[event]} waits for {event.__name__} from outside, yet version {version} "
                    f"says it itself; give one of them another event"
                )


def predecessors(steps: Sequence[AnyStep]) -> tuple[int, ...]:
    """Return, for each step, the set of steps (as bits) whose events it reacts to; the first reacts to the start."""
    owners = {each.emits: 1 << index for index, each in enumerate(steps)}
    return tuple(sum({owners[event] for event in each.on if event in owners}) for each in steps)


def ancestors(before: Sequence[int]) -> tuple[int, ...]:
    """Return, for each step, the set of all steps (as bits) that are done before it starts."""
    found: list[int] = []
    for own in before:
        reached = own
        for index, further in enumerate(found):
            if own >> index & 1:
                reached |= further
        found.append(reached)
    return tuple(found)


def _check_names(saga: str, steps: Sequence[AnyStep]) -> None:
    for name in (saga, *(each.name for each in steps)):
        if not isinstance(name, str) or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"{saga}: name {name!r} must be lower case letters, digits, _ or -, a letter first")
    names = [each.name for each in steps]
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(f"{saga}: two steps are named {name!r}; give each its own name")
    if len(steps) > MAX_STEPS:
        raise DefinitionError(f"{saga}: {len(steps)} steps are more than {MAX_STEPS}; split the saga")


def _check_fields(saga: str, registry: Registry) -> None:
    for message in (found for _, found in registry.items()):
        if unfit := find_unfit_field(message):
            named = f"{message.__name__}.{unfit.name}" if unfit.name else message.__name__
            raise DefinitionError(f"{saga}: {named} {unfit.why}")


def _check_events(saga: str, steps: Sequence[AnyStep], registry: Registry) -> None:
    answers = [(answer, each.name) for each in steps for answer in _answers(each)]
    for position, (answer, owner) in enumerate(answers):
        for other, sharer in answers[:position]:
            if other is answer:
                raise DefinitionError(
                    f"{saga}: steps {sharer!r} and {owner!r} share event {answer.__name__}; one event says one thing"
                )
    start = steps[0].on[0]
    if any(answer is start for answer, _ in answers):
        raise DefinitionError(f"{saga}: {start.__name__} starts the saga, so no step may emit it")
    _check_origins(saga, steps, {start, *(answer for answer, _ in answers)})
    for message in chain.from_iterable(each.messages for each in steps):
        if message not in registry:
            raise DefinitionError(f"{saga}: {message.__name__} is not registered; add it to the saga's messages")


def _check_origins(saga: str, steps: Sequence[AnyStep], own: Collection[type[Event]]) -> None:
    for message in own:
        if message in LIFECYCLE:
            raise DefinitionError(
                f"{saga}: {message.__name__} means the same in every saga; give the step its own event"
            )
    for each in steps:
        if (outside := each.waits_for) is not None and outside in own:
            raise DefinitionError(
                f"{saga}: {each.name!r} waits for {outside.__name__} from outside, yet the saga itself says it; "
                f"react to it with `on`"
            )


def _answers(step: AnyStep) -> list[type[Event]]:
    return [*step.answers, *step.back_answers]


def _check_order(saga: str, steps: Sequence[AnyStep]) -> None:
    known: list[type[Event]] = [steps[0].on[0]]
    if len(steps[0].on) != 1:
        raise DefinitionError(f"{saga}: {steps[0].name!r} comes first and so reacts to one event, the start")
    for each in steps:
        for event in each.on:
            if event not in known:
                raise DefinitionError(
                    f"{saga}: {each.name!r} reacts to {event.__name__}, which no earlier step emits; move it"
                )
        known.append(each.emits)


def _check_kinds(saga: str, steps: Sequence[AnyStep]) -> None:
    before = ancestors(predecessors(steps))
    final = [index for index, each in enumerate(steps) if each.kind is not StepKind.COMPENSATABLE]
    pivots = [index for index in final if steps[index].kind is StepKind.PIVOT]
    if len(pivots) > 1:
        first, second = (steps[index].name for index in pivots[:2])
        raise DefinitionError(
            f"{saga}: {first!r} and {second!r} may both fail and cannot be compensated; give one of them a compensation"
        )
    if not final:
        return
    firm = pivots[0] if pivots else final[0]
    for index, each in enumerate(steps):
        if each.kind is StepKind.COMPENSATABLE and not all(before[last] >> index & 1 for last in final):
            raise DefinitionError(
                f"{saga}: {each.name!r} may fail after {steps[firm].name!r}, which cannot be compensated; "
                f"put {each.name!r} before it, or give {steps[firm].name!r} a compensation"
            )
        if each.kind is StepKind.RETRIABLE and pivots and not before[index] >> firm & 1:
            raise DefinitionError(
                f"{saga}: {each.name!r} cannot be compensated, yet {steps[firm].name!r} may still fail after it; "
                f"give {each.name!r} a compensation or let it follow {steps[firm].name!r}"
            )


def _check_compensations(saga: str, steps: Sequence[AnyStep]) -> None:
    commands = [each.back[0] for each in steps if each.back]
    for command in commands:
        if commands.count(command) > 1:
            raise DefinitionError(f"{saga}: two steps are compensated by {command.__name__}; give each its own command")
        try:
            command(reason="")
        except ValidationError:
            raise DefinitionError(
                f"{saga}: {command.__name__} has fields without a default; what was done is found in the saga's context"
            ) from None
