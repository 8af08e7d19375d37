"""Deadlines that stand parked behind a record that cannot be read are published once more: they count over it now."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

REARM = """
UPDATE saga s SET deadline_due = s.deadline FROM parked p
WHERE p.saga_id = s.saga_id AND p."group" = s.name || '-log' AND p.released IS NULL AND s.deadline_due IS NULL
    AND s.state IN ('IDLE', 'RUNNING', 'COMPENSATING')
    AND strpos(p.headers, '"ce_type":"' || s.name || '.deadline-elapsed.v1"') > 0
"""


def upgrade() -> None:
    """Have the saga log publish them again."""
    op.execute(REARM)


def downgrade() -> None:
    """Leave them: an earlier release parks what it publishes again behind the first."""
