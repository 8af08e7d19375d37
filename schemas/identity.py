"""Saga ids that any client can compute, and hashes that tell requests apart."""

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Self
from uuid import UUID, uuid5

from pydantic import ValidationError

from tradesaga.schemas.messages.message import Message

NAMESPACE: Final = UUID("6f1c1b7e-5b0a-5d5e-9d3b-3a7c6f0e8a11")
"""The published namespace of saga ids; changing it would make every repeated start a new trade."""


def saga_id(saga: str, account: str, idempotency_key: str) -> UUID:
    """Return the saga's id: UUIDv5 (RFC 9562) of the compact JSON `[saga, account, idempotency_key]`."""
    name = json.dumps([saga, account, idempotency_key], separators=(",", ":"), ensure_ascii=False)
    return uuid5(NAMESPACE, name)


def canonical(request: Message) -> bytes:
    """Return the validated payload in canonical JSON: keys sorted, compact, UTF-8."""
    payload = request.model_dump(mode="json", exclude_none=True)
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def request_hash(request: Message) -> str:
    """Return the unkeyed hash, SHA-256 in hex, that releases before keyed hashes wrote."""
    return hashlib.sha256(canonical(request)).hexdigest()


SCHEME: Final = "hmac-sha256"

SECRET_BYTES: Final = 32

_KEYED: Final = re.compile(rf"{SCHEME}:([0-9a-f]{{16}}):[0-9a-f]{{64}}")

_BARE: Final = re.compile(r"[0-9a-f]{64}")

_ID_LABEL: Final = b"tradesaga request key id"


@dataclass(frozen=True)
class RequestKey:
    """A secret key; its id is derived from the secret. Raises `ValueError` for a wrong length."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a key has {SECRET_BYTES} bytes, and this one {len(self.secret)}")

    @cached_property
    def id(self) -> str:
        """Return the key's id, as it stands in its hashes; it reveals nothing about the secret."""
        return hmac.digest(self.secret, _ID_LABEL, "sha256")[:8].hex()

    def hash(self, request: Message) -> str:
        """Return the request's hash under this key."""
        digest = hmac.digest(self.secret, canonical(request), "sha256")  # named: computed in C
        return f"{SCHEME}:{self.id}:{digest.hex()}"


class RequestKeys:
    """The keys of an installation: the first makes hashes, the others check earlier ones."""

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
        """Return whether a stored hash is the request's, by its scheme and key; None if that key is missing."""
        made = made_with(stored)
        if made is None:
            return None
        if made == "":
            return hmac.compare_digest(stored, request_hash(request))
        key = self._by_id.get(made)
        return None if key is None else hmac.compare_digest(stored, key.hash(request))


def made_with(stored: str) -> str | None:
    """Return the id of a hash's key, "" for an unkeyed hash, None for a text that is no such hash."""
    if found := _KEYED.fullmatch(stored):
        return found[1]
    return "" if _BARE.fullmatch(stored) else None


def comparable(one: str, other: str) -> bool:
    """Return whether two hashes can be compared: not if their keys differ, or only one has a key."""
    first, second = made_with(one), made_with(other)
    return first is None or second is None or first == second


def same_request(stored: bytes, request: Message) -> bool:
    """Return whether a stored payload equals this request, compared field by field."""
    try:
        return canonical(type(request).from_wire(stored)) == canonical(request)
    except ValidationError:
        return False
