"""An index of the sagas that are open, by their deadlines: those that are late are found without reading the others."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX saga_open_deadline ON saga (name, deadline, saga_id)"
        " WHERE state IN ('IDLE', 'RUNNING', 'COMPENSATING')"
    )


def downgrade() -> None:
    op.execute("DROP INDEX saga_open_deadline")
