"""Diagnosis of a saga: the steps that it waits for, and what delays each of them."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson

from tradesaga.consumers.queries.tables import place_of, read_reason
from tradesaga.consumers.runtime.step_rows import HELD_FROM
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.audit_log.seals import read_trust
from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.admin import read_ends
from tradesaga.infra.kafka.connections import KafkaUnavailableError, Partition
from tradesaga.infra.outbox.guard import Guard, group_filter_for
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.registry.participants import registered_participants
from tradesaga.infra.registry.sagas import find_saga
from tradesaga.infra.saga_queries import Json, ProgressError, decode_progress, read_value
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.sagas.machine import State
from tradesaga.sagas.status import Status
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.messages.lifecycle import (
    AttemptFailed,
    CompensationFailed,
    StepContradicted,
    StepFailed,
    StepUnknown,
)
from tradesaga.schemas.messages.message import Event, wire_type
from tradesaga.schemas.topics import commands_topic, events_topic

_STEPS: Final = """
SELECT e.step, e.status, e.attempt, e.back_attempt, e.bar_seen, coalesce(e.due > $2, false) AS paused,
    CASE WHEN e.due <= $2 THEN extract(epoch FROM e.due - clock_timestamp())::float8 END AS due_in
FROM step_execution e WHERE e.saga_id = $1
"""
_LANES: Final = """
SELECT "group", topic, partition, owner, next_offset, last_seq - published_seq AS unpublished
FROM lane WHERE topic = ANY($1::text[]) AND partition = $2
"""
_PARTITION: Final = "SELECT partition FROM saga_event WHERE saga_id = $1 AND seq IS NOT NULL LIMIT 1"
_PARKED: Final = """
SELECT "group", topic, partition, "offset", reason, recorded_at FROM parked
WHERE saga_id = $1 AND released IS NULL ORDER BY topic, partition, "offset"
"""
_FAILURES: Final = """
SELECT DISTINCT ON (step_name) step_name, event_type, value FROM saga_event
WHERE saga_id = $1 AND event_type = ANY($2::text[]) AND seq IS NOT NULL ORDER BY step_name, seq DESC
"""
_HOLDS: Final = """
SELECT scope, key, operator, reason, created_at FROM hold
WHERE scope = 'venue' OR (scope = 'saga' AND key = ANY($1::text[])) OR (scope = 'account' AND key = $2)
"""
_DEADLINE: Final = "SELECT extract(epoch FROM $1::timestamptz - clock_timestamp())::float8"
_TO: Final = {Status.COMPENSATING: "be settled or compensated", Status.FAILED: "be decided by a person"}


@dataclass(frozen=True, slots=True)
class _Saga:
    """A checkpoint, read with its definition. No state if another version wrote it."""

    row: asyncpg.Record
    rules: Rules
    state: State | None

    @property
    def missing(self) -> list[str]:
        return self.rules.machine.missing(self.state) if self.state is not None else []


async def diagnose(sql: Connection, settings: Settings, row: asyncpg.Record) -> Json:
    """Return what the saga of this row waits for. If Kafka is unavailable, its figures are null."""
    saga = _read(row, settings)
    topics = [events_topic(row["name"]), commands_topic(row["name"])]
    partition: int = await sql.fetchval(_PARTITION, row["saga_id"])
    ends = await _ends(settings, [(topic, partition) for topic in topics])
    steps = await _steps(settings, saga, topics, partition, ends)
    services = {SAGA_LOG: f"{row['name']}-log", **{step["service"]: step["group"] for step in steps if step["service"]}}
    lanes = {(lane["group"], lane["topic"]): lane for lane in await sql.fetch(_LANES, topics, partition)}
    found: Json = {
        "saga_id": row["saga_id"],
        "state": row["state"],
        "partition": partition,
        "deadline": {"at": row["deadline"], "in_seconds": await sql.fetchval(_DEADLINE, row["deadline"])},
        "kafka": ends is not None,
        "waits_for": steps,
        "halted": await _halted(settings, row["name"], services) if ends is not None else {},
        "saga_log": _progress(lanes, f"{row['name']}-log", topics[:1], ends, partition),
        "parked": [dict(each) for each in await sql.fetch(_PARKED, row["saga_id"])],
        "holds": [dict(each) for each in await sql.fetch(_HOLDS, [str(row["saga_id"]), row["name"]], _account(row))],
        "stands": saga.rules.stands(saga.state) if saga.state is not None and row["state"] == "FAILED" else "",
        "failures": await _failures(sql, saga),
        "cause": saga.rules.cause(saga.state) if saga.state is not None else "",
    }
    return {"summary": summarize(found), **found}


def summarize(found: Json) -> str:
    """Return one sentence on the most immediate obstacle."""
    state = Status(found["state"])
    if found["halted"] and not state.final:
        return "; ".join(f"{', '.join(groups)} halted: {why}" for why, groups in _by_reason(found["halted"]).items())
    if found["parked"]:
        first = found["parked"][0]
        return f"{len(found['parked'])} of its records are parked, the first at {place_of(first)}: {first['reason']}"
    if state.final:
        return f"it has ended: {state}{_last_reason(found) if state is Status.ABORTED else ''}"
    if state is Status.FAILED:
        return f"a person is needed: {found['stands']}{_last_reason(found)}"
    if found["holds"]:
        return "; ".join(f"{hold['scope']} {hold['key']} is paused: {hold['reason']}" for hold in found["holds"])
    if found["saga_log"]["lag"]:
        return f"the saga log has {found['saga_log']['lag']} records to read first"
    return "; ".join(_describe_step(step) for step in found["waits_for"]) or f"no step is missing in {state}"


def _by_reason(halted: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the groups by the reason that halts them, since one cause halts all groups of a database."""
    found: dict[str, list[str]] = {}
    for group, why in halted.items():
        found.setdefault(why, []).append(group)
    return found


