"""Shared parts of the audit commands: the progress bar and the witness options."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tradesaga.infra.audit_log.witness import WitnessError, WitnessFile
from tradesaga.infra.errors import CommandError, ExitCode


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
