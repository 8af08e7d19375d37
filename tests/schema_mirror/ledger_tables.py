"""The ledger's tables, in the same metadata as the core ones."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Integer,
    LargeBinary,
    Numeric,
    Table,
    Text,
    Uuid,
    text,
)

from tests.schema_mirror.core_tables import METADATA, NOW, TIME, ZERO

MONEY = Numeric(26, 8)
RATE = Numeric(9, 8)

account = Table(
    "account",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("venue", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'open'")),
    Column("max_order_notional", MONEY, nullable=False),
    Column("max_exposure", MONEY, nullable=False),
    Column("max_open_orders", Integer, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("status IN ('open', 'closed')"),
    CheckConstraint("max_order_notional >= 0"),
    CheckConstraint("max_exposure >= 0"),
    CheckConstraint("max_open_orders >= 0"),
)

instrument = Table(
    "instrument",
    METADATA,
    Column("venue", Text, primary_key=True),
    Column("symbol", Text, primary_key=True),
    Column("base", Text, nullable=False),
    Column("quote", Text, nullable=False),
    Column("tick", MONEY, nullable=False),
    Column("lot", MONEY, nullable=False),
    Column("min_quantity", MONEY, nullable=False),
    Column("max_quantity", MONEY, nullable=False),
    Column("min_notional", MONEY, nullable=False),
    Column("fee_rate", RATE, nullable=False),
    Column("collar", RATE, nullable=False, server_default=text("0.02")),
    Column("reference_price", MONEY),
    Column("reference_at", TIME),
    CheckConstraint("tick > 0"),
    CheckConstraint("lot > 0"),
    CheckConstraint("min_quantity >= 0"),
    CheckConstraint("max_quantity >= min_quantity"),
    CheckConstraint("min_notional >= 0"),
    CheckConstraint("fee_rate >= 0"),
    CheckConstraint("collar >= 0 AND collar < 1"),
    CheckConstraint("reference_price > 0"),
)

order_register = Table(
    "order_register",
    METADATA,
    Column("saga_id", Uuid, primary_key=True),
    Column("account", Text, nullable=False),
    Column("venue", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("side", Text, nullable=False),
    Column("quantity", MONEY, nullable=False),
    Column("order_type", Text, nullable=False),
    Column("limit_price", MONEY),
    Column("worst_price", MONEY, nullable=False),
    Column("time_in_force", Text, nullable=False),
    Column("quote", Text, nullable=False),
    Column("hold_asset", Text, nullable=False),
    Column("hold", MONEY, nullable=False),
    Column("notional", MONEY, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'VALIDATED'")),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("updated_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("status IN ('VALIDATED', 'COUNTED', 'RELEASED', 'WITHDRAWN', 'SETTLED')"),
)

risk_exposure = Table(
    "risk_exposure",
    METADATA,
    Column("account", Text, primary_key=True),
    Column("asset", Text, primary_key=True),
    Column("exposure", MONEY, nullable=False, server_default=ZERO),
    Column("open_orders", Integer, nullable=False, server_default=ZERO),
    CheckConstraint("exposure >= 0"),
    CheckConstraint("open_orders >= 0"),
)

ledger_account = Table(
    "ledger_account",
    METADATA,
    Column("owner", Text, primary_key=True),
    Column("asset", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("balance", MONEY, nullable=False, server_default=ZERO),
    CheckConstraint("kind IN ('available', 'held', 'clearing', 'fees', 'external')"),
    CheckConstraint("balance >= 0 OR kind NOT IN ('available', 'held')"),
)

ledger_entry = Table(
    "ledger_entry",
    METADATA,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("saga_id", Uuid, primary_key=True),
    Column("step", Text, primary_key=True),
    Column("direction", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("asset", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("amount", MONEY, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("direction IN ('forward', 'back')"),
    CheckConstraint("amount <> 0"),
)

venue_report = Table(
    "venue_report",
    METADATA,
    Column("saga_id", Uuid, primary_key=True),
    Column("ident", Text, primary_key=True),
    Column("final", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("stored_at", TIME, nullable=False, server_default=NOW),
    Column("counted", Boolean, nullable=False, server_default=text("false")),
)

venue_cursor = Table(
    "venue_cursor",
    METADATA,
    Column("venue", Text, primary_key=True),
    Column("cursor", Text, nullable=False),
    Column("updated_at", TIME, nullable=False, server_default=NOW),
)
