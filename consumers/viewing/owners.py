"""Who owns which step: found in the services that are installed, so that a stuck step can be blamed by name."""

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points

from consumers.participant import Participant
from infra.settings import Settings


def step_owners(saga: str, settings: Settings) -> dict[str, Participant]:
    """Give the participant of each step of a saga, as far as its service is installed here."""
    modules = {point.load().__module__ for point in entry_points(group="tradesaga.services")}
    modules |= {import_module(name).__name__ for name in settings.app}
    return {
        step: participant
        for participant in _participants(modules)
        if participant.saga.name == saga
        for step in participant.bindings
    }


def _participants(modules: Iterable[str]) -> list[Participant]:
    found: list[Participant] = []
    for module in sorted(modules):
        found += [value for value in vars(sys.modules[module]).values() if isinstance(value, Participant)]
    return found
