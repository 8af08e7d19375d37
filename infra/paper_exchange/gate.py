"""The gate that every request passes: the body is read and bounded, faults strike, refusals become answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tradesaga.infra.paper_exchange.faults import Operation, Plan
from tradesaga.infra.paper_exchange.fields import Caller, Fields, authenticate, identify, unsigned
from tradesaga.infra.paper_exchange.ledger import JournalBrokenError
from tradesaga.infra.paper_exchange.refusal import Refusal, status_unknown
from tradesaga.infra.paper_exchange.venue import Venue

LONGEST_BODY: Final = 65_536
_TRANSPORT: Final = "paper.transport"

log = logging.getLogger("tradesaga.venue")


@dataclass(slots=True)
class Call:
    """A request on its way to a handler."""

    request: Request
    body: bytes
    fields: Fields
    plan: Plan


Handler = Callable[[Venue, Call], Awaitable[Any]]
SignedHandler = Callable[[Venue, Call, Caller], Awaitable[Any]]
Endpoint = Callable[[Request], Awaitable[Response]]


class BreakableProtocol(H11Protocol):
    """HTTP whose connection a fault can break: each request's scope knows its transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Hand the connection's transport to the application."""
        super().connection_made(transport)
        inner: Any = self.app

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_TRANSPORT] = transport
            await inner(scope, receive, send)

        self.app: Any = application


def answer(view: Any, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(orjson.dumps(view), status, media_type="application/json")


def refuse(refusal: Refusal) -> Response:
    """Return a refusal as Binance does."""
    return answer({"code": refusal.code, "msg": refusal.message}, refusal.status)


def opened(venue: Venue, operation: Operation, handler: Handler) -> Endpoint:
    """Handle a request that needs no signature."""

    async def endpoint(request: Request) -> Response:
        try:
            call = await _receive(venue, operation, request)
        except Refusal as refusal:
            return refuse(refusal)
        if call.plan.outage is not None:
            return _fail(request, call.plan.outage)
        await asyncio.sleep(call.plan.before)
        response = await _handle(venue, handler, call)
        await asyncio.sleep(call.plan.after)
        if call.plan.lose:
            _break(request)
        return response

    return endpoint


def signed(venue: Venue, operation: Operation, handler: SignedHandler) -> Endpoint:
    """Handle a request that must be signed by one of the accounts."""

    async def checked(venue: Venue, call: Call) -> Any:
        account = identify(venue.accounts, call.request.headers.get("x-mbx-apikey"))
        payload = unsigned(_query(call.request)) + unsigned(call.body)
        return await handler(venue, call, authenticate(account, call.fields, payload, venue.clock.now()))

    return opened(venue, operation, checked)


async def read_body(request: Request) -> bytes:
    """Read a body of bounded size."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST_BODY:
                raise Refusal(-1101, f"Body is longer than {LONGEST_BODY} bytes.", 413)
    except ClientDisconnect:
        raise Refusal(-1102, "Client disconnected before the end of the body.") from None
    return bytes(body)


async def _receive(venue: Venue, operation: Operation, request: Request) -> Call:
    body = await read_body(request)
    fields = Fields(_query(request), body)
    account = venue.accounts.get(request.headers.get("x-mbx-apikey", ""))
    name = fields.optional("newClientOrderId") or fields.optional("origClientOrderId") or ""
    plan = venue.faults.strike(operation, account.name if account else "", name, fields.optional("symbol") or "")
    return Call(request, body, fields, plan)


async def _handle(venue: Venue, handler: Handler, call: Call) -> Response:
    try:
        return answer(await handler(venue, call))
    except Refusal as refusal:
        return refuse(refusal)
    except JournalBrokenError:
        return refuse(status_unknown())


def _query(request: Request) -> bytes:
    return bytes(request.scope["query_string"])


def _fail(request: Request, mode: str) -> Response:
    if mode == "close":
        _break(request)
    return Response("Service Unavailable", 503, media_type="text/plain")


def _break(request: Request) -> None:
    transport: asyncio.Transport = request.scope[_TRANSPORT]
    transport.abort()
