"""The identity of a database: the id of its installation, which all its databases share, and its incarnation.

The topics of a saga carry the id too, and each group stores it with its committed offsets: see
`tradesaga.infra.outbox.guard`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Connection

IDENTITY: Final = """
SELECT id, (SELECT coalesce(max(number), 0) FROM incarnation) AS incarnation, claimed, current_database() AS name,
    host(inet_server_addr()) AS host, inet_server_port() AS port
FROM installation
"""
CLAIM: Final = "UPDATE installation SET claimed = true WHERE id = $1 AND NOT claimed"
_SET: Final = """
INSERT INTO installation (id, claimed) VALUES ($1, $2)
ON CONFLICT (singleton) DO UPDATE SET id = excluded.id, claimed = excluded.claimed
"""
_FORMAT: Final = "tradesaga/1"


@dataclass(frozen=True, slots=True)
class Identity:
    """A database's installation, and its incarnation: a number that grows when it is rebuilt or restored."""

    installation: UUID
    incarnation: int

    def __str__(self) -> str:
        """Return the metadata stored with committed offsets."""
        return f"{_FORMAT} {self.installation} {self.incarnation}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse what `str` returned; return None for anything else, such as metadata of earlier releases."""
        match text.split(" "):
            case [form, installation, incarnation] if form == _FORMAT and incarnation.isdecimal():
                try:
                    return cls(UUID(installation), int(incarnation))
                except ValueError:
                    return None
            case _:
                return None


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """A database's identity, whether it has claimed the topics, and a label without credentials."""

    identity: Identity
    claimed: bool
    label: str


async def read_identity(sql: Connection) -> DatabaseIdentity:
    """Read a database's identity. Raises `CommandError` (exit 4) where the schema has none."""
    row = await sql.fetchrow(IDENTITY)
    if row is None:
        do = "run `tradesaga migrate`"
        raise CommandError(
            "installation-missing", "the database has no installation id", "PostgreSQL", do, ExitCode.REFUSED
        )
    label = f"{row['name']} at {row['host']}:{row['port']}" if row["host"] else row["name"]
    return DatabaseIdentity(Identity(row["id"], row["incarnation"]), row["claimed"], label)


async def set_installation(sql: Connection, installation: UUID, *, claimed: bool) -> None:
    """Assign a database to an installation."""
    await sql.execute(_SET, installation, claimed)


def choose_installation(found: Sequence[DatabaseIdentity], wanted: UUID | None = None) -> UUID:
    """Return the installation id that these databases are to share: `wanted`, or the claimed one, or the first.

    Raises `CommandError` (exit 4) where a database is claimed for another id: it belongs to another installation.
    """
    claimed = {each.identity.installation for each in found if each.claimed}
    chosen = wanted or (min(claimed) if claimed else found[0].identity.installation)
    if others := claimed - {chosen}:
        named = ", ".join(f"{each.label} of {each.identity.installation}" for each in found if each.claimed)
        do = f"use only databases of one installation; {next(iter(others))} is in use"
        what = f"the databases belong to different installations: {named}; wanted {chosen}"
        raise CommandError("installation-differs", what, "PostgreSQL", do, ExitCode.REFUSED)
    return chosen
