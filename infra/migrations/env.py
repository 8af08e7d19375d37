"""Runs migrations on the connection that `infra.database` hands over, one process at a time."""

from alembic import context
from sqlalchemy import Connection, text

LOCK = 7_263_410_952


def run(connection: Connection) -> None:
    """Migrate in one transaction; the lock lives as long as it does."""
    context.configure(connection=connection, transactional_ddl=True)
    with connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        with context.begin_transaction():
            context.run_migrations()


run(context.config.attributes["connection"])
