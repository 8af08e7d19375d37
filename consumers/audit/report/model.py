"""The report of one saga: its records with their meaning, consequences and seals."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orjson import Fragment

from tradesaga.consumers.audit.log.rows import Position


class Proof(StrEnum):
    """The result of checking a record's seal."""

    PROVEN = "proven"
    UNPROVEN = "not_proven"
    UNCHECKED = "unchecked"
    NOT_YET = "not_yet"


@dataclass(frozen=True, slots=True)
class Seal:
    """The seal of a record.

    `time` is when the checkpoint was signed and `clock_error` the maximum error of that machine's clock, -1 if unknown,
    both in nanoseconds. `why` is the reason if the record is not proven.
    """

    proof: Proof
    why: str = ""
    index: int = -1
    size: int = -1
    time: int = 0
    clock: str = ""
    clock_error: int = -1
    outside_tier: bool = False
    path: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; `path` is the inclusion proof of RFC 6962 in hex, from the leaf up."""
        if self.proof is Proof.NOT_YET or self.index < 0:
            return {"proof": self.proof, "why": self.why}
        return {
            "proof": self.proof,
            "why": self.why,
            "leaf": self.index,
            "checkpoint": self.size,
            "sealed_ns": self.time,
            "clock": self.clock,
            "clock_error_ns": self.clock_error,
            "outside_tier": self.outside_tier,
            "path": self.path,
        }


NOT_YET = Seal(Proof.NOT_YET, "no checkpoint covers it yet")
UNCHECKED = Seal(Proof.UNCHECKED, "the seals were not checked")


class RecordKind(StrEnum):
    """The kinds of records and of notes."""

    START = "start"
    STEP_COMPLETE = "step_complete"
    STEP_REFUSED = "step_refused"
    ATTEMPT_FAILED = "attempt_failed"
    STEP_FAILED = "step_failed"
    STEP_UNKNOWN = "step_unknown"
    STEP_BARRED = "step_barred"
    STEP_UNOWNED = "step_unowned"
    COMPENSATED = "compensation_done"
    COMPENSATION_FAILED = "compensation_failed"
    CONTRADICTED = "contradicted"
    DEADLINE = "deadline"
    OPERATOR = "operator_action"
    REPORTED = "reported"
    DUPLICATE = "duplicate"
    LATE = "late"
    PARKED = "parked"
    SET_ASIDE = "set_aside"
    UNREADABLE = "unreadable"

    STEP_START = "step_start"
    RETRY = "retry"
    BAR_ASKED = "settlement_asked"
    COMPENSATION_ASKED = "compensation_asked"
    RELEASED = "released"
    STATE_CHANGE = "state_change"


@dataclass(frozen=True, slots=True)
class TimelineNote:
    """A consequence of a record, or the beginning of its attempt; `time` in nanoseconds if the headers have one."""

    kind: RecordKind
    sentence: str
    step: str = ""
    attempt: int = 0
    time: int | None = None


@dataclass(frozen=True, slots=True)
class ContextAddition:
    """A member that was added to the saga's context: its name and JSON as recorded."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class TimelineRecord:
    """A record of the report.

    `event_time` and `started` (nanoseconds) are the writer's, from `ce_time` and `ts_started`; `recorded_ms` is the
    broker's. `before` are notes before the record, `after` its consequences. `payload` is its JSON, None if it is not
    JSON. `intact` is whether its bytes, chained to the previous record, have the stored hash.
    """

    position: Position
    seq: int | None
    id: str
    type: str
    writer: str
    writer_epoch: int
    caused_by: str
    kind: RecordKind
    sentence: str
    step: str
    back: bool
    attempt: int
    round: int
    event_time: int | None
    recorded_ms: int
    started: int | None
    operator: str
    reason: str
    state: str
    before: tuple[TimelineNote, ...]
    after: tuple[TimelineNote, ...]
    additions: tuple[ContextAddition, ...]
    payload: str | None
    size: int
    error: str
    hash: str
    intact: bool
    remarks: tuple[str, ...]
    seal: Seal

    @property
    def recorded(self) -> int:
        """The broker's time in nanoseconds."""
        return self.recorded_ms * 1_000_000

    @property
    def when(self) -> int:
        """The event time, or the broker's time if there is none, in nanoseconds."""
        return self.recorded if self.event_time is None else self.event_time


class Result(StrEnum):
    """The result of a saga, for the colour of its report."""

    GOOD = "good"
    BACK = "taken_back"
    STUCK = "needs_a_person"
    OPEN = "under_way"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SagaTimeline:
    """The report: headline, summary, remarks and all records in order."""

    saga_id: str
    name: str
    version: int | None
    state: str
    result: Result
    headline: str
    summary: tuple[str, ...]
    remarks: tuple[str, ...]
    steps: tuple[str, ...]
    waiting: frozenset[str]
    records: tuple[TimelineRecord, ...]

    @property
    def definition(self) -> str:
        """The version of the saga's definition in words."""
        return f"version {self.version}" if self.version is not None else "version unknown"

    @property
    def began(self) -> int:
        """The earliest time of any record, in nanoseconds."""
        return min(min(each.when, each.started or each.when) for each in self.records)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; payloads and context are included as recorded."""
        return {
            "saga_id": self.saga_id,
            "name": self.name,
            "version": self.version,
            "state": self.state,
            "outlook": self.result,
            "headline": self.headline,
            "summary": self.summary,
            "remarks": self.remarks,
            "times": {
                "event_time_ns": "ce_time, by the clock of the record's writer",
                "started_ns": "ts_started, by the same clock",
                "recorded_ms": "by the broker's clock, when it appended the record",
                "sealed_ns": "by the clock of the machine that signed the checkpoint",
            },
            "records": [_record(each) for each in self.records],
            "context": {
                addition.name: Fragment(addition.value) for each in self.records for addition in each.additions
            },
        }


def _record(told: TimelineRecord) -> dict[str, Any]:
    return {
        "topic": told.position.topic,
        "partition": told.position.partition,
        "offset": told.position.offset,
        "seq": told.seq,
        "kind": told.kind,
        "says": told.sentence,
        "type": told.type,
        "id": told.id,
        "caused_by": told.caused_by,
        "writer": told.writer,
        "writer_epoch": told.writer_epoch,
        "step": told.step,
        "direction": "back" if told.back else "forward",
        "round": told.round,
        "attempt": told.attempt,
        "event_time_ns": told.event_time,
        "recorded_ms": told.recorded_ms,
        "started_ns": told.started,
        "operator": told.operator,
        "reason": told.reason,
        "state": told.state,
        "before": [_moment(each) for each in told.before],
        "after": [_moment(each) for each in told.after],
        "context_gained": {each.name: Fragment(each.value) for each in told.additions},
        "payload": Fragment(told.payload) if told.payload is not None else None,
        "payload_bytes": told.size,
        "error": told.error,
        "hash": told.hash,
        "intact": told.intact,
        "remarks": told.remarks,
        "seal": told.seal.to_json(),
    }


def _moment(note: TimelineNote) -> dict[str, Any]:
    return {
        "kind": note.kind,
        "says": note.sentence,
        "step": note.step,
        "attempt": note.attempt,
        "time_ns": note.time,
    }
