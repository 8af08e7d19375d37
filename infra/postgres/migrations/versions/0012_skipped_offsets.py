"""The audit log keeps, where Kafka gave nothing at the offsets before a record, how many they are."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE saga_event ADD COLUMN skipped bigint")


def downgrade() -> None:
    op.execute("ALTER TABLE saga_event DROP COLUMN skipped")
