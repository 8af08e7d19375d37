"""The state of a saga, as the saga log has folded it: one line of `sagas.jsonl`."""

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from tradesaga.consumers.audit.export.layout import FormatError, read_line, read_record_hash, read_uuid
from tradesaga.consumers.saga_log.store import milliseconds

_MEMBERS: Final = (
    "topic", "partition", "saga_id", "name", "version", "state", "current_step_index", "completed_steps",
    "compensated_steps", "context", "deadline_ms", "request_hash", "created_ms", "updated_ms", "seq", "head",
)  # fmt: skip


class SagaHead(NamedTuple):
    """Of a saga's line: in which log it is, how many records it counts, and the hash of the last one."""

    place: tuple[str, int]
    saga_id: UUID
    seq: int
    head: bytes


def describe_saga(place: tuple[str, int], row: asyncpg.Record) -> dict[str, Any]:
    """Give a saga's line; its context is the JSON text that is stored."""
    told = {
        **dict(row),
        "topic": place[0],
        "partition": place[1],
        "saga_id": str(row["saga_id"]),
        "completed_steps": orjson.loads(row["completed_steps"]),
        "compensated_steps": orjson.loads(row["compensated_steps"]),
        "deadline_ms": _when(row["deadline"]),
        "created_ms": _when(row["created_at"]),
        "updated_ms": _when(row["updated_at"]),
        "head": row["head"].hex(),
    }
    return {member: told[member] for member in _MEMBERS}


def read_saga_line(text: bytes) -> SagaHead:
    """Read what an export's verification asks for; raises `FormatError`."""
    told = read_line(text)
    if tuple(told) != _MEMBERS:
        raise FormatError("the line is no saga's")
    topic, partition, seq = told["topic"], told["partition"], told["seq"]
    if type(topic) is not str or type(partition) is not int or type(seq) is not int:
        raise FormatError("a member of the saga's line is none")
    return SagaHead((topic, partition), read_uuid(told["saga_id"]), seq, read_record_hash(told["head"]))


def _when(at: datetime | None) -> int | None:
    return milliseconds(at) if at is not None else None