async def _halted(settings: Settings, saga: str, services: Mapping[str, str]) -> dict[str, str]:
    """Return the reason for which each group is halted, found with the group's own checks, whether or not it runs.

    `services` gives the groups by the names of their databases.
    """
    trust, brokers, topics = read_trust(settings), settings.brokers(), [events_topic(saga), commands_topic(saga)]
    found: dict[str, str] = {}
    for service, group in services.items():
        read = topics[:1] if service == SAGA_LOG else topics
        async with session(settings.database_for(service), application_name="tradesaga why") as sql:
            try:
                here = group_filter_for(settings, service)
                why = await Guard(brokers, saga, group, read, trust=trust, group_filter=here).refusal(sql)
            except (KafkaUnavailableError, CommandError):
                continue
        if why:
            found[group] = why
    return found


async def _failures(sql: Connection, saga: _Saga) -> list[Json]:
    """Return the last failure or refusal of each step."""
    name, rejects = saga.rules.saga.name, [step.rejects for step in saga.rules.saga.steps]
    kinds: list[type[Event]] = [AttemptFailed, StepFailed, StepUnknown, CompensationFailed, StepContradicted]
    types = {wire_type(name, kind): kind.NAME for kind in (*kinds, *filter(None, rejects))}
    rows = await sql.fetch(_FAILURES, saga.row["saga_id"], list(types))
    failures = [
        {
            "step": row["step_name"],
            "event": types[row["event_type"]],
            "reason": read_reason(read_value(row["value"])),
        }
        for row in rows
    ]
    return [failure for failure in failures if failure["reason"]]


def _last_reason(found: Json) -> str:
    reasons = [f"{failure['step']}: {failure['reason']}" for failure in found["failures"]]
    return f" ({'; '.join(reasons)})" if reasons else ""


def _describe_step(step: Json) -> str:
    name = f"{step['step']} is to {step['to']}"
    if step["service"] is None:
        return f"{name}; no participant that is registered here owns it"
    who = step["service"]
    if step["paused"]:
        return f"{name}; it is paused, {who} starts it within about a second of `tradesaga resume`"
    if step["status"] == RowStatus.RETRY.name:
        return f"{name}; attempt {step['attempt']} failed, {who} retries in {max(0.0, step['due_in'] or 0):.1f} s"
    if step["status"] is not None:
        return f"{name}; {who} has it as {step['status']}"
    if not step["owner"]:
        return f"{name}; {who} has never run"
    if step["lag"]:
        return f"{name}; {who} has {step['lag']} records to read first"
    return f"{name}; {who} has not processed it yet"


