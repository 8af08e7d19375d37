"""What an exchange would not offer: faults, the pace, busts, accounts, the whole ledger. Loopback and key only."""

import hmac
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tradesaga.infra.paper_exchange.faults import Fault
from tradesaga.infra.paper_exchange.gate import answer, read_body, refuse
from tradesaga.infra.paper_exchange.ledger import JournalBrokenError
from tradesaga.infra.paper_exchange.refusal import Refusal, illegal, status_unknown
from tradesaga.infra.paper_exchange.settings import CEILING, AccountSettings
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.infra.paper_exchange.views import Json, show_trade
from tradesaga.schemas.amounts import Quantity
from tradesaga.schemas.invalid import first_invalid

HEADER = "x-paper-admin"
_MOST_EVENTS = 10_000
M = TypeVar("M")
Action = Callable[[Venue, Request], Awaitable[Any]]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pace(_Asked):
    """How the market is to go on: at another speed, and by so many bars at once."""

    speed: float | None = Field(default=None, ge=0, le=1000, allow_inf_nan=False)
    step: int = Field(default=0, ge=0, le=10_000)
    symbol: str | None = None


class Bust(_Asked):
    """Which trade to take back."""

    trade_id: int = Field(alias="tradeId", ge=1, lt=2**63)


class Deposit(_Asked):
    """What to pay in, and where."""

    account: str
    asset: str = Field(pattern=r"^[A-Z0-9]{1,16}$")
    amount: Quantity


class Disconnect(_Asked):
    """Whose user data streams to end; None is all."""

    account: str | None = None


_FAULTS: TypeAdapter[Fault | list[Fault]] = TypeAdapter(Fault | list[Fault])


def admin_routes(venue: Venue, key: str) -> list[Route]:
    """List the endpoints for whoever runs the venue."""

    def route(path: str, method: str, action: Action) -> Route:
        return Route(f"/paper/{path}", _guarded(venue, key, action), methods=[method])

    return [
        route("ledger", "GET", _ledger),
        route("events", "GET", _events),
        route("faults", "GET", _list_faults),
        route("faults", "POST", _add_faults),
        route("faults", "DELETE", _clear_faults),
        route("market", "GET", _market),
        route("market", "POST", _pace),
        route("bust", "POST", _bust),
        route("accounts", "POST", _open_account),
        route("deposits", "POST", _deposit),
        route("disconnect", "POST", _disconnect),
    ]


def _guarded(venue: Venue, key: str, action: Action) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        host = request.client.host if request.client else ""
        given = request.headers.get(HEADER, "")
        if not _is_loopback(host) or not hmac.compare_digest(given.encode(), key.encode()):
            return refuse(Refusal(-2015, f"Only for this machine, with the admin key as {HEADER}.", 401))
        try:
            return answer(await action(venue, request))
        except Refusal as refusal:
            return refuse(refusal)
        except JournalBrokenError:
            return refuse(status_unknown())

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
        what = f"Data sent for parameter '{first.field or 'body'}' is not valid: {first.reason}."
        raise Refusal(-1130, what) from None


async def _ledger(venue: Venue, request: Request) -> Json:  # noqa: ARG001 - an action's shape
    return await venue.read(venue.history.dump)


async def _events(venue: Venue, request: Request) -> list[Json]:
    after = request.query_params.get("after", "0")
    if not after.isascii() or not after.isdecimal() or int(after) >= 2**63:
        raise illegal("after", r"^[0-9]{1,18}$")
    return await venue.read(lambda: venue.history.events(int(after), _MOST_EVENTS))


async def _list_faults(venue: Venue, request: Request) -> list[Json]:  # noqa: ARG001
    return venue.faults.show()


async def _add_faults(venue: Venue, request: Request) -> Json:
    faults = await _read(request, _FAULTS)
    return {"ids": [venue.faults.add(fault) for fault in (faults if isinstance(faults, list) else [faults])]}


async def _clear_faults(venue: Venue, request: Request) -> list[Json]:
    rule = request.query_params.get("id")
    if rule is not None and (not rule.isascii() or not rule.isdecimal()):
        raise illegal("id", r"^[0-9]{1,18}$")
    venue.faults.clear(None if rule is None else int(rule))
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
        raise Refusal(-1121, "Invalid symbol.")
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
        raise Refusal(-1130, "Data sent for parameter 'amount' is not valid.")
    await venue.deposit(deposit.account, deposit.asset, deposit.amount)
    return {}


async def _disconnect(venue: Venue, request: Request) -> Json:
    body = await _read(request, TypeAdapter(Disconnect))
    return {"closed": venue.streams.disconnect(body.account)}
