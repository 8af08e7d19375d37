"""The registered participants, from entry points and from the settings' modules, and the steps that they own."""

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
    """A participant as `infra` sees it; `Participant` in `consumers` implements it."""

    name: str
    saga: AnySaga

    @property
    @abstractmethod
    def group(self) -> str:
        """Its consumer group."""

    @property
    @abstractmethod
    def steps(self) -> Collection[str]:
        """The names of the steps that it owns."""

    @abstractmethod
    def check(self) -> None:
        """Raise `DefinitionError` unless every step can run."""

    @abstractmethod
    async def serve(self, settings: Settings) -> None:
        """Run it as a service, until cancelled."""


def registered_participants(settings: Settings) -> list[StepOwner]:
    """Return all participants, each once. Raises `CommandError` for one that cannot be loaded."""
    found = [
        resolve_participant(load_entry_point(point), settings, point.value)
        for point in entry_points(group=PARTICIPANTS)
    ]
    for module in settings.app:
        found += module_participants(import_app(module), settings)
    return list(dict.fromkeys(found))


def module_participants(module: ModuleType, settings: Settings) -> list[StepOwner]:
    """Return a module's participants: its global names, and what its `participants` lists."""
    owners = [value for value in vars(module).values() if isinstance(value, StepOwner)]
    owners += [resolve_participant(each, settings, module.__name__) for each in getattr(module, "participants", ())]
    return list(dict.fromkeys(owners))


def resolve_participant(value: Any, settings: Settings, where: str) -> StepOwner:
    """Return a registered value as a participant. Raises `CommandError` (exit 3) if it is none."""
    made = value if isinstance(value, StepOwner) else value(settings) if callable(value) else value
    if not isinstance(made, StepOwner):
        raise CommandError(
            "participant-wrong", f"{type(made).__name__} is not a participant", where,
            "register a Participant, or a function of the settings that returns one", ExitCode.NOT_FOUND,
        )  # fmt: skip
    return made


def check_participants(owners: Iterable[StepOwner]) -> None:
    """Check that every step has one owner at most, and that no two participants would share a consumer group.

    Raises `CommandError` (exit 4), and `DefinitionError` for a participant that lacks a function.
    """
    names: dict[str, StepOwner] = {}
    steps: dict[tuple[str, str], StepOwner] = {}
    for owner in owners:
        owner.check()
        if (other := names.setdefault(owner.group, owner)) is not owner:
            both = f"{', '.join(other.steps)}; {', '.join(owner.steps)}"
            what = f"two participants of saga {owner.saga.name} are named {owner.name!r} (steps {both})"
            do = "they would share one consumer group, and each would miss records: name them differently"
            raise CommandError("participant-twice", what, owner.group, do, ExitCode.REFUSED)
        for step in owner.steps:
            if (other := steps.setdefault((owner.saga.name, step), owner)) is not owner:
                what = f"step {step} of saga {owner.saga.name} has two owners: {other.name} and {owner.name}"
                do = "both would run it for every saga: bind it in one of them"
                raise CommandError("step-owned-twice", what, owner.group, do, ExitCode.REFUSED)


def unowned_steps(saga: AnySaga, owners: Sequence[StepOwner]) -> list[str]:
    """Return the names of a saga's steps, in all its versions, that none of these participants owns."""
    owned = {step for owner in owners if owner.saga.name == saga.name for step in owner.steps}
    names = dict.fromkeys(step.name for each in saga.versions.values() for step in each.steps)
    return [name for name in names if name not in owned]
