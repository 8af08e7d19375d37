"""Connections to PostgreSQL, and the schema brought up to date."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tradesaga.infra.postgres.errors import DATABASE_ERRORS, explain, locate
from tradesaga.infra.postgres.partitions import ensure_partitions
from tradesaga.infra.postgres.schema_version import FOLDER, PARAMETER, check_version, known_version

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool = asyncpg.Pool[asyncpg.Record]
    Session = asyncpg.Connection[asyncpg.Record]
    Connection = Session | PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Session = Connection = asyncpg.Connection

CONNECT_SECONDS: Final = 10.0
_TURN: Final = threading.Lock()  # alembic keeps what it works on in module globals
SESSION: Final = {
    # A stopped process must not keep its row locks: the server ends its session.
    "idle_in_transaction_session_timeout": "8s",
    "lock_timeout": "3s",
    "statement_timeout": "15s",
    "synchronous_commit": "on",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",
    # Compiling a short statement costs more than running it.
    "jit": "off",
    "timezone": "UTC",
}


async def open_pool(url: str, *, min_size: int = 1, max_size: int = 4, application_name: str = "tradesaga") -> Pool:
    """Open a pool whose sessions carry server-side time limits.

    Raises `CommandError`: exit 5 when the server does not answer or its schema is older than this program, exit 4 when
    the schema is a later one.
    """
    with _explained(url):
        pool = await asyncpg.create_pool(
            url,
            min_size=min_size,
            max_size=max_size,
            timeout=CONNECT_SECONDS,
            server_settings=_server_settings(application_name),
        )
        try:
            async with pool.acquire() as sql:
                await check_version(sql, locate(url))
        except BaseException:
            await pool.close()
            raise
        return pool


@asynccontextmanager
async def session(url: str, *, application_name: str = "tradesaga") -> AsyncGenerator[Session]:
    """Open one session for a command, and close it. Raises `CommandError` as `open_pool` does."""
    with _explained(url):
        connection = await asyncpg.connect(
            url, timeout=CONNECT_SECONDS, server_settings=_server_settings(application_name)
        )
        try:
            await check_version(connection, locate(url))
            yield connection
        finally:
            await connection.close(timeout=CONNECT_SECONDS)


def _server_settings(application_name: str) -> dict[str, str]:
    return {**SESSION, "application_name": application_name, PARAMETER: known_version()}


def migrate(url: str, revision: str = "head") -> None:
    """Bring the schema up to `head`, or down to a named revision; an async program calls it through a thread.

    Several processes may call it at once: they take turns. At `head` the partitions of now are made too.
    """
    with _TURN:
        asyncio.run(_migrate(url, revision))


def alembic_config(connection: SyncConnection) -> Config:
    """Give what alembic needs to work on this connection."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def _migrate(url: str, revision: str) -> None:
    limits = {"lock_timeout": "30s", "idle_in_transaction_session_timeout": "30s"}
    settings = {"application_name": "tradesaga migrate", "timezone": "UTC", **limits}
    with _explained(url):
        driver = await asyncpg.connect(url, timeout=CONNECT_SECONDS, server_settings=settings)

        async def hand_over() -> Session:
            return driver

        engine = create_async_engine("postgresql+asyncpg://", async_creator=hand_over, poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                await connection.run_sync(_run_alembic, revision)
        except DBAPIError as wrapped:
            raise (wrapped.driver_exception or wrapped) from wrapped
        finally:
            await engine.dispose()
    if revision == "head":
        async with session(url) as sql:
            await ensure_partitions(sql)


def _run_alembic(connection: SyncConnection, revision: str) -> None:
    move = command.upgrade if revision == "head" else command.downgrade
    move(alembic_config(connection), revision)


@contextmanager
def _explained(url: str) -> Generator[None]:
    try:
        yield
    except (*DATABASE_ERRORS, ValueError) as error:
        known = explain(error, url)
        if known is None:
            raise
        raise known from error
