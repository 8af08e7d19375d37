"""Schema migrations, run by alembic on a connection of asyncpg's. Services import neither alembic nor SQLAlchemy."""

import asyncio
import threading
from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Final
from uuid import UUID

import asyncpg

from tradesaga.infra.postgres.database import CONNECT_SECONDS, explained_errors, session
from tradesaga.infra.postgres.installation import choose_installation, read_identity, set_installation
from tradesaga.infra.postgres.partitions import ensure_partitions

_ONE_AT_A_TIME: Final = threading.Lock()  # alembic keeps its state in module globals


def migrate_all(urls: Collection[str], wanted: UUID | None = None) -> UUID:
    """Migrate the databases of an installation and give them one installation id.

    Returns the id. Raises `CommandError` (exit 4) where the databases belong to different installations.
    """
    for url in sorted(urls):
        migrate(url)
    return asyncio.run(_share(urls, wanted))


async def _share(urls: Collection[str], wanted: UUID | None) -> UUID:
    async with AsyncExitStack() as stack:
        databases = [
            await stack.enter_async_context(session(url, application_name="tradesaga migrate")) for url in sorted(urls)
        ]
        found = [await read_identity(sql) for sql in databases]
        chosen = choose_installation(found, wanted)
        for sql, each in zip(databases, found, strict=True):
            if each.identity.installation != chosen:
                await set_installation(sql, chosen, claimed=False)
    return chosen


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the schema to `head`, or downgrade it to a named revision; an async program calls it in a thread.

    Safe to call from several processes at once: they take turns. At `head` the current partitions are created too.
    """
    with _ONE_AT_A_TIME:
        asyncio.run(_migrate(url, revision))


async def _migrate(url: str, revision: str) -> None:
    from tradesaga.infra.postgres.alembic_run import run_alembic  # noqa: PLC0415 - takes longer to load than most commands run

    limits = {"lock_timeout": "30s", "idle_in_transaction_session_timeout": "30s"}
    settings = {"application_name": "tradesaga migrate", "timezone": "UTC", **limits}
    with explained_errors(url):
        driver = await asyncpg.connect(url, timeout=CONNECT_SECONDS, server_settings=settings)
        await run_alembic(driver, revision)
    if revision == "head":
        async with session(url) as sql:
            await ensure_partitions(sql)
