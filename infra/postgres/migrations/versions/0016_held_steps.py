"""Steps that a pause holds are due in a thousand years; an earlier release, which does not know that, must not run."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

RELEASE = "UPDATE step_execution SET due = clock_timestamp() WHERE due > '2500-01-01+00'"


def upgrade() -> None:
    """Only the version changes: paused steps are due within a second, and are held when they are."""


def downgrade() -> None:
    """Make them due, so that the earlier release looks at them again."""
    op.execute(RELEASE)
