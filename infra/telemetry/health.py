"""The probes /metrics, /healthz and /readyz, served with minimal HTTP in the process's event loop."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import REGISTRY, generate_latest

from tradesaga.infra.errors import unavailable
from tradesaga.infra.telemetry import metrics

READ_SECONDS: Final = 5.0
SILENCE: Final = 120.0
"""Seconds without a poll after which a worker counts as dead; it still polls while the broker is unavailable."""
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
JSON: Final = "application/json"


@asynccontextmanager
async def serve_probes(host: str, port: int) -> AsyncGenerator[None]:
    """Serve the probes while the context is open; port 0 serves none. Raises `CommandError` if the port is taken."""
    if not port:
        yield
        return
    try:
        server = await asyncio.start_server(_answer, host, port, reuse_address=True)
    except OSError as error:
        do = "stop the program that listens there, or set TRADESAGA_METRICS_PORT to another port"
        raise unavailable("port-taken", "the metrics port is taken", f"{host}:{port}", do) from error
    try:
        yield
    finally:
        server.close()


def readiness() -> tuple[bool, dict[str, str]]:
    """Return whether every worker is ready, and the state of each."""
    states = {
        group: "ready" if health.ready and not health.halted else health.halted or "starting"
        for group, health in metrics.workers().items()
    }
    return all(state == "ready" for state in states.values()), states


def _load() -> dict[str, dict[str, float] | dict[str, str]]:
    """Return the lag, rejections, warnings and halts of the workers."""
    workers = metrics.workers()
    return {
        "lag_seconds": {group: round(health.lag_seconds, 1) for group, health in workers.items()},
        "refusing": {group: health.refusing for group, health in workers.items() if health.refusing},
        "warnings": {group: health.warning for group, health in workers.items() if health.warning},
        "halted": {group: health.halted for group, health in workers.items() if health.halted},
    }


def silent_workers() -> list[str]:
    """Return the workers that no longer poll although the event loop runs; only a restart helps."""
    return [group for group, health in metrics.workers().items() if health.poll_age > SILENCE]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(READ_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        status, kind, body = _page(head.split(b"\r\n", 1)[0].decode("latin-1"))
        lines = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(lines.encode() + body)
        await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return  # the client has disconnected or sent no valid request
    finally:
        writer.close()


def _page(request: str) -> tuple[str, str, bytes]:
    """Return status, content type and body for a request line."""
    method, _, rest = request.partition(" ")
    path = rest.split(" ")[0].split("?")[0]
    if method != "GET":
        return "405 Method Not Allowed", TEXT, b"only GET is allowed\n"
    if path == "/metrics":
        return "200 OK", TEXT, generate_latest(REGISTRY)
    if path == "/healthz":
        silent = silent_workers()
        body = json.dumps({"healthy": not silent, "silent": silent}).encode()
        return "503 Service Unavailable" if silent else "200 OK", JSON, body
    if path == "/readyz":
        ready, states = readiness()
        body = json.dumps({"ready": ready, "workers": states, **_load()}).encode()
        return "200 OK" if ready else "503 Service Unavailable", JSON, body
    return "404 Not Found", TEXT, b"try /metrics, /healthz or /readyz\n"
