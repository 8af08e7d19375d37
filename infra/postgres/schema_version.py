"""The version of the database schema that this program was written for.

Migrations are numbered with four digits; the schema's version is the number of the last one that ran. It is stored in
`tradesaga_schema` rather than in `alembic_version`, alembic's default, which may belong to another application.
"""

from functools import cache
from pathlib import Path
from typing import Final

TABLE: Final = "tradesaga_schema"
FOLDER: Final = Path(__file__).parent / "migrations"
PARAMETER: Final = "tradesaga.schema"
"""The session parameter that carries the version known to the program; triggers read it."""


@cache
def known_version() -> str:
    """Return the version that this program was written for, such as `0007`."""
    return max(file.name[:4] for file in (FOLDER / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))