def _read(row: asyncpg.Record, settings: Settings) -> _Saga:
    rules = Rules(find_saga(row["name"], settings.app))
    if row["version"] not in rules.versions:
        return _Saga(row, rules, None)
    rules = rules.under(row["version"])
    try:
        return _Saga(row, rules, decode_progress(rules.machine, row["progress"]))
    except ProgressError:
        return _Saga(row, rules, None)


async def _ends(settings: Settings, places: Sequence[Partition]) -> dict[Partition, int] | None:
    try:
        return await read_ends(settings.brokers(), places)
    except (KafkaUnavailableError, CommandError):
        return None


async def _steps(
    settings: Settings, saga: _Saga, topics: Sequence[str], partition: int, ends: dict[Partition, int] | None
) -> list[Json]:
    """Return the missing steps with their rows in the databases of their owners."""
    if not saga.missing:
        return []
    found = [each for each in registered_participants(settings) if each.saga.name == saga.row["name"]]
    owners = {step: owner for owner in found for step in owner.steps}
    names = {owners[step].name if step in owners else "" for step in saga.missing}
    rows: dict[str, asyncpg.Record] = {}
    lanes: dict[tuple[str, str], asyncpg.Record] = {}
    async with AsyncExitStack() as stack:
        for url in {settings.database_for(name) for name in names}:
            sql = await stack.enter_async_context(session(url, application_name="tradesaga why"))
            rows |= {row["step"]: row for row in await sql.fetch(_STEPS, saga.row["saga_id"], HELD_FROM)}
            lanes |= {(lane["group"], lane["topic"]): lane for lane in await sql.fetch(_LANES, topics, partition)}
    steps: list[Json] = []
    for step in saga.missing:
        owner = owners.get(step)
        behind = _progress(lanes, owner.group if owner else "", topics, ends, partition)
        to = _TO.get(Status(saga.row["state"]), "report")
        steps.append({"step": step, "to": to, "service": owner and owner.name, **behind, **_row(rows.get(step))})
    return steps


def _row(row: asyncpg.Record | None) -> Json:
    if row is None:
        return {"status": None, "attempt": None, "bar_seen": None, "due_in": None, "paused": False}
    back = row["status"] >= RowStatus.COMPENSATING
    return {
        "status": RowStatus(row["status"]).name,
        "attempt": row["back_attempt"] if back else row["attempt"],
        "bar_seen": row["bar_seen"],
        "due_in": row["due_in"],
        "paused": row["paused"],
    }


def _progress(
    lanes: dict[tuple[str, str], asyncpg.Record],
    group: str,
    topics: Sequence[str],
    ends: dict[Partition, int] | None,
    partition: int,
) -> Json:
    """Return how far a group is on the saga's partition, from its own lanes."""
    own = [lane for topic in topics if (lane := lanes.get((group, topic))) is not None]
    lag = None
    if ends is not None and own:
        lag = sum(max(0, ends[lane["topic"], partition] - lane["next_offset"]) for lane in own)
    return {
        "group": group or None,
        "owner": own[0]["owner"] if own else None,
        "lag": lag,
        "unpublished": sum(lane["unpublished"] for lane in own) if own else None,
    }


def _account(row: asyncpg.Record) -> str:
    """Return the account of the saga's start, the first member of its context."""
    context: dict[str, dict[str, Any]] = orjson.loads(row["context"])
    return next((str(start.get("account", "")) for start in context.values()), "")


async def parked_records(sql: Connection, limit: int) -> list[Json]:
    """Return the parked records, oldest first."""
    rows = await sql.fetch(
        'SELECT "group", topic, partition, "offset", saga_id, reason, recorded_at FROM parked'
        ' WHERE released IS NULL ORDER BY recorded_at, topic, partition, "offset" LIMIT $1',
        limit,
    )
    return [dict(row) for row in rows]
