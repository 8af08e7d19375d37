"""Parameters and signatures of requests, checked as strictly as Binance does."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, Self, TypeVar
from urllib.parse import parse_qsl

from tradesaga.infra.paper_exchange.errors import ApiError, Error
from tradesaga.infra.paper_exchange.records import Account, Ticket
from tradesaga.infra.paper_exchange.settings import CEILING
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

_NUMBER: Final = r"^([0-9]{1,20})(\.[0-9]{1,20})?$"
_INTEGER: Final = r"^[0-9]{1,18}$"
_CLIENT_ORDER_ID: Final = r"^[a-zA-Z0-9-_]{1,36}$"
_DECIMALS: Final = 8
_MOST_PARAMETERS: Final = 64
_DEFAULT_WINDOW: Final = 5_000
_LONGEST_WINDOW: Final = 60_000
_AHEAD: Final = 1_000
_MILLISECOND: Final = 1_000_000

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request by name. Each method raises ApiError if the value is missing or not legal."""

    values: Mapping[str, str]

    @classmethod
    def parse(cls, *parts: bytes) -> Self:
        """Parse a query string and a body; a name may occur once."""
        values: dict[str, str] = {}
        for part in parts:
            try:
                pairs = parse_qsl(
                    part.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
                )
            except UnicodeError:
                raise ApiError(Error.ILLEGAL, "query", "percent-encoded UTF-8") from None
            except ValueError:
                raise ApiError(Error.TOO_MANY_PARAMETERS) from None
            for name, value in pairs:
                if name in values:
                    raise ApiError(Error.DUPLICATE_PARAMETER)
                values[name] = value
        return cls(values)

    def optional(self, name: str) -> str | None:
        """Return a value, or None if it is not sent or empty."""
        return self.values.get(name) or None

    def text(self, name: str) -> str:
        """Return a required value."""
        value = self.optional(name)
        if value is None:
            raise ApiError(Error.MISSING, name)
        return value

    def matching(self, name: str, pattern: str) -> str | None:
        """Return a value that must match `pattern`, or None if it is not sent."""
        value = self.optional(name)
        if value is not None and re.fullmatch(pattern, value, re.ASCII) is None:
            raise ApiError(Error.ILLEGAL, name, pattern)
        return value

    def whole(self, name: str) -> int | None:
        """Return a whole number, or None if it is not sent."""
        value = self.matching(name, _INTEGER)
        return None if value is None else int(value)

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a whole number; it is required if there is no default."""
        value = self.whole(name)
        if value is None:
            value = default
        if value is None:
            raise ApiError(Error.MISSING, name)
        return value

    def number(self, name: str) -> Decimal:
        """Return a required decimal that the ledger can hold exactly."""
        self.text(name)
        text = self.matching(name, _NUMBER) or ""
        if len(text.partition(".")[2].rstrip("0")) > _DECIMALS:
            raise ApiError(Error.TOO_PRECISE)
        value = Decimal(text)
        if value > CEILING:
            raise ApiError(Error.INVALID, name)
        return value

    def choice(self, name: str, values: type[E], error: Error) -> E:
        """Return a required value of an enumeration; raise `error` for any other value."""
        value = self.text(name)
        try:
            return values(value)
        except ValueError:
            raise ApiError(error) from None

    def limit(self) -> int:
        """Return the page size: 500 by default, at most 1000."""
        limit = self.integer("limit", 500)
        if not 1 <= limit <= 1000:  # noqa: PLR2004 - Binance's bound
            raise ApiError(Error.INVALID, "limit")
        return limit

    def ticket(self, account: str, client_order_id: str) -> Ticket:
        """Return a new order; `client_order_id` is used if the request has none."""
        order_type = self.choice("type", OrderType, Error.BAD_TYPE)
        limited = order_type is OrderType.LIMIT
        for name in ("quoteOrderQty",) if limited else ("quoteOrderQty", "price"):
            if self.optional(name) is not None:
                raise ApiError(Error.NOT_REQUIRED, name)
        return Ticket(
            account=account,
            client_order_id=self.matching("newClientOrderId", _CLIENT_ORDER_ID) or client_order_id,
            symbol=self.text("symbol"),
            side=self.choice("side", Side, Error.BAD_SIDE),
            type=order_type,
            time_in_force=(
                self.choice("timeInForce", TimeInForce, Error.BAD_TIME_IN_FORCE) if limited else TimeInForce.GTC
            ),
            quantity=self.number("quantity"),
            price=self.number("price") if limited else None,
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """The account that signed a request. After `deadline` (nanoseconds, the venue's clock) it may have no effect."""

    account: Account
    deadline: int

    def check(self, now: int) -> None:
        """Raise if the deadline is over."""
        if now > self.deadline:
            raise ApiError(Error.OUTSIDE_WINDOW)


def identify(accounts: Mapping[str, Account], key: str | None) -> Account:
    """Return the account of an API key."""
    if not key:
        raise ApiError(Error.BAD_API_KEY_FORMAT)
    if key not in accounts:
        raise ApiError(Error.BAD_API_KEY)
    return accounts[key]


def authenticate(account: Account, parameters: Parameters, payload: bytes, now: int) -> Caller:
    """Check signature and time of a request; `payload` is what was signed."""
    stamp, window = parameters.integer("timestamp"), parameters.integer("recvWindow", _DEFAULT_WINDOW)
    if window > _LONGEST_WINDOW:
        raise ApiError(Error.WINDOW_TOO_LONG)
    given = parameters.text("signature")
    expected = hmac.new(account.secret.encode(), payload, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise ApiError(Error.BAD_SIGNATURE)
    if stamp * _MILLISECOND > now + _AHEAD * _MILLISECOND:
        raise ApiError(Error.AHEAD_OF_TIME)
    caller = Caller(account, (stamp + window) * _MILLISECOND)
    caller.check(now)
    return caller


def unsigned(part: bytes) -> bytes:
    """Return a query string or body without its signature."""
    return b"&".join(pair for pair in part.split(b"&") if not pair.startswith(b"signature="))
