"""Runs migrations on the connection passed by `tradesaga.infra.postgres.alembic_run`, one process at a time."""

from alembic import context
from sqlalchemy import Connection, text

from tradesaga.infra.postgres.database import TABLE

LOCK = 7_263_410_952
# Releases up to schema 0006 kept their version in alembic's default table. One of that name that says anything else, or
# stands where none of our tables do, is another application's.
_TAKE_OVER = f"""
DO $$
DECLARE ours varchar(32);
BEGIN
    IF to_regclass('lane') IS NULL OR NOT EXISTS (
        SELECT FROM pg_class WHERE oid = to_regclass('alembic_version') AND relkind = 'r'
    ) THEN
        RETURN;
    END IF;
    SELECT version_num INTO ours FROM alembic_version WHERE version_num IN ('0001','0002','0003','0004','0005','0006');
    IF to_regclass('{TABLE}') IS NULL THEN
        CREATE TABLE {TABLE} (version_num varchar(32) NOT NULL PRIMARY KEY);
        INSERT INTO {TABLE} SELECT ours WHERE ours IS NOT NULL;
    END IF;
    IF EXISTS (SELECT FROM {TABLE} WHERE version_num = ours) THEN
        DELETE FROM alembic_version WHERE version_num = ours;
        IF NOT EXISTS (SELECT FROM alembic_version) THEN
            DROP TABLE alembic_version;
        END IF;
    END IF;
END
$$;
"""


def run(connection: Connection) -> None:
    """Migrate in one transaction; the lock lives as long as it does."""
    context.configure(connection=connection, transactional_ddl=True, version_table=TABLE)
    with connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        connection.execute(text(_TAKE_OVER))
        with context.begin_transaction():
            context.run_migrations()


run(context.config.attributes["connection"])
