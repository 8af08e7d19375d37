"""Retention: what operators did to the audit log, signed one by one, and the heads of retired sagas."""

from alembic import op

from tradesaga.infra.postgres.migrations.script import execute_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE audit_action (
    number bigint PRIMARY KEY CHECK (number >= 0),
    body text NOT NULL,
    note text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TRIGGER audit_action_append_only BEFORE UPDATE OR DELETE ON audit_action
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_action_keep BEFORE TRUNCATE ON audit_action
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- The last record of each saga among those that were retired. Nothing is believed of it: the chain of a later record
-- does not come out, nor does its tree, where a head is not what it was.
CREATE TABLE audit_retired_head (
    topic text NOT NULL,
    partition integer NOT NULL,
    saga_id uuid NOT NULL,
    seq integer NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (topic, partition, saga_id)
);
"""


def upgrade() -> None:
    execute_script(_UP)


def downgrade() -> None:
    op.execute("DROP TABLE audit_action, audit_retired_head")
