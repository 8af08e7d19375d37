"""The venue's reports as rows, which execution answers from; what the feed has published lately is taken over."""

from alembic import op

from tradesaga.infra.postgres.migrations.script import execute_script

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE venue_report (
    saga_id uuid NOT NULL,
    ident text NOT NULL,
    final boolean NOT NULL,
    body bytea NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (saga_id, ident)
);

WITH published AS MATERIALIZED (
    SELECT o.aggregateid::uuid AS saga_id, o.payload, o.seq, o.created_at FROM outbox o
    JOIN lane l ON l.id = o.lane AND l."group" = 'trade-venue-feed'
    WHERE o.type = 'trade.venue-report.v1' AND o.aggregatetype = 'trade.events'
), told AS (
    SELECT saga_id, payload, seq, created_at, report ->> 'kind' AS kind, report #>> '{fill,trade_id}' AS trade_id
    FROM published, LATERAL (SELECT convert_from(payload, 'UTF8')::json AS report) AS j
)
INSERT INTO venue_report (saga_id, ident, final, body)
SELECT DISTINCT ON (1, 2) saga_id,
    CASE WHEN trade_id IS NULL THEN kind WHEN kind = 'busted' THEN 'bust:' || trade_id ELSE 'fill:' || trade_id END,
    kind IN ('fill', 'rejected', 'expired', 'cancelled'), payload
FROM told ORDER BY 1, 2, created_at DESC, seq DESC;
"""


def upgrade() -> None:
    execute_script(_UP)


def downgrade() -> None:
    op.execute("DROP TABLE venue_report")
