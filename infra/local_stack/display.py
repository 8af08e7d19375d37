"""`tradesaga status` and `tradesaga logs`, which import nothing of the servers: they may not be installed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from tradesaga.infra.cli.console import AsJson, Directory
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.process import is_alive, last_lines
from tradesaga.infra.local_stack.state import read_state
from tradesaga.infra.local_stack.status import ServiceStatus, StackStatus, look
from tradesaga.infra.settings import load_settings

POLL_SECONDS = 0.2
_TOGETHER = "all in one process (for one process each: `tradesaga down`, then `tradesaga up --separate`)"
_SEPARATE = "one process each (for one process for all: `tradesaga down`, then `tradesaga up --together`)"
LAST_BYTES = 64 * 1024


def log_files(home: Path, name: str | None) -> list[Path]:
    """Return the log of one process, or all logs. Raises CommandError (exit 3) if there is none."""
    folder = home / "logs"
    found = sorted(folder.glob("*.log")) if name is None else [folder / f"{name}.log"]
    missing = not found or not all(file.exists() for file in found)
    if missing:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.log"))) or "none yet"
        what = f"there is no log of {name}" if name else "there are no logs"
        raise CommandError("log-unknown", what, str(folder), f"known: {known}", ExitCode.NOT_FOUND)
    return found


def follow(folder: Path, wanted: str | None, is_over: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Yield (process, line) as logs grow until `is_over`; new and replaced logs are read from their start."""
    pattern = f"{wanted or '*'}.log"
    positions = {file: file.stat().st_size for file in folder.glob(pattern)}
    while not is_over():
        for file in sorted(folder.glob(pattern)):
            start = positions.get(file, 0)
            end = file.stat().st_size
            lines, positions[file] = _read_lines(file, start if start <= end else 0)
            yield from ((file.stem, line) for line in lines)
        time.sleep(POLL_SECONDS)


def _read_lines(file: Path, start: int) -> tuple[list[str], int]:
    """Return the whole lines from `start` on, and the position of the next one."""
    with file.open("rb") as log:
        log.seek(start)
        whole, newline, _ = log.read().rpartition(b"\n")
    if not newline:
        return [], start
    return whole.decode(errors="replace").splitlines(), start + len(whole) + 1


def status(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show what runs and where; exit 5 if a server or a service does not run.

    Example: `tradesaga status --json`
    """
    found = look(load_settings(directory).home)
    show(found, as_json=as_json)
    if not found.is_up:
        raise typer.Exit(int(ExitCode.UNAVAILABLE))


def logs(
    service: Annotated[str | None, typer.Argument(help="A service, kafka, postgres, venue or supervisor.")] = None,
    *,
    wait: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Number of last lines of each log.")] = 20,
    directory: Directory = None,
) -> None:
    """Show the last lines of the logs.

    Example: `tradesaga logs saga-log`
    """
    home = load_settings(directory).home
    parts = {name: part.name for part in read_state(home).parts for name in part.serves}
    service = parts.get(service, service) if service else None  # several services may share a process, and its log
    for file in log_files(home, service):
        for line in last_lines(file, lines, LAST_BYTES):
            typer.echo(f"{file.stem} | {line}")
    if wait:
        stream(home, service)


def stream(home: Path, service: str | None) -> None:
    """Print new log lines until Ctrl-C, or until `tradesaga down` ends the supervisor."""
    for name, line in follow(home / "logs", service, lambda: not is_alive(read_state(home).supervisor)):
        typer.echo(f"{name} | {line}")


def _describe(service: ServiceStatus) -> str:
    """Describe a service's state; a lag below one second is left out."""
    late = f"{service.lag_seconds:.0f} s behind" if (service.lag_seconds or 0) >= 1 else ""
    refusing = f"refuses new work: {service.refusing}" if service.refusing else ""
    state = f"{service.state} {service.metrics or ''}".rstrip()
    return "  ".join(filter(None, (state, late, refusing, service.warning, service.halted)))


def show(found: StackStatus, *, as_json: bool) -> None:
    """Print a stack's status."""
    if as_json:
        typer.echo(found.model_dump_json())
        return
    rows = [(name, getattr(found, name) or "stopped") for name in ("kafka", "database", "venue", "http")]
    prefix = f"{found.topic_prefix}.*" if found.topic_prefix else ""
    partitions = f"{found.partitions} partitions" if found.partitions else ""
    if prefix or partitions:
        rows.insert(1, ("topics", ", ".join(filter(None, (prefix, partitions)))))
    if found.together is not None:
        rows.append(("services", _TOGETHER if found.together else _SEPARATE))
    rows += [(service.name, _describe(service)) for service in found.services]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:{width}}  {text}")
