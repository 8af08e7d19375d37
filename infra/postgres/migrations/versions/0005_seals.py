"""Seals: signed checkpoints of the audit log, one log a partition of an events topic."""

from alembic import op

from tradesaga.infra.postgres.migrations.script import execute_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE audit_checkpoint (
    topic text NOT NULL,
    partition integer NOT NULL,
    size bigint NOT NULL CHECK (size > 0),
    note text NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (topic, partition, size)
);
-- Where the sealer goes on: nothing is believed of it that the last checkpoint does not say too.
CREATE TABLE audit_edge (
    topic text NOT NULL,
    partition integer NOT NULL,
    size bigint NOT NULL,
    next_offset bigint NOT NULL,
    edge bytea NOT NULL,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
CREATE TRIGGER audit_checkpoint_append_only BEFORE UPDATE OR DELETE ON audit_checkpoint
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_checkpoint_keep BEFORE TRUNCATE ON audit_checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    execute_script(_UP)


def downgrade() -> None:
    op.execute("DROP TABLE audit_checkpoint, audit_edge")
