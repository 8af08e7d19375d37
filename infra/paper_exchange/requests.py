"""Handling of HTTP requests: reading bounded bodies, applying faults, and answering errors."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tradesaga.infra.paper_exchange.errors import ApiError, Error
from tradesaga.infra.paper_exchange.faults import Effects, Operation
from tradesaga.infra.paper_exchange.ledger import JournalBrokenError
from tradesaga.infra.paper_exchange.parameters import Caller, Parameters, authenticate, identify, unsigned
from tradesaga.infra.paper_exchange.records import Account
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.infra.paper_exchange.views import to_json

_LONGEST_BODY: Final = 65_536
_TRANSPORT: Final = "paper.transport"

log = logging.getLogger("tradesaga.venue")


@dataclass(slots=True)
class Call:
    """A request, as its handler gets it."""

    venue: Venue
    request: Request
    body: bytes
    parameters: Parameters
    effects: Effects

    def identify(self) -> Account:
        """Return the account of the request's API key."""
        return identify(self.venue.accounts, self.request.headers.get("x-mbx-apikey"))


Handler = Callable[[Call], Awaitable[Any]]
SignedHandler = Callable[[Call, Caller], Awaitable[Any]]
Endpoint = Callable[[Request], Awaitable[Response]]


class BreakableProtocol(H11Protocol):
    """HTTP whose connection a fault can break: each request's scope has its transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Pass the connection's transport to the application."""
        super().connection_made(transport)
        inner: Any = self.app

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_TRANSPORT] = transport
            await inner(scope, receive, send)

        self.app: Any = application


def answer(view: Any, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(to_json(view), status, media_type="application/json")


def refuse(error: ApiError) -> Response:
    """Return an error response in Binance's form."""
    return answer({"code": error.code, "msg": error.message}, error.status)


async def answer_result(result: Awaitable[Any]) -> Response:
    """Await a result and return its response, or that of the error raised."""
    try:
        return answer(await result)
    except ApiError as error:
        return refuse(error)
    except JournalBrokenError:
        return refuse(ApiError(Error.STATUS_UNKNOWN))


def opened(venue: Venue, operation: Operation, handler: Handler) -> Endpoint:
    """Return the endpoint of a handler whose requests need no signature."""

    async def endpoint(request: Request) -> Response:
        try:
            call = await _receive(venue, operation, request)
        except ApiError as error:
            return refuse(error)
        if call.effects.outage is not None:
            return _fail(request, call.effects.outage)
        await asyncio.sleep(call.effects.before)
        response = await answer_result(handler(call))
        await asyncio.sleep(call.effects.after)
        if call.effects.lose:
            _break(request)
        return response

    return endpoint


def signed(venue: Venue, operation: Operation, handler: SignedHandler) -> Endpoint:
    """Return the endpoint of a handler whose requests must be signed by one of the accounts."""

    async def checked(call: Call) -> Any:
        account = call.identify()
        payload = unsigned(_query(call.request)) + unsigned(call.body)
        return await handler(call, authenticate(account, call.parameters, payload, venue.clock.now()))

    return opened(venue, operation, checked)


async def read_body(request: Request) -> bytes:
    """Read a body of bounded size."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_BODY:
                raise ApiError(Error.BODY_TOO_LONG, _LONGEST_BODY)
    except ClientDisconnect:
        raise ApiError(Error.DISCONNECTED) from None
    return bytes(body)


async def _receive(venue: Venue, operation: Operation, request: Request) -> Call:
    body = await read_body(request)
    parameters = Parameters.parse(_query(request), body)
    account = venue.accounts.get(request.headers.get("x-mbx-apikey", ""))
    name = parameters.optional("newClientOrderId") or parameters.optional("origClientOrderId") or ""
    symbol = parameters.optional("symbol") or ""
    effects = venue.faults.apply(operation, account.name if account else "", name, symbol)
    return Call(venue, request, body, parameters, effects)


def _query(request: Request) -> bytes:
    return bytes(request.scope["query_string"])


def _fail(request: Request, mode: str) -> Response:
    if mode == "close":
        _break(request)
    return Response("Service Unavailable", 503, media_type="text/plain")


def _break(request: Request) -> None:
    transport: asyncio.Transport = request.scope[_TRANSPORT]
    transport.abort()
