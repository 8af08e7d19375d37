"""`tradesaga status` and `tradesaga logs`: what a person sees of a stack."""

from pathlib import Path
from typing import Annotated

import typer

from tradesaga.infra.cli.options import AsJson, Directory
from tradesaga.infra.errors import ExitCode
from tradesaga.infra.local_stack.logs import follow, last_lines, log_files
from tradesaga.infra.local_stack.process import is_alive
from tradesaga.infra.local_stack.state import read_state
from tradesaga.infra.local_stack.status import ServiceStatus, StackStatus, look
from tradesaga.infra.settings import load_settings


def status(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show what runs and where; exit 5 when a server or a service does not.

    Example: `tradesaga status --json`
    """
    found = look(load_settings(directory).home)
    show(found, as_json=as_json)
    if not found.is_up:
        raise typer.Exit(int(ExitCode.UNAVAILABLE))


def logs(
    service: Annotated[str | None, typer.Argument(help="A service, kafka, postgres, venue or supervisor.")] = None,
    *,
    wait: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the logs grow, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many last lines of each.")] = 20,
    directory: Directory = None,
) -> None:
    """Show the last lines of the logs.

    Example: `tradesaga logs saga-log`
    """
    home = load_settings(directory).home
    for file in log_files(home, service):
        for line in last_lines(file, lines):
            typer.echo(f"{file.stem} | {line}")
    if wait:
        stream(home, service)


def stream(home: Path, service: str | None) -> None:
    """Print log lines until Ctrl-C, or until the supervisor is gone because of a `down` elsewhere."""
    for name, line in follow(home / "logs", service, lambda: not is_alive(read_state(home).supervisor)):
        typer.echo(f"{name} | {line}")


def _told(service: ServiceStatus) -> str:
    """Describe a service's state; a lag counts from one second on."""
    late = f"{service.lag_seconds:.0f} s behind" if (service.lag_seconds or 0) >= 1 else ""
    refusing = f"takes nothing new in: {service.refusing}" if service.refusing else ""
    told = (
        f"{service.state} {service.metrics or ''}".rstrip(),
        late,
        refusing,
        service.warning or "",
        service.halted or "",
    )
    return "  ".join(filter(None, told))


def show(found: StackStatus, *, as_json: bool) -> None:
    """Print a stack's status on stdout."""
    if as_json:
        typer.echo(found.model_dump_json())
        return
    rows = [(name, getattr(found, name) or "stopped") for name in ("kafka", "database", "venue", "http")]
    if found.topic_prefix:
        rows.insert(1, ("topics", f"{found.topic_prefix}.*"))
    rows += [(service.name, _told(service)) for service in found.services]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:{width}}  {text}")
