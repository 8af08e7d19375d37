"""The routes of the HTTP API."""

from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, FastAPI, Query, Request, Response

from tradesaga.infra.cli.console import to_json
from tradesaga.infra.errors import CommandError
from tradesaga.infra.outbox.outbox_writer import OutboxWriter
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.saga_queries import (
    PAGE,
    SagaFilter,
    read_events,
    read_page,
    read_row,
    row_to_json,
    start_events,
)
from tradesaga.infra.starts.accept import Accepted, Conflict, Start, make_start
from tradesaga.infra.telemetry.tracing import new_traceparent, next_traceparent
from tradesaga.producers.backpressure import GatewayBackpressure, Limits
from tradesaga.producers.gateway.responses import (
    RETRY_LATER,
    RequestError,
    add_handlers,
    describe_responses,
    read_body,
)
from tradesaga.producers.start.accept import accepting, count
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.status import Status
from tradesaga.schemas.identity import RequestKeys
from tradesaga.schemas.messages.message import Event

PATIENCE: Final = 5.0
"""Seconds that a query waits for a connection."""
_BODY: Final = "requestBody"
_NO_NUL: Final = r"^[^\x00]*$"
"""PostgreSQL's text type has no NUL."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the routes use: the writer of starts, the pool for queries, and the limits."""

    saga: AnySaga
    keys: RequestKeys
    writer: OutboxWriter
    pool: Pool
    backpressure: GatewayBackpressure
    limits: Limits
    hosts: frozenset[str]
    trace_ratio: float = 0.0


def build_app(gateway: Gateway) -> FastAPI:
    """Build the application with its routes and error handlers."""

    async def check_host(request: Request) -> None:
        host = request.headers.get("host", "").lower()
        if host not in gateway.hosts:
            do = "use the address that `tradesaga status` shows"
            raise RequestError(421, CommandError("wrong-host", f"this server is not {host[:64]!r}", "Host", do))

    checks = [Depends(check_host)]
    app = FastAPI(title="tradesaga", version="1", docs_url=None, redoc_url=None, dependencies=checks)
    add_handlers(app)
    schema = gateway.saga.start.model_json_schema()
    body = {_BODY: {"required": True, "content": {"application/json": {"schema": schema}}}}

    @app.post(
        "/v1/trades", status_code=202, openapi_extra=body, summary="Start a trade",
        responses=describe_responses(200, 409, 413, 415, 421, 422, 429, 503),
    )  # fmt: skip
    async def start(request: Request) -> Response:
        return await _start(gateway, request)

    @app.get("/v1/sagas", summary="List sagas, newest first", responses=describe_responses(421, 422, 503))
    async def page(
        state: Status | None = None,
        account: Annotated[str | None, Query(max_length=64, pattern=_NO_NUL)] = None,
        symbol: Annotated[str | None, Query(max_length=32, pattern=_NO_NUL)] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE)] = 50,
        cursor: UUID | None = None,
    ) -> Response:
        starts = start_events([gateway.saga])
        wanted = SagaFilter(state and state.value, account, symbol, after=cursor)
        async with gateway.pool.acquire(timeout=PATIENCE) as sql:
            found = await read_page(sql, starts, wanted, limit + 1)
        shown = found[:limit]
        following = shown[-1]["saga_id"] if len(found) > limit else None
        return _json({"sagas": shown, "next": following})

    found_or_not = describe_responses(404, 421, 422, 503)

    @app.get("/v1/sagas/{saga_id}", summary="Show one saga and its events", responses=found_or_not)
    async def one(saga_id: UUID) -> Response:
        async with gateway.pool.acquire(timeout=PATIENCE) as sql:
            row = await read_row(sql, saga_id)
            if row is None:
                raise _unknown_saga(saga_id)
            return _json({**row_to_json(row), "events": await read_events(sql, saga_id)})

    _ = start, page, one
    return app


def _unknown_saga(saga_id: UUID) -> RequestError:
    do = "check the id; a start that was just accepted appears within a moment"
    return RequestError(404, CommandError("not-found", "no saga with this id is known", str(saga_id), do))


async def _start(gateway: Gateway, request: Request) -> Response:
    if (busy := gateway.backpressure.rejection(gateway.writer.depth)) is not None:
        raise RequestError(429, busy, RETRY_LATER)
    wanted = await read_body(request, gateway.saga, gateway.limits.body_bytes)
    start = _traced(gateway, wanted, request)
    run = accepting(gateway.saga, [start], gateway.keys, "gateway")
    results = await gateway.writer.write(run, patience=gateway.limits.patience_seconds)
    count(gateway.saga, results)
    url = f"/v1/sagas/{start.saga_id}"
    if isinstance(results[0], Conflict):
        what = "this idempotency key has started another trade already"
        do = "use a new key for a new trade, or send the first request unchanged"
        raise RequestError(409, CommandError("key-taken", what, url, do))
    new = isinstance(results[0], Accepted)
    if new:
        gateway.backpressure.accepted(start.saga_id)
    return _json({"saga_id": str(start.saga_id), "state_url": url}, 202 if new else 200, {"Location": url})


def _traced(gateway: Gateway, wanted: Event, request: Request) -> Start:
    """Make the start with the caller's trace, or with a new one."""
    trace = next_traceparent(request.headers.get("traceparent", ""))
    state = request.headers.get("tracestate", "")[:512] if trace else ""
    return make_start(gateway.saga, wanted, traceparent=trace or new_traceparent(gateway.trace_ratio), tracestate=state)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type="application/json")
