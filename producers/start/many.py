"""Starting many sagas at a good pace: judged line by line, stored batch by batch, waited for if that is wanted."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from tradesaga.infra.outbox.batch_writer import OutboxTransaction
from tradesaga.infra.outbox.outbox_writer import OutboxWriter, WriteUnknownError
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.starts.accept import (
    Accepted,
    Conflict,
    Start,
    StartInvalidError,
    StartResult,
    make_start,
    read_start,
)
from tradesaga.producers.start.accept import StartBackpressure, accepting, count
from tradesaga.producers.start.lines import Line, batches
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.status import Status
from tradesaga.schemas.identity import RequestKeys

BATCH: Final = 200
PATIENCE: Final = 20.0
"""Seconds that a batch waits for a transaction before the command gives up."""
_ATTEMPTS: Final = 5
_ENDED: Final = "SELECT saga_id, state FROM saga WHERE saga_id = ANY($1::uuid[]) AND state = ANY($2::text[])"
ENDS: Final = [Status.COMPLETED.value, Status.ABORTED.value, Status.FAILED.value]


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one request; `result` is new, same, conflict or invalid."""

    line: int
    result: str
    key: str = ""
    saga_id: UUID | None = None
    reason: str = ""
    state: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what is known, under stable names."""
        told = {"line": self.line, "result": self.result, "idempotency_key": self.key, "saga_id": self.saga_id}
        return {name: value for name, value in {**told, "reason": self.reason, "state": self.state}.items() if value}


async def start_all(
    writer: OutboxWriter,
    saga: AnySaga,
    lines: Iterable[Line],
    door: str,
    backpressure: StartBackpressure,
    *,
    keys: RequestKeys,
) -> AsyncGenerator[list[Told]]:
    """Start the sagas that the lines ask for and yield the answers, batch by batch, in the order of the lines.

    Raises `CommandError` (exit 5) while the pipeline is too far behind.
    """
    async for batch in batches(lines, BATCH):
        told, starts = _judge(saga, batch)
        if starts:
            await backpressure.wait()
            run = accepting(saga, [start for _, start in starts], keys, door)
            verdicts = await _store(writer, run)
            count(saga, verdicts)
            told += [_tell(line, start, verdict) for (line, start), verdict in zip(starts, verdicts, strict=True)]
        yield sorted(told, key=lambda each: each.line)


async def wait_for_ends(pool: Pool, sagas: Iterable[UUID], seconds: float) -> AsyncGenerator[dict[UUID, str]]:
    """Return the end states as they come, by saga, until all have ended or the time is up."""
    open_ = set(sagas)
    pause = 0.02
    try:
        async with asyncio.timeout(seconds):
            while open_:
                rows = await pool.fetch(_ENDED, list(open_), ENDS)
                ended = {row["saga_id"]: row["state"] for row in rows}
                open_ -= ended.keys()
                yield ended
                pause = 0.02 if ended else min(pause * 1.5, 0.5)
                await asyncio.sleep(pause)
    except TimeoutError:
        return


def _judge(saga: AnySaga, batch: list[Line]) -> tuple[list[Told], list[tuple[int, Start]]]:
    told: list[Told] = []
    starts: list[tuple[int, Start]] = []
    for line in batch:
        try:
            starts.append((line.number, make_start(saga, read_start(saga, line.text))))
        except StartInvalidError as error:
            told.append(Told(line.number, "invalid", reason=str(error)))
    return told, starts


async def _store(
    writer: OutboxWriter, run: Callable[[OutboxTransaction], Awaitable[list[StartResult]]]
) -> list[StartResult]:
    """Store a batch; an unanswered commit is simply repeated, since the same request is the same saga."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await writer.write(run, patience=PATIENCE)
        except WriteUnknownError:
            continue
    return await writer.write(run, patience=PATIENCE)


def _tell(line: int, start: Start, verdict: StartResult) -> Told:
    if isinstance(verdict, Conflict):
        return Told(line, "conflict", start.key, start.saga_id, "another request has started a saga under this key")
    return Told(line, "new" if isinstance(verdict, Accepted) else "same", start.key, start.saga_id)
