"""The step path and the saga log: lanes, outbox, step rows, checkpoints, audit log, parked records, starts, holds."""

from alembic import op

from tradesaga.infra.postgres.migrations.script import execute_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE lane (
    id integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    "group" text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,
    next_offset bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0,
    published_seq bigint NOT NULL DEFAULT 0,
    owner text NOT NULL DEFAULT '',
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until timestamptz,
    PRIMARY KEY ("group", topic, partition)
) WITH (fillfactor = 50);

CREATE TABLE outbox (
    lane integer NOT NULL,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    aggregatetype text NOT NULL,
    aggregateid text NOT NULL,
    type text NOT NULL,
    headers text NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (lane, seq, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE outbox_default PARTITION OF outbox DEFAULT;

CREATE TABLE step_execution (
    saga_id uuid NOT NULL,
    step text NOT NULL,
    lane integer NOT NULL,
    status smallint NOT NULL,
    attempt smallint NOT NULL DEFAULT 1,
    back_attempt smallint NOT NULL DEFAULT 0,
    round smallint NOT NULL DEFAULT 1,
    back_round smallint NOT NULL DEFAULT 0,
    bar_seen boolean NOT NULL DEFAULT false,
    due timestamptz,
    started bigint NOT NULL DEFAULT 0,
    input bytea,
    back_input bytea,
    answer bytea,
    back_answer bytea,
    reports bytea,
    PRIMARY KEY (saga_id, step)
) WITH (fillfactor = 80);
CREATE INDEX step_execution_due ON step_execution (lane, due) WHERE due IS NOT NULL;

CREATE TABLE saga (
    saga_id uuid PRIMARY KEY,
    name text NOT NULL,
    version integer NOT NULL,
    lane integer NOT NULL,
    state text NOT NULL,
    current_step_index smallint NOT NULL,
    completed_steps json NOT NULL,
    compensated_steps json NOT NULL,
    context json NOT NULL,
    progress bytea NOT NULL,
    seq integer NOT NULL,
    head bytea NOT NULL,
    deadline timestamptz,
    deadline_due timestamptz,
    request_hash text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX saga_deadline_due ON saga (lane, deadline_due) WHERE deadline_due IS NOT NULL;
CREATE INDEX saga_state ON saga (name, state, created_at);
CREATE INDEX saga_created ON saga (created_at, saga_id);

CREATE TABLE saga_event (
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    saga_id uuid,
    seq integer,
    event_type text,
    step_name text,
    event_time bigint,
    started bigint,
    context_added text,
    error text,
    headers text NOT NULL,
    value bytea,
    hash bytea NOT NULL,
    writer_epoch bigint NOT NULL,
    PRIMARY KEY (topic, partition, "offset", recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE TABLE saga_event_default PARTITION OF saga_event DEFAULT;
CREATE INDEX saga_event_saga ON saga_event (saga_id, seq);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only: % on % refused', TG_OP, TG_TABLE_NAME USING ERRCODE = '42501';
END $$;
CREATE TRIGGER saga_event_append_only BEFORE UPDATE OR DELETE ON saga_event
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER saga_event_keep BEFORE TRUNCATE ON saga_event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER saga_event_keep BEFORE TRUNCATE ON saga_event_default
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE parked (
    "group" text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    saga_id uuid,
    reason text NOT NULL,
    recorded_at timestamptz NOT NULL,
    headers text NOT NULL,
    value bytea,
    released text,
    released_at timestamptz,
    PRIMARY KEY ("group", topic, partition, "offset")
);
CREATE INDEX parked_saga ON parked (saga_id) WHERE released IS NULL;

CREATE TABLE start_request (
    saga_id uuid PRIMARY KEY,
    saga text NOT NULL,
    generation smallint NOT NULL DEFAULT 1,
    request_hash text NOT NULL,
    record bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE hold (
    scope text NOT NULL CHECK (scope IN ('saga', 'venue', 'account')),
    key text NOT NULL,
    operator text NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (scope, key)
);
"""

_TABLES = "hold, start_request, parked, saga_event, saga, step_execution, outbox, lane"


def upgrade() -> None:
    execute_script(_UP)


def downgrade() -> None:
    op.execute(f"DROP TABLE {_TABLES}")
    op.execute("DROP FUNCTION refuse_change()")
