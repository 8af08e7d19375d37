"""The two servers of the run, started by the project's own starters: killed, stopped, and started again.

Kafka has a listener for each process, advertised as the port of that process's proxy, or clients would walk round it.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import asyncpg
import psutil

from tests.clusters.brokers import listeners
from tests.clusters.standby import remove_outside
from tests.faults.proxy import Bundle, Link
from tests.faults.saga import NAME
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.local_stack.kafka import start_kafka, stop_kafka
from tradesaga.infra.local_stack.ports import free_port, is_taken
from tradesaga.infra.local_stack.postgres import server_account, start_postgres, stop_postgres
from tradesaga.infra.local_stack.process import is_alive, wait_for_end
from tradesaga.infra.local_stack.state import KafkaState, PostgresState, ProcessId
from tradesaga.infra.postgres.migrate import migrate
from tradesaga.schemas.topics import saga_topics

SMALL_MB: Final = 64
"""Size of the small disk."""
_FAKETIME: Final = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
)


def find_faketime() -> str:
    """Name the library of Debian's `faketime`; empty when it is not installed."""
    return next((path for path in _FAKETIME if Path(path).exists()), "")


class Kafka(Protocol):
    """What acts do to Kafka, whether it is one broker or three."""

    @property
    def bootstrap(self) -> str:
        """Give where the run itself finds it, round all proxies."""
        ...

    @property
    def moves(self) -> int:
        """Count how often a partition of the events was seen to get another leader."""
        ...

    def prepare(self, bundles: Mapping[str, Bundle]) -> None:
        """Choose the ports, and tell each link where its listener is; the links must listen already."""

    async def make_topics(self) -> None:
        """Make the saga's topics."""

    async def start(self) -> None:
        """Start what does not run, and wait until it answers."""

    async def stop(self) -> None:
        """Shut it down."""

    async def kill(self) -> None:
        """End a broker without giving it a chance to do anything."""

    def pause(self) -> None:
        """Stop a broker where it stands."""

    def go_on(self) -> None:
        """Let it go on."""


