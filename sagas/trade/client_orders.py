"""The client order id: the saga's id in a form that venues take, and back."""

from typing import Final
from uuid import UUID

PREFIX: Final = "ts"
_LENGTH: Final = len(PREFIX) + 32


def client_order_id(saga_id: UUID) -> str:
    """Give the id of a saga's one order: 34 of `[a-z0-9]`."""
    return f"{PREFIX}{saga_id.hex}"


def saga_of(order_id: str) -> UUID | None:
    """Give the saga an order belongs to, or None for an order that is not ours."""
    if len(order_id) != _LENGTH or not order_id.startswith(PREFIX):
        return None
    try:
        saga_id = UUID(hex=order_id.removeprefix(PREFIX))
    except ValueError:
        return None
    return saga_id if client_order_id(saga_id) == order_id else None
