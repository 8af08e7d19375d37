"""Who a saga is: an id that any client can compute, and what of a request is hashed to tell it from another."""

import hashlib
import json
from typing import Final
from uuid import UUID, uuid5

from tradesaga.schemas.messages.message import Message

NAMESPACE: Final = UUID("6f1c1b7e-5b0a-5d5e-9d3b-3a7c6f0e8a11")
"""The published namespace of saga ids; changing it would make every repeated start a new trade."""


def saga_id(saga: str, account: str, idempotency_key: str) -> UUID:
    """Give the saga's id: UUIDv5 (RFC 9562) of the compact JSON `[saga, account, idempotency_key]`."""
    name = json.dumps([saga, account, idempotency_key], separators=(",", ":"), ensure_ascii=False)
    return uuid5(NAMESPACE, name)


def canonical(request: Message) -> bytes:
    """Return the validated payload in canonical JSON: keys sorted, compact, UTF-8."""
    payload = request.model_dump(mode="json", exclude_none=True)
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def request_hash(request: Message) -> str:
    """Return the unkeyed hash, SHA-256 in hex, that releases before keyed hashes wrote.

    See `tradesaga.schemas.request_hash`.
    """
    return hashlib.sha256(canonical(request)).hexdigest()
