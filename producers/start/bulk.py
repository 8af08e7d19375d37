"""Bulk starts: requests are validated line by line, stored in batches, and optionally waited for."""

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
from tradesaga.producers.backpressure import StartBackpressure
from tradesaga.producers.start.accept import accepting, count
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
class RequestResult:
    """The result of one request; `result` is new, same, conflict or invalid."""

    line: int
    result: str
    key: str = ""
    saga_id: UUID | None = None
    reason: str = ""
    state: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the known fields under the names that `--json` prints."""
        known = {
            "line": self.line, "result": self.result, "idempotency_key": self.key, "saga_id": self.saga_id,
            "reason": self.reason, "state": self.state,
        }  # fmt: skip
        return {name: value for name, value in known.items() if value}


async def start_all(
    writer: OutboxWriter,
    saga: AnySaga,
    lines: Iterable[Line],
    backpressure: StartBackpressure,
    *,
    keys: RequestKeys,
) -> AsyncGenerator[list[RequestResult]]:
    """Start the requested sagas and yield the results, batch by batch, in the order of the lines.

    Raises `CommandError` (exit 5) while the pipeline lags too much.
    """
    async for batch in batches(lines, BATCH):
        results: list[RequestResult] = []
        starts: list[tuple[int, Start]] = []
        for line in batch:
            try:
                starts.append((line.number, make_start(saga, read_start(saga, line.text))))
            except StartInvalidError as error:
                results.append(RequestResult(line.number, "invalid", reason=str(error)))
        if starts:
            await backpressure.wait()
            stored = await _store(writer, accepting(saga, [start for _, start in starts], keys, "start"))
            count(saga, stored)
            results += [_result(line, start, each) for (line, start), each in zip(starts, stored, strict=True)]
        yield sorted(results, key=lambda each: each.line)


async def wait_for_ends(pool: Pool, sagas: Iterable[UUID], seconds: float) -> AsyncGenerator[dict[UUID, str]]:
    """Yield end states by saga as they are reached, until all sagas have ended or `seconds` have passed."""
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


async def _store(
    writer: OutboxWriter, run: Callable[[OutboxTransaction], Awaitable[list[StartResult]]]
) -> list[StartResult]:
    """Store a batch; an unconfirmed commit is repeated, since the same request is the same saga."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await writer.write(run, patience=PATIENCE)
        except WriteUnknownError:
            continue
    return await writer.write(run, patience=PATIENCE)


def _result(line: int, start: Start, stored: StartResult) -> RequestResult:
    if isinstance(stored, Conflict):
        reason = "another request has started a saga under this key"
        return RequestResult(line, "conflict", start.key, start.saga_id, reason)
    return RequestResult(line, "new" if isinstance(stored, Accepted) else "same", start.key, start.saga_id)
