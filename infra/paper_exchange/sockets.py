"""WebSocket endpoints: `/ws/<listenKey>`, and the newer `/ws-api/v3`, where a signed request subscribes."""

import asyncio
import contextlib
from typing import Any, Final, cast

import orjson
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tradesaga.infra.paper_exchange.errors import ApiError, Error
from tradesaga.infra.paper_exchange.parameters import Parameters, authenticate, identify
from tradesaga.infra.paper_exchange.streams import Listener
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.infra.paper_exchange.views import Json, milliseconds, to_json

_LONGEST: Final = 16_384
_GOING_AWAY: Final = 1001
_REFUSED: Final = 1008


def socket_routes(venue: Venue) -> list[WebSocketRoute]:
    """List the WebSocket endpoints."""

    async def by_key(socket: WebSocket) -> None:
        account = venue.streams.owner(socket.path_params["key"], venue.clock.now())
        if account is None:
            await socket.close(_REFUSED)
            return
        await socket.accept()
        await _Session(venue, socket, wrapped=False).run(account)

    async def by_request(socket: WebSocket) -> None:
        await socket.accept()
        await _Session(venue, socket, wrapped=True).run()

    return [WebSocketRoute("/ws/{key}", by_key), WebSocketRoute("/ws-api/v3", by_request)]


class _Session:
    """One connection: answers requests, and sends the account's events."""

    def __init__(self, venue: Venue, socket: WebSocket, *, wrapped: bool) -> None:
        self._venue = venue
        self._socket = socket
        self._wrapped = wrapped
        self._listener: Listener | None = None
        self._sender: asyncio.Task[None] | None = None

    async def run(self, account: str | None = None) -> None:
        """Serve until either side closes."""
        if account is not None:
            self._listen(account)
        try:
            while True:
                text = await self._socket.receive_text()
                await self._socket.send_text(to_json(self._answer(text)).decode())
        except (WebSocketDisconnect, RuntimeError, KeyError):
            return  # the client closed, or sent bytes instead of text
        finally:
            await self._end()

    def _listen(self, account: str) -> None:
        self._listener = self._venue.streams.open(account)
        self._sender = asyncio.create_task(self._send(self._listener))

    async def _send(self, listener: Listener) -> None:
        while (message := await listener.queue.get()) is not None:
            view = {"subscriptionId": 0, "event": message} if self._wrapped else message
            await self._socket.send_text(to_json(view).decode())
        await self._socket.close(_GOING_AWAY)

    async def _end(self) -> None:
        if self._listener is not None:
            self._venue.streams.close(self._listener)
        if self._sender is not None:
            self._sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, RuntimeError, WebSocketDisconnect):
                await self._sender

    def _answer(self, text: str) -> Json:
        request: Json = {}
        try:
            request = _read(text)
            result = self._perform(str(request.get("method")), _parameters(request))
        except ApiError as error:
            reply = {"status": error.status, "error": {"code": error.code, "msg": error.message}}
            return {"id": request.get("id"), **reply}
        if not self._wrapped:
            return {"id": request.get("id"), "result": None}
        return {"id": request.get("id"), "status": 200, "result": result}

    def _perform(self, method: str, parameters: dict[str, str]) -> Json:
        match method:
            case "ping" | "SUBSCRIBE" | "UNSUBSCRIBE":
                return {}
            case "time":
                return {"serverTime": milliseconds(self._venue.clock.now())}
            case "userDataStream.subscribe.signature" if self._wrapped:
                return self._subscribe(parameters)
            case _:
                raise ApiError(Error.NOT_SUPPORTED, method[:100])

    def _subscribe(self, parameters: dict[str, str]) -> Json:
        account = identify(self._venue.accounts, parameters.get("apiKey"))
        payload = "&".join(f"{name}={parameters[name]}" for name in sorted(parameters) if name != "signature").encode()
        authenticate(account, Parameters(parameters), payload, self._venue.clock.now())
        if self._listener is None:
            self._listen(account.name)
        elif self._listener.account != account.name:
            raise ApiError(Error.OTHER_ACCOUNT)
        return {"subscriptionId": 0}


def _read(text: str) -> Json:
    if len(text) > _LONGEST:
        raise ApiError(Error.REQUEST_TOO_LONG, _LONGEST)
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ApiError(Error.NOT_JSON) from None
    if not isinstance(request, dict):
        raise ApiError(Error.NOT_JSON)
    return cast("Json", request)


def _parameters(request: Json) -> dict[str, str]:
    parameters: Any = request.get("params") or {}
    if not isinstance(parameters, dict):
        return {}
    named = cast("dict[str, Any]", parameters)
    return {name: str(value) for name, value in named.items() if isinstance(value, (str, int))}
