"""Who owns which step: the participants that are registered here, by entry point and in the settings' modules.

`infra` knows them by what all of its commands need: their steps, and how they are run.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Final

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.registry.app_modules import import_app, load_entry_point
from tradesaga.infra.settings import Settings
from tradesaga.sagas.definition import AnySaga

PARTICIPANTS: Final = "tradesaga.participants"
"""Entry points: each a `Participant`, or a function `(Settings) -> Participant`."""


class StepOwner(ABC):
    """One service's share of a saga; `tradesaga.consumers.Participant` is the one implementation."""

    name: str
    saga: AnySaga

    @property
    @abstractmethod
    def group(self) -> str:
        """Name the consumer group."""

    @property
    @abstractmethod
    def steps(self) -> Collection[str]:
        """Name the steps that it owns."""

    @abstractmethod
    def check(self) -> None:
        """Raise `DefinitionError` unless every step can run."""

    @abstractmethod
    async def serve(self, settings: Settings) -> None:
        """Run it as a service, until cancelled."""


def registered_owners(settings: Settings) -> list[StepOwner]:
    """Return all participants, each once. Raises `CommandError` for one that cannot be loaded."""
    found = [_made(load_entry_point(point), settings, point.value) for point in entry_points(group=PARTICIPANTS)]
    for module in settings.app:
        found += module_owners(import_app(module), settings)
    return list(dict.fromkeys(found))


def module_owners(module: ModuleType, settings: Settings) -> list[StepOwner]:
    """Return a module's participants: its global names, and what its `participants` lists."""
    owners = [value for value in vars(module).values() if isinstance(value, StepOwner)]
    owners += [_made(each, settings, module.__name__) for each in getattr(module, "participants", ())]
    return list(dict.fromkeys(owners))


def _made(value: Any, settings: Settings, where: str) -> StepOwner:
    made = value if isinstance(value, StepOwner) else value(settings) if callable(value) else value
    if not isinstance(made, StepOwner):
        raise CommandError(
            "participant-wrong", f"{type(made).__name__} is no participant", where,
            "give a Participant, or a function of the settings that returns one", ExitCode.NOT_FOUND,
        )  # fmt: skip
    return made


def check_owners(owners: Iterable[StepOwner]) -> None:
    """Refuse two owners of one step, and two participants of one name: these would share a consumer group.

    Raises `CommandError` (exit 4), and `DefinitionError` for a participant that lacks a function.
    """
    names: dict[str, StepOwner] = {}
    steps: dict[tuple[str, str], StepOwner] = {}
    for owner in owners:
        owner.check()
        if (other := names.setdefault(owner.group, owner)) is not owner:
            both = f"{', '.join(other.steps)}; {', '.join(owner.steps)}"
            what = f"two participants of saga {owner.saga.name} are named {owner.name!r} (steps {both})"
            do = "they would share one consumer group, and each miss half of its records: give each its own name"
            raise CommandError("participant-twice", what, owner.group, do, ExitCode.REFUSED)
        for step in owner.steps:
            if (other := steps.setdefault((owner.saga.name, step), owner)) is not owner:
                what = f"step {step} of saga {owner.saga.name} has two owners: {other.name} and {owner.name}"
                do = "both would do it for every saga: bind it in one of them"
                raise CommandError("step-owned-twice", what, owner.group, do, ExitCode.REFUSED)


def unowned_steps(saga: AnySaga, owners: Sequence[StepOwner]) -> list[str]:
    """Name the steps of a saga, in all its versions, that none of these owns."""
    owned = {step for owner in owners if owner.saga.name == saga.name for step in owner.steps}
    names = dict.fromkeys(step.name for each in saga.versions.values() for step in each.steps)
    return [name for name in names if name not in owned]
