"""Identity: which installation a database is of, and which topic and record each lane has seen."""

from tradesaga.infra.postgres.migrations.script import execute_script

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_UP = """
-- One row. Databases of one installation share the id; it never changes once it is claimed on the topics' side.
CREATE TABLE installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    claimed boolean NOT NULL DEFAULT false,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO installation DEFAULT VALUES;
-- All are null until a lane is claimed by a release that compares them.
ALTER TABLE lane ADD COLUMN topic_id uuid, ADD COLUMN partitions integer,
    ADD COLUMN seen_offset bigint, ADD COLUMN seen_crc bigint;
"""
_DOWN = """
ALTER TABLE lane DROP COLUMN topic_id, DROP COLUMN partitions, DROP COLUMN seen_offset, DROP COLUMN seen_crc;
DROP TABLE installation;
"""


def upgrade() -> None:
    execute_script(_UP)


def downgrade() -> None:
    execute_script(_DOWN)