class Broker:
    """Kafka, with a way in for each link."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._state = KafkaState()
        self._settings: dict[str, str] = {}
        self._inside: tuple[int, ...] = ()

    @property
    def bootstrap(self) -> str:
        """Give the address of the listener that the run itself uses, round all proxies."""
        return self._state.bootstrap

    @property
    def moves(self) -> int:
        """Give none: there is nobody else to lead."""
        return 0

    def prepare(self, bundles: Mapping[str, Bundle]) -> None:
        """Choose the ports, and tell each link where its listener is; the links must listen already."""
        self._state = KafkaState(port=free_port(), controller_port=free_port())
        doors: dict[str, tuple[int, int]] = {}
        for name, bundle in bundles.items():
            link = bundle.links[0]
            link.target = free_port()
            doors[name.upper()] = link.target, link.port
        self._inside = tuple(here for here, _ in doors.values())
        self._settings = {
            **listeners(self._state.port, self._state.controller_port, doors),
            "num.network.threads": "1",
            "num.io.threads": "3",
        }

    async def start(self) -> None:
        """Start the broker, or start it again, and wait until it answers."""
        self._state = await asyncio.to_thread(start_kafka, self._home, self._state, self._settings)

    async def make_topics(self) -> None:
        """Make the saga's topics."""
        await ensure_topics(self.bootstrap, saga_topics(NAME))

    async def stop(self) -> None:
        """Shut it down."""
        signal_server(self._state.process, signal.SIGCONT)
        self._state = await asyncio.to_thread(stop_kafka, self._state)

    async def kill(self) -> None:
        """End it without giving it a chance to do anything."""
        signal_server(self._state.process, signal.SIGKILL)
        await asyncio.to_thread(wait_for_end, self._state.process, 20.0)
        for _ in range(100):  # its threads may hold the ports for a moment longer
            if not any(is_taken(port) for port in (*self._inside, self._state.port, self._state.controller_port)):
                return
            await asyncio.sleep(0.1)

    def pause(self) -> None:
        """Stop it where it stands."""
        signal_server(self._state.process, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        signal_server(self._state.process, signal.SIGCONT)


class Database:
    """PostgreSQL with fsync, on a disk of its own kind: some tables lie on a small one that can be filled."""

    def __init__(self, home: Path, *, tmpfs: bool = True) -> None:
        self._home = home.resolve()
        self._state = PostgresState()
        self._tmpfs = tmpfs
        self._clock = Path("/var/tmp") / f"drill-clock-{os.getpid()}"  # where PostgreSQL's own account may read
        self._small = Path("/var/tmp") / f"drill-disk-{os.getpid()}"
        self.mounted = False

    @property
    def url(self) -> str:
        """Give the database's URL, round all proxies."""
        return self._state.url

    @property
    def port(self) -> int:
        """Give the port that links lead to."""
        return self._state.port

    def url_through(self, link: Link) -> str:
        """Give the URL that leads through a link."""
        return self.url.replace(f":{self._state.port}/", f":{link.port}/")

    async def start(self) -> None:
        """Start it, or start it again: what it had promised is replayed from its log."""
        self._state = await asyncio.to_thread(start_postgres, self._home, self._state, self._environment())

    async def make_schema(self, tables: str, small: tuple[str, ...]) -> None:
        """Make the project's tables and those of the drill; the ones named last go to the small disk."""
        await asyncio.to_thread(migrate, self.url)
        await self.execute(tables)
        if self._mount():
            await self.execute(f"CREATE TABLESPACE small LOCATION '{self._small}'")
            for table in small:
                await self.execute(f"ALTER TABLE {table} SET TABLESPACE small")

    async def execute(self, statement: str) -> None:
        """Run one statement as the owner."""
        sql = await asyncpg.connect(self.url, timeout=10)
        try:
            await sql.execute(statement)
        finally:
            await sql.close()

    async def crash(self) -> None:
        """Stop it at once, as `pg_ctl stop -m immediate` does: no checkpoint, no farewell."""
        signal_server(self._state.process, signal.SIGQUIT)
        await asyncio.to_thread(wait_for_end, self._state.process, 20.0)

    @property
    def alive(self) -> bool:
        """Say whether the server's process runs."""
        return is_alive(self._state.process)

    def jump(self, seconds: int) -> None:
        """Set its clock off by seconds, where `faketime` is installed."""
        self._clock.write_text(f"{seconds:+d}")
        self._clock.chmod(0o644)

    def fill_disk(self) -> None:
        """Leave no room: the small disk is filled, or else no file of the server may grow beyond what it has.

        Raises `psutil.AccessDenied` where the run may do neither, as root without the right to.
        """
        if self.mounted:
            with (self._small / "filler").open("wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(b"\0" * 65536)
                except OSError:
                    return
        self._limit_files(4 * 1024 * 1024)

    def free_disk(self) -> None:
        """Give the room back."""
        if self.mounted:
            (self._small / "filler").unlink()
        else:
            self._limit_files(psutil.RLIM_INFINITY)

    async def stop(self) -> None:
        """Shut it down, and let go of the small disk."""
        self._state = await asyncio.to_thread(stop_postgres, self._state)
        self._clock.unlink(missing_ok=True)
        if self.mounted:
            await asyncio.to_thread(subprocess.run, ["umount", str(self._small)], check=True)
            self._small.rmdir()
        await asyncio.to_thread(remove_outside, self._home)

    def _environment(self) -> dict[str, str]:
        """Give what the server sees beside its own: a clock that may jump, where `faketime` is installed."""
        library = find_faketime()
        if not library:
            return {}
        if not self._clock.exists():
            self.jump(0)
        return {
            "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(self._clock), "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
        }  # fmt: skip

    def _mount(self) -> bool:
        """Mount a memory disk, if we may."""
        account = server_account()
        if not self._tmpfs or os.geteuid() != 0 or account is None:
            return False
        self._small.mkdir(mode=0o700)
        options = f"size={SMALL_MB}m,uid={account},gid={account},mode=700"
        argv = ["mount", "-t", "tmpfs", "-o", options, "drill", str(self._small)]
        self.mounted = subprocess.run(argv, check=False, capture_output=True).returncode == 0
        if not self.mounted:
            self._small.rmdir()
        return self.mounted

    def _limit_files(self, size: int) -> None:
        if self._state.process is None or not self.alive:
            return
        server = psutil.Process(self._state.process.pid)
        for process in (server, *server.children()):
            try:
                process.rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:
                _limit_as_owner(process, size)


def signal_server(process: ProcessId | None, number: signal.Signals) -> None:
    """Send a signal to a server that runs, or is stopped."""
    if process is not None and is_alive(process):
        os.kill(process.pid, number)


def _limit_as_owner(process: psutil.Process, size: int) -> None:
    """Have util-linux's `prlimit` do it under the process's own account, which may where root in a container may not.

    Raises `psutil.AccessDenied`.
    """
    program, account = shutil.which("prlimit"), server_account()
    if program is None or account is None:
        raise psutil.AccessDenied(process.pid)
    soft = "unlimited" if size == psutil.RLIM_INFINITY else str(size)
    argv = [program, f"--fsize={soft}:unlimited", "--pid", str(process.pid)]
    done = subprocess.run(argv, user=account, group=account, extra_groups=[], check=False, capture_output=True)
    if done.returncode != 0 and process.is_running():
        raise psutil.AccessDenied(process.pid)
