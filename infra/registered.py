"""The sagas that this installation knows, by entry point and from the settings' modules, and who owns their steps."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Final

from infra.app_modules import import_app, load_entry_point
from infra.errors import CommandError, ExitCode
from infra.owners import StepOwner, check_owners, registered_owners, unowned_steps
from infra.settings import Settings
from sagas.definition import AnySaga, Saga

SAGAS: Final = "tradesaga.sagas"


def registered_sagas(modules: Sequence[str] = ()) -> dict[str, AnySaga]:
    """Return the sagas by name. Raises `CommandError` for one that cannot be loaded."""
    found: dict[str, AnySaga] = {}
    for point in entry_points(group=SAGAS):
        saga = load_entry_point(point)
        if not isinstance(saga, Saga):
            what, do = f"entry point {point.name} is no saga", "name a `sagas.definition.Saga` there"
            raise CommandError("app-missing", what, point.value, do, ExitCode.NOT_FOUND)
        found[saga.name] = saga
    return found | module_sagas(modules)


def module_sagas(modules: Sequence[str]) -> dict[str, AnySaga]:
    """Return the sagas of modules: their global names, and those of the participants among these."""
    found: dict[str, AnySaga] = {}
    for module in modules:
        for value in vars(import_app(module)).values():
            saga = value.saga if isinstance(value, StepOwner) else value
            if isinstance(saga, Saga):
                found[saga.name] = saga
    return found


def find_saga(name: str, modules: Sequence[str] = ()) -> AnySaga:
    """Return the saga of this name; raises `CommandError` (exit 3) naming those that there are."""
    known = registered_sagas(modules)
    if name not in known:
        do = f"known: {', '.join(sorted(known)) or 'none'}; give its module with --app"
        raise CommandError("saga-unknown", f"there is no saga definition {name!r}", SAGAS, do, ExitCode.NOT_FOUND)
    return known[name]


def check_ownership(settings: Settings) -> list[str]:
    """Check all that is registered; return a sentence for each saga with steps that nobody registered here owns.

    Raises as `check_owners` does.
    """
    owners = registered_owners(settings)
    check_owners(owners)
    return [
        f"saga {name}: no participant that is registered here owns {', '.join(missing)}; a saga that comes that far "
        f"waits for one, and does not end before it is there"
        for name, saga in sorted(registered_sagas(settings.app).items())
        if (missing := unowned_steps(saga, owners))
    ]
