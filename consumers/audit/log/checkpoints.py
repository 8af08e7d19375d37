"""The checkpoint tables: reads for the sealer and the verifier, and writes of the sealer."""

import base64
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from tradesaga.consumers.saga_log.chain import FORMAT, format_of
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, hash_note, leaves_from, parse_unverified
from tradesaga.infra.audit_log.clock_evidence import ClockEvidence
from tradesaga.infra.audit_log.merkle import Frontier, hash_leaf
from tradesaga.infra.audit_log.note import NoteError, Signer
from tradesaga.infra.postgres.database import Connection


class HistoryError(Exception):
    """The log does not continue what was sealed: its past was rewritten."""


class OffsetError(HistoryError):
    """An offset occurs twice in a log: one of the two rows is forged, and only the topic shows which."""


class Sealed(NamedTuple):
    """A signed checkpoint of a log, and the packed frontier from which sealing continues."""

    origin: Origin
    size: int
    next_offset: int
    frontier: bytes
    note: str


@dataclass(slots=True)
class SealedLog:
    """A log as the sealer knows it: one leaf per record, in offset order."""

    origin: Origin
    frontier: Frontier
    next_offset: int
    sealed: int = 0
    previous: str = ""
    leaves_from: int | None = None
    """The first offset with a hash of format 2, if there is one."""

    @classmethod
    def empty(cls, origin: Origin) -> "SealedLog":
        """Return a log without sealed records."""
        return cls(origin, Frontier.empty(), 0)

    def take(self, offset: int, record_hash: bytes) -> None:
        """Append a record by the hash of its row. Raises `OffsetError` unless its offset is larger than the last."""
        if offset < self.next_offset:
            raise OffsetError(f"{self.origin}: offset {offset} comes again; {self.next_offset} is next")
        if self.leaves_from is None and format_of(record_hash) == FORMAT:
            self.leaves_from = offset
        self.frontier.append(hash_leaf(record_hash))
        self.next_offset = offset + 1

    def seal(self, signer: Signer, now: int, clock: ClockEvidence) -> Sealed:
        """Sign the current state; `now` is nanoseconds since 1970."""
        checkpoint = Checkpoint(
            origin=str(self.origin),
            size=self.frontier.size,
            root=self.frontier.root(),
            next_offset=self.next_offset,
            previous=self.previous,
            time=now,
            clock=clock.source,
            clock_error=clock.error,
            leaves_from=self.leaves_from,
        )
        return self.sealed_as(signer.sign(checkpoint.to_text()))

    def sealed_as(self, note: str) -> Sealed:
        """Adopt a signed note as the checkpoint of the current state."""
        self.sealed, self.previous = self.frontier.size, hash_note(note)
        return Sealed(self.origin, self.frontier.size, self.next_offset, self.frontier.pack(), note)


LOCK: Final = 7_263_410_954
"""The advisory lock of the sealer."""

_PAGE: Final = 1000

_LAST: Final = """
SELECT c.topic, c.partition, c.size, c.note, e.next_offset, e.edge
FROM audit_edge e JOIN LATERAL (
    SELECT * FROM audit_checkpoint c WHERE c.topic = e.topic AND c.partition = e.partition ORDER BY size DESC LIMIT 1
) c ON c.size = e.size
WHERE e.topic = ANY($1::text[])
"""

# A lane's offset moves in the transaction that writes the rows, so one that has not moved has no new ones, and a row
# beyond it is none of the saga log's.
_NEW: Final = """
SELECT k.topic, k.partition, e."offset", e.hash, (extract(epoch FROM e.recorded_at) * 1000)::bigint
FROM lane k
LEFT JOIN unnest($1::text[], $2::int[], $3::bigint[]) AS l (topic, partition, next_offset) USING (topic, partition)
CROSS JOIN LATERAL (
    SELECT s."offset", s.hash, s.recorded_at FROM saga_event s
    WHERE s.topic = k.topic AND s.partition = k.partition AND s."offset" >= coalesce(l.next_offset, 0)
        AND s."offset" < k.next_offset
    ORDER BY s."offset" LIMIT $5
) e
WHERE k."group" = ANY($4::text[]) AND k.next_offset > coalesce(l.next_offset, 0)
ORDER BY k.topic, k.partition, e."offset"
"""

_ENDS: Final = """
SELECT topic, partition, next_offset FROM lane WHERE "group" = regexp_replace(topic, '\\.events$', '-log')
"""

_LAST_HASH: Final = """
SELECT hash FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" < $3 ORDER BY "offset" DESC LIMIT 1
"""

_FIRST_OF_FORMAT_2: Final = """
SELECT "offset" FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" < $3 AND octet_length(hash) <> 32
ORDER BY "offset" LIMIT 1
"""

_SEAL: Final = """
WITH edges AS (
    INSERT INTO audit_edge (topic, partition, size, next_offset, edge)
    SELECT DISTINCT ON (topic, partition) topic, partition, size, next_offset, edge
    FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::bytea[]) AS t (topic, partition, size,
        next_offset, edge) ORDER BY topic, partition, size DESC
    ON CONFLICT (topic, partition) DO UPDATE SET size = excluded.size, next_offset = excluded.next_offset,
        edge = excluded.edge
)
INSERT INTO audit_checkpoint (topic, partition, size, note)
SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $6::text[]) ON CONFLICT DO NOTHING
"""

