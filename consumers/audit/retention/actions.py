"""What operators did to the audit log: a log of its own, each entry signed as it is made.

An entry's body is one line of JSON. The bodies are the leaves of a Merkle log, of which every entry has a checkpoint:
it is in the entry's row, and with the witness together with the body. So no entry can be altered, put in or taken away
unnoticed, and a lost table is filled again from the witness.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from tradesaga.consumers.audit.verify.log_check import Report, Verdict
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.merkle import Frontier, hash_leaf
from tradesaga.infra.audit_log.origin import Origin

TOPIC = "audit.actions"
"""Stands in the origin of the log of actions where others have their topic."""


def actions_origin(log_id: str) -> Origin:
    """Name the log of actions of an installation."""
    return Origin(log_id, TOPIC, 0)


class ActionKind(StrEnum):
    """What was done."""

    HOLD = "hold"
    RELEASE = "release"
    RETIRE = "retire"
    DROP = "drop"


class ActionError(ValueError):
    """An entry's body is none of ours."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing an operator did; `at` is nanoseconds since 1970, `detail` what was done it to."""

    kind: ActionKind
    operator: str
    reason: str
    at: int
    detail: Mapping[str, Any]

    def to_body(self) -> str:
        """Write the line that is signed."""
        told = {"kind": self.kind, "operator": self.operator, "reason": self.reason, "at": self.at}
        return orjson.dumps({**told, "detail": self.detail}, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def parse(cls, body: str) -> "Action":
        """Read what `to_body` wrote; raises `ActionError`."""
        try:
            raw = orjson.loads(body)
            detail: dict[str, Any] = dict(raw["detail"])
            return cls(ActionKind(raw["kind"]), str(raw["operator"]), str(raw["reason"]), int(raw["at"]), detail)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ActionError(f"this is no action of ours: {body[:80]}") from error


class Entry(NamedTuple):
    """An action as it is stored."""

    number: int
    body: str
    note: str


def leaf(body: str) -> bytes:
    """Hash one entry for the tree."""
    return hash_leaf(body.encode())


def frontier_of(bodies: Sequence[str]) -> Frontier:
    """Return the edge of the tree over entries."""
    frontier = Frontier.empty()
    for body in bodies:
        frontier.append(leaf(body))
    return frontier


def check_actions(
    report: Report, origin: Origin, entries: Sequence[Entry], checkpoints: Mapping[int, Checkpoint]
) -> list[tuple[int, Action]]:
    """Hold the entries against all checkpoints of their log; give those that were signed, with their numbers."""
    frontier, signed = Frontier.empty(), 0
    for count, entry in enumerate(entries, 1):
        if entry.number != count - 1:
            report.add(Verdict.INCOMPLETE, f"{origin}", f"action {count - 1} is missing")
            break
        frontier.append(leaf(entry.body))
        known = checkpoints.get(count)
        if known is not None and known.root == frontier.root():
            signed = count
        elif known is not None:
            report.add(Verdict.ALTERED, f"{origin}", f"action {entry.number} is not the one that was signed")
            break
    else:
        if signed < len(entries):
            report.add(Verdict.ALTERED, f"{origin}", f"actions {signed} to {len(entries) - 1} are signed by nobody")
    if (sealed := max(checkpoints, default=0)) > len(entries):
        report.add(Verdict.INCOMPLETE, f"{origin}", f"{sealed} actions were signed; {len(entries)} are there")
    return list(_read(report, origin, entries[:signed]))


def _read(report: Report, origin: Origin, entries: Sequence[Entry]) -> list[tuple[int, Action]]:
    found: list[tuple[int, Action]] = []
    for entry in entries:
        try:
            found.append((entry.number, Action.parse(entry.body)))
        except ActionError as error:
            report.add(Verdict.ALTERED, f"{origin}", f"action {entry.number}: {error}")
    return found
