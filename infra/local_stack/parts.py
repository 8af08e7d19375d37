"""Supervised processes of a stack: the paper venue and the services."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.ports import LOOPBACK
from tradesaga.infra.local_stack.process import Launch, launch, stop
from tradesaga.infra.local_stack.state import PartState, change_state, read_state
from tradesaga.infra.paper_exchange.settings import PaperSettings


def venue_account(config: Path | None) -> tuple[str, str]:
    """Return key and secret of the first account in the venue's configuration. Raises CommandError (exit 2)."""
    try:
        settings = PaperSettings() if config is None else PaperSettings.model_validate_json(config.read_bytes())
    except (OSError, ValidationError) as error:
        what = f"the venue's configuration cannot be read ({type(error).__name__})"
        raise CommandError("venue-config", what, str(config), "correct that file", ExitCode.USAGE) from error
    if not settings.accounts:
        what, do = "the venue's configuration has no account", "add one to `accounts`"
        raise CommandError("venue-config", what, str(config), do, ExitCode.USAGE)
    return settings.accounts[0].key, settings.accounts[0].secret


VENUE = "venue"
TOGETHER = "services"
PATIENCE = 25.0


def venue_part(home: Path, port: int, config: Path | None) -> PartState:
    """Return the part that runs the paper venue, with its ledger in the stack's folder."""
    command = (VENUE, "--host", LOOPBACK, "--port", str(port), "--dir", str(home.resolve() / VENUE))
    if config is not None:
        command = (*command, "--config", str(config.resolve()))
    return PartState(name=VENUE, command=command, port=port)


def service_parts(names: Sequence[str], *, together: bool) -> list[PartState]:
    """Return the parts that run the services, in one process each or all in one."""
    if together and names:
        return [PartState(name=TOGETHER, command=("run", *names), serves=tuple(names))]
    return [PartState(name=name, command=("run", name), serves=(name,)) for name in names]


def are_together(parts: Sequence[PartState]) -> bool | None:
    """Return whether the services of these parts share one process; None if there are no services."""
    serving = [part.name for part in parts if part.serves]
    return serving == [TOGETHER] if serving else None


def start_part(home: Path, part: PartState) -> PartState:
    """Start a part's process with this Python, and record it."""
    home = home.resolve()
    environment = {
        **os.environ,
        "TRADESAGA_HOME": str(home),
        "TRADESAGA_METRICS_PORT": str(part.port),
        "PYTHONUNBUFFERED": "1",
        **part.environment,
    }
    argv = [sys.executable, "-m", "tradesaga.infra.cli.entry", *part.command]
    process = launch(Launch(argv, home / "logs" / f"{part.name}.log", Path.cwd(), environment))
    started = part.model_copy(update={"process": process, "starts": part.starts + 1})
    _change_parts(home, lambda other: started if other.name == started.name else other)
    return started


def stop_parts(home: Path) -> None:
    """Stop all parts at once, wait until they have ended, and record it."""
    if parts := read_state(home).parts:
        with ThreadPoolExecutor(len(parts)) as pool:
            for stopping in [pool.submit(stop, part.process, signal.SIGTERM, PATIENCE) for part in parts]:
                stopping.result()
    _change_parts(home, lambda part: part.model_copy(update={"process": None}))


def _change_parts(home: Path, change: Callable[[PartState], PartState]) -> None:
    change_state(home, lambda state: state.model_copy(update={"parts": tuple(map(change, state.parts))}))
