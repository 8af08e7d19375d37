"""`tradesaga run`: services live together in one process and are cancelled together; probes tell how they are."""

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tradesaga.infra.cli.run import serve
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.registry.services import find_services
from tradesaga.infra.settings import Settings
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.health import serve_probes
from tradesaga.infra.telemetry.metrics import Health

Service = Callable[[Settings], Awaitable[None]]


def _service(log: list[str], name: str) -> Service:
    async def wait(settings: Settings) -> None:
        log.append(f"{name} began")
        try:
            await asyncio.Event().wait()
        finally:
            log.append(f"{name} ended")

    return wait


async def test_a_signal_cancels_every_service_and_waits_for_it() -> None:
    """SIGTERM is a clean end."""
    log: list[str] = []
    asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)
    await serve({"a": _service(log, "a"), "b": _service(log, "b")}, Settings())
    assert log == ["a began", "b began", "a ended", "b ended"]


async def test_a_service_that_fails_takes_its_process_down() -> None:
    """The others are cancelled and the failure goes on, so that the process is started again as a whole."""
    log: list[str] = []

    async def fail(settings: Settings) -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await serve({"a": _service(log, "a"), "bad": fail}, Settings())
    assert log[-1] == "a ended"


async def test_a_service_that_ends_by_itself_is_a_failure() -> None:
    """A service is to run until it is told to stop."""

    async def end(settings: Settings) -> None:
        return

    with pytest.raises(CommandError, match="ended by itself"):
        await serve({"short": end}, Settings())


def test_services_come_from_modules_and_unknown_ones_are_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module's `services` mapping counts like an installed package's entry points."""
    (tmp_path / "app_of_mine.py").write_text("async def tick(settings): ...\nservices = {'tick': tick}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert list(find_services(["tick"], Settings(app=("app_of_mine",)))) == ["tick"]
    for names, modules in ((["nobody"], ()), ([], ("no_such_module",))):
        with pytest.raises(CommandError) as caught:
            find_services(names, Settings(app=modules))
        assert caught.value.exit_code is ExitCode.NOT_FOUND


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_probes_tell_whether_the_workers_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """/readyz is 503 until every worker has its lanes and while one is halted; /healthz once it no longer asks."""
    health = Health()
    monkeypatch.setattr(metrics, "workers", lambda: {"cash": health})
    port = free_port()
    async with serve_probes("127.0.0.1", port):
        status, body = await asyncio.to_thread(_get, port, "/readyz")
        told = json.loads(body)
        assert (status, told["ready"], told["workers"]) == (503, False, {"cash": "starting"})
        health.ready = True
        assert (await asyncio.to_thread(_get, port, "/readyz"))[0] == 200
        health.halted = "offsets are gone"
        status, body = await asyncio.to_thread(_get, port, "/readyz")
        assert (status, json.loads(body)["halted"]) == (503, {"cash": "offsets are gone"})
        health.polled -= 1000
        assert (await asyncio.to_thread(_get, port, "/healthz"))[0] == 200
        health.fetches = True
        assert "cash" in (await asyncio.to_thread(_get, port, "/healthz"))[1]
        assert "tradesaga_steps_executed" in (await asyncio.to_thread(_get, port, "/metrics"))[1]
        assert (await asyncio.to_thread(_get, port, "/else"))[0] == 404


async def test_a_taken_metrics_port_is_refused() -> None:
    """The error names the port and the setting."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", port := free_port()))
        other.listen()
        with pytest.raises(CommandError, match="TRADESAGA_METRICS_PORT"):
            async with serve_probes("127.0.0.1", port):
                pass
