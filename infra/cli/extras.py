"""The optional parts of the package: which extra installs a module that cannot be imported."""

import re
from importlib.metadata import PackageNotFoundError, requires
from typing import Final

from tradesaga.infra.errors import CommandError, ExitCode

DISTRIBUTION: Final = "tradesaga"
OLDER_NAMES: Final = frozenset({"demo"})
"""Extras that install the same as another."""


def missing_extra(error: BaseException) -> CommandError | None:
    """Return the error that names the extra to install, or None when no extra brings the missing module."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    package = (error.name or "").partition(".")[0]
    extra = extra_of(package)
    if extra is None:
        return None
    what = f"the package {package} of the extra {extra} is not installed"
    return CommandError("extra-missing", what, DISTRIBUTION, how_to_install(extra), ExitCode.NOT_FOUND)


def extra_of(module: str) -> str | None:
    """Return the smallest extra that installs a top-level module; modules and packages are called alike."""
    extras = _extras()
    found = [extra for extra, packages in extras.items() if _normalized(module) in packages]
    return min(found, key=lambda extra: len(extras[extra]), default=None)


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra, as the last part of an error."""
    return f"run `pip install '{DISTRIBUTION}[{extra}]'`"


def _extras() -> dict[str, set[str]]:
    """Return the packages that each extra adds, from the metadata of the installed package."""
    try:
        requirements = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # run from a folder that nobody installed
        return {}
    found: dict[str, set[str]] = {}
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]*", requirement), re.search(r"\bextra == ['\"]([\w-]+)['\"]", requirement)
        if name and extra and extra[1] not in OLDER_NAMES:
            found.setdefault(extra[1], set()).add(_normalized(name[0]))
    return found


def _normalized(name: str) -> str:
    return name.replace("-", "_").replace(".", "_").lower()
