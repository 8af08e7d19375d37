"""Runs the demo: brings the stack up, lets the strategies trade, waits for the last saga to end, takes the snapshot."""

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
from tradesaga.producers.demo.plan import open_accounts
from tradesaga.producers.demo.snapshot import Run, Snapshot, sum_ledger, take_snapshot


@dataclass
class Chaos:
    """One blow after the other, evenly over the run; the supervisor starts again what was hit."""

    home: Path
    struck: list[str] = field(default_factory=list[str])

    def targets(self) -> dict[str, ProcessId | None]:
        """Return the processes to kill, the servers in the middle of the run."""
        state = read_state(self.home)
        parts = {part.name: part.process for part in state.parts}
        names = sorted(parts)
        half = len(names) // 2
        ordered = [*names[:half], "kafka", *names[half:], "postgres"]
        servers = {"kafka": state.broker.process, "postgres": state.postgres.process}
        return {name: servers.get(name) or parts.get(name) for name in ordered}

    def strike(self, progress: float) -> None:
        """Kill (SIGKILL, by its pid) the next process if its turn has come at this part of the run, 0 to 1."""
        targets = self.targets()
        due = int(min(progress, 1.0) * (len(targets) + 1))
        for name, process in targets.items():
            if len(self.struck) >= due:
                return
            if name not in self.struck and process is not None:
                os.kill(process.pid, signal.SIGKILL)
                self.struck.append(name)
                return


LIMIT: Final = 280.0


"""Seconds after which a demo that has not come to rest is called hanging."""

QUIET: Final = 2.0

_SEALING: Final = 20.0


"""Seconds that the sealer gets for the last records; it may have been killed a moment ago."""

_LOOKS: Final = 5


"""Looks at the whole, until one has no records that came between its verification and its snapshot."""

_TICK: Final = 0.5

_EVENTS: Final = "trade.events"

_AWAY: Final = (CommandError, KafkaUnavailableError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

_COUNTS: Final = """
SELECT (SELECT count(*) FROM start_request) AS started, (SELECT count(*) FROM saga_event) AS logged,
    (SELECT count(*) FROM signal_decision WHERE decision = 'accepted') AS decided,
    count(*) FILTER (WHERE state = 'COMPLETED') AS completed, count(*) FILTER (WHERE state = 'ABORTED') AS aborted,
    count(*) FILTER (WHERE state = 'FAILED') AS failed, count(*) AS known
FROM saga
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo plays."""

    home: Path
    kafka: str
    database_url: str
    venue_url: str
    admin_key: str
    strategies: Path


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is; `phase` is for people."""

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
        """Return the sagas that have not ended."""
        return self.started - self.completed - self.aborted

    @property
    def at_rest(self) -> bool:
        """Return whether, by these counts, everything asked for has ended."""
        return self.started > 0 and self.running == 0 and self.started == self.decided == self.known


@dataclass
class Show:
    """One run."""

    stage: Stage
    wanted: int
    tell: Callable[[Progress], None]
    chaos: Chaos | None = None
    run: Run = field(default_factory=Run)
    _began: float = field(default_factory=time.monotonic)
    _quiet_since: float | None = None

    async def play(self) -> Snapshot:
        """Trade until enough sagas have started, and end when all have ended. Raises `CommandError` if they do not."""
        stage = self.stage
        self.run.wanted = self.wanted
        async with session(stage.database_url) as sql:
            self.run.opening = await open_accounts(sql)
        async with _strategies(stage):
            await self._watch("trading", lambda progress: progress.started >= self.wanted)
        shot, looks = await self._take(), 1
        # A service that was killed says again, when it is back, what it cannot know to have been heard.
        while not shot.is_of_one_moment and looks < _LOOKS:
            shot, looks = await self._take(), looks + 1
        return shot

    async def _take(self) -> Snapshot:
        """Wait until nothing goes on, and take down what there is then."""
        stage, self._quiet_since = self.stage, None
        await self._watch("waiting for the last sagas to end", self._settled)
        self.run.audit = await _verify_audit(stage.home)
        return await take_snapshot(stage.kafka, stage.database_url, stage.venue_url, stage.admin_key, self.run)

    async def _watch(self, phase: str, enough: Callable[[Progress], bool]) -> None:
        """Sample the ledger and tell how far it is, until it is enough; one that is away for a while is no end."""
        away = ""
        while True:
            try:
                async with session(self.stage.database_url) as sql:
                    while not enough(progress := await self._look(sql, phase)):
                        self.tell(progress)
                        await self._disturb(progress)
                        await asyncio.sleep(_TICK)
                    self.tell(progress)
                    if await self._all_logged(progress):
                        return
            except _AWAY as error:
                self._check_time()
                if away != (away := type(error).__name__):
                    structlog.get_logger("demo").info("a server is away, looking again", why=str(error))
            await asyncio.sleep(_TICK)

    async def _look(self, sql: Connection, phase: str) -> Progress:
        self._check_time()
        self.run.samples.append(await sum_ledger(sql))
        row = await sql.fetchrow(_COUNTS)
        return Progress(phase=phase, wanted=self.wanted, seconds=time.monotonic() - self._began, **dict(row or {}))

    def _settled(self, progress: Progress) -> bool:
        """Return whether it has been at rest for a while: what is on its way to a topic shows within that."""
        if not progress.at_rest:
            self._quiet_since = None
            return False
        self._quiet_since = self._quiet_since or time.monotonic()
        return time.monotonic() - self._quiet_since > QUIET

    async def _all_logged(self, progress: Progress) -> bool:
        """Return whether the saga log has read all there is; it does not matter while the strategies still trade."""
        if not progress.at_rest or self._quiet_since is None:
            return True
        counts = await count_partitions(self.stage.kafka, [_EVENTS])
        ends = await read_ends(self.stage.kafka, [(_EVENTS, number) for number in range(counts[_EVENTS])])
        return sum(ends.values()) == progress.logged

    async def _disturb(self, progress: Progress) -> None:
        if self.chaos is not None and progress.phase == "trading":
            await asyncio.to_thread(self.chaos.strike, progress.started / self.wanted)

    def _check_time(self) -> None:
        if time.monotonic() - self._began > LIMIT:
            raise CommandError(
                "demo-hangs", f"the sagas have not come to rest within {LIMIT:.0f} s", str(self.stage.home),
                "see `tradesaga list --state RUNNING` and `tradesaga why SAGA` with TRADESAGA_HOME set to that folder",
            )  # fmt: skip


async def _verify_audit(home: Path) -> dict[str, Any]:
    """Verify the audit log as a person would, once its sealer has come to its end, or has had the time to."""
    command = (sys.executable, "-m", "tradesaga.infra.cli.entry", "audit", "verify", "--json", "--dir", str(home))
    until = time.monotonic() + _SEALING
    while True:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        told, _ = await process.communicate()
        if process.returncode not in {ExitCode.FINE, ExitCode.CHECK_FAILED}:
            raise CommandError("audit-failed", "the audit log cannot be verified", str(home), "see what is said above")
        verdict: dict[str, Any] = orjson.loads(told)
        if not verdict["not_yet_sealed"] or time.monotonic() > until:
            return verdict
        await asyncio.sleep(_TICK)


@asynccontextmanager
async def _strategies(stage: Stage) -> AsyncGenerator[None]:
    """Run the strategies in their own process; it is an error if that ends by itself."""
    argv: Sequence[str] = ("strategy", "run", "--config", str(stage.strategies.resolve()), "--json")
    environment = {**os.environ, "TRADESAGA_HOME": str(stage.home.resolve())}
    with (stage.home / "logs" / "strategies.log").open("wb") as log:
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
