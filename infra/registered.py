"""The sagas that this installation knows: by entry point, and from the modules that the settings name."""

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from types import ModuleType
from typing import Final

from infra.errors import CommandError, ExitCode
from sagas.definition import AnySaga, Saga

SAGAS: Final = "tradesaga.sagas"


def registered_sagas(modules: Sequence[str] = ()) -> dict[str, AnySaga]:
    """Give the sagas by name; a module's are its global names. Raises `CommandError` for one that cannot be loaded."""
    found: dict[str, AnySaga] = {}
    for point in entry_points(group=SAGAS):
        saga = point.load()
        if not isinstance(saga, Saga):
            raise _unusable(f"entry point {point.name} is no saga", point.value)
        found[saga.name] = saga
    for module in modules:
        defined: list[AnySaga] = [value for value in vars(_imported(module)).values() if isinstance(value, Saga)]
        found |= {saga.name: saga for saga in defined}
    return found


def find_saga(name: str, modules: Sequence[str] = ()) -> AnySaga:
    """Give the saga of this name; raises `CommandError` (exit 3) naming those that there are."""
    known = registered_sagas(modules)
    if name not in known:
        do = f"known: {', '.join(sorted(known)) or 'none'}; give its module with --app"
        raise CommandError("saga-unknown", f"there is no saga definition {name!r}", SAGAS, do, ExitCode.NOT_FOUND)
    return known[name]


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ImportError, SyntaxError, ValueError, TypeError) as error:
        raise _unusable(str(error), module) from error


def _unusable(what: str, where: str) -> CommandError:
    return CommandError("app-missing", what, where, "give a module that defines sagas", ExitCode.NOT_FOUND)
