"""The end of a run: nothing is broken any more, what was parked is let go, and all comes to rest."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg
from confluent_kafka import KafkaException

from tests.faults.evidence import read_offsets
from tests.faults.phases.data import speak
from tests.faults.saga import NAME
from tests.faults.stage import Stage
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.postgres.database import DATABASE_ERRORS
from tradesaga.schemas.messages.lifecycle import ParkReleased
from tradesaga.schemas.topics import events_topic

QUIET: Final = 2.0
_OPEN: Final = """
SELECT (SELECT count(*) FROM saga WHERE state NOT IN ('COMPLETED', 'ABORTED', 'FAILED')) AS open,
    (SELECT count(*) FROM start_request r LEFT JOIN saga s USING (saga_id) WHERE s.saga_id IS NULL) AS unborn,
    (SELECT count(*) FROM step_execution WHERE due IS NOT NULL) AS due,
    (SELECT count(*) FROM parked WHERE released IS NULL) AS parked,
    (SELECT coalesce(sum(last_seq - published_seq), 0) FROM lane)::bigint AS unpublished
"""
_LANES: Final = "SELECT topic, partition, next_offset FROM lane WHERE topic LIKE $1"
_PARKED: Final = """
SELECT DISTINCT ON (saga_id) p.saga_id, p.topic, p.partition, p."offset", p.reason, s.version
FROM parked p LEFT JOIN saga s USING (saga_id) WHERE released IS NULL AND p.saga_id IS NOT NULL
ORDER BY saga_id, p."offset"
"""


async def drain(stage: Stage, patience: float) -> None:
    """Wait until all has come to rest, letting parked records go as an operator would; gives up after `patience`.

    Raises `CommandError` (exit 5) once the exchange has ended by itself.
    """
    began = time.monotonic()
    quiet_since: float | None = None
    while time.monotonic() - began < patience:
        stage.exchange.check()
        try:
            resting = await _look(stage)
        except (KafkaUnavailableError, KafkaException, *DATABASE_ERRORS):
            resting = False
        now = time.monotonic()
        quiet_since = (quiet_since or now) if resting else None
        if quiet_since is not None and now - quiet_since > QUIET:
            stage.notes.drained = now - began
            return
        await asyncio.sleep(0.5)


async def _look(stage: Stage) -> bool:
    """Say whether nothing is under way; if only parked records are left, let the next ones go."""
    sql = await asyncpg.connect(stage.database.url, timeout=5)
    try:
        row = await sql.fetchrow(_OPEN)
        lanes = await sql.fetch(_LANES, f"{NAME}.%")
        parked = await sql.fetch(_PARKED)
    finally:
        await sql.close()
    if row is None:
        return False
    stage.watch.phase = f"drain: {', '.join(f'{count} {name}' for name, count in row.items() if count) or 'quiet'}"
    if parked and not row["unborn"]:
        await _release(stage, parked)
        return False
    if any(row.values()):
        return False
    ends, _ = await asyncio.to_thread(read_offsets, stage.broker.bootstrap)
    return all(ends[lane["topic"], lane["partition"]] == lane["next_offset"] for lane in lanes)


async def _release(stage: Stage, parked: Sequence[Any]) -> None:
    """Let go what can be folded by the version that runs now; if nothing can, deploy the version that is wanted."""
    logs = stage.crew.of("log")
    running = int(logs[0].environment.get("DRILL_VERSION", "1"))
    wanted = [row for row in parked if (row["version"] or running) == running]
    if not wanted:
        for member in logs:
            stage.crew.redeploy(member, parked[0]["version"])
        await asyncio.sleep(5.0)
        return
    for row in wanted:
        released = ParkReleased(
            operator="the run", reason="the fault is over", topic=events_topic(NAME), partition=row["partition"],
            offset=row["offset"], action=_action(row),
        )  # fmt: skip
        await speak(stage, UUID(str(row["saga_id"])), released)
    await asyncio.sleep(1.5)


def _action(row: Any) -> Literal["retry", "discard"]:
    """Fold again what was only too early, or of another version; leave out what nobody will ever read."""
    reason: str = row["reason"]
    if row["version"] is None:
        return "discard"  # nobody has ever started it
    again = ("the saga runs under version", "waits behind", "the saga's start is not known")
    return "retry" if reason.startswith(again) else "discard"
