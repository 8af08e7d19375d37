"""The services that `tradesaga run` and `up` can run, of installed packages and of the settings' modules.

A module's services are its mapping `services` and its participants, each under its name.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import entry_points
from types import ModuleType
from typing import Final, cast

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.registry.app_modules import import_app, load_entry_point
from tradesaga.infra.registry.participants import PARTICIPANTS, StepOwner, module_participants, resolve_participant
from tradesaga.infra.settings import Settings

Service = Callable[[Settings], Awaitable[None]]
SERVICES: Final = "tradesaga.services"
"""Entry points: each a function `(Settings) -> Awaitable[None]`."""


def service_names(settings: Settings) -> list[str]:
    """Return the names of all services, sorted. Raises `CommandError` as `find_services` does."""
    return sorted({*_installed(), *_app_services(settings)})


def find_services(names: Sequence[str], settings: Settings) -> dict[str, Service]:
    """Load the named services.

    Raises `CommandError`: exit 3 for an unknown one, 4 for a participant whose name another service has.
    """
    own = _app_services(settings)
    return {name: own[name] if name in own else _load(name, own) for name in names}


def app_participants(settings: Settings) -> dict[str, StepOwner]:
    """Return the participants of the settings' modules by name, without those that a package has registered.

    Raises `CommandError` (exit 4) for a name that another service has.
    """
    installed = _installed()
    found: dict[str, StepOwner] = {}
    for module in settings.app:
        for owner in module_participants(import_app(module), settings):
            registered = [load_entry_point(point) for point in entry_points(group=PARTICIPANTS, name=owner.name)]
            if owner in registered:
                continue
            if owner.name in installed or found.setdefault(owner.name, owner) is not owner:
                what = f"participant {owner.name} of saga {owner.saga.name} has the name of another service"
                raise CommandError("service-name-taken", what, module, "give it a name of its own", ExitCode.REFUSED)
    return found


def _app_services(settings: Settings) -> dict[str, Service]:
    own: dict[str, Service] = {name: owner.serve for name, owner in app_participants(settings).items()}
    for module in settings.app:
        own |= _mapped_services(module)
    return own


def _mapped_services(module: str) -> dict[str, Service]:
    """Return a module's mapping `services`. Raises `CommandError` (exit 1) for one that cannot be run."""
    services = getattr(import_app(module), "services", {})
    if isinstance(services, ModuleType):  # a submodule of that name
        return {}
    if not isinstance(services, Mapping) or not all(
        isinstance(name, str) and name and callable(service)
        for name, service in cast("Mapping[object, object]", services).items()
    ):
        what, do = "`services` maps no names to functions", 'write services = {"name": async function of the settings}'
        raise CommandError("services-invalid", what, module, do)
    return dict(cast("Mapping[str, Service]", services))


def _installed() -> set[str]:
    return {point.name for group in (SERVICES, PARTICIPANTS) for point in entry_points(group=group)}


def _load(name: str, own: Mapping[str, Service]) -> Service:
    for point in entry_points(group=SERVICES, name=name):
        return load_entry_point(point)
    for point in entry_points(group=PARTICIPANTS, name=name):
        return _serving(load_entry_point(point), point.value)
    known = ", ".join(sorted({*_installed(), *own})) or "none"
    raise CommandError(
        "service-unknown", f"there is no service {name}", SERVICES, f"known: {known}", ExitCode.NOT_FOUND
    )


def _serving(registered: object, where: str) -> Service:
    async def serve(settings: Settings) -> None:
        await resolve_participant(registered, settings, where).serve(settings)

    return serve
