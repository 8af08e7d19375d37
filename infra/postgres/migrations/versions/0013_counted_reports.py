"""Which of the venue's reports a step's answer counts: a report told again is found by its own row."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE venue_report ADD COLUMN counted boolean NOT NULL DEFAULT false")


def downgrade() -> None:
    op.execute("ALTER TABLE venue_report DROP COLUMN counted")
