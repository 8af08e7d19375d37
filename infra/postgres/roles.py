"""Privileges of PostgreSQL users by role: services append to the audit log and cannot change or delete from it.

The tables belong to another user, which only operators use: the owner of a table may do anything to it.
"""

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

import typer

from tradesaga.infra.cli.console import AsJson, Directory, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import TABLE, Connection, session
from tradesaga.infra.settings import Settings, load_settings

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


def grant(
    user: Annotated[str, typer.Argument(help="The PostgreSQL user to grant privileges to; it must own no table.")],
    *,
    role: Annotated[Role, typer.Option("--for", help="services, sealer or reader.")] = Role.SERVICES,
    service: Annotated[
        str, typer.Option("--service", help="The service whose database is used; default the common one.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the statements without running them.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Grant a user the privileges of its role and no others; run it as the owner, and again after each migration.

    Example: `tradesaga grant desk --for services`
    """
    statements = asyncio.run(_grant(load_settings(directory), service, user, role, dry_run=dry_run))
    text = "\n".join(f"{each};" for each in statements) if dry_run else f"{user} has the privileges of {role}"
    result = {"user": user, "role": role, "statements": statements, "done": not dry_run}
    print_result(result, text, as_json=as_json)


async def _grant(settings: Settings, service: str, user: str, role: Role, *, dry_run: bool) -> list[str]:
    async with session(settings.database_for(service), application_name="tradesaga grant") as sql:
        statements = await grants(sql, user, role)
        if not dry_run:
            async with sql.transaction():
                for each in statements:
                    await sql.execute(each)
    return statements
