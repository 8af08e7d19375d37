"""Incarnations: each time the database did not simply go on from where it was, and the numbers it went on with."""

from alembic import op

from tradesaga.infra.postgres.migrations.script import execute_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE incarnation (
    number bigint PRIMARY KEY CHECK (number > 0),
    kind text NOT NULL CHECK (kind IN ('rebuilt', 'restored', 'republished')),
    operator text NOT NULL,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


def upgrade() -> None:
    execute_script(_UP)


def downgrade() -> None:
    op.execute("DROP TABLE incarnation")
