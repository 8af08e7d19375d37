"""Admin endpoints under `/paper`: faults, market speed, busts, accounts, the whole ledger. Loopback and key only."""

import hmac
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tradesaga.infra.paper_exchange.errors import ApiError, Error
from tradesaga.infra.paper_exchange.faults import Fault
from tradesaga.infra.paper_exchange.requests import answer_result, read_body, refuse
from tradesaga.infra.paper_exchange.settings import CEILING, AccountSettings
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.infra.paper_exchange.views import Json, show_trade
from tradesaga.schemas.amounts import Quantity
from tradesaga.schemas.invalid import first_invalid

_HEADER: Final = "x-paper-admin"
_MOST_EVENTS: Final = 10_000
M = TypeVar("M")
Action = Callable[[Venue, Request], Awaitable[Any]]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pace(_Body):
    """Changes the market's speed, and closes `step` bars at once."""

    speed: float | None = Field(default=None, ge=0, le=1000, allow_inf_nan=False)
    step: int = Field(default=0, ge=0, le=10_000)
    symbol: str | None = None


class Bust(_Body):
    """The trade to bust."""

    trade_id: int = Field(alias="tradeId", ge=1, lt=2**63)


class Deposit(_Body):
    """The amount to deposit, and the account."""

    account: str
    asset: str = Field(pattern=r"^[A-Z0-9]{1,16}$")
    amount: Quantity


class Disconnect(_Body):
    """The account whose user data streams are to end; None means all."""

    account: str | None = None


_FAULTS: TypeAdapter[Fault | list[Fault]] = TypeAdapter(Fault | list[Fault])


def admin_routes(venue: Venue, key: str) -> list[Route]:
    """Return the routes for the venue's operator."""
    actions: list[tuple[str, str, Action]] = [
        ("GET", "ledger", _ledger),
        ("GET", "events", _events),
        ("GET", "faults", _list_faults),
        ("POST", "faults", _add_faults),
        ("DELETE", "faults", _clear_faults),
        ("GET", "market", _market),
        ("POST", "market", _pace),
        ("POST", "bust", _bust),
        ("POST", "accounts", _open_account),
        ("POST", "deposits", _deposit),
        ("POST", "disconnect", _disconnect),
    ]
    return [Route(f"/paper/{path}", _guarded(venue, key, action), methods=[method]) for method, path, action in actions]


def _guarded(venue: Venue, key: str, action: Action) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        host = request.client.host if request.client else ""
        given = request.headers.get(_HEADER, "")
        if not _is_loopback(host) or not hmac.compare_digest(given.encode(), key.encode()):
            return refuse(ApiError(Error.ADMIN_ONLY, _HEADER))
        return await answer_result(action(venue, request))

    return endpoint


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


async def _read(request: Request, model: TypeAdapter[M]) -> M:
    try:
        return model.validate_json(await read_body(request))
    except ValidationError as error:
        first = first_invalid(error)
        raise ApiError(Error.INVALID_BODY, first.field or "body", first.reason) from None


def _number(request: Request, name: str) -> int | None:
    """Return a whole number of the query string that the ledger's columns can hold, or None."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**63:
        raise ApiError(Error.ILLEGAL, name, r"^[0-9]{1,18}$")
    return int(text)


async def _ledger(venue: Venue, request: Request) -> Json:  # noqa: ARG001 - an action's signature
    return await venue.read(venue.history.dump)


async def _events(venue: Venue, request: Request) -> list[Json]:
    after = _number(request, "after") or 0
    return await venue.read(lambda: venue.history.events(after, _MOST_EVENTS))


async def _list_faults(venue: Venue, request: Request) -> list[Json]:  # noqa: ARG001
    return venue.faults.show()


async def _add_faults(venue: Venue, request: Request) -> Json:
    faults = await _read(request, _FAULTS)
    return {"ids": [venue.faults.add(fault) for fault in (faults if isinstance(faults, list) else [faults])]}


async def _clear_faults(venue: Venue, request: Request) -> list[Json]:
    venue.faults.clear(_number(request, "id"))
    return venue.faults.show()


async def _market(venue: Venue, request: Request) -> Json:  # noqa: ARG001
    books = {symbol: venue.exchange.book(symbol) for symbol in venue.exchange.listings}
    bars = {
        symbol: {"bar": book.position.bar, "opened": book.bar.opened, "close": str(book.bar.close)}
        for symbol, book in books.items()
    }
    return {"speed": venue.speed, "symbols": bars}


async def _pace(venue: Venue, request: Request) -> Json:
    pace = await _read(request, TypeAdapter(Pace))
    if pace.symbol is not None and pace.symbol not in venue.exchange.listings:
        raise ApiError(Error.BAD_SYMBOL)
    if pace.speed is not None:
        venue.set_speed(pace.speed)
    for _ in range(pace.step):
        for symbol in [pace.symbol] if pace.symbol else venue.exchange.listings:
            await venue.step(symbol)
    return await _market(venue, request)


async def _bust(venue: Venue, request: Request) -> Json:
    return show_trade(await venue.bust((await _read(request, TypeAdapter(Bust))).trade_id))


async def _open_account(venue: Venue, request: Request) -> Json:
    wanted = await _read(request, TypeAdapter(AccountSettings))
    return {"account": wanted.name, "created": await venue.open_account(wanted)}


async def _deposit(venue: Venue, request: Request) -> Json:
    deposit = await _read(request, TypeAdapter(Deposit))
    if deposit.amount > CEILING:
        raise ApiError(Error.INVALID, "amount")
    await venue.deposit(deposit.account, deposit.asset, deposit.amount)
    return {}


async def _disconnect(venue: Venue, request: Request) -> Json:
    body = await _read(request, TypeAdapter(Disconnect))
    return {"closed": venue.streams.disconnect(body.account)}
