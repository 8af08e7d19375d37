"""Alembic on an open connection of asyncpg's."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tradesaga.infra.postgres.database import FOLDER, Session


async def run_alembic(driver: Session, revision: str) -> None:
    """Upgrade the schema to `head`, or downgrade it to a named revision, and close the connection."""

    async def hand_over() -> Session:
        return driver

    engine = create_async_engine("postgresql+asyncpg://", async_creator=hand_over, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run, revision)
    except DBAPIError as wrapped:
        raise (wrapped.driver_exception or wrapped) from wrapped
    finally:
        await engine.dispose()


def _run(connection: SyncConnection, revision: str) -> None:
    move = command.upgrade if revision == "head" else command.downgrade
    move(_configuration(connection), revision)


def _configuration(connection: SyncConnection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
