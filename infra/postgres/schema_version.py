"""The version of the database's schema, and that a program meets only the one it was written for.

A migration is named by a number of four digits; the schema's version is the number of the last one that ran. It lies
in `tradesaga_schema`, a table of our own: `alembic_version`, alembic's default, may belong to another application.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from tradesaga.infra.errors import CommandError, ExitCode, unavailable

if TYPE_CHECKING:
    from tradesaga.infra.postgres.database import Connection

TABLE: Final = "tradesaga_schema"
FOLDER: Final = Path(__file__).parent / "migrations"
PARAMETER: Final = "tradesaga.schema"
"""The session parameter by which a program names the version that it knows; triggers read it."""
_READ: Final = f"SELECT version_num FROM {TABLE}"


@cache
def known_version() -> str:
    """Return the version that this program was written for, such as `0007`."""
    return max(file.name[:4] for file in (FOLDER / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))


async def check_version(sql: "Connection", where: str) -> None:
    """Refuse a schema of another version; `where` names the server and database without a password.

    Raises `CommandError`: exit 5 for a schema that is older or not there, exit 4 for a later one.
    """
    try:
        found = await sql.fetchval(_READ)
    except asyncpg.UndefinedTableError:
        found = None
    if found == known_version():
        return
    if found is None or found < known_version():
        what = f"the schema is at version {found or 'none of ours'}, and this program needs {known_version()}"
        raise unavailable("database-schema", what, where, "stop the services, then run `tradesaga migrate`")
    what = f"the schema is at version {found}, later than this program's {known_version()}"
    do = "run the release that made it, or restore the backup from before the upgrade"
    raise CommandError("database-schema-later", what, where, do, ExitCode.REFUSED)
