"""`tradesaga up` and `tradesaga down`."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tradesaga.infra.cli.console import App, AsJson, Directory, print_warning
from tradesaga.infra.local_stack.assembly import StackOptions, bring_down, bring_up
from tradesaga.infra.local_stack.display import show, stream
from tradesaga.infra.local_stack.status import look
from tradesaga.infra.registry.sagas import check_ownership
from tradesaga.infra.registry.services import find_services, service_names
from tradesaga.infra.settings import load_settings


def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    directory: Directory = None,
    together: Annotated[
        bool | None,
        typer.Option(
            "--together/--separate",
            help="Run all services in one process, or each in its own. By default as before in this folder, and in a "
            "new one together on a machine with at most two cores.",
        ),
    ] = None,
    app: App = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Run only this service; may be repeated.")] = None,
    venue_config: Annotated[
        Path | None, typer.Option(help="Configuration of the paper venue, JSON; see `tradesaga venue`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start Kafka, PostgreSQL, the paper venue and the services; without -d, print their logs until Ctrl-C.

    Example: `tradesaga up -d`
    """
    settings = load_settings(directory, app)
    names = service_names(settings) if only is None else list(find_services(only, settings))
    for warning in check_ownership(settings):
        print_warning(warning, as_json=as_json)
    with _ended_by_signal(settings.home, as_json=as_json, detached=detach):
        with _progress(quiet=as_json) as report:
            bring_up(settings.home, settings, StackOptions(names, together, venue_config), report)
        show(look(settings.home), as_json=as_json)
        if not detach:
            stream(settings.home, None)


def down(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Stop everything that `tradesaga up` started, cleanly; the data is kept.

    Example: `tradesaga down`
    """
    home = load_settings(directory).home
    with _progress(quiet=as_json) as report:
        bring_down(home, report)
    if as_json:
        show(look(home), as_json=True)


@contextmanager
def _ended_by_signal(home: Path, *, as_json: bool, detached: bool) -> Generator[None]:
    """In the foreground, stop the stack on Ctrl-C or SIGTERM."""
    if detached:
        yield
        return
    for name in (signal.SIGINT, signal.SIGTERM):  # a shell's background job starts with SIGINT ignored
        signal.signal(name, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        with _progress(quiet=as_json) as report:
            bring_down(home, report)


@contextmanager
def _progress(*, quiet: bool) -> Generator[Callable[[str], None]]:
    """Show progress on stderr, unless `quiet`."""
    console = Console(stderr=True, quiet=quiet)
    with console.status("") as spinner:

        def report(text: str) -> None:
            spinner.update(text)
            if not console.is_terminal:
                console.print(text)

        yield report
