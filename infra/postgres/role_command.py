"""`tradesaga grant`: grant a PostgreSQL user the privileges of a service, the sealer or a reader."""

import asyncio
from typing import Annotated

import typer

from tradesaga.infra.cli.options import AsJson, Directory
from tradesaga.infra.cli.output import print_result
from tradesaga.infra.postgres.database import session
from tradesaga.infra.postgres.roles import Role, grants
from tradesaga.infra.settings import Settings, load_settings


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
    told = {"user": user, "role": role, "statements": statements, "done": not dry_run}
    print_result(told, text, as_json=as_json)


async def _grant(settings: Settings, service: str, user: str, role: Role, *, dry_run: bool) -> list[str]:
    async with session(settings.database_for(service), application_name="tradesaga grant") as sql:
        statements = await grants(sql, user, role)
        if not dry_run:
            async with sql.transaction():
                for each in statements:
                    await sql.execute(each)
    return statements
