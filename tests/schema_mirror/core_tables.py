"""The core tables: a mirror of the migrations, which a test compares with the migrated database."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

METADATA = MetaData()

TIME = TIMESTAMP(timezone=True)
NOW = text("clock_timestamp()")
ZERO = text("0")
ONE = text("1")

lane = Table(
    "lane",
    METADATA,
    Column("id", Integer, Identity(always=True), nullable=False, unique=True),
    Column("group", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False, server_default=ZERO),
    Column("next_offset", BigInteger, nullable=False, server_default=ZERO),
    Column("last_seq", BigInteger, nullable=False, server_default=ZERO),
    Column("published_seq", BigInteger, nullable=False, server_default=ZERO),
    Column("owner", Text, nullable=False, server_default=text("''")),
    Column("claimed_at", TIME, nullable=False, server_default=NOW),
    Column("lease_until", TIME),
    Column("topic_id", Uuid),
    Column("partitions", Integer),
    Column("seen_offset", BigInteger),
    Column("seen_crc", BigInteger),
)

installation = Table(
    "installation",
    METADATA,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("claimed", Boolean, nullable=False, server_default=text("false")),
    Column("made_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("singleton"),
)

outbox = Table(
    "outbox",
    METADATA,
    Column("lane", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Uuid, nullable=False),
    Column("aggregatetype", Text, nullable=False),
    Column("aggregateid", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", TIME, primary_key=True, server_default=NOW),
    postgresql_partition_by="RANGE (created_at)",
)

step_execution = Table(
    "step_execution",
    METADATA,
    Column("saga_id", Uuid, primary_key=True),
    Column("step", Text, primary_key=True),
    Column("lane", Integer, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("attempt", SmallInteger, nullable=False, server_default=ONE),
    Column("back_attempt", SmallInteger, nullable=False, server_default=ZERO),
    Column("round", SmallInteger, nullable=False, server_default=ONE),
    Column("back_round", SmallInteger, nullable=False, server_default=ZERO),
    Column("bar_seen", Boolean, nullable=False, server_default=text("false")),
    Column("due", TIME),
    Column("started", BigInteger, nullable=False, server_default=ZERO),
    Column("input", LargeBinary),
    Column("back_input", LargeBinary),
    Column("answer", LargeBinary),
    Column("back_answer", LargeBinary),
    Column("reports", LargeBinary),
)
Index("step_execution_due", step_execution.c.lane, step_execution.c.due, postgresql_where=text("due IS NOT NULL"))

saga = Table(
    "saga",
    METADATA,
    Column("saga_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("current_step_index", SmallInteger, nullable=False),
    Column("completed_steps", JSON, nullable=False),
    Column("compensated_steps", JSON, nullable=False),
    Column("context", JSON, nullable=False),
    Column("progress", LargeBinary, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("head", LargeBinary, nullable=False),
    Column("deadline", TIME),
    Column("deadline_due", TIME),
    Column("request_hash", Text, nullable=False),
    Column("created_at", TIME, nullable=False),
    Column("updated_at", TIME, nullable=False),
)
Index("saga_deadline_due", saga.c.lane, saga.c.deadline_due, postgresql_where=text("deadline_due IS NOT NULL"))
Index("saga_state", saga.c.name, saga.c.state, saga.c.created_at)
Index(
    "saga_open_deadline",
    saga.c.name,
    saga.c.deadline,
    saga.c.saga_id,
    postgresql_where=text("state IN ('IDLE', 'RUNNING', 'COMPENSATING')"),
)
Index("saga_created", saga.c.created_at, saga.c.saga_id)

saga_event = Table(
    "saga_event",
    METADATA,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("recorded_at", TIME, primary_key=True),
    Column("saga_id", Uuid),
    Column("seq", Integer),
    Column("event_type", Text),
    Column("step_name", Text),
    Column("event_time", BigInteger),
    Column("started", BigInteger),
    Column("context_added", Text),
    Column("error", Text),
    Column("headers", Text, nullable=False),
    Column("value", LargeBinary),
    Column("hash", LargeBinary, nullable=False),
    Column("writer_epoch", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("skipped", BigInteger),
    postgresql_partition_by="RANGE (recorded_at)",
)
Index("saga_event_saga", saga_event.c.saga_id, saga_event.c.seq)

parked = Table(
    "parked",
    METADATA,
    Column("group", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("saga_id", Uuid),
    Column("reason", Text, nullable=False),
    Column("recorded_at", TIME, nullable=False),
    Column("headers", Text, nullable=False),
    Column("value", LargeBinary),
    Column("released", Text),
    Column("released_at", TIME),
)
Index("parked_saga", parked.c.saga_id, postgresql_where=text("released IS NULL"))

start_request = Table(
    "start_request",
    METADATA,
    Column("saga_id", Uuid, primary_key=True),
    Column("saga", Text, nullable=False),
    Column("generation", SmallInteger, nullable=False, server_default=ONE),
    Column("request_hash", Text, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
)

hold = Table(
    "hold",
    METADATA,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("operator", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("scope IN ('saga', 'venue', 'account')"),
)

incarnation = Table(
    "incarnation",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("began_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("number > 0"),
    CheckConstraint("kind IN ('rebuilt', 'restored', 'republished')"),
)

audit_checkpoint = Table(
    "audit_checkpoint",
    METADATA,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
    Column("sealed_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("size > 0"),
)

audit_edge = Table(
    "audit_edge",
    METADATA,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("edge", LargeBinary, nullable=False),
)

audit_action = Table(
    "audit_action",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("recorded_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("number >= 0"),
)

audit_retired_head = Table(
    "audit_retired_head",
    METADATA,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("saga_id", Uuid, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

signal_subscription = Table(
    "signal_subscription",
    METADATA,
    Column("strategy", Text, primary_key=True),
    Column("symbol", Text, primary_key=True),
    Column("account", Text, primary_key=True),
    Column("size_factor", Numeric(16, 8), nullable=False, server_default=ONE),
    Column("max_quantity", Numeric(26, 8)),
    Column("max_notional", Numeric(26, 8)),
    Column("max_per_minute", Integer),
    Column("max_age", Integer),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("updated_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("size_factor > 0"),
    CheckConstraint("max_quantity > 0"),
    CheckConstraint("max_notional > 0"),
    CheckConstraint("max_per_minute > 0"),
    CheckConstraint("max_age > 0"),
)

signal_decision = Table(
    "signal_decision",
    METADATA,
    Column("strategy", Text, primary_key=True),
    Column("signal_id", Text, primary_key=True),
    Column("account", Text, primary_key=True),
    Column("symbol", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("detail", Text, nullable=False, server_default=text("''")),
    Column("saga_id", Uuid),
    Column("recorded_at", TIME, nullable=False),
    Column("decided_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("decision IN ('accepted', 'refused')"),
    CheckConstraint("(decision = 'accepted') = (saga_id IS NOT NULL)"),
)
Index(
    "signal_decision_accepted",
    signal_decision.c.strategy,
    signal_decision.c.symbol,
    signal_decision.c.account,
    signal_decision.c.recorded_at,
    postgresql_where=text("decision = 'accepted'"),
)
