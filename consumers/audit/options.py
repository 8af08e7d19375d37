"""Shared parts of the audit commands: the progress bar, witness files and times."""

import re
from collections.abc import Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tradesaga.consumers.saga_log.reading import MAX_TIME
from tradesaga.infra.audit_log.witness import WitnessError, WitnessFile
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Session, session
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries

TrustedKeys = Annotated[list[Path] | None, typer.Option("--key", help="A file of trusted public keys.")]

_SECOND: Final = 1_000_000_000
_ISO: Final = re.compile(
    r"(?P<whole>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?)(?:\.(?P<rest>\d{1,9}))?(?P<zone>Z|z|[+-]\d\d:?\d\d)", re.ASCII
)
_NANOSECONDS: Final = re.compile(r"\d{16,19}", re.ASCII)
"""Fewer digits would be milliseconds or seconds."""


def command_settings(directory: Path | None) -> Settings:
    """Load the settings, and silence the libraries' logs."""
    settings = load_settings(directory)
    silence_libraries()
    return settings


def audit_session(settings: Settings, command: str = "") -> AbstractAsyncContextManager[Session]:
    """Open a session in the saga log's database."""
    return session(settings.database_for(SAGA_LOG), application_name=f"tradesaga audit {command}".rstrip())


def progress_bar() -> Progress:
    """Return a progress bar on stderr that disappears at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def named_witnesses(paths: Iterable[Path]) -> list[WitnessFile]:
    """Return the witnesses in these files. Raises `CommandError` (exit 3) for a missing file."""
    paths = list(paths)
    if missing := next((path for path in paths if not path.exists()), None):
        do = "name the right one"
        raise CommandError("witness-missing", "there is no such file", str(missing), do, ExitCode.NOT_FOUND)
    return [WitnessFile(path) for path in paths]


@contextmanager
def believing_witnesses() -> Generator[None]:
    """Convert `WitnessError` for a named file to `CommandError` (exit 2)."""
    try:
        yield
    except WitnessError as error:
        do = "name the right file"
        raise CommandError("witness-invalid", str(error), "--witness", do, ExitCode.USAGE) from error


def read_time(text: str, option: str) -> int:
    """Parse a time in ISO 8601 with a zone and up to nine decimals, or nanoseconds since 1970.

    Raises `CommandError` (exit 2).
    """
    if _NANOSECONDS.fullmatch(text):
        found = int(text)
    elif match := _ISO.fullmatch(text.strip()):
        try:
            whole = datetime.fromisoformat(match["whole"] + match["zone"].upper())
        except ValueError as error:
            raise _bad_time(text, option, str(error)) from error
        found = int(whole.timestamp()) * _SECOND + int((match["rest"] or "0").ljust(9, "0"))
    else:
        do = "write it as 2026-11-23T14:03:07.120+01:00 or ...Z, with its zone, or as nanoseconds since 1970"
        raise _bad_time(text, option, do)
    if not 0 <= found <= MAX_TIME:
        raise _bad_time(text, option, "give a time between 1970 and 2262")
    return found


def _bad_time(text: str, option: str, do: str) -> CommandError:
    return CommandError("time-invalid", f"{text!r} is not a time", option, do, ExitCode.USAGE)
