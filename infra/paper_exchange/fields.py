"""The parameters of a request, read with Binance's strictness: what is not plainly legal is refused by name."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, Self, TypeVar
from urllib.parse import parse_qsl

from tradesaga.infra.paper_exchange.records import Account, Ticket
from tradesaga.infra.paper_exchange.refusal import Refusal, ahead_of_time, illegal, missing, outside_window
from tradesaga.infra.paper_exchange.settings import CEILING
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

_NUMBER: Final = r"^([0-9]{1,20})(\.[0-9]{1,20})?$"

_INTEGER: Final = r"^[0-9]{1,18}$"

_CLIENT_ORDER_ID: Final = r"^[a-zA-Z0-9-_]{1,36}$"

_DECIMALS: Final = 8

_MAXIMUM: Final = 64

E = TypeVar("E", bound=StrEnum)


class Fields:
    """Names and values, each name once."""

    def __init__(self, *parts: bytes) -> None:
        self._values: dict[str, str] = {}
        for part in parts:
            try:
                pairs = parse_qsl(
                    part.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAXIMUM
                )
            except UnicodeError:
                raise illegal("query", "percent-encoded UTF-8") from None
            except ValueError:
                raise Refusal(-1101, "Too many parameters sent for this endpoint.") from None
            for name, value in pairs:
                if name in self._values:
                    raise Refusal(-1101, "Duplicate values for a parameter detected.")
                self._values[name] = value

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """Wrap values that were read already."""
        fields = cls()
        fields._values.update(values)
        return fields

    def optional(self, name: str) -> str | None:
        """Return a value, or None where it is not sent or empty."""
        return self._values.get(name) or None

    def text(self, name: str) -> str:
        """Return a value that has to be there."""
        value = self.optional(name)
        if value is None:
            raise missing(name)
        return value

    def matching(self, name: str, pattern: str) -> str | None:
        """Return a value that has to match if it is there."""
        value = self.optional(name)
        if value is not None and re.fullmatch(pattern, value, re.ASCII) is None:
            raise illegal(name, pattern)
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a whole number; required where there is no default."""
        value = self.matching(name, _INTEGER)
        if value is None:
            if default is None:
                raise missing(name)
            return default
        return int(value)

    def whole(self, name: str) -> int | None:
        """Return a whole number or None."""
        return self.integer(name) if self.optional(name) is not None else None

    def number(self, name: str) -> Decimal:
        """Return a decimal that the ledger can hold exactly."""
        self.text(name)
        text = self.matching(name, _NUMBER) or ""
        if len(text.partition(".")[2].rstrip("0")) > _DECIMALS:
            raise Refusal(-1111, "Precision is over the maximum defined for this asset.")
        value = Decimal(text)
        if value > CEILING:
            raise Refusal(-1130, f"Data sent for parameter '{name}' is not valid.")
        return value

    def choice(self, name: str, kind: type[E], code: int) -> E:
        """Return one of an enumeration's values; `code` is the refusal's for any other."""
        value = self.text(name)
        try:
            return kind(value)
        except ValueError:
            raise Refusal(code, f"Invalid {name}.") from None

    def limit(self) -> int:
        """Return the page size: 500, at most 1000."""
        limit = self.integer("limit", 500)
        if not 1 <= limit <= 1000:  # noqa: PLR2004 - Binance's bound
            raise Refusal(-1130, "Data sent for parameter 'limit' is not valid.")
        return limit

    def ticket(self, account: str, client_order_id: str) -> Ticket:
        """Read a new order; `client_order_id` is for one that brings none."""
        kind = self.choice("type", OrderType, -1116)
        if self.optional("quoteOrderQty") is not None:
            raise Refusal(-1106, "Parameter 'quoteOrderQty' sent when not required.")
        limited = kind is OrderType.LIMIT
        if not limited and self.optional("price") is not None:
            raise Refusal(-1106, "Parameter 'price' sent when not required.")
        return Ticket(
            account=account,
            client_order_id=self.matching("newClientOrderId", _CLIENT_ORDER_ID) or client_order_id,
            symbol=self.text("symbol"),
            side=self.choice("side", Side, -1117),
            type=kind,
            time_in_force=self.choice("timeInForce", TimeInForce, -1115) if limited else TimeInForce.GTC,
            quantity=self.number("quantity"),
            price=self.number("price") if limited else None,
        )


_DEFAULT_WINDOW: Final = 5_000

_LONGEST_WINDOW: Final = 60_000

_AHEAD: Final = 1_000

_MILLISECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Caller:
    """An account that has signed; after `deadline` (nanoseconds, the venue's clock) the request may have no effect."""

    account: Account
    deadline: int

    def check(self, now: int) -> None:
        """Refuse the request if its time is over."""
        if now > self.deadline:
            raise outside_window()


def identify(accounts: Mapping[str, Account], key: str | None) -> Account:
    """Find the account of an API key."""
    if not key:
        raise Refusal(-2014, "API-key format invalid.", 401)
    account = accounts.get(key)
    if account is None:
        raise Refusal(-2015, "Invalid API-key, IP, or permissions for action.", 401)
    return account


def authenticate(account: Account, fields: Fields, payload: bytes, now: int) -> Caller:
    """Check signature and time of a request; `payload` is what was signed."""
    stamp, window = fields.integer("timestamp"), fields.integer("recvWindow", _DEFAULT_WINDOW)
    if window > _LONGEST_WINDOW:
        raise Refusal(-1131, "recvWindow must be less than 60000")
    given = fields.optional("signature")
    if given is None:
        raise missing("signature")
    expected = hmac.new(account.secret.encode(), payload, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise Refusal(-1022, "Signature for this request is not valid.")
    if stamp * _MILLISECOND > now + _AHEAD * _MILLISECOND:
        raise ahead_of_time()
    caller = Caller(account, (stamp + window) * _MILLISECOND)
    caller.check(now)
    return caller


def unsigned(part: bytes) -> bytes:
    """Return a query string or body as it was before its signature was added."""
    return b"&".join(pair for pair in part.split(b"&") if not pair.startswith(b"signature="))
