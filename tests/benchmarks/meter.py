"""What a load costs the machine: processor time, memory, bytes written; and what the disk beneath is like."""

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

MEGABYTE = 1024 * 1024


class Cost(NamedTuple):
    """CPU-seconds and bytes written up to now, of a system and the servers it uses."""

    services_cpu: float
    servers_cpu: float
    written: float

    def since(self, before: "Cost", sagas: int) -> dict[str, float]:
        """Give what each of some sagas has cost since then."""
        return {
            "services_cpu_ms": 1000 * (self.services_cpu - before.services_cpu) / sagas,
            "servers_cpu_ms": 1000 * (self.servers_cpu - before.servers_cpu) / sagas,
            "bytes_written": (self.written - before.written) / sagas,
        }


def cpu_of(roots: Iterable[psutil.Process]) -> float:
    """Give the CPU-seconds of processes, their children and those of their children that have ended."""
    total = 0.0
    for process in _trees(roots):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_of(roots: Iterable[psutil.Process]) -> float:
    """Give the megabytes of processes and their children; what they share is counted once (PSS)."""
    total = 0.0
    for process in _trees(roots):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / MEGABYTE


def _trees(roots: Iterable[psutil.Process]) -> Sequence[psutil.Process]:
    return [one for root in roots for one in (root, *root.children(recursive=True))]


def log_bytes(folder: Path) -> int:
    """Give the size of all segments that Kafka has written."""
    return sum(path.stat().st_size for path in folder.rglob("*.log"))


def syncs_a_second(folder: Path, seconds: float = 1.0) -> float:
    """Write 8 kB and wait for the disk, again and again: what pg_test_fsync calls fdatasync."""
    path, block = folder / "fsync", os.urandom(8192)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.write(file, block)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            os.pwrite(file, block, 0)
            os.fdatasync(file)
            count += 1
        return count / (time.perf_counter() - began)
    finally:
        os.close(file)
        path.unlink()


def own_cpu() -> float:
    """Give the CPU-seconds of this process and of the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
