"""Incarnations: a database that was rebuilt or restored never reuses a number of its previous incarnation.

An incarnation's number is the second in which it begins, since a rebuilt database knows no previous one. Epochs, outbox
numbers and identities continue from there, far above all that were used before: an owner that was paused during the
recovery cannot pass the fence.
"""

from dataclasses import dataclass
from typing import Final, Literal

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Connection

IncarnationKind = Literal["rebuilt", "restored", "republished"]
SHIFT: Final = 30
"""Bits below the incarnation's number: 2^30 acquisitions or rows of a lane per second since the last one."""
_LANE_SPREAD: Final = 1 << 20
_ENTRY_SPREAD: Final = 1_000_000

_BEGIN = """
INSERT INTO incarnation (number, kind, operator)
SELECT greatest(extract(epoch FROM clock_timestamp())::bigint, (SELECT max(number) + 1 FROM incarnation)), $1, $2
RETURNING number
"""
_HIGHEST = "SELECT coalesce(max(greatest(epoch, last_seq, published_seq)), 0) FROM lane"
_RENUMBER = """
WITH numbered AS (
    SELECT o.lane, o.seq, o.created_at, $1 + row_number() OVER (PARTITION BY o.lane ORDER BY o.seq) AS renewed
    FROM outbox o JOIN lane l ON l.id = o.lane WHERE o.seq > l.published_seq
)
UPDATE outbox o SET seq = n.renewed FROM numbered n
WHERE (o.lane, o.seq, o.created_at) = (n.lane, n.seq, n.created_at)
"""
_RAISE = """
UPDATE lane l SET epoch = $1, published_seq = $1, owner = '', lease_until = NULL,
    topic_id = NULL, partitions = NULL, seen_offset = NULL, seen_crc = NULL,
    last_seq = $1 + (SELECT count(*) FROM outbox o WHERE o.lane = l.id AND o.seq > $1)
"""
_SKIP = "SELECT setval(pg_get_serial_sequence($1, 'id'), greatest(nextval(pg_get_serial_sequence($1, 'id')), $2))"
_RUNNING = """
SELECT string_agg(DISTINCT application_name, ', ' ORDER BY application_name) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'tradesaga %'
    AND application_name NOT LIKE 'tradesaga recover%'
"""


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One incarnation of a database; its lanes' epochs and outbox numbers continue from `base`."""

    number: int

    @property
    def base(self) -> int:
        """The number that precedes all numbers of this incarnation."""
        return self.number << SHIFT


async def refuse_running(sql: Connection) -> None:
    """Raise `CommandError` (exit 4) while services are connected: their work would be lost or done twice."""
    running = await sql.fetchval(_RUNNING)
    if running:
        do = "stop every service first (`tradesaga down`, or with your platform's tool), then run this again"
        raise CommandError("services-running", f"services are connected: {running}", "PostgreSQL", do, ExitCode.REFUSED)


async def begin(sql: Connection, kind: IncarnationKind, operator: str) -> Incarnation:
    """Begin a new incarnation in the caller's transaction. Unpublished outbox rows keep their order and are renumbered.

    Raises `CommandError` (exit 4) where the server's clock is behind.
    """
    incarnation = Incarnation(await sql.fetchval(_BEGIN, kind, operator))
    highest = await sql.fetchval(_HIGHEST)
    if highest >= incarnation.base:
        what = f"a lane's number {highest} lies above those of incarnation {incarnation.number}: the clock is behind"
        do = "correct the database server's clock, then run this again"
        raise CommandError("clock-behind", what, "PostgreSQL", do, ExitCode.REFUSED)
    await sql.execute(_RENUMBER, incarnation.base)
    await sql.execute(_RAISE, incarnation.base)
    await sql.execute(_SKIP, "lane", incarnation.number % _LANE_SPREAD * 1000)
    await sql.execute(_SKIP, "ledger_entry", incarnation.number * _ENTRY_SPREAD)
    return incarnation
