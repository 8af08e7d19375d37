"""The venue as a server: routes, health and metrics put together, and one task group that runs it all."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import uvicorn
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tradesaga.infra.paper_exchange.admin import admin_routes
from tradesaga.infra.paper_exchange.endpoints import market_routes, trading_routes
from tradesaga.infra.paper_exchange.gate import BreakableProtocol, answer, log, refuse
from tradesaga.infra.paper_exchange.refusal import Refusal
from tradesaga.infra.paper_exchange.sockets import socket_routes
from tradesaga.infra.paper_exchange.venue import Venue


class VenueMeters(Collector):
    """What one venue has done since its start, and how it stands."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        executions = CounterMetricFamily(
            "tradesaga_venue_executions", "Events of orders, by kind", labels=["execution"]
        )  # fmt: skip
        for execution, count in self._venue.streams.published.items():
            executions.add_metric([execution], count)
        yield executions
        faults = CounterMetricFamily("tradesaga_venue_faults", "Faults that struck, by kind", labels=["kind"])
        struck: dict[str, int] = {}
        for rule in self._venue.faults.show():
            struck[rule["kind"]] = struck.get(rule["kind"], 0) + int(rule["struck"])
        for kind, count in struck.items():
            faults.add_metric([kind], count)
        yield faults
        yield CounterMetricFamily("tradesaga_venue_commits", "Ledger transactions", self._venue.journal.commits)
        yield CounterMetricFamily("tradesaga_venue_changes", "Changes in them", self._venue.journal.changes)
        yield GaugeMetricFamily("tradesaga_venue_listeners", "Open user data streams", self._venue.streams.listening)
        yield GaugeMetricFamily("tradesaga_venue_resting_orders", "Orders on the books", self._venue.exchange.waiting)


@dataclass(frozen=True, slots=True)
class Door:
    """Where the venue listens, and the key that opens its admin endpoints."""

    socket: socket.socket
    admin_key: str


async def serve(venue: Venue, door: Door, ready: Callable[[], None], stop: asyncio.Event) -> None:
    """Run until `stop`; what was accepted is durable before this returns."""
    config = uvicorn.Config(
        build_application(venue, door.admin_key),
        http=BreakableProtocol,
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        log_level="critical",  # what fails is told by `_failed`; what is cut off at the end is no news
        access_log=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,
    )
    server = _Server(config, ready)
    async with asyncio.TaskGroup() as group:
        group.create_task(venue.journal.run())
        for account in venue.settings.accounts:
            await venue.open_account(account)
        helpers = [group.create_task(venue.run_market()), group.create_task(server.end_with(stop))]
        await _answer_until_asked(server, door)
        for helper in helpers:
            helper.cancel()
        venue.journal.stop()


async def _answer_until_asked(server: "_Server", door: Door) -> None:
    """Serve until the server should exit, or until cancelled, as when the ledger breaks.

    Either way it ends in order, each request answered: one that is cancelled amid an answer would make uvicorn write to
    a connection that may be closed already.
    """
    serving = asyncio.create_task(server.serve([door.socket]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving


def build_application(venue: Venue, admin_key: str) -> Starlette:
    """Build the application with its routes and error handlers."""
    registry = CollectorRegistry()
    registry.register(VenueMeters(venue))

    async def healthy(_: Request) -> Response:
        return answer({"status": "ok"})

    async def ready(_: Request) -> Response:
        broken = venue.journal.broken
        return answer({"status": broken or "ok"}, 503 if broken else 200)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    own = [Route("/healthz", healthy), Route("/readyz", ready), Route("/metrics", metrics)]
    routes = [*trading_routes(venue), *market_routes(venue), *admin_routes(venue, admin_key), *own]
    handlers = {404: _not_found, 405: _not_found, Exception: _failed}
    return Starlette(routes=[*routes, *socket_routes(venue)], exception_handlers=handlers)


class _Server(uvicorn.Server):
    """uvicorn, which leaves signals to us: it would raise SIGTERM anew before the ledger is closed."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install no signal handlers."""
        yield

    async def end_with(self, stop: asyncio.Event) -> None:
        """End gracefully once asked to."""
        await stop.wait()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and say so."""
        await super().startup(sockets)
        self._ready()


async def _not_found(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's shape
    return refuse(Refusal(-1020, f"This operation is not supported: {request.method} {request.url.path}.", 404))


async def _failed(request: Request, error: Exception) -> Response:
    log.error("request failed", exc_info=error, extra={"path": request.url.path})
    return refuse(Refusal(-1000, "An unknown error occurred while processing the request.", 500))
