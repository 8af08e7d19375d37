"""`tradesaga up`, `down`, `status`, `logs` and `run`."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infra.errors import ExitCode
from infra.settings import load_settings
from infra.stack.assembly import Plan, bring_down, bring_up
from infra.stack.logs import follow, last_lines, log_files
from infra.stack.process import is_alive
from infra.stack.run import find_services, run_services, service_names
from infra.stack.state import read_state
from infra.stack.status import StackStatus, look

commands = typer.Typer()
Directory = Annotated[
    Path | None, typer.Option("--dir", help="The stack's folder; default TRADESAGA_HOME or .tradesaga.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@commands.command()
def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once all is ready.")] = False,
    directory: Directory = None,
    together: Annotated[bool, typer.Option("--together", help="Run all services in one process.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="Run this service only; may be repeated.")] = None,
    venue_config: Annotated[
        Path | None, typer.Option(help="The paper venue's JSON file; see `tradesaga venue`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start Kafka, PostgreSQL, the paper venue and the services; without -d show their logs until Ctrl-C."""
    settings = load_settings(directory)
    names = service_names() if only is None else list(find_services(only, settings.app))
    with _ended_by_signal(settings.home, as_json=as_json, detached=detach):
        with _progress(as_json) as report:
            bring_up(settings.home, settings, Plan(names, together, venue_config), report)
        _show(look(settings.home), as_json)
        if not detach:
            _stream(settings.home, None)


@commands.command()
def down(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Stop everything that `up` has started, cleanly; the data stays."""
    home = load_settings(directory).home
    with _progress(as_json) as report:
        bring_down(home, report)
    if as_json:
        _show(look(home), as_json)


@commands.command()
def status(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show what runs and where; exit 5 when a server or a service does not."""
    found = look(load_settings(directory).home)
    _show(found, as_json)
    if not found.is_up:
        raise typer.Exit(int(ExitCode.UNAVAILABLE))


@commands.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="A service, kafka, postgres, venue or supervisor.")] = None,
    *,
    wait: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the logs grow, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many last lines of each.")] = 20,
    directory: Directory = None,
) -> None:
    """Show the last lines of the logs."""
    home = load_settings(directory).home
    for file in log_files(home, service):
        for line in last_lines(file, lines):
            typer.echo(f"{file.stem} | {line}")
    if wait:
        _stream(home, service)


@commands.command()
def run(
    services: Annotated[list[str], typer.Argument(help="Services to run together in this process.")],
    *,
    directory: Directory = None,
    app: Annotated[list[str] | None, typer.Option("--app", help="A module with further `services`.")] = None,
) -> None:
    """Run services in the foreground until SIGTERM or Ctrl-C."""
    settings = load_settings(directory)
    modules = (*settings.app, *(app or ()))
    run_services(find_services(services, modules), settings)


@contextmanager
def _ended_by_signal(home: Path, *, as_json: bool, detached: bool) -> Generator[None]:
    """Stop the stack when Ctrl-C or SIGTERM ends a command in the foreground; that is how it is meant to end."""
    if detached:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        with _progress(as_json) as report:
            bring_down(home, report)


def _stream(home: Path, service: str | None) -> None:
    """Print log lines until Ctrl-C, or until the supervisor is gone because of a `down` elsewhere."""
    for name, line in follow(home / "logs", service, lambda: not is_alive(read_state(home).supervisor)):
        typer.echo(f"{name} | {line}")


@contextmanager
def _progress(as_json: bool) -> Generator[Callable[[str], None]]:
    """Show what is being done on stderr; nothing for scripts."""
    console = Console(stderr=True, quiet=as_json)
    with console.status("") as spinner:

        def report(text: str) -> None:
            spinner.update(text)
            if not console.is_terminal:
                console.print(text)

        yield report


def _show(found: StackStatus, as_json: bool) -> None:
    if as_json:
        typer.echo(found.model_dump_json())
        return
    rows = [(name, getattr(found, name) or "stopped") for name in ("kafka", "database", "venue", "http")]
    rows += [(service.name, f"{service.state} {service.metrics or ''}".rstrip()) for service in found.services]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:{width}}  {text}")
