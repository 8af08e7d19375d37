"""Mutants in SQL: the statement that is changed, and the script whose answer from PostgreSQL gives it away."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tests.mutants.surgery import SurgeryError, everywhere
from tests.simulation import saga_scripts, sql_scripts
from tests.simulation.rigs import Sessions
from tradesaga.consumers.runtime import step_rows
from tradesaga.consumers.saga_log import store as saga_store
from tradesaga.infra.outbox import lane_rows, outbox_rows

_KNOWN = "\n    AND s.status = t.known_status AND s.attempt = t.known_attempt AND s.back_attempt = t.known_back_attempt"
_OVERWRITE = "ON CONFLICT (saga_id, step) DO UPDATE SET status = excluded.status, attempt = excluded.attempt"


@dataclass(frozen=True)
class SqlMutant:
    """A statement with part of it changed."""

    name: str
    module: ModuleType
    constant: str
    before: str
    after: str
    script: Callable[[Sessions], Awaitable[Any]]

    @contextmanager
    def plant(self) -> Generator[None]:
        """Send the changed statement instead; raises `SurgeryError` if it is not what the mutant was written for."""
        statement: str = getattr(self.module, self.constant)
        if statement.count(self.before) != 1:
            raise SurgeryError(f"{self.constant} holds {statement.count(self.before)} times: {self.before}")
        with everywhere(statement, statement.replace(self.before, self.after)):
            yield


_DOWNWARDS = "ORDER BY reason DESC"

SQL_MUTANTS = (
    SqlMutant("no epoch check", lane_rows, "FENCE", "l.epoch = m.epoch AND ", "", sql_scripts.only_the_owner_passes),
    SqlMutant(
        "no epoch check when saving", lane_rows, "ADVANCE", "l.epoch = m.epoch AND ", "",
        sql_scripts.only_the_owner_passes
    ),
    SqlMutant(
        "lost lane not noticed", lane_rows, "OWNED", "WHERE l.epoch = m.epoch", "", sql_scripts.only_the_owner_passes
    ),
    SqlMutant("fence without a lock", lane_rows, "FENCE", "FOR UPDATE OF l", "", sql_scripts.a_claim_waits),
    SqlMutant(
        "outbox number not checked", lane_rows, "FENCE", " AND l.last_seq = m.last_seq", "",
        sql_scripts.only_the_owner_passes
    ),
    SqlMutant(
        "outbox number not checked when saving", lane_rows, "ADVANCE", " AND l.last_seq = m.last_seq", "",
        sql_scripts.only_the_owner_passes
    ),
    SqlMutant(
        "takeover without a new epoch", lane_rows, "ACQUIRE", "l.epoch + 1", "l.epoch", sql_scripts.claims_raise_epochs
    ),
    SqlMutant(
        "offset set back by a batch", lane_rows, "MOVE", "greatest(l.next_offset, m.next_offset)", "m.next_offset",
        sql_scripts.offsets_never_go_back,
    ),
    SqlMutant(
        "offset set back", lane_rows, "ADVANCE", "greatest(l.next_offset, m.next_offset)", "m.next_offset",
        sql_scripts.offsets_never_go_back,
    ),
    SqlMutant(
        "outbox read out of order", outbox_rows, "UNPUBLISHED", "ORDER BY seq", "ORDER BY id DESC",
        sql_scripts.the_outbox_is_numbered
    ),
    SqlMutant("retry not compared and set", step_rows, "UPDATE", _KNOWN, "", sql_scripts.rows_are_compared_and_set),
    SqlMutant(
        "no natural key", step_rows, "INSERT", "ON CONFLICT DO NOTHING", _OVERWRITE,
        sql_scripts.rows_are_compared_and_set
    ),
    SqlMutant(
        "due rows not locked", step_rows, "LOAD_DUE", " FOR UPDATE SKIP LOCKED", "", sql_scripts.due_rows_are_taken_once
    ),
    SqlMutant(
        "deadlines of other lanes", saga_store, "DUE", "s.lane = l.lane AND", "",
        saga_scripts.deadlines_are_found,
    ),
    SqlMutant(
        "parked records out of order", saga_store, "PARKED", 'ORDER BY topic, partition, "offset"', _DOWNWARDS,
        saga_scripts.parked_records_wait_in_order,
    ),
)  # fmt: skip
