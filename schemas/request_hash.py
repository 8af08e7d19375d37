"""The hash that tells one request from another, keyed: requests can be guessed, a secret of the installation cannot.

A hash names its scheme and key: `hmac-sha256:<key id>:<64 hex digits>`. One of a release before keys is the bare
SHA-256 in hex. Each is compared by its own scheme and key, for as long as it is kept.
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Self

from pydantic import ValidationError

from tradesaga.schemas.identity import canonical, request_hash
from tradesaga.schemas.messages.message import Message

SCHEME: Final = "hmac-sha256"
SECRET_BYTES: Final = 32
_KEYED: Final = re.compile(rf"{SCHEME}:([0-9a-f]{{16}}):[0-9a-f]{{64}}")
_BARE: Final = re.compile(r"[0-9a-f]{64}")
_ID_LABEL: Final = b"tradesaga request key id"


@dataclass(frozen=True)
class RequestKey:
    """One secret; its id follows from it, so that no two keys share one. Raises `ValueError` for a wrong length."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a key has {SECRET_BYTES} bytes, and this one {len(self.secret)}")

    @cached_property
    def id(self) -> str:
        """Return the key's name in the hashes that it makes, which tells nothing of the secret."""
        return hmac.digest(self.secret, _ID_LABEL, "sha256")[:8].hex()

    def hash(self, request: Message) -> str:
        """Return the request's hash under this key."""
        digest = hmac.digest(self.secret, canonical(request), "sha256")  # named: computed in C
        return f"{SCHEME}:{self.id}:{digest.hex()}"


class RequestKeys:
    """The keys of an installation: the first makes hashes, the others are kept for those that they have made."""

    def __init__(self, keys: Sequence[RequestKey]) -> None:
        self.keys = tuple(keys)
        self._by_id = {key.id: key for key in self.keys}

    @classmethod
    def of(cls, *secrets: bytes) -> Self:
        """Make the keys from their secrets."""
        return cls([RequestKey(secret) for secret in secrets])

    def hash(self, request: Message) -> str:
        """Return the request's hash under the current key."""
        return self.keys[0].hash(request)

    def matches(self, stored: str, request: Message) -> bool | None:
        """Tell whether a stored hash is the request's, by its own scheme and key; None where that key is not here."""
        made = made_with(stored)
        if made is None:
            return None
        if made == "":
            return hmac.compare_digest(stored, request_hash(request))
        key = self._by_id.get(made)
        return None if key is None else hmac.compare_digest(stored, key.hash(request))


def made_with(stored: str) -> str | None:
    """Return the id of the key that made a hash, "" for an unkeyed one, None for what is no hash of ours."""
    if found := _KEYED.fullmatch(stored):
        return found[1]
    return "" if _BARE.fullmatch(stored) else None


def comparable(one: str, other: str) -> bool:
    """Tell whether two hashes decide by themselves: what was made with two keys, or with one and none, does not."""
    first, second = made_with(one), made_with(other)
    return first is None or second is None or first == second


def same_request(stored: bytes, request: Message) -> bool:
    """Tell whether a stored payload is this request, where no hash can: field by field, however it was written."""
    try:
        return canonical(type(request).from_wire(stored)) == canonical(request)
    except ValidationError:
        return False
