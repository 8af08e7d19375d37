"""Where the run plays: servers, exchange, processes behind their links, clients, and somebody who watches the money."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import asyncpg

from tests.faults import app
from tests.faults.cluster import Cluster
from tests.faults.crew import Crew, Member
from tests.faults.desk import TABLES
from tests.faults.evidence import Fault, Notes, Sample
from tests.faults.load import ACCOUNTS, Clients
from tests.faults.proxy import Bundle, Link
from tests.faults.replicated import Replicated
from tests.faults.servers import Broker, Database, Kafka
from tradesaga.infra.errors import unavailable
from tradesaga.infra.local_stack.ports import LOOPBACK, accepts, free_port
from tradesaga.infra.postgres.database import DATABASE_ERRORS
from tradesaga.infra.settings import PREFIX

CAST: Final = (
    ("desk1", "desk"), ("desk2", "desk"), ("market1", "market"), ("market2", "market"), ("log1", "log"),
    ("log2", "log"), ("front1", "front"), ("door1", "door"), ("door2", "door"),
)  # fmt: skip
ON_SMALL_DISK: Final = ("drill_effect", "drill_hold", "start_request")
OPENING: Final = 1_000_000
_TOTAL: Final = """
SELECT (SELECT sum(free) FROM drill_account) + (SELECT coalesce(sum(amount), 0) FROM drill_hold)
    + (SELECT coalesce(sum(amount), 0) FROM drill_effect WHERE step <> 'reserve') AS total,
    (SELECT count(*) FROM drill_account WHERE free < 0) AS negative
"""
_COUNTS: Final = """
SELECT count(*) AS known, count(*) FILTER (WHERE state IN ('COMPLETED', 'ABORTED', 'FAILED')) AS ended FROM saga
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What kind of run is wanted; `rate` is sagas started a second."""

    seed: int
    rate: float
    short: bool = False
    clusters: bool = False
    tmpfs: bool = True
    late_standby: bool = False


@dataclass
class Watch:
    """Samples the money and counts the sagas, for as long as the database answers; it goes round all proxies."""

    database: Database
    notes: Notes
    began: float = field(default_factory=time.monotonic)
    known: int = 0
    ended: int = 0
    phase: str = "start"
    _looking: asyncio.Task[None] | None = None

    @property
    def now(self) -> float:
        """Give the seconds since the run began."""
        return time.monotonic() - self.began

    def start(self) -> asyncio.Task[None]:
        """Begin to look; the task goes on until cancelled."""
        self._looking = asyncio.create_task(self._run(), name="watch")
        return self._looking

    async def _run(self) -> None:
        """Look twice a second, for ever."""
        while True:
            try:
                sql = await asyncpg.connect(self.database.url, timeout=3, command_timeout=5)
                try:
                    while True:
                        await self._look(sql)
                        await asyncio.sleep(0.5)
                finally:
                    sql.terminate()
            except DATABASE_ERRORS:
                await asyncio.sleep(0.3)

    async def _look(self, sql: Any) -> None:
        async with sql.transaction(isolation="repeatable_read", readonly=True):
            money = await sql.fetchrow(_TOTAL)
            counts = await sql.fetchrow(_COUNTS)
        self.notes.samples.append(Sample(str(money["total"]), money["negative"]))
        self.known, self.ended = counts["known"], counts["ended"]

    async def progress(self, patience: float) -> float | None:
        """Wait until more sagas have ended than now, and say when; None if that takes too long."""
        before, until = self.ended, time.monotonic() + patience
        while time.monotonic() < until:
            if self.ended > before:
                return self.now
            if self._looking is not None and self._looking.done():
                await self._looking  # a run that sees nothing any more must not go on
            await asyncio.sleep(0.1)
        return None


@dataclass
class Stage:
    """Everything that acts can break."""

    broker: Kafka
    database: Database
    crew: Crew
    clients: Clients
    watch: Watch
    notes: Notes
    chance: Random
    session_seconds: float
    short: bool
    exchange: "ExchangeProcess"

    @asynccontextmanager
    async def fault(self, name: str) -> AsyncGenerator[None]:
        """Note what is broken for as long as the context is open, then wait until sagas end again."""
        fault = Fault(self.watch.phase, name, self.watch.now)
        self.notes.faults.append(fault)
        try:
            yield
        finally:
            fault.ended = self.watch.now
        fault.progress = await self.watch.progress(self.notes.limit)

    def pick(self, *services: str) -> Member:
        """Choose a process."""
        return self.chance.choice(self.crew.of(*services))


class ExchangeProcess:
    """The exchange, which may be killed too; its port is kept for it, or it might be another's when it comes back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._kept.bind((LOOPBACK, free_port()))
        self._port: int = self._kept.getsockname()[1]
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Give where it listens."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """Give its process, unless it has not been started, or was killed."""
        return None if self._process is None else self._process.pid

    @property
    def _log(self) -> Path:
        return self._folder / "exchange.log"

    async def start(self) -> None:
        """Start it on what it has on disk."""
        argv = ["-m", "tests.faults.exchange", "--port", str(self._port), "--file", str(self._folder / "exchange.db")]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *argv, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 30
        while not await asyncio.to_thread(accepts, self._port):
            self.check()
            if time.monotonic() > until:
                raise TimeoutError(f"the exchange has not come up; read {self._log}")
            await asyncio.sleep(0.05)

    def check(self) -> None:
        """Raise `CommandError` (exit 5) if it has ended and the run has not killed it: nothing could be judged."""
        if self._process is not None and self._process.returncode is not None:
            what = f"the exchange, process {self.pid}, has ended by itself with {self._process.returncode}"
            raise unavailable("exchange-ended", what, str(self._log), "read its log, and see who ends processes here")

    async def end(self) -> None:
        """End it for good, and let its port go."""
        await self.kill()
        self._kept.close()

    async def kill(self) -> None:
        """End it without giving it a chance to do anything."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def open_stage(folder: Path, wanted: Wanted) -> AsyncGenerator[Stage]:
    """Start everything, wait until all processes own their lanes, and end everything."""
    chance, clusters = Random(wanted.seed), wanted.clusters
    notes = Notes(money=str(OPENING * len(ACCOUNTS)), clusters=clusters)
    session_seconds = 4.0 if wanted.short else 6.0
    async with AsyncExitStack() as stack:
        broker: Kafka = Cluster(folder, chance) if clusters else Broker(folder)
        database = Replicated(folder, late=wanted.late_standby) if clusters else Database(folder, tmpfs=wanted.tmpfs)
        exchange = ExchangeProcess(folder)
        ways = {name: Bundle(await _open_links(stack, f"{name}-kafka", 3 if clusters else 1)) for name, _ in CAST}
        postgres = {name: (await _open_links(stack, f"{name}-postgres", 1))[0] for name, _ in CAST}
        await asyncio.to_thread(broker.prepare, ways)
        stack.push_async_callback(broker.stop)
        stack.push_async_callback(database.stop)
        await _start_servers(broker, database)
        stack.push_async_callback(exchange.end)
        await exchange.start()
        crew = _gather_crew(folder, ways, database, postgres, _settings(exchange, session_seconds))
        doors = [f"http://127.0.0.1:{member.http_port}" for member in crew.of("door")]
        clients = Clients(broker.bootstrap, exchange.address, doors, chance, wanted.rate)
        watch = Watch(database, notes)
        stack.callback(watch.start().cancel)
        stack.push_async_callback(crew.stop)
        await crew.start()
        await _until_ready(crew)
        yield Stage(broker, database, crew, clients, watch, notes, chance, session_seconds, wanted.short, exchange)


