"""`tradesaga grant`: give a PostgreSQL user the rights of services, of the sealer, or of a reader."""

import asyncio
from typing import Annotated

import typer

from tradesaga.infra.cli.options import AsJson, Directory
from tradesaga.infra.cli.output import print_result
from tradesaga.infra.postgres.database import session
from tradesaga.infra.postgres.roles import Role, grants
from tradesaga.infra.settings import Settings, load_settings


def grant(
    user: Annotated[str, typer.Argument(help="The PostgreSQL user under whom they work; it owns no table.")],
    *,
    role: Annotated[Role, typer.Option("--for", help="services, sealer or reader.")] = Role.SERVICES,
    service: Annotated[str, typer.Option("--service", help="Whose database; default the common one.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the statements, and run none.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Let a user do what its role needs, and nothing else; run it as the owner, after each `tradesaga migrate` too.

    Example: `tradesaga grant desk --for services`
    """
    statements = asyncio.run(_grant(load_settings(directory), service, user, role, dry_run=dry_run))
    text = "\n".join(f"{each};" for each in statements) if dry_run else f"{user} has the rights of {role}"
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
