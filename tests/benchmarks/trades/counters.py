"""What a stack has used up to now, by its servers' own statistics: CPU by process, PostgreSQL's counters, bytes."""

from collections.abc import Mapping
from typing import NamedTuple

from tests.benchmarks.meter import cpu_of, log_bytes
from tests.benchmarks.trades.deployment import Deployed

FLUSH = 1.5
"""Seconds after which PostgreSQL's sessions have reported: at most once a second, when a transaction ends."""
_COUNTERS = """
SELECT d.xact_commit AS commits, d.tup_inserted AS rows_inserted, d.tup_updated AS rows_updated,
    coalesce((SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'lane'), 0) AS lane_updates,
    w.wal_records, w.wal_fpi AS wal_page_images, w.wal_bytes
FROM pg_stat_database d, pg_stat_wal w WHERE d.datname = current_database()
"""
_STATEMENTS = """
SELECT coalesce(sum(calls), 0) AS statements FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
WHERE d.datname = $1
"""


class Usage(NamedTuple):
    """CPU-seconds by process, PostgreSQL's counters by name, and the bytes in Kafka's segments."""

    cpu: Mapping[str, float]
    postgres: Mapping[str, float]
    kafka_bytes: float

    def since(self, before: "Usage", parts: float) -> "Usage":
        """Return the use since then, divided by a number of trades or of seconds."""
        return Usage(
            {name: (value - before.cpu[name]) / parts for name, value in self.cpu.items()},
            {name: (value - before.postgres[name]) / parts for name, value in self.postgres.items()},
            (self.kafka_bytes - before.kafka_bytes) / parts,
        )


def read_cpu(deployed: Deployed) -> dict[str, float]:
    """Return the CPU-seconds of each process with its children."""
    return {name: cpu_of([process]) for name, process in deployed.processes.items()}


def read_usage(deployed: Deployed, cpu: Mapping[str, float]) -> Usage:
    """Return the use up to now; CPU is given, since it may have been read earlier than the sessions reported."""
    stage, url = deployed.stage, deployed.records.database
    postgres = {name: float(value) for name, value in stage.ask(_COUNTERS, url=url)[0].items()}
    server, database = url.rsplit("/", 1)
    statements = stage.ask(_STATEMENTS, database, url=f"{server}/postgres")[0]["statements"]
    return Usage(cpu, {**postgres, "statements": float(statements)}, log_bytes(stage.kafka_data))
