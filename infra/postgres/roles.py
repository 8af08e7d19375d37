"""Privileges of PostgreSQL users by role: services append to the audit log and cannot change or delete from it.

The tables belong to another user, which only operators use: the owner of a table may do anything to it.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.postgres.schema_version import TABLE

APPEND: Final = frozenset({"saga_event", "audit_checkpoint", "audit_action", "ledger_entry"})
"""Append-only tables."""
_AUDIT: Final = frozenset({"audit_checkpoint", "audit_edge", "audit_action", "audit_retired_head"})
_CHANGE: Final = "SELECT, INSERT, UPDATE, DELETE"
_SEALER: Final = {
    "lane": "SELECT",
    "saga_event": "SELECT",
    "audit_checkpoint": "SELECT, INSERT",
    "audit_edge": "SELECT, INSERT, UPDATE",
    "audit_action": "SELECT, INSERT",
    "audit_retired_head": "SELECT",
    TABLE: "SELECT",
}
_TABLES: Final = """
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
    AND NOT c.relispartition AND c.relname NOT LIKE 'retired\\_%' ORDER BY c.relname
"""
_ROLE: Final = """
SELECT rolname, quote_ident(rolname) AS quoted, rolsuper, quote_ident(current_database()) AS database,
    pg_has_role(rolname, (SELECT relowner FROM pg_class WHERE oid = to_regclass('saga_event')), 'USAGE') AS owns
FROM pg_roles WHERE rolname = $1
"""


class Role(StrEnum):
    """The role of a user."""

    SERVICES = "services"
    SEALER = "sealer"
    READER = "reader"


def privileges(role: Role, table: str) -> str:
    """Return a role's privileges on a table as SQL lists them, empty for none."""
    match role:
        case Role.READER:
            return "SELECT"
        case Role.SEALER:
            return _SEALER.get(table, "")
        case Role.SERVICES if table in _AUDIT or table == TABLE:
            return "SELECT"
        case Role.SERVICES:
            return "SELECT, INSERT" if table in APPEND else _CHANGE


async def grants(sql: Connection, user: str, role: Role) -> list[str]:
    """Return the statements that grant a user its role and revoke everything else.

    Raises `CommandError`: exit 3 for an unknown user, exit 4 for a superuser or the tables' owner.
    """
    row = await sql.fetchrow(_ROLE, user)
    if row is None:
        do = f"create it first: CREATE ROLE \"{user}\" LOGIN PASSWORD '...'"
        raise CommandError("role-unknown", f"PostgreSQL has no user {user}", "USER", do, ExitCode.NOT_FOUND)
    if row["rolsuper"] or row["owns"]:
        what = f"{user} {'is a superuser' if row['rolsuper'] else 'owns the tables'}: its privileges cannot be limited"
        raise CommandError("role-owns", what, "USER", "name another user", ExitCode.REFUSED)
    tables = [each["relname"] for each in await sql.fetch(_TABLES)]
    return _statements(row["quoted"], row["database"], role, tables)


def _statements(user: str, database: str, role: Role, tables: Sequence[str]) -> list[str]:
    given = [(table, privileges(role, table)) for table in tables]
    return [
        f"GRANT CONNECT ON DATABASE {database} TO {user}",
        f"REVOKE ALL ON SCHEMA public FROM {user}",
        f"GRANT USAGE ON SCHEMA public TO {user}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {user}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {user}",
        *([f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {user}"] if role is Role.SERVICES else []),
        *(f'GRANT {allowed} ON "{table}" TO {user}' for table, allowed in given if allowed),
    ]
