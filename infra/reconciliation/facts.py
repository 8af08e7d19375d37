"""Detects forged facts: compares facts of the audit log with the rows that genuine facts have.

| fact | genuine if |
| --- | --- |
| a start | the intake stored this record |
| done, refused, barred, compensated | the step's row has this record as its answer, which never changes |
| failed | the same, unless the step was retried: a later round replaces the answer |
| other facts of a step | the step has a row |

Rows are committed before their records are published, and are read here after the facts. Operators' decisions,
deadlines and reports have no row to compare with: the saga log checks the former, execution the latter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from tradesaga.infra.kafka.codec import load_headers, unpack
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.envelope import CONTEXT, ID, TYPE, Header
from tradesaga.schemas.messages.lifecycle import (
    AttemptFailed,
    CompensationFailed,
    StepBarred,
    StepContradicted,
    StepFailed,
    StepUnknown,
)
from tradesaga.schemas.messages.message import Message, wire_type
from tradesaga.schemas.topics import events_topic

WINDOW: Final = timedelta(days=7)
"""The period that is checked by default."""
SHOWN: Final = 100
"""The number of forged facts that are listed; all are counted."""
_PAGE: Final = 2000
_FACTS: Final = """
SELECT partition, "offset", saga_id, event_type, coalesce(step_name, '') AS step, headers, coalesce(value, '') AS value
FROM saga_event
WHERE topic = $1 AND recorded_at >= $2 AND event_type = ANY ($3::text[]) AND saga_id IS NOT NULL
"""
_STARTS: Final = "SELECT saga_id, record FROM start_request WHERE saga_id = ANY ($1::uuid[])"
_ROWS: Final = """
SELECT s.saga_id, s.step, s.round, s.answer, s.back_answer FROM step_execution s
JOIN unnest($1::uuid[], $2::text[]) AS k (saga_id, step) ON (s.saga_id, s.step) = (k.saga_id, k.step)
"""


class Evidence(Enum):
    """The row that a genuine fact has."""

    START = "the stored start"
    ANSWER = "the step's answer"
    FIRST_ANSWER = "the step's answer, unless it was retried"
    BACK_ANSWER = "the compensation's answer"
    ROW = "a row of the step"


class Expected(NamedTuple):
    """The evidence for facts of a type; `step` is empty if the fact names it."""

    evidence: Evidence
    step: str = ""


class Fact(NamedTuple):
    """A fact of the audit log, and the evidence it must have."""

    partition: int
    offset: int
    saga_id: UUID
    type: str
    step: str
    evidence: Evidence
    content: tuple[bytes, ...]


class StepAnswers(NamedTuple):
    """A step's row: the current round, and the packed records of its answers."""

    round: int
    answer: bytes | None
    back_answer: bytes | None


@dataclass(frozen=True, slots=True)
class ForgedFact:
    """A fact without evidence, and what is missing."""

    type: str
    saga_id: UUID
    topic: str
    partition: int
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"forged or foreign: {self.type} of saga {self.saga_id} at {self.place}: {self.reason}"

    @property
    def place(self) -> str:
        """The record's topic, partition and offset."""
        return f"{self.topic}[{self.partition}] offset {self.offset}"


@dataclass(slots=True)
class FactCheck:
    """The result of a comparison: `forged` has the first forged facts, `count` is the number of all."""

    since: datetime
    checked: int = 0
    count: int = 0
    forged: list[ForgedFact] = field(default_factory=list[ForgedFact])

    def as_json(self) -> dict[str, Any]:
        """Return the findings for scripts."""
        return {
            "since": self.since.isoformat(),
            "checked": self.checked,
            "forged": self.count,
            "facts": [
                {
                    "type": each.type, "saga_id": str(each.saga_id), "topic": each.topic, "partition": each.partition,
                    "offset": each.offset, "what": each.reason,
                }
                for each in self.forged
            ],
        }  # fmt: skip


