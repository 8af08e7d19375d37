"""The trade business: accounts, instruments, the order register, the double-entry ledger, exposure, venue cursors."""

from alembic import op

from tradesaga.infra.postgres.migrations.script import execute_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE account (
    id text PRIMARY KEY,
    venue text NOT NULL,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'closed')),
    max_order_notional numeric(26,8) NOT NULL CHECK (max_order_notional >= 0),
    max_exposure numeric(26,8) NOT NULL CHECK (max_exposure >= 0),
    max_open_orders integer NOT NULL CHECK (max_open_orders >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE instrument (
    venue text NOT NULL,
    symbol text NOT NULL,
    base text NOT NULL,
    quote text NOT NULL,
    tick numeric(26,8) NOT NULL CHECK (tick > 0),
    lot numeric(26,8) NOT NULL CHECK (lot > 0),
    min_quantity numeric(26,8) NOT NULL CHECK (min_quantity >= 0),
    max_quantity numeric(26,8) NOT NULL CHECK (max_quantity >= min_quantity),
    min_notional numeric(26,8) NOT NULL CHECK (min_notional >= 0),
    fee_rate numeric(9,8) NOT NULL CHECK (fee_rate >= 0),
    collar numeric(9,8) NOT NULL DEFAULT 0.02 CHECK (collar >= 0 AND collar < 1),
    reference_price numeric(26,8) CHECK (reference_price > 0),
    reference_at timestamptz,
    PRIMARY KEY (venue, symbol)
) WITH (fillfactor = 80);

CREATE TABLE order_register (
    saga_id uuid PRIMARY KEY,
    account text NOT NULL,
    venue text NOT NULL,
    symbol text NOT NULL,
    side text NOT NULL,
    quantity numeric(26,8) NOT NULL,
    order_type text NOT NULL,
    limit_price numeric(26,8),
    worst_price numeric(26,8) NOT NULL,
    time_in_force text NOT NULL,
    quote text NOT NULL,
    hold_asset text NOT NULL,
    hold numeric(26,8) NOT NULL,
    notional numeric(26,8) NOT NULL,
    status text NOT NULL DEFAULT 'VALIDATED'
        CHECK (status IN ('VALIDATED', 'COUNTED', 'RELEASED', 'WITHDRAWN', 'SETTLED')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);

CREATE TABLE risk_exposure (
    account text NOT NULL,
    asset text NOT NULL,
    exposure numeric(26,8) NOT NULL DEFAULT 0 CHECK (exposure >= 0),
    open_orders integer NOT NULL DEFAULT 0 CHECK (open_orders >= 0),
    PRIMARY KEY (account, asset)
) WITH (fillfactor = 50);

CREATE TABLE ledger_account (
    owner text NOT NULL,
    asset text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('available', 'held', 'clearing', 'fees', 'external')),
    balance numeric(26,8) NOT NULL DEFAULT 0,
    PRIMARY KEY (owner, asset, kind),
    CHECK (balance >= 0 OR kind NOT IN ('available', 'held'))
) WITH (fillfactor = 50);

CREATE TABLE ledger_entry (
    id bigint GENERATED ALWAYS AS IDENTITY,
    saga_id uuid NOT NULL,
    step text NOT NULL,
    direction text NOT NULL CHECK (direction IN ('forward', 'back')),
    owner text NOT NULL,
    asset text NOT NULL,
    kind text NOT NULL,
    amount numeric(26,8) NOT NULL CHECK (amount <> 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (saga_id, step, direction, owner, asset, kind)
);

CREATE FUNCTION post_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    unbalanced text;
    wanted bigint;
    moved bigint;
BEGIN
    SELECT string_agg(format('%s %s in %s', total, asset, saga_id), ', ') INTO unbalanced FROM (
        SELECT saga_id, asset, sum(amount) AS total FROM posted
        GROUP BY saga_id, step, direction, asset HAVING sum(amount) <> 0
    ) AS off;
    IF unbalanced IS NOT NULL THEN
        RAISE EXCEPTION 'postings do not sum to zero: %', unbalanced USING ERRCODE = '23514';
    END IF;
    WITH change AS (
        SELECT owner, asset, kind, sum(amount) AS amount FROM posted GROUP BY owner, asset, kind
    ), done AS (
        UPDATE ledger_account a SET balance = a.balance + c.amount FROM change c
        WHERE (a.owner, a.asset, a.kind) = (c.owner, c.asset, c.kind) RETURNING 1
    )
    SELECT (SELECT count(*) FROM change), (SELECT count(*) FROM done) INTO wanted, moved;
    IF wanted <> moved THEN
        RAISE EXCEPTION '% of % posted ledger accounts do not exist', wanted - moved, wanted USING ERRCODE = '23503';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_entry_post AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS posted FOR EACH STATEMENT EXECUTE FUNCTION post_entries();

CREATE FUNCTION refuse_entry_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % on % refused; post the opposite', TG_OP, TG_TABLE_NAME
        USING ERRCODE = '42501';
END $$;
CREATE TRIGGER ledger_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_entry_change();

CREATE TABLE venue_cursor (
    venue text PRIMARY KEY,
    cursor text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

_TABLES = "venue_cursor, ledger_entry, ledger_account, risk_exposure, order_register, instrument, account"


def upgrade() -> None:
    execute_script(_UP)


def downgrade() -> None:
    op.execute(f"DROP TABLE {_TABLES}")
    op.execute("DROP FUNCTION post_entries(), refuse_entry_change()")
