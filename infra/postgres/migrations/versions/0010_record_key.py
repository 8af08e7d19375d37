"""The audit log keeps each record's key, which hashes cover from now on. Rows of before have none."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE saga_event ADD COLUMN key bytea")


def downgrade() -> None:
    op.execute("ALTER TABLE saga_event DROP COLUMN key")
