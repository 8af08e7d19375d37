"""The state of a saga as the `progress` column keeps it: compact JSON of what differs from a saga just begun.

Most sagas have one of a few states, so both directions are remembered; a state with many contradictions or decisions is
no such one, and would be kept a thousand times over as it grows.
"""

from functools import lru_cache
from typing import Any, Final, cast

import orjson

from tradesaga.sagas.machine import Machine, State
from tradesaga.sagas.status import Status

_FIELDS: Final = State._fields
_REMEMBERED: Final = 4096
"""Bytes up to which progress is remembered."""
_NAMED: Final = 16
"""Contradictions and decisions up to which it is."""


class ProgressError(ValueError):
    """Stored progress does not fit the definition: it was written under another one, or it is damaged."""


def encode_progress(machine: Machine, state: State) -> bytes:
    """Write what differs from `machine.begin()`."""
    few = len(state.contradictions) + len(state.decisions) <= _NAMED
    return _encode_remembered(machine, state) if few else _encode(machine, state)


def _encode(machine: Machine, state: State) -> bytes:
    begun = machine.begin()
    differing = {name: now for name, now, first in zip(_FIELDS, state, begun, strict=True) if now != first}
    return orjson.dumps(differing, default=sorted)  # sets are the one thing JSON has not


def decode_progress(machine: Machine, progress: bytes) -> State:
    """Read what `encode_progress` wrote for the same definition; raises `ProgressError`."""
    return (_decode_remembered if len(progress) <= _REMEMBERED else _decode)(machine, progress)


def _decode(machine: Machine, progress: bytes) -> State:
    begun = machine.begin()
    try:
        stored: dict[str, Any] = orjson.loads(progress)
        state = State(**{name: _typed(stored.get(name), getattr(begun, name)) for name in _FIELDS})
    except (ValueError, TypeError, AttributeError) as error:
        raise ProgressError(f"progress cannot be read: {error}") from None
    if unknown := stored.keys() - set(_FIELDS):
        raise ProgressError(f"progress holds {sorted(unknown)}, which this version does not know")
    return state


_encode_remembered: Final = lru_cache(maxsize=1024)(_encode)
_decode_remembered: Final = lru_cache(maxsize=1024)(_decode)


def _typed(stored: Any, begun: Any) -> Any:
    """Give a stored value the type of its field; `begun` is the field's value in a saga just begun."""
    if stored is None:
        return begun
    if isinstance(begun, tuple):
        steps = len(cast("tuple[int, ...]", begun))
        if len(stored) != steps:
            raise ProgressError(f"progress is of {len(stored)} steps; the definition has {steps}")
        return tuple(stored)
    if isinstance(begun, frozenset):
        return frozenset(stored)
    return Status(stored) if begun is None else type(begun)(stored)
