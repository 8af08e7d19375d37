"""The checks that fold the topic again from its first record, with the shipped fold, and compare what comes of it."""

import hashlib
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from tests.faults.evidence import EVENTS, Evidence
from tests.faults.saga import make_drill
from tradesaga.consumers.saga_log.fold import Entry, fold_record
from tradesaga.consumers.saga_log.reading import Rules, saga_of
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.status import Status

LEGAL: Final[dict[Status | None, frozenset[Status]]] = {
    None: frozenset({Status.IDLE}),
    Status.IDLE: frozenset({Status.RUNNING, Status.COMPENSATING, Status.ABORTED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.COMPLETED, Status.COMPENSATING, Status.ABORTED, Status.FAILED}),
    Status.COMPENSATING: frozenset({Status.ABORTED, Status.FAILED, Status.RUNNING}),
    Status.FAILED: frozenset({Status.COMPENSATING, Status.RUNNING, Status.ABORTED, Status.COMPLETED}),
    Status.COMPLETED: frozenset({Status.FAILED}),
    Status.ABORTED: frozenset({Status.FAILED}),
}


def _reachable() -> dict[Status | None, frozenset[Status]]:
    found = dict(LEGAL)
    for _ in LEGAL:
        found = {state: ends.union(*(found[end] for end in ends)) for state, ends in found.items()}
    return found


REACHABLE: Final = _reachable()
"""Where each state can come to by any number of facts."""


class Refolded:
    """Every saga as the topic alone tells it, and every change of state that is no edge of the machine."""

    def __init__(self, records: list[Record]) -> None:
        rules = Rules(make_drill().saga)
        self.sagas: dict[UUID, Tracked] = {}
        self.entries: dict[tuple[int, int], Entry] = {}
        self.leaps: list[str] = []
        for record in records:
            if record.topic == EVENTS:
                self._fold(rules, record)

    def _fold(self, rules: Rules, record: Record) -> None:
        saga_id = saga_of(record)
        before = None
        if saga_id is not None:
            before = self.sagas.get(saga_id) or Tracked(saga_id, rules.home(saga_id))
        outcome = fold_record(rules, before, record)
        self.entries[record.partition, record.offset] = outcome.entry
        after = outcome.tracked
        if after is None or after.snapshot is None:
            if after is not None:
                self.sagas[after.saga_id] = after
            return
        self.sagas[after.saga_id] = after
        # Letting parked records go folds several at once.
        legal = REACHABLE if outcome.released else LEGAL
        if after.snapshot.status is not outcome.before and after.snapshot.status not in legal[outcome.before]:
            where = f"{record.topic}[{record.partition}]@{record.offset}"
            self.leaps.append(f"saga {after.saga_id} went from {outcome.before} to {after.snapshot.status} at {where}")


class _Same:
    """Remembers the last fold by the identity of its list: three checks look at the same one."""

    def __init__(self) -> None:
        self._records: list[Record] | None = None
        self._folded: Refolded | None = None

    def fold(self, records: list[Record]) -> Refolded:
        if self._records is not records or self._folded is None:
            self._records, self._folded = records, Refolded(records)
        return self._folded


_SAME: Final = _Same()


def states_are_a_path(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I5: every change of state is an edge of the machine; each saga's records are numbered 1, 2, 3 and so on."""

    def find() -> Iterator[str]:
        yield from _SAME.fold(seen.records).leaps
        last: dict[str, int] = {}
        for row in sorted(seen.tables["audit"], key=lambda row: (row["partition"], row["offset"])):
            if row["seq"] is None:
                continue
            if row["seq"] != last.get(row["saga_id"], 0) + 1:
                yield f"saga {row['saga_id']}: record {row['seq']} follows record {last.get(row['saga_id'], 0)}"
            last[row["saga_id"]] = row["seq"]

    return len(seen.tables["audit"]), find()


def audit_is_the_topic(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I10: the audit log has one row for each record of the events topic, with its bytes and its place in the chain."""
    records = {(r.partition, r.offset): r for r in seen.records if r.topic == EVENTS}
    rows = {(row["partition"], row["offset"]): row for row in seen.tables["audit"]}

    def find() -> Iterator[str]:
        yield from (f"the audit log lacks {EVENTS}[{p}]@{o}" for p, o in records.keys() - rows.keys())
        yield from (f"the audit log has {EVENTS}[{p}]@{o}, which is none" for p, o in rows.keys() - records.keys())
        entries = _SAME.fold(seen.records).entries
        for place in records.keys() & rows.keys():
            if hashlib.sha256(records[place].value).digest() != bytes(rows[place]["digest"]):
                yield f"{EVENTS}{place} was altered in the audit log"
            elif entries[place].hash != bytes(rows[place]["hash"]):
                yield f"{EVENTS}{place}: its hash does not follow from those before it"
        if len(rows) != len(seen.tables["audit"]):
            yield "the audit log has a record twice"

    return len(records), find()


def topics_fold_to_the_table(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I11: folded again, each saga has the state, the steps, the count and the hash that its row has."""
    rules = Rules(make_drill().saga)
    folded = {str(saga_id): tracked for saga_id, tracked in _SAME.fold(seen.records).sagas.items()}
    rows = seen.sagas

    def find() -> Iterator[str]:
        for saga_id, row in rows.items():
            found, expected = _described(rules, folded.get(saga_id)), _row(row)
            if found != expected:
                yield f"saga {saga_id} folds to {found}, its row is {expected}"
        begun = {saga_id for saga_id, tracked in folded.items() if tracked.snapshot is not None}
        yield from (f"saga {saga_id} is on the topic and not in the table" for saga_id in begun - rows.keys())

    return len(rows), find()


def _described(rules: Rules, tracked: Tracked | None) -> list[Any]:
    if tracked is None or tracked.snapshot is None:
        return []
    checkpoint, machine = tracked.snapshot, rules.machine
    done, undone = machine.names(checkpoint.state.done), machine.names(checkpoint.state.compensated)
    return [str(checkpoint.status), done, undone, checkpoint.seq, checkpoint.head.hex()]


def _row(row: dict[str, Any]) -> list[Any]:
    head = bytes(row["head"]).hex()
    return [row["state"], row["completed_steps"], row["compensated_steps"], row["seq"], head]
