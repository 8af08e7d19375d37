"""Deadlines that were published, and that do not count over parked records, are published once more."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

REARM = """
UPDATE saga SET deadline_due = deadline
WHERE deadline_due IS NULL AND state IN ('IDLE', 'RUNNING', 'COMPENSATING')
    AND position('"unblocked":true'::bytea IN progress) = 0
"""


def upgrade() -> None:
    """Have the saga log publish them again, so that no record that cannot be read holds these sagas."""
    op.get_bind().exec_driver_sql(REARM)  # `op.execute` takes the colon for a parameter


def downgrade() -> None:
    """Leave them: for an earlier release a deadline that comes again changes nothing."""
