"""The modules that `--app` and TRADESAGA_APP name, and the errors that are theirs and not ours."""

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


_OURS: Final = f"{Path(__file__).parents[2]}{os.sep}"

_INSTALLED: Final = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def import_app(module: str) -> ModuleType:
    """Import a module; the current folder is searched too, after everything that is installed.

    Raises `CommandError`: exit 3 when there is no such module, exit 1 for an error in it, with file and line.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if _is_absent(module, error):
            do = "run the command in the folder that holds it, or put that folder on PYTHONPATH"
            if module.endswith(".py"):
                do = f"give the module's name, {Path(module).stem}, not its file"
            raise CommandError("app-missing", str(error), module, do, ExitCode.NOT_FOUND) from error
        raise app_error(error, module) from error


def load_entry_point(point: EntryPoint) -> Any:
    """Load what an installed package has registered. Raises `CommandError` (exit 1) naming what is wrong with it."""
    try:
        return point.load()
    except Exception as error:
        raise app_error(error, f"entry point {point.name} = {point.value}") from error


def app_error(error: BaseException, module: str) -> CommandError:
    """Return the error of a user's module as theirs: with its place where one is known, else with the module."""
    if isinstance(error, CommandError):
        return error
    if (needed := missing_extra(error)) is not None:
        return needed
    where = find_place(error) or module
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, DefinitionError):
        return CommandError("definition-unsound", f"a definition cannot work: {error}", where, "change it as said")
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return CommandError("app-failed", what, where, "correct it there; TRADESAGA_DEBUG=1 shows the whole trace")


def find_place(error: BaseException) -> str | None:
    """Return FILE:LINE of the innermost frame that is neither ours, nor Python's, nor of an installed package."""
    if isinstance(error, SyntaxError) and error.filename and is_users(error.filename):
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return None


def is_theirs(error: BaseException) -> bool:
    """Return whether a user's module raised this, and not ours at its call; packages beneath either are passed over."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename) or frame.filename.startswith(_OURS):
            return is_users(frame.filename)
    return False


def is_users(file: str) -> bool:
    """Return whether a source file is neither ours, nor Python's, nor an installed package's."""
    return not file.startswith(("<", _OURS, *_INSTALLED))


def _is_absent(module: str, error: BaseException) -> bool:
    """Return whether there is no such module; one that lacks what it imports itself is there, and wrong."""
    if isinstance(error, ModuleNotFoundError):
        return error.name is not None and f"{module}.".startswith(f"{error.name}.")
    return isinstance(error, ValueError | TypeError) and find_place(error) is None  # "", ".relative"
