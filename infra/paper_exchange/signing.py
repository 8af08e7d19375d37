"""Who asks: the API key, the HMAC-SHA256 signature over all parameters, and the time window they are good for."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tradesaga.infra.paper_exchange.fields import Fields
from tradesaga.infra.paper_exchange.records import Account
from tradesaga.infra.paper_exchange.refusal import Refusal, ahead_of_time, missing, outside_window

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
