"""What a run ran on: figures of different machines, or of a busy one, are not to be compared."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.meter import syncs_a_second
from tests.benchmarks.stage import Stage

JARS = Path("infra/local_stack/kafka_jars.sha256")


def describe(stage: Stage) -> dict[str, Any]:
    """Give the machine's size, its disk's speed, what else it was doing, and the versions of what all systems share."""
    return {
        "processors": psutil.cpu_count(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgres": stage.ask("SHOW server_version")[0][0],
        "kafka": _kafka_version(),
        "aiokafka": version("aiokafka"),
        "asyncpg": version("asyncpg"),
        "fdatasync_a_second": syncs_a_second(stage.home),
        "load_average_before": os.getloadavg(),
    }


def _kafka_version() -> str:
    return next(line.rsplit(":", 1)[1] for line in JARS.read_text().splitlines() if ":kafka-clients:" in line)