_AFTER: Final = """
SELECT size, note FROM audit_checkpoint WHERE topic = $1 AND partition = $2 AND size > $3 ORDER BY size LIMIT $4
"""

_PAST: Final = """
INSERT INTO audit_checkpoint (topic, partition, size, note)
SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[]) ON CONFLICT DO NOTHING
"""

_NEWEST: Final = """
SELECT DISTINCT ON (topic, partition) topic, partition, note FROM audit_checkpoint ORDER BY topic, partition, size DESC
"""

_ALL: Final = "SELECT topic, partition, size, note FROM audit_checkpoint ORDER BY topic, partition, size"


class UnsealedRow(NamedTuple):
    """A row that is not sealed yet; `recorded_ms` is the broker's time in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    hash: bytes
    recorded_ms: int


async def take_turn(sql: Connection) -> bool:
    """Acquire the sealer's lock for this session; return False while another session holds it."""
    return await sql.fetchval("SELECT pg_try_advisory_lock($1)", LOCK)


async def load_logs(sql: Connection, log_id: str, topics: Sequence[str]) -> dict[tuple[str, int], SealedLog]:
    """Return the sealed logs by topic and partition. Raises `HistoryError` for a frontier that was not sealed."""
    logs: dict[tuple[str, int], SealedLog] = {}
    for row in await sql.fetch(_LAST, list(topics)):
        place = (row["topic"], row["partition"])
        origin = Origin(log_id, *place)
        try:
            frontier = Frontier.unpack(row["size"], row["edge"])
        except ValueError as error:
            raise HistoryError(f"{origin}: {error}") from error
        if row["note"].split("\n", 3)[2:3] != [base64.b64encode(frontier.root()).decode()]:
            raise HistoryError(f"{origin}: the edge is not that of the last checkpoint")
        log = SealedLog(origin, frontier, row["next_offset"], row["size"], hash_note(row["note"]))
        log.leaves_from = await _first_of_format_2(sql, log, row["note"])
        logs[place] = log
    return logs


async def _first_of_format_2(sql: Connection, log: SealedLog, note: str) -> int | None:
    """Return the first sealed offset with a hash of format 2, if there is one.

    The checkpoint states it unless an older sealer signed it, running beside this release's saga log during an upgrade.
    """
    with suppress(NoteError):
        if (stated := parse_unverified(note).leaves_from) is not None:
            return stated
    sealed = (*log.origin[1:], log.next_offset)
    last: bytes | None = await sql.fetchval(_LAST_HASH, *sealed)
    if last is None or format_of(last) != FORMAT:
        return None
    return await sql.fetchval(_FIRST_OF_FORMAT_2, *sealed)


async def read_new(
    sql: Connection, groups: Sequence[str], logs: Collection[SealedLog], limit: int
) -> list[UnsealedRow]:
    """Return the rows recorded since, in order, up to `limit` per partition, with one statement for all."""
    known = list(logs)
    rows = await sql.fetch(
        _NEW,
        [log.origin.topic for log in known],
        [log.origin.partition for log in known],
        [log.next_offset for log in known],
        list(groups),
        limit,
    )
    return [UnsealedRow(*row) for row in rows]


async def read_ends(sql: Connection) -> dict[tuple[str, int], int]:
    """Return the offset up to which the saga log has read each partition of the events topics."""
    return {(row["topic"], row["partition"]): row["next_offset"] for row in await sql.fetch(_ENDS)}


async def write_checkpoints(sql: Connection, sealed: Sequence[Sealed]) -> None:
    """Store signed checkpoints in one statement."""
    if sealed:
        rows = [(each.origin.topic, each.origin.partition, *each[1:]) for each in sealed]
        await sql.execute(_SEAL, *zip(*rows, strict=True))


async def write_past(sql: Connection, notes: Sequence[tuple[Origin, int, str]]) -> None:
    """Store checkpoints of retired records: origin, size and note."""
    if notes:
        rows = [(origin.topic, origin.partition, size, note) for origin, size, note in notes]
        await sql.execute(_PAST, *zip(*rows, strict=True))


async def notes_after(sql: Connection, origin: Origin, size: int) -> AsyncGenerator[list[tuple[int, str]]]:
    """Yield pages of the checkpoints of a log with more than `size` records, as size and note, oldest first."""
    while rows := await sql.fetch(_AFTER, origin.topic, origin.partition, size, _PAGE):
        yield [(row["size"], row["note"]) for row in rows]
        size = rows[-1]["size"]


async def read_leaf_formats(sql: Connection) -> dict[tuple[str, int], int]:
    """Return the first offset with a hash of format 2 for each sealed log, without verifying signatures.

    Checkpoints that cannot be parsed are skipped.
    """
    found: dict[tuple[str, int], int] = {}
    for topic, partition, note in await sql.fetch(_NEWEST):
        with suppress(NoteError):
            found[topic, partition] = leaves_from([parse_unverified(note)])
    return found


async def read_stored_notes(sql: Connection) -> list[tuple[str, int, int, str]]:
    """Return every checkpoint: topic, partition, size and note."""
    return [(row[0], row[1], row[2], row[3]) for row in await sql.fetch(_ALL)]
