"""The signal router: who trades which strategy, and what became of each signal."""

from alembic import op

from tradesaga.infra.postgres.migrations.script import execute_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE signal_subscription (
    strategy text NOT NULL,
    symbol text NOT NULL,
    account text NOT NULL,
    size_factor numeric(16,8) NOT NULL DEFAULT 1 CHECK (size_factor > 0),
    max_quantity numeric(26,8) CHECK (max_quantity > 0),
    max_notional numeric(26,8) CHECK (max_notional > 0),
    max_per_minute integer CHECK (max_per_minute > 0),
    max_age integer CHECK (max_age > 0),
    enabled boolean NOT NULL DEFAULT true,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (strategy, symbol, account)
);

CREATE TABLE signal_decision (
    strategy text NOT NULL,
    signal_id text NOT NULL,
    account text NOT NULL,
    symbol text NOT NULL,
    decision text NOT NULL CHECK (decision IN ('accepted', 'refused')),
    reason text NOT NULL DEFAULT '',
    detail text NOT NULL DEFAULT '',
    saga_id uuid,
    recorded_at timestamptz NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (strategy, signal_id, account),
    CHECK ((decision = 'accepted') = (saga_id IS NOT NULL))
);
CREATE INDEX signal_decision_accepted ON signal_decision (strategy, symbol, account, recorded_at)
    WHERE decision = 'accepted';
"""


def upgrade() -> None:
    execute_script(_UP)


def downgrade() -> None:
    op.execute("DROP TABLE signal_decision, signal_subscription")
