"""Programs of an earlier release are refused: they neither migrate this schema nor take a lane over."""

from tradesaga.infra.postgres.migrations.script import execute_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Releases up to that of 24 November 2026 know their schema by alembic's default table and do not look at it before they
# work. In its place stands a view that refuses whoever reads it; another application's table is left alone. Their
# sessions name themselves `tradesaga ...` and lack the parameter `tradesaga.schema`, so that claims are refused too.
_UP = """
GRANT SELECT ON tradesaga_schema TO PUBLIC;
CREATE FUNCTION refuse_earlier_release() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE insufficient_privilege USING MESSAGE =
        'this database belongs to a later release of tradesaga; run that release, or restore the backup from before '
        'the upgrade';
END
$$;
CREATE FUNCTION check_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('application_name') LIKE 'tradesaga %'
        AND coalesce(current_setting('tradesaga.schema', true), '') < '0007'
    THEN
        PERFORM refuse_earlier_release();
    END IF;
    RETURN NULL;
END
$$;
-- The columns that a claim sets; what a batch sets is left out, so that a batch pays nothing.
CREATE TRIGGER lane_release BEFORE INSERT OR UPDATE OF epoch ON lane
    FOR EACH STATEMENT EXECUTE FUNCTION check_release();
DO $$
BEGIN
    IF to_regclass('alembic_version') IS NULL THEN
        CREATE VIEW alembic_version AS SELECT refuse_earlier_release()::varchar(32) AS version_num;
        GRANT SELECT ON alembic_version TO PUBLIC;
    END IF;
END
$$;
"""
_DOWN = """
DROP TRIGGER lane_release ON lane;
DROP FUNCTION check_release();
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('alembic_version') AND relkind = 'v') THEN
        DROP VIEW alembic_version;
        CREATE TABLE alembic_version (version_num varchar(32) NOT NULL PRIMARY KEY);
        INSERT INTO alembic_version VALUES ('0006');
    END IF;
END
$$;
DROP FUNCTION refuse_earlier_release();
"""


def upgrade() -> None:
    execute_script(_UP)


def downgrade() -> None:
    execute_script(_DOWN)
