"""The registered sagas of this installation and their audit texts, from entry points and app modules.

With each saga come the participants that own its steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Final, Generic, TypeVar

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.registry.app_modules import import_app, load_entry_point
from tradesaga.infra.registry.participants import StepOwner, check_participants, registered_participants, unowned_steps
from tradesaga.infra.settings import Settings
from tradesaga.sagas.audit_text import AuditText
from tradesaga.sagas.definition import AnySaga, Saga

SAGAS: Final = "tradesaga.sagas"
AUDIT_TEXTS: Final = "tradesaga.audit_texts"
P = TypeVar("P", bound=StepOwner)
UNKNOWN_VERSION: Final = "the saga runs under version"
"""Beginning of the reason for which a record waits until a version of its saga's definition is registered."""


def registered_sagas(modules: Sequence[str] = ()) -> dict[str, AnySaga]:
    """Return the sagas by name, each with all its versions; a module's are its global names.

    Raises `CommandError` for one that cannot be loaded, and for definitions of one name that are not combined.
    """
    found: dict[str, list[AnySaga]] = {}
    for point in entry_points(group=SAGAS):
        saga = load_entry_point(point)
        if not isinstance(saga, Saga):
            what, do = f"entry point {point.name} is not a saga", "register a `tradesaga.sagas.definition.Saga`"
            raise CommandError("app-missing", what, point.value, do, ExitCode.NOT_FOUND)
        defined: list[AnySaga] = [saga]
        found.setdefault(defined[0].name, []).extend(defined)
    for saga in _defined(modules):
        found.setdefault(saga.name, []).append(saga)
    return {name: _whole(name, sagas) for name, sagas in found.items()}


def registered_texts(modules: Sequence[str] = ()) -> dict[str, AuditText]:
    """Return the audit texts by saga; those of a module, its global names, replace those of an entry point.

    Raises `CommandError` (exit 3) for one that cannot be loaded.
    """
    texts: list[AuditText] = []
    for point in entry_points(group=AUDIT_TEXTS):
        text = load_entry_point(point)
        if not isinstance(text, AuditText):
            what = f"entry point {point.name} is not an audit text"
            do = "register a `tradesaga.sagas.audit_text.AuditText`"
            raise CommandError("app-missing", what, point.value, do, ExitCode.NOT_FOUND)
        texts.append(text)
    texts += [
        value for module in modules for value in vars(import_app(module)).values() if isinstance(value, AuditText)
    ]
    return {text.saga.name: text for text in texts}


def module_sagas(modules: Sequence[str]) -> dict[str, AnySaga]:
    """Return the sagas of modules: their global names, and the sagas of their participants."""
    found: dict[str, list[AnySaga]] = {}
    for saga in _defined(modules):
        found.setdefault(saga.name, []).append(saga)
    return {name: _whole(name, sagas) for name, sagas in found.items()}


def _defined(modules: Sequence[str]) -> list[AnySaga]:
    values = [value for module in modules for value in vars(import_app(module)).values()]
    found: list[AnySaga] = [
        value.saga if isinstance(value, StepOwner) else value for value in values if _defines(value)
    ]
    return found


def _defines(value: object) -> bool:
    return isinstance(value, StepOwner | Saga)


@dataclass(frozen=True, slots=True)
class RegisteredSaga(Generic[P]):
    """A saga with those of its participants that are registered here."""

    saga: AnySaga
    participants: Sequence[P]

    @property
    def unowned(self) -> list[str]:
        """The names of the steps that no participant owns."""
        return unowned_steps(self.saga, self.participants)


def sagas_with_participants(settings: Settings, kind: type[P]) -> list[RegisteredSaga[P]]:
    """Return each registered saga with its participants of this type. Raises as `registered_sagas` does."""
    found = [each for each in registered_participants(settings) if isinstance(each, kind)]
    return [
        RegisteredSaga(saga, [each for each in found if each.saga.name == name])
        for name, saga in sorted(registered_sagas(settings.app).items())
    ]


def find_saga(name: str, modules: Sequence[str] = ()) -> AnySaga:
    """Return the saga of this name. Raises `CommandError` (exit 3) that lists the known names."""
    known = registered_sagas(modules)
    if name not in known:
        do = f"known: {', '.join(sorted(known)) or 'none'}; give its module with --app"
        raise CommandError("saga-unknown", f"there is no saga definition {name!r}", SAGAS, do, ExitCode.NOT_FOUND)
    return known[name]


def _whole(name: str, sagas: list[AnySaga]) -> AnySaga:
    """Return the one of a saga's definitions that includes all the others."""
    whole = [each for each in sagas if all(_has(each, other) for other in sagas)]
    if not whole:
        versions = sorted({version for each in sagas for version in each.versions})
        if len(versions) == 1:
            what, do = (
                f"two definitions of saga {name!r} have version {versions[0]}",
                "increase the newer one's version",
            )
        else:
            what = f"saga {name!r} is defined in versions {', '.join(map(str, versions))}, and none includes the others"
            do = f"register one value, whose version new sagas get: `{name} = newest.alongside(older)`"
        raise CommandError("saga-ambiguous", what, SAGAS, f"{do}; see docs/versions.md", ExitCode.USAGE)
    if len({each.version for each in whole}) > 1:
        what = f"two definitions of saga {name!r} each claim new sagas"
        raise CommandError("saga-ambiguous", what, SAGAS, "keep one `alongside`; see docs/versions.md", ExitCode.USAGE)
    return whole[-1]


def _has(saga: AnySaga, other: AnySaga) -> bool:
    """Return whether a definition includes all versions of another."""
    mine = saga.versions
    return all(version in mine and _is(mine[version], each) for version, each in other.versions.items())


def _is(saga: AnySaga, other: AnySaga) -> bool:
    """Return whether two definitions are equal, or `saga` is `other` with further steps appended."""
    return saga.alone == other.alone or (
        len(other.steps) < len(saga.steps) and saga.steps[: len(other.steps)] == other.steps
    )


def check_ownership(settings: Settings) -> list[str]:
    """Check all participants; return a warning for each saga with steps that none registered here owns.

    Raises as `check_participants` does, and `CommandError` (exit 3) for a module without saga, participant or service.
    """
    for module in settings.app:
        imported = vars(import_app(module))
        if "services" not in imported and not any(
            _defines(value) or isinstance(value, AuditText) for value in imported.values()
        ):
            what, do = "the module has no saga, no participant and no `services`", "name the module that has them"
            raise CommandError("app-empty", what, module, do, ExitCode.NOT_FOUND)
    check_participants(registered_participants(settings))
    return [
        f"saga {each.saga.name}: no participant that is registered here owns {', '.join(each.unowned)}; "
        f"a saga that reaches such a step waits there until one is running"
        for each in sagas_with_participants(settings, StepOwner)
        if each.unowned
    ]
