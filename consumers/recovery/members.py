"""Who owns which steps: the participants that this installation has registered, as recovery needs to know them."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final, cast

from consumers.participant import Participant
from infra.errors import CommandError, ExitCode
from infra.registered import registered_sagas
from infra.settings import Settings
from sagas.definition import AnySaga

PARTICIPANTS: Final = "tradesaga.participants"
"""Entry points: each a `Participant`, or a function `(Settings) -> Participant`."""


@dataclass(frozen=True, slots=True)
class Cast:
    """One saga and the participants that run it."""

    saga: AnySaga
    participants: Sequence[Participant]

    @property
    def orphans(self) -> list[str]:
        """Name the steps that no participant owns: their rows cannot be made anew."""
        owned = {name for participant in self.participants for name in participant.bindings}
        return [step.name for step in self.saga.steps if step.name not in owned]


def registered_casts(settings: Settings) -> list[Cast]:
    """Give each registered saga with its participants. Raises `CommandError` for one that cannot be loaded."""
    found = [_made(point.load(), settings, point.value) for point in entry_points(group=PARTICIPANTS)]
    for module in settings.app:
        listed = getattr(_imported(module), "participants", ())
        found += [_made(each, settings, module) for each in listed]
    sagas = registered_sagas(settings.app)
    return [Cast(saga, [each for each in found if each.saga.name == name]) for name, saga in sorted(sagas.items())]


def _made(value: Any, settings: Settings, where: str) -> Participant:
    made = value if isinstance(value, Participant) else cast("Callable[[Settings], Any]", value)(settings)
    if not isinstance(made, Participant):
        raise CommandError(
            "participant-wrong", f"{type(made).__name__} is no participant", where,
            "give a Participant, or a function of the settings that returns one", ExitCode.NOT_FOUND,
        )  # fmt: skip
    return made


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        do = "give a module that Python can import from here"
        raise CommandError("app-missing", str(error), module, do, ExitCode.NOT_FOUND) from error
