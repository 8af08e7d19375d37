"""HTTP server of the paper venue: routes, health checks, metrics, and the task group that runs them."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Generator, Iterator

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
from tradesaga.infra.paper_exchange.errors import ApiError, Error
from tradesaga.infra.paper_exchange.requests import BreakableProtocol, answer, log, refuse
from tradesaga.infra.paper_exchange.sockets import socket_routes
from tradesaga.infra.paper_exchange.venue import Venue


class VenueCollector(Collector):
    """Metrics of one venue since its start."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        venue = self._venue
        struck: Counter[str] = Counter()
        for rule in venue.faults.show():
            struck[rule["kind"]] += int(rule["struck"])
        for name, text, label, counts in (
            ("executions", "Events of orders, by kind", "execution", venue.streams.published),
            ("faults", "Faults that struck, by kind", "kind", struck),
        ):
            family = CounterMetricFamily(f"tradesaga_venue_{name}", text, labels=[label])
            for value, count in counts.items():
                family.add_metric([value], count)
            yield family
        yield CounterMetricFamily("tradesaga_venue_commits", "Ledger transactions", venue.journal.commits)
        yield CounterMetricFamily("tradesaga_venue_changes", "Changes in them", venue.journal.changes)
        yield GaugeMetricFamily("tradesaga_venue_listeners", "Open user data streams", venue.streams.listening)
        yield GaugeMetricFamily("tradesaga_venue_resting_orders", "Orders on the books", venue.exchange.waiting)


async def serve(
    venue: Venue, listener: socket.socket, admin_key: str, ready: Callable[[], None], stop: asyncio.Event
) -> None:
    """Serve on `listener` until `stop`; everything accepted is durable when this returns."""
    config = uvicorn.Config(
        build_application(venue, admin_key),
        http=BreakableProtocol,
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        log_level="critical",  # `_failed` logs failures; requests cut off at the end need no log
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
        await _serve_until_exit(server, listener)
        for helper in helpers:
            helper.cancel()
        venue.journal.stop()


async def _serve_until_exit(server: "_Server", listener: socket.socket) -> None:
    """Serve until the server should exit, or until cancelled, as when the ledger breaks.

    Either way each request is answered first: if a request were cancelled while it is answered, uvicorn would write to
    a connection that may be closed already.
    """
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving


def build_application(venue: Venue, admin_key: str) -> Starlette:
    """Build the application with its routes and error handlers."""
    registry = CollectorRegistry()
    registry.register(VenueCollector(venue))

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
    """uvicorn without its signal handlers, which would raise SIGTERM again before the ledger is closed."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install no signal handlers."""
        yield

    async def end_with(self, stop: asyncio.Event) -> None:
        """Exit gracefully once `stop` is set."""
        await stop.wait()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then call `ready`."""
        await super().startup(sockets)
        self._ready()


async def _not_found(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    return refuse(ApiError(Error.NOT_FOUND, f"{request.method} {request.url.path}"))


async def _failed(request: Request, error: Exception) -> Response:
    log.error("request failed", exc_info=error, extra={"path": request.url.path})
    return refuse(ApiError(Error.UNKNOWN))
