"""Retired ranges of the audit log: the frontier of each log's tree, its next offset, and the heads of its sagas."""

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple
from uuid import UUID

from tradesaga.consumers.audit.log.action_log import Action, ActionError, ActionKind, read_entries
from tradesaga.consumers.audit.log.log_check import Begin, Head, Report, Retired, Verdict
from tradesaga.infra.audit_log.checkpoint import Origin
from tradesaga.infra.audit_log.merkle import Frontier
from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.postgres.database import Connection

_LOG_HEADS: Final = """
SELECT h.saga_id, h.seq, h.hash FROM audit_retired_head h
WHERE h.topic = $1 AND h.partition = $2 AND EXISTS (SELECT FROM saga_event e WHERE e.saga_id = h.saga_id)
"""
_HEADS: Final = """
SELECT saga_id, seq, hash FROM audit_retired_head WHERE topic = $1 AND saga_id = ANY($2::uuid[])
"""
_SAGA_HEADS: Final = "SELECT seq, hash FROM audit_retired_head WHERE saga_id = $1"


class RetiredRange(NamedTuple):
    """The retired records of one log from offset `first` to before `next_offset`, and the frontier after them."""

    topic: str
    partition: int
    first: int
    next_offset: int
    records: int
    frontier: Frontier

    def to_json(self) -> dict[str, Any]:
        """Return the form in an action's body."""
        return {
            "topic": self.topic,
            "partition": self.partition,
            "first": self.first,
            "next": self.next_offset,
            "records": self.records,
            "size": self.frontier.size,
            "root": base64.b64encode(self.frontier.root()).decode(),
            "edge": base64.b64encode(self.frontier.pack()).decode(),
        }

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> "RetiredRange":
        """Parse what `to_json` returned. Raises `ActionError`."""
        try:
            frontier = Frontier.unpack(int(told["size"]), base64.b64decode(told["edge"], validate=True))
            place = (str(told["topic"]), int(told["partition"]))
            return cls(*place, int(told["first"]), int(told["next"]), int(told["records"]), frontier)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise ActionError(f"not a retired range: {error}") from error


def retired_ranges_of(action: Action) -> list[RetiredRange]:
    """Return the ranges of a retire action. Raises `ActionError`."""
    try:
        return [RetiredRange.parse(told) for told in action.detail["logs"]]
    except (KeyError, TypeError) as error:
        raise ActionError(f"not a retire action: {error}") from error


@dataclass(frozen=True)
class RetiredRanges:
    """The retired ranges of all actions by log, oldest first, each with its action's number."""

    ranges: Mapping[tuple[str, int], Sequence[tuple[int, RetiredRange]]]
    actions: Mapping[int, Action]

    @classmethod
    def believe(cls, report: Report, origin: Origin, actions: Sequence[tuple[int, Action]]) -> "RetiredRanges":
        """Collect the ranges of signed actions; report one that cannot be parsed, and return none then."""
        try:
            return cls.read(actions)
        except ActionError as error:
            report.add(Verdict.ALTERED, str(origin), str(error))
            return cls({}, {})

    @classmethod
    async def load(cls, sql: Connection) -> "RetiredRanges":
        """Collect the ranges from the database without checking signatures. Raises `ActionError`."""
        return cls.read([(entry.number, Action.parse(entry.body)) for entry in await read_entries(sql)])

    @classmethod
    def read(cls, actions: Iterable[tuple[int, Action]]) -> "RetiredRanges":
        """Collect the ranges of actions. Raises `ActionError`."""
        ranges: dict[tuple[str, int], list[tuple[int, RetiredRange]]] = {}
        known: dict[int, Action] = {}
        for number, action in actions:
            if action.kind is ActionKind.RETIRE:
                known[number] = action
                for range_ in retired_ranges_of(action):
                    ranges.setdefault((range_.topic, range_.partition), []).append((number, range_))
        return cls(ranges, known)

    def before(self, place: tuple[str, int], offset: int | None) -> tuple[int, RetiredRange] | None:
        """Return the last range before a log's first record at `offset`, which is None for a log without records."""
        fitting = [each for each in self.ranges.get(place, ()) if offset is None or each[1].next_offset <= offset]
        return max(fitting, key=lambda each: each[1].next_offset, default=None)

    async def begin(self, sql: Connection, report: Report, origin: Origin, offset: int | None) -> Begin | None:
        """Return where a log with its first record at `offset` begins; add its retired ranges to the report."""
        place = (origin.topic, origin.partition)
        found = self.before(place, offset)
        if found is None:
            return None
        for number, range_ in self.ranges[place]:
            if range_.next_offset <= found[1].next_offset:
                self._add_to(report, number, origin, range_)
        return Begin(found[1].frontier, found[1].next_offset, await read_log_heads(sql, *place))

    def _add_to(self, report: Report, number: int, origin: Origin, range_: RetiredRange) -> None:
        action = self.actions[number]
        known = next((each for each in report.retired if each.number == number), None)
        if known is None:
            known = Retired(number, action.at, action.operator, action.reason, 0, {})
        else:
            report.retired.remove(known)
        offsets = {**known.offsets, str(origin): range_.next_offset}
        report.retired.append(replace(known, records=known.records + range_.records, offsets=offsets))


async def read_retired(sql: Connection) -> dict[Partition, int]:
    """Return the first offset of each partition after its retired ranges, without checking signatures.

    Raises `CommandError` (exit 1) for an action that cannot be parsed.
    """
    try:
        ranges = (await RetiredRanges.load(sql)).ranges
    except ActionError as error:
        do = "see what was altered with `tradesaga audit verify`"
        raise CommandError("actions-altered", str(error), "audit log", do) from error
    return {place: max(range_.next_offset for _, range_ in each) for place, each in ranges.items()}


async def read_log_heads(sql: Connection, topic: str, partition: int) -> dict[UUID, Head]:
    """Return the last retired record of each saga of a log that has later records."""
    return {row["saga_id"]: (row["seq"], row["hash"]) for row in await sql.fetch(_LOG_HEADS, topic, partition)}


async def read_heads(sql: Connection, topic: str, sagas: Collection[UUID]) -> dict[UUID, Head]:
    """Return the last retired record of each of these sagas that has one."""
    return {row["saga_id"]: (row["seq"], row["hash"]) for row in await sql.fetch(_HEADS, topic, list(sagas))}


async def read_saga_heads(sql: Connection, saga_id: UUID) -> dict[int, bytes]:
    """Return the hash of a saga's last retired record in each log, by its number in the saga."""
    return {row["seq"]: row["hash"] for row in await sql.fetch(_SAGA_HEADS, saga_id)}
