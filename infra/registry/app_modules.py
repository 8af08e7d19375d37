"""Users' modules, named by `--app` and TRADESAGA_APP: their import, and which errors come from their code."""

import importlib
import os
import re
import sys
import sysconfig
import traceback
from importlib.metadata import EntryPoint, PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.sagas.errors import DefinitionError

DISTRIBUTION: Final = "tradesaga"

OLDER_NAMES: Final = frozenset({"demo"})
"""Extras that install the same as another."""


def missing_extra(error: BaseException) -> CommandError | None:
    """Return the error that names the extra to install, or None if no extra installs the missing module."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    package = (error.name or "").partition(".")[0]
    extra = extra_of(package)
    if extra is None:
        return None
    what = f"the package {package} of the extra {extra} is not installed"
    return CommandError("extra-missing", what, DISTRIBUTION, how_to_install(extra), ExitCode.NOT_FOUND)


def extra_of(module: str) -> str | None:
    """Return the smallest extra that installs a top-level module; a module and its package have the same name."""
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
    except PackageNotFoundError:  # run from a folder that is not installed
        return {}
    found: dict[str, set[str]] = {}
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]*", requirement), re.search(r"\bextra == ['\"]([\w-]+)['\"]", requirement)
        if name and extra and extra[1] not in OLDER_NAMES:
            found.setdefault(extra[1], set()).add(_normalized(name[0]))
    return found


def _normalized(name: str) -> str:
    return name.replace("-", "_").replace(".", "_").lower()


_OURS: Final = f"{Path(__file__).parents[2]}{os.sep}"

_INSTALLED: Final = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def import_app(module: str) -> ModuleType:
    """Import a module; the current folder is searched after all installed packages.

    Raises `CommandError`: exit 3 if there is no such module, exit 1 for an error in it, with file and line.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if _is_absent(module, error):
            do = "run the command in the module's folder, or put that folder on PYTHONPATH"
            if module.endswith(".py"):
                do = f"write the module's name, {Path(module).stem}, instead of its file"
            raise CommandError("app-missing", str(error), module, do, ExitCode.NOT_FOUND) from error
        raise app_error(error, module) from error


def load_entry_point(point: EntryPoint) -> Any:
    """Load an entry point of an installed package. Raises `CommandError` (exit 1) that describes its error."""
    try:
        return point.load()
    except Exception as error:
        raise app_error(error, f"entry point {point.name} = {point.value}") from error


def app_error(error: BaseException, module: str) -> CommandError:
    """Return the error of a user's module, with its file and line if known, otherwise with the module."""
    if isinstance(error, CommandError):
        return error
    if (needed := missing_extra(error)) is not None:
        return needed
    where = find_place(error) or module
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, DefinitionError):
        return CommandError("definition-unsound", f"a definition cannot work: {error}", where, "correct the definition")
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return CommandError("app-failed", what, where, "correct it there; TRADESAGA_DEBUG=1 shows the stack trace")


def find_place(error: BaseException) -> str | None:
    """Return FILE:LINE of the innermost frame in a user's file, None if there is none."""
    if isinstance(error, SyntaxError) and error.filename and is_users(error.filename):
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return None


def is_theirs(error: BaseException) -> bool:
    """Return whether a user's module raised this rather than ours; frames of other packages are ignored."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename) or frame.filename.startswith(_OURS):
            return is_users(frame.filename)
    return False


def is_users(file: str) -> bool:
    """Return whether a source file belongs neither to tradesaga, nor to Python, nor to an installed package."""
    return not file.startswith(("<", _OURS, *_INSTALLED))


def _is_absent(module: str, error: BaseException) -> bool:
    """Return whether there is no such module; a module whose own imports fail exists."""
    if isinstance(error, ModuleNotFoundError):
        return error.name is not None and f"{module}.".startswith(f"{error.name}.")
    return isinstance(error, ValueError | TypeError) and find_place(error) is None  # "", ".relative"