async def _start_servers(broker: Kafka, database: Database) -> None:
    """Start both, with topics, tables and money; only then is there anything for a standby to copy."""
    await asyncio.gather(broker.start(), database.start())
    await broker.make_topics()
    await database.make_schema(TABLES, ON_SMALL_DISK)
    await database.execute(_opening())
    if isinstance(database, Replicated):
        await database.replicate()


async def _open_links(stack: AsyncExitStack, name: str, count: int) -> tuple[Link, ...]:
    links = tuple(Link(f"{name}-{number}", 0, free_port()) for number in range(count))
    for link in links:
        await link.start()
        stack.push_async_callback(link.stop)
    return links


def _gather_crew(
    folder: Path, ways: dict[str, Bundle], database: Database, links: dict[str, Link], shared: dict[str, str]
) -> Crew:
    crew = Crew(folder, shared)
    for name, service in CAST:
        links[name].target = database.port
        crew.add(name, service, ways[name], links[name], database.url_through(links[name]))
    return crew


def _settings(exchange: ExchangeProcess, session: float) -> dict[str, str]:
    return {
        app.EXCHANGE: exchange.address,
        f"{PREFIX}SESSION_TIMEOUT_MS": str(int(session * 1000)),
        f"{PREFIX}LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
        "PATH": os.environ.get("PATH", os.defpath),
    }


def _opening() -> str:
    values = ", ".join(f"('{account}', {OPENING})" for account in ACCOUNTS)
    return f"INSERT INTO drill_account VALUES {values}"


async def _until_ready(crew: Crew, patience: float = 180.0) -> None:
    """Wait until every process has said that it owns its lanes, or listens. Raises `TimeoutError`."""
    until = time.monotonic() + patience
    while waiting := [member for member in crew.members.values() if not _is_ready(member)]:
        if time.monotonic() > until:
            raise TimeoutError(f"{waiting[0].name} has not come up within {patience:.0f} s; read {waiting[0].log}")
        dead = [member.name for member in waiting if member.deaths > 3]
        if dead:
            raise RuntimeError(f"{dead} keep dying; read {waiting[0].log}")
        await asyncio.sleep(0.2)


def _is_ready(member: Member) -> bool:
    return any(word in member.log.read_text() for word in ("lanes acquired", "lane leased", "another member"))
