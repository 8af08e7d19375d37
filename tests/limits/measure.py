"""Many sagas in flight at once, each asleep at the venue for a while: how long they take, and how much memory."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.limits.sleepy import sleepy
from tests.waiting import until
from tradesaga.infra.postgres.database import Connection, session

PATIENCE = 240.0
SLACK = 1.5
MEMORY_MB = 300.0
_OPEN = "SELECT count(*) FROM saga WHERE name = $1 AND state IN ('IDLE', 'RUNNING')"
_ENDED = "SELECT count(*) FROM saga WHERE name = $1 AND state NOT IN ('IDLE', 'RUNNING')"
_SPAN = """
SELECT extract(epoch FROM max(e.recorded_at) - min(e.recorded_at))::float8 FROM saga_event e JOIN saga s USING (saga_id)
WHERE s.name = $1 AND e.step_name IS NOT NULL AND s.created_at >= $2
"""
_BEGIN = "SELECT coalesce(max(created_at), 'epoch') + interval '1 millisecond' FROM saga WHERE name = $1"
_WRONG = "SELECT count(*) FROM saga WHERE name = $1 AND state NOT IN ('IDLE', 'RUNNING', 'COMPLETED')"


@dataclass(frozen=True, slots=True)
class Run:
    """One run: all sagas open at once, then the participant let loose; times by the broker's clock, from first step."""

    sagas: int
    open_at_once: int
    seconds: float
    memory_mb: dict[str, float]

    @property
    def rate(self) -> float:
        """Give sagas a second."""
        return self.sagas / self.seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """The same saga without sleep and with it."""

    awake: Run
    asleep: Run
    sleep: float

    @property
    def allowed(self) -> float:
        """Give the seconds that the sleeping run may take: half as much again as its work and one sleep."""
        return SLACK * (self.asleep.sagas / self.awake.rate + self.sleep)


async def measure(environment: Mapping[str, str], sagas: int, sleep: float) -> Figures:
    """Run both on servers whose addresses the environment holds."""
    await asyncio.to_thread(_call, environment, "init")
    with _service(environment, "log") as log:
        await _run(environment, log, min(sagas, 500), "0")
        awake = await _run(environment, log, sagas, "0")
        asleep = await _run(environment, log, sagas, f"{sleep:g}")
    return Figures(awake, asleep, sleep)


async def _run(environment: Mapping[str, str], log: "subprocess.Popen[bytes]", sagas: int, sleep: str) -> Run:
    async with session(environment["TRADESAGA_DATABASE_URL"]) as sql:
        begin = await sql.fetchval(_BEGIN, sleepy.name)
        before = await sql.fetchval(_ENDED, sleepy.name)
        await asyncio.to_thread(_call, environment, "load", str(sagas), sleep)
        await until(lambda: _reached(sql, _OPEN, sagas), PATIENCE)
        open_at_once = await sql.fetchval(_OPEN, sleepy.name)
        with _service(environment, "steps") as steps:
            await until(lambda: _reached(sql, _ENDED, before + sagas), PATIENCE)
            memory = {"saga log": peak_mb(log.pid), "steps": peak_mb(steps.pid)}
        if wrong := await sql.fetchval(_WRONG, sleepy.name):
            raise RuntimeError(f"{wrong} sagas did not complete")
        return Run(sagas, open_at_once, await sql.fetchval(_SPAN, sleepy.name, begin), memory)


async def _reached(sql: Connection, statement: str, wanted: int) -> bool:
    await asyncio.sleep(0.1)
    return await sql.fetchval(statement, sleepy.name) >= wanted


def peak_mb(pid: int) -> float:
    """Give the most memory that a process has ever held, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} is gone")


def _call(environment: Mapping[str, str], *role: str) -> None:
    subprocess.run([sys.executable, "-m", "tests.limits.roles", *role], env=dict(environment), check=True)


@contextmanager
def _service(environment: Mapping[str, str], role: str) -> Generator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "tests.limits.roles", role]
    with subprocess.Popen(command, env=dict(environment), stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def environment_of(kafka: str, database_url: str) -> dict[str, str]:
    """Give this process's environment with the servers' addresses in it."""
    return {**os.environ, "TRADESAGA_KAFKA": kafka, "TRADESAGA_DATABASE_URL": database_url}
