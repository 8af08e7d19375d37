"""What stands where records were retired: of each log its tree's edge, the next offset, and the sagas' heads."""

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from tradesaga.consumers.audit.retention.action_log import read_entries
from tradesaga.consumers.audit.retention.actions import Action, ActionError, Kind
from tradesaga.consumers.audit.verify.chain_heads import Head
from tradesaga.consumers.audit.verify.log_check import Begin, Report, Retired, Verdict
from tradesaga.infra.audit_log.merkle import Frontier
from tradesaga.infra.audit_log.origin import Origin
from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.postgres.database import Connection

_LOG_HEADS: Final = """
SELECT h.saga_id, h.seq, h.hash FROM audit_retired_head h
WHERE h.topic = $1 AND h.partition = $2 AND EXISTS (SELECT FROM saga_event e WHERE e.saga_id = h.saga_id)
"""
_HEADS: Final = """
SELECT saga_id, seq, hash FROM audit_retired_head WHERE topic = $1 AND saga_id = ANY($2::uuid[])
"""
_SAGA_HEADS: Final = "SELECT seq, hash FROM audit_retired_head WHERE saga_id = $1"


class Tombstone(NamedTuple):
    """What is left of the oldest records of one log: those from offset `first` on to before `next_offset`."""

    topic: str
    partition: int
    first: int
    next_offset: int
    records: int
    edge: Frontier

    def to_json(self) -> dict[str, Any]:
        """Write it as an action's body has it."""
        return {
            "topic": self.topic,
            "partition": self.partition,
            "first": self.first,
            "next": self.next_offset,
            "records": self.records,
            "size": self.edge.size,
            "root": base64.b64encode(self.edge.root()).decode(),
            "edge": base64.b64encode(self.edge.pack()).decode(),
        }

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> "Tombstone":
        """Read what `to_json` wrote; raises `ActionError`."""
        try:
            edge = Frontier.unpack(int(told["size"]), base64.b64decode(told["edge"], validate=True))
            place = (str(told["topic"]), int(told["partition"]))
            return cls(*place, int(told["first"]), int(told["next"]), int(told["records"]), edge)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise ActionError(f"this is no tombstone of ours: {error}") from error


def tombstones_of(action: Action) -> list[Tombstone]:
    """Give what a retirement has left of each log; raises `ActionError`."""
    try:
        return [Tombstone.parse(told) for told in action.detail["logs"]]
    except (KeyError, TypeError) as error:
        raise ActionError(f"this is no retirement of ours: {error}") from error


@dataclass(frozen=True)
class Tombstones:
    """All that signed actions say of retired records, by log, the oldest first."""

    stones: Mapping[tuple[str, int], Sequence[tuple[int, Tombstone]]]
    actions: Mapping[int, Action]

    @classmethod
    def believe(cls, report: Report, origin: Origin, actions: Sequence[tuple[int, Action]]) -> "Tombstones":
        """Collect them, and tell the report of a retirement that cannot be read, after which none is believed."""
        try:
            return cls.read(actions)
        except ActionError as error:
            report.add(Verdict.ALTERED, str(origin), str(error))
            return cls({}, {})

    @classmethod
    async def load(cls, sql: Connection) -> "Tombstones":
        """Collect them from the database, whoever has signed them; raises `ActionError`."""
        return cls.read([(entry.number, Action.parse(entry.body)) for entry in await read_entries(sql)])

    @classmethod
    def read(cls, actions: Iterable[tuple[int, Action]]) -> "Tombstones":
        """Collect them; raises `ActionError`."""
        stones: dict[tuple[str, int], list[tuple[int, Tombstone]]] = {}
        known: dict[int, Action] = {}
        for number, action in actions:
            if action.kind is Kind.RETIRE:
                known[number] = action
                for stone in tombstones_of(action):
                    stones.setdefault((stone.topic, stone.partition), []).append((number, stone))
        return cls(stones, known)

    def before(self, place: tuple[str, int], offset: int | None) -> tuple[int, Tombstone] | None:
        """Give the last one that lies before a log's first record at `offset`; None is a log without records."""
        fitting = [each for each in self.stones.get(place, ()) if offset is None or each[1].next_offset <= offset]
        return max(fitting, key=lambda each: each[1].next_offset, default=None)

    async def begin(self, sql: Connection, report: Report, origin: Origin, offset: int | None) -> Begin | None:
        """Say where a log begins whose first record there is at `offset`, and tell the report of what was retired."""
        place = (origin.topic, origin.partition)
        found = self.before(place, offset)
        if found is None:
            return None
        for number, stone in self.stones[place]:
            if stone.next_offset <= found[1].next_offset:
                self._tell(report, number, origin, stone)
        return Begin(found[1].edge, found[1].next_offset, await read_log_heads(sql, *place))

    def _tell(self, report: Report, number: int, origin: Origin, stone: Tombstone) -> None:
        action = self.actions[number]
        told = next((each for each in report.retired if each.number == number), None)
        if told is None:
            told = Retired(number, action.at, action.operator, action.reason, 0, {})
        else:
            report.retired.remove(told)
        offsets = {**told.offsets, str(origin): stone.next_offset}
        report.retired.append(
            Retired(number, told.at, told.operator, told.reason, told.records + stone.records, offsets)
        )


async def read_retired(sql: Connection) -> dict[Place, int]:
    """Return the first offset of each partition that was not retired; signatures are checked by `audit verify` alone.

    Raises `CommandError` (exit 1) for an action that cannot be read.
    """
    try:
        stones = (await Tombstones.load(sql)).stones
    except ActionError as error:
        do = "`tradesaga audit verify` tells what has been altered"
        raise CommandError("actions-altered", str(error), "audit log", do) from error
    return {place: max(stone.next_offset for _, stone in each) for place, each in stones.items()}


async def read_log_heads(sql: Connection, topic: str, partition: int) -> dict[UUID, Head]:
    """Return the last retired record of each saga of a log that goes on."""
    return {row["saga_id"]: (row["seq"], row["hash"]) for row in await sql.fetch(_LOG_HEADS, topic, partition)}


async def read_heads(sql: Connection, topic: str, sagas: Collection[UUID]) -> dict[UUID, Head]:
    """Return the last retired record of those of these sagas that have one."""
    return {row["saga_id"]: (row["seq"], row["hash"]) for row in await sql.fetch(_HEADS, topic, list(sagas))}


async def read_saga_heads(sql: Connection, saga_id: UUID) -> dict[int, bytes]:
    """Return the hashes of a saga's last retired records, of each log one, by their numbers in the saga."""
    return {row["seq"]: row["hash"] for row in await sql.fetch(_SAGA_HEADS, saga_id)}
