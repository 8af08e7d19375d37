"""Runs the demo on a running stack: strategies trade, the last saga ends, a snapshot is taken."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
import structlog

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import count_partitions, read_ends
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.local_stack.state import ProcessId, read_state
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.producers.demo.scenario import open_accounts
from tradesaga.producers.demo.snapshot import RunData, Snapshot, sum_ledger, take_snapshot


@dataclass
class Chaos:
    """Kills each process once, evenly over the run; the supervisor restarts them."""

    home: Path
    killed: list[str] = field(default_factory=list[str])

    def targets(self) -> dict[str, ProcessId | None]:
        """Return the processes to kill in order, the servers in the middle and at the end of the run."""
        state = read_state(self.home)
        parts = {part.name: part.process for part in state.parts}
        names = sorted(parts)
        half = len(names) // 2
        ordered = [*names[:half], "kafka", *names[half:], "postgres"]
        servers = {"kafka": state.broker.process, "postgres": state.postgres.process}
        return {name: servers.get(name) or parts.get(name) for name in ordered}

    def strike(self, progress: float) -> None:
        """Kill the next process with SIGKILL if it is due at this part of the run, 0 to 1."""
        targets = self.targets()
        due = int(min(progress, 1.0) * (len(targets) + 1))
        for name, process in targets.items():
            if len(self.killed) >= due:
                return
            if name not in self.killed and process is not None:
                os.kill(process.pid, signal.SIGKILL)
                self.killed.append(name)
                return


LIMIT: Final = 280.0
"""Seconds after which the demo fails if sagas are still running."""
QUIET: Final = 2.0
"""Seconds without changes after which the run is over."""
_SEALING: Final = 20.0
"""Seconds that the sealer has for the last records; it may have been killed just before."""
_SNAPSHOTS: Final = 5
"""Snapshots to take at most, until in one no records came between audit verification and snapshot."""
_TICK: Final = 0.5
_EVENTS: Final = "trade.events"
_UNAVAILABLE: Final = (CommandError, KafkaUnavailableError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

_COUNTS: Final = """
SELECT (SELECT count(*) FROM start_request) AS started, (SELECT count(*) FROM saga_event) AS logged,
    (SELECT count(*) FROM signal_decision WHERE decision = 'accepted') AS decided,
    count(*) FILTER (WHERE state = 'COMPLETED') AS completed, count(*) FILTER (WHERE state = 'ABORTED') AS aborted,
    count(*) FILTER (WHERE state = 'FAILED') AS failed, count(*) AS known
