"""The service `gateway`: the HTTP server with its outbox writer and its connection pool."""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from contextlib import AsyncExitStack
from typing import Final

import structlog
import uvicorn

from tradesaga.infra.errors import unavailable
from tradesaga.infra.kafka.topics import preflight
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.starts.backpressure import PipelineLag
from tradesaga.infra.starts.request_keys import read_request_keys
from tradesaga.infra.telemetry.metrics import register_worker
from tradesaga.producers.backpressure import GatewayBackpressure, Limits
from tradesaga.producers.gateway.app import Gateway, build_app
from tradesaga.producers.start.accept import start_writer
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.topics import events_topic

NAME: Final = "gateway"
_GRACE: Final = 5


async def serve(settings: Settings, saga: AnySaga = trade) -> None:
    """Serve until cancelled; accepted starts are published before this returns.

    Raises `CommandError`: exit 5 when the port is taken or PostgreSQL is unavailable at the start, exit 3 when the keys
    of request hashes are missing.
    """
    keys = read_request_keys(settings.request_keys_file())
    await preflight(settings, [events_topic(saga.name)])
    with _listen(settings.http_host, settings.http_port) as listener:
        async with AsyncExitStack() as stack:
            pool = await open_pool(settings.database_for(SAGA_LOG), max_size=4, application_name="tradesaga gateway")
            stack.push_async_callback(pool.close)
            writer = await stack.enter_async_context(start_writer(settings, pool, saga, NAME))
            register_worker(NAME, writer.health)
            limits = Limits()
            lag = PipelineLag(settings.brokers(), saga.name, limits.lag_seconds)
            backpressure = GatewayBackpressure(pool, limits, lag, writer.health)
            watching = asyncio.create_task(backpressure.watch(), name="gateway backpressure")
            stack.callback(watching.cancel)
            host, port = listener.getsockname()[:2]
            hosts = _names(settings.http_host, port)
            gateway = Gateway(saga, keys, writer, pool, backpressure, limits, hosts, settings.trace_ratio)
            structlog.get_logger(NAME).info("listening", url=f"http://{host}:{port}")
            await _serve(gateway, listener)


async def _serve(gateway: Gateway, listener: socket.socket) -> None:
    config = uvicorn.Config(
        build_app(gateway),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=gateway.limits.waiting + 100,
        http="h11",  # the only one that limits a request's headers, even if others are installed
        h11_max_incomplete_event_size=16 * 1024,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]), name="gateway http")
    failing = asyncio.create_task(gateway.writer.failed(), name="gateway writer")
    try:
        await asyncio.wait([serving, failing], return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        await asyncio.wait([serving])
        failing.cancel()
    await failing


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: `tradesaga run` has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install no signal handlers."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        do = "stop the program that listens there, or set TRADESAGA_HTTP_PORT to another port"
        what = f"the HTTP port cannot be opened: {error.strerror}"
        raise unavailable("port-taken", what, f"{host}:{port}", do) from None
    return listener


def _names(host: str, port: int) -> frozenset[str]:
    """Return the accepted Host headers: a foreign name that resolves to loopback is rejected (DNS rebinding)."""
    hosts = {"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host}
    return frozenset({*hosts, *(f"{name}:{port}" for name in hosts)})
