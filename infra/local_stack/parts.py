"""The processes that a stack runs beside its two servers, described by data: the venue and every service."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.ports import LOOPBACK
from tradesaga.infra.local_stack.process import Launch, launch, stop
from tradesaga.infra.local_stack.state import PartState, StackState, change_state, read_state
from tradesaga.infra.paper_exchange.settings import PaperSettings


def venue_account(config: Path | None) -> tuple[str, str]:
    """Return key and secret of the first account in the venue's file. Raises `CommandError` (exit 2)."""
    try:
        settings = PaperSettings() if config is None else PaperSettings.model_validate_json(config.read_bytes())
    except (OSError, ValidationError) as error:
        what = f"the venue's configuration cannot be read ({type(error).__name__})"
        raise CommandError("venue-config", what, str(config), "correct that file", ExitCode.USAGE) from error
    if not settings.accounts:
        raise CommandError("venue-config", "it opens no account", str(config), "add one to `accounts`", ExitCode.USAGE)
    return settings.accounts[0].key, settings.accounts[0].secret


VENUE = "venue"

TOGETHER = "services"

PATIENCE = 25.0


def venue_part(home: Path, port: int, config: Path | None) -> PartState:
    """Describe the paper venue; its ledger lives in the stack's folder."""
    command = (VENUE, "--host", LOOPBACK, "--port", str(port), "--dir", str(home.resolve() / VENUE))
    if config is not None:
        command = (*command, "--config", str(config.resolve()))
    return PartState(name=VENUE, command=command, port=port)


def service_parts(names: Sequence[str], *, together: bool) -> list[PartState]:
    """Describe the services, each as a process of its own or all in one."""
    if together and names:
        return [PartState(name=TOGETHER, command=("run", *names), serves=tuple(names))]
    return [PartState(name=name, command=("run", name), serves=(name,)) for name in names]


def start_part(home: Path, part: PartState) -> PartState:
    """Start a part's process and record it; the very Python that runs us runs it."""
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

    def record(state: StackState) -> StackState:
        parts = (started if other.name == started.name else other for other in state.parts)
        return state.model_copy(update={"parts": tuple(parts)})

    change_state(home, record)
    return started


def stop_parts(home: Path) -> None:
    """Signal every part, wait for each to end, and record that none runs."""
    parts = read_state(home).parts
    waits = [threading.Thread(target=stop, args=(part.process, signal.SIGTERM, PATIENCE)) for part in parts]
    for wait in waits:
        wait.start()
    for wait in waits:
        wait.join()

    def record(state: StackState) -> StackState:
        stopped = (part.model_copy(update={"process": None}) for part in state.parts)
        return state.model_copy(update={"parts": tuple(stopped)})

    change_state(home, record)