FROM saga
"""


@dataclass(frozen=True, slots=True)
class DemoStack:
    """The demo's stack: addresses and files."""

    home: Path
    kafka: str
    database_url: str
    venue_url: str
    admin_key: str
    strategies: Path


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run; `phase` is a text for users."""

    phase: str
    wanted: int
    started: int = 0
    completed: int = 0
    aborted: int = 0
    failed: int = 0
    decided: int = 0
    known: int = 0
    logged: int = 0
    seconds: float = 0.0

    @property
    def running(self) -> int:
        """The number of sagas that have not ended."""
        return self.started - self.completed - self.aborted

    @property
    def at_rest(self) -> bool:
        """Whether, by these counts, all sagas have ended."""
        return self.started > 0 and self.running == 0 and self.started == self.decided == self.known


@dataclass
class Demo:
    """A run of the demo."""

    stack: DemoStack
    wanted: int
    report: Callable[[Progress], None]
    chaos: Chaos | None = None
    data: RunData = field(default_factory=RunData)
    _began: float = field(default_factory=time.monotonic)
    _quiet_since: float | None = None

    async def run(self) -> Snapshot:
        """Trade until enough sagas have started, and wait until all have ended. Raises CommandError if they do not."""
        stack = self.stack
        self.data.wanted = self.wanted
        async with session(stack.database_url) as sql:
            self.data.opening = await open_accounts(sql)
        async with _strategies(stack):
            await self._watch("trading", lambda progress: progress.started >= self.wanted)
        snapshot, taken = await self._take_snapshot(), 1
        # A service that was killed publishes again, after its restart, what may not have been published.
        while not snapshot.is_of_one_moment and taken < _SNAPSHOTS:
            snapshot, taken = await self._take_snapshot(), taken + 1
        return snapshot

    async def _take_snapshot(self) -> Snapshot:
        """Wait until nothing changes, and take a snapshot."""
        stack, self._quiet_since = self.stack, None
        await self._watch("waiting for the last sagas to end", self._settled)
        self.data.audit = await _verify_audit(stack.home)
        return await take_snapshot(stack.kafka, stack.database_url, stack.venue_url, stack.admin_key, self.data)

    async def _watch(self, phase: str, enough: Callable[[Progress], bool]) -> None:
        """Sample the ledger and report progress until `enough`; servers may be unavailable for a while."""
        unavailable = ""
        while True:
            try:
                async with session(self.stack.database_url) as sql:
                    while not enough(progress := await self._read_progress(sql, phase)):
                        self.report(progress)
                        if self.chaos is not None and progress.phase == "trading":
                            await asyncio.to_thread(self.chaos.strike, progress.started / self.wanted)
                        await asyncio.sleep(_TICK)
                    self.report(progress)
                    if await self._all_logged(progress):
                        return
            except _UNAVAILABLE as error:
                self._check_time()
                if unavailable != (unavailable := type(error).__name__):
                    structlog.get_logger("demo").info("a server is unavailable, retrying", why=str(error))
            await asyncio.sleep(_TICK)

    async def _read_progress(self, sql: Connection, phase: str) -> Progress:
        self._check_time()
        self.data.samples.append(await sum_ledger(sql))
        row = await sql.fetchrow(_COUNTS)
        return Progress(phase=phase, wanted=self.wanted, seconds=time.monotonic() - self._began, **dict(row or {}))

    def _settled(self, progress: Progress) -> bool:
        """Return whether all sagas have ended for a while, in which records on their way to a topic arrive."""
        if not progress.at_rest:
            self._quiet_since = None
            return False
        self._quiet_since = self._quiet_since or time.monotonic()
        return time.monotonic() - self._quiet_since > QUIET

    async def _all_logged(self, progress: Progress) -> bool:
        """Return whether the saga log has read all events; always true while the strategies trade."""
        if not progress.at_rest or self._quiet_since is None:
            return True
        counts = await count_partitions(self.stack.kafka, [_EVENTS])
        ends = await read_ends(self.stack.kafka, [(_EVENTS, number) for number in range(counts[_EVENTS])])
        return sum(ends.values()) == progress.logged

    def _check_time(self) -> None:
        if time.monotonic() - self._began > LIMIT:
            raise CommandError(
                "demo-hangs", f"sagas are still running after {LIMIT:.0f} s", str(self.stack.home),
                "see `tradesaga list --state RUNNING` and `tradesaga why SAGA` with TRADESAGA_HOME set to that folder",
            )  # fmt: skip


async def _verify_audit(home: Path) -> dict[str, Any]:
    """Run `tradesaga audit verify`, again until all records are sealed or the sealer's time is over."""
    command = (sys.executable, "-m", "tradesaga.infra.cli.entry", "audit", "verify", "--json", "--dir", str(home))
    until = time.monotonic() + _SEALING
    while True:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        if process.returncode not in {ExitCode.FINE, ExitCode.CHECK_FAILED}:
            raise CommandError("audit-failed", "the audit log cannot be verified", str(home), "see the messages above")
        verdict: dict[str, Any] = orjson.loads(output)
        if not verdict["not_yet_sealed"] or time.monotonic() > until:
            return verdict
        await asyncio.sleep(_TICK)


@asynccontextmanager
async def _strategies(stack: DemoStack) -> AsyncGenerator[None]:
    """Run the strategies in a process of their own."""
    argv: Sequence[str] = ("strategy", "run", "--config", str(stack.strategies.resolve()), "--json")
    environment = {**os.environ, "TRADESAGA_HOME": str(stack.home.resolve())}
    with (stack.home / "logs" / "strategies.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tradesaga.infra.cli.entry", *argv, stdout=log, stderr=log, env=environment
        )
    try:
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.wait()
