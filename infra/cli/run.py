"""`tradesaga run`: runs services until SIGTERM, and ends a process whose event loop is blocked.

A service is an async function of the settings that returns only when it is cancelled.
"""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import structlog
import typer
import uvloop

from tradesaga.infra import failpoints
from tradesaga.infra.cli.console import App, Directory
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.garbage_collection import tune_garbage_collector
from tradesaga.infra.registry.sagas import check_ownership
from tradesaga.infra.registry.services import Service, app_participants, find_services
from tradesaga.infra.settings import Settings, load_settings
from tradesaga.infra.telemetry.health import serve_probes
from tradesaga.infra.telemetry.logs import configure_logs
from tradesaga.infra.telemetry.tracing import configure_tracing

LOOK_SECONDS: Final = 5.0
MISSED: Final = 24
"""Consecutive checks at which the event loop was blocked: two minutes in which nothing is read or sent."""


@asynccontextmanager
async def watch_event_loop(look: float = LOOK_SECONDS, missed: int = MISSED) -> AsyncGenerator[None]:
    """End the process if the running event loop is blocked while the body runs.

    Checks are counted, not seconds: a process that was stopped with all its threads has missed none.
    """
    loop, over, turned = asyncio.get_running_loop(), threading.Event(), threading.Event()

    def watch() -> None:
        left = missed
        while not over.wait(look):
            left = missed if turned.is_set() else left - 1
            turned.clear()
            if not left:
                faulthandler.dump_traceback(sys.stderr)
                exit_at_once("the event loop is blocked; the stacks of all threads are above")
            loop.call_soon_threadsafe(turned.set)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def exit_at_once(why: str) -> None:
    """End the process at once with exit code 5 and without cleanup; recovery is the same as after a crash."""
    structlog.get_logger("tradesaga.run").critical("leaving", why=why)
    sys.stderr.flush()
    os._exit(ExitCode.UNAVAILABLE)


PATIENCE = 20.0


def run(
    services: Annotated[list[str], typer.Argument(help="Services to run together in this process.")],
    *,
    directory: Directory = None,
    app: App = None,
) -> None:
    """Run services in the foreground until SIGTERM or Ctrl-C.

    Example: `tradesaga run saga-log risk cash`
    """
    settings = load_settings(directory, app)
    configure_logs(settings.log_level, settings.log_format)
    configure_tracing(settings.trace_ratio, ",".join(services))
    failpoints.arm()
    found = find_services(services, settings)
    if not app_participants(settings).keys().isdisjoint(services):
        for warning in check_ownership(settings):
            structlog.get_logger("tradesaga.run").warning("step without an owner", what=warning)
    tune_garbage_collector()
    uvloop.run(serve(found, settings))


async def serve(services: Mapping[str, Service], settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, or until one service ends: then the others are cancelled and waited for.

    Raises what a service raises.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    log = structlog.get_logger("tradesaga.run")
    tasks = [asyncio.ensure_future(_run(name, service, settings)) for name, service in services.items()]
    waiter = asyncio.ensure_future(stop.wait())
    log.info("running", services=list(services))
    try:
        async with watch_event_loop(), serve_probes(settings.http_host, settings.metrics_port):
            await asyncio.wait([waiter, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        failed = [task for task in tasks if task.done()]
        if pending := await _cancel([waiter, *tasks]):
            errors = [str(task.exception()) for task in failed if not task.cancelled() and task.exception()]
            exit_at_once("; ".join([*errors, f"{pending} services have not ended within {PATIENCE:g} s"]))
    for task in failed:
        task.result()
    log.info("stopped", services=list(services))


async def _run(name: str, service: Service, settings: Settings) -> None:
    await service(settings)
    raise CommandError("service-ended", f"service {name} ended by itself", name, "read its log", ExitCode.CHECK_FAILED)


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> int:
    """Cancel tasks, wait for `PATIENCE`, and return the number of those that have not ended."""
    for task in tasks:
        task.cancel()
    _, pending = await asyncio.wait(tasks, timeout=PATIENCE)
    return len(pending)
