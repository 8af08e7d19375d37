"""The poisons: what they hold, and where they go."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final
from uuid import UUID

from tests.faults.load import OURS
from tests.faults.saga import NAME
from tradesaga.infra.clock import SystemClock, format_time
from tradesaga.schemas.envelope import Header
from tradesaga.schemas.topics import events_topic, starts_topic

Sent = tuple[str, bytes, bytes, list[Header]]
DEEP: Final = 10_000
LARGE: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Poison:
    """One kind of poison; a `living` one hits a saga that has been started."""

    name: str
    make: Callable[[UUID, str], Sent]
    living: bool = False
    too_large: bool = False


def poisons(chance: Random) -> list[Poison]:
    """Give one of each kind, in any order."""
    kinds = [
        Poison("bad UTF-8", _fact("reserved.v1", b'{"amount": "\xff\xfe"}')),
        Poison("wrong schema", _fact("charged.v1", b'{"fee": {"no": "fee"}}')),
        Poison("next version", _fact("reserved.v2", b'{"amount": "1"}')),
        Poison("next version in a living saga", _fact("charged.v2", b'{"fee": "1"}'), living=True),
        Poison("bad UTF-8 in a living saga", _fact("attempt-failed.v1", b"\xff\xfe", "nowhere"), living=True),
        Poison("deep nesting", _fact("reserved.v1", b"[" * DEEP + b"]" * DEEP)),
        Poison("unknown saga", _fact("charged.v1", b'{"fee": "1"}')),
        Poison("no time in the headers", _fact("reserved.v1", b'{"amount": "1"}', leave="ce_time")),
        Poison("start that is no JSON", _start(b"{not json")),
        Poison("start of another shape", _start(b'{"idempotency_key": 7}')),
        Poison("start of 900 kB", _start(b'"' + b"x" * 900_000 + b'"')),
        Poison("2 MB", _fact("reserved.v1", b"x" * LARGE), too_large=True),
    ]
    chance.shuffle(kinds)
    return kinds


def _fact(name: str, value: bytes, step: str = "", leave: str = "") -> Callable[[UUID, str], Sent]:
    def make(saga_id: UUID, ce_id: str) -> Sent:
        text = {
            "ce_specversion": "1.0", "ce_type": f"{NAME}.{name}", "ce_id": ce_id, "ce_source": f"{OURS}poison",
            "ce_time": format_time(SystemClock().now()), "ce_correlationid": str(saga_id), "ts_step": step,
        }  # fmt: skip
        headers: list[Header] = [(key, said.encode()) for key, said in text.items() if said and key != leave]
        return events_topic(NAME), str(saga_id).encode(), value, headers

    return make


def _start(value: bytes) -> Callable[[UUID, str], Sent]:
    def make(saga_id: UUID, ce_id: str) -> Sent:
        headers: list[Header] = [("ce_type", f"{NAME}.asked.v1".encode()), ("ce_id", ce_id.encode())]
        headers.append(("ce_source", f"{OURS}poison".encode()))
        return starts_topic(NAME), str(saga_id).encode(), value, headers

    return make