def _expectations() -> Mapping[str, Expected]:
    """Return the evidence for the facts that can be checked, by wire type."""
    found: list[tuple[type[Message], Expected]] = [
        (trade.start, Expected(Evidence.START)),
        (StepBarred, Expected(Evidence.ANSWER)),
        (StepFailed, Expected(Evidence.FIRST_ANSWER)),
        *(
            (each, Expected(Evidence.ROW))
            for each in (AttemptFailed, StepUnknown, StepContradicted, CompensationFailed)
        ),
    ]
    for step in trade.steps:
        found += [(each, Expected(Evidence.ANSWER, step.name)) for each in (step.emits, step.rejects) if each]
        if step.back is not None:
            found.append((step.back[1], Expected(Evidence.BACK_ANSWER, step.name)))
    return {wire_type(trade.name, kind): expected for each, expected in found for kind in (each, *each.EARLIER)}


_EXPECTED: Final = _expectations()


async def check_facts(settings: Settings, since: datetime | None = None) -> FactCheck:
    """Compare the trade's facts recorded from `since` on, by default of the last week.

    Uses bounded memory, and two statements per 2000 facts. Database errors are raised.
    """
    found = FactCheck(since or datetime.now(UTC) - WINDOW)
    topic = events_topic(trade.name)
    async with (
        session(settings.database_for(SAGA_LOG), application_name="tradesaga reconcile") as log,
        session(settings.database_for("settlement"), application_name="tradesaga reconcile") as ledger,
        log.transaction(readonly=True),
    ):
        await log.execute("SET LOCAL statement_timeout = 0")
        cursor = await log.cursor(_FACTS, topic, found.since, list(_EXPECTED))
        while page := await cursor.fetch(_PAGE):
            facts = [_read(row) for row in page]
            for fact, reason in await _compare(log, ledger, facts):
                found.count += 1
                if len(found.forged) < SHOWN:
                    forged = ForgedFact(fact.type, fact.saga_id, topic, fact.partition, fact.offset, reason)
                    found.forged.append(forged)
            found.checked += len(facts)
    found.forged.sort(key=lambda each: (each.partition, each.offset))
    return found


def refute(fact: Fact, start: bytes | None, row: StepAnswers | None) -> str | None:
    """Return what is missing for a fact, None if it is genuine."""
    if fact.evidence is Evidence.START:
        return None if _matches(start, fact) else "no intake has stored this start"
    if row is None:
        return f"there is no row of step {fact.step!r}"
    match fact.evidence:
        case Evidence.ANSWER:
            genuine = _matches(row.answer, fact)
        case Evidence.FIRST_ANSWER:
            genuine = row.round > 1 or _matches(row.answer, fact)
        case Evidence.BACK_ANSWER:
            genuine = _matches(row.back_answer, fact)
        case _:
            genuine = True
    return None if genuine else f"the row of step {fact.step!r} does not answer with it"


async def _compare(log: Connection, ledger: Connection, facts: Sequence[Fact]) -> list[tuple[Fact, str]]:
    """Return the facts of a page without evidence, and what is missing."""
    started = [each.saga_id for each in facts if each.evidence is Evidence.START]
    asked = list({(each.saga_id, each.step) for each in facts if each.evidence is not Evidence.START})
    starts: dict[UUID, bytes] = {row[0]: row[1] for row in await log.fetch(_STARTS, started)} if started else {}
    columns = [saga_id for saga_id, _ in asked], [step for _, step in asked]
    rows = {(row[0], row[1]): StepAnswers(*row[2:]) for row in await ledger.fetch(_ROWS, *columns)} if asked else {}
    compared = ((each, refute(each, starts.get(each.saga_id), rows.get((each.saga_id, each.step)))) for each in facts)
    return [(fact, reason) for fact, reason in compared if reason is not None]


def _read(row: asyncpg.Record) -> Fact:
    expected = _EXPECTED[row["event_type"]]
    content = _content(load_headers(row["headers"]), row["value"])
    step = expected.step or row["step"]
    return Fact(row["partition"], row["offset"], row["saga_id"], row["event_type"], step, expected.evidence, content)


def _matches(packed: bytes | None, fact: Fact) -> bool:
    return packed is not None and _content(*unpack(packed)) == fact.content


def _content(headers: Sequence[Header], value: bytes) -> tuple[bytes, ...]:
    """Return what identifies a record: id, type, context and value."""
    found = {name: text or b"" for name, text in headers}
    return found.get(ID, b""), found.get(TYPE, b""), found.get(CONTEXT, b""), value
