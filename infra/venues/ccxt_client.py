"""Typed client over ccxt, which signs, paces and sends requests; answers and errors are interpreted here.

ccxt's unified calls round amounts and derive the meaning of errors from texts. So the raw endpoints are called, with
decimal strings both ways, and each failure becomes exactly one of the port's errors.
"""

import hashlib
import hmac
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import aiohttp
import ccxt.async_support as ccxt

from tradesaga.sagas.trade.venue import VenueError, VenueRejected, VenueUnavailable, VenueUnknown

T = TypeVar("T")

_CLIENT_ERROR: Final = 400
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = {418, 429}
_RATE_LIMITED: Final = {"-1003", "-1015"}
_EFFECT_UNKNOWN: Final = {"", "-1000", "-1001", "-1006", "-1007"}
_NOT_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, socket.gaierror)


@dataclass(frozen=True, slots=True)
class VenueAddress:
    """The address of a venue and the account's key; times are seconds.

    `window` is the lifetime of requests other than orders; `paced` keeps ccxt's rate limit. `symbols` limits the report
    stream; None means all listed symbols.
    """

    url: str
    key: str
    secret: str
    timeout: float = 5.0
    window: float = 10.0
    paced: bool = False
    symbols: tuple[str, ...] | None = None


class CcxtClient:
    """A connection pool to a venue, for one account."""

    def __init__(self, address: VenueAddress) -> None:
        self._address = address
        base = f"{address.url.rstrip('/')}/api/v3"
        self._exchange: Any = _Exchange(
            {
                "apiKey": address.key,
                "secret": address.secret,
                "timeout": int(address.timeout * 1000),
                "enableRateLimit": address.paced,
                "urls": {"api": {"public": base, "private": base}},
            }
        )

    async def call(self, endpoint: str, request: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Call one of ccxt's raw endpoints and read its answer. Raises VenueUnknown if the answer cannot be read."""
        try:
            answer = await getattr(self._exchange, endpoint)(dict(request))
            return read(answer)
        except _ErrorAnswer as answer:
            raise _from_answer(answer) from None
        except ccxt.BaseError as error:
            raise _from_failure(error, self._address.url) from error
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise VenueUnknown(f"{self._address.url} answered {endpoint} in a form that cannot be read") from error

    async def signed(self, endpoint: str, request: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Call an endpoint that needs a signature, valid for the address's window."""
        window = int(self._address.window * 1000)
        return await self.call(endpoint, {"recvWindow": window, **request}, read)

    def subscription(self) -> dict[str, Any]:
        """Return the signed parameters that subscribe a WebSocket to the account's reports."""
        window = int(self._address.window * 1000)
        values = {"apiKey": self._address.key, "recvWindow": window, "timestamp": time.time_ns() // 1_000_000}
        payload = "&".join(f"{name}={values[name]}" for name in sorted(values))
        signature = hmac.new(self._address.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
        return {**values, "signature": signature}

    @property
    def stream_url(self) -> str:
        """The URL of the WebSocket."""
        return self._address.url.rstrip("/").replace("http", "ws", 1) + "/ws-api/v3"

    async def close(self) -> None:
        """Close the connections."""
        await self._exchange.close()


class _ErrorAnswer(Exception):  # noqa: N818 - not yet one of the port's errors
    """The venue's error answer."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.reason = reason


class _Exchange(ccxt.binance):
    """ccxt's client, except that errors keep the venue's code."""

    def handle_errors(  # noqa: PLR0917 - ccxt's hook and its arguments
        self,
        code: int,
        reason: str,
        url: str,  # noqa: ARG002
        method: str,  # noqa: ARG002
        headers: dict[str, Any],  # noqa: ARG002
        body: str,  # noqa: ARG002
        response: object,
        requestHeaders: object,  # noqa: ARG002, N803
        requestBody: object,  # noqa: ARG002, N803
    ) -> None:
        if code < _CLIENT_ERROR:
            return
        answer = cast("dict[str, Any]", response) if isinstance(response, dict) else {}
        raise _ErrorAnswer(code, str(answer.get("code", "")), str(answer.get("msg", reason)))


def _from_answer(answer: _ErrorAnswer) -> VenueError:
    if answer.status in _TOO_MANY or answer.code in _RATE_LIMITED:
        return VenueUnavailable(f"the venue's rate limit is reached: {answer.reason}; slow down")
    if answer.status >= _SERVER_ERROR or answer.code in _EFFECT_UNKNOWN:
        return VenueUnknown(f"the venue failed to process the request: HTTP {answer.status}, {answer.reason}")
    return VenueRejected(answer.code, answer.reason)


def _from_failure(error: Exception, url: str) -> VenueError:
    if isinstance(error.__cause__, _NOT_SENT):
        return VenueUnavailable(f"{url} does not accept connections; is the venue running?")
    return VenueUnknown(f"{url} did not answer: {type(error).__name__}")
