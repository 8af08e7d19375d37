"""The processes of the run, each behind proxies of its own; who dies is started again."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import psutil

from tests.faults import app
from tests.faults.proxy import Bundle, Link
from tests.faults.resources import Memory
from tests.keys import keys_in
from tradesaga.infra.failpoints import VARIABLE, Failpoint
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.settings import PREFIX

AGAIN: Final = 0.5
"""Seconds between a death and the next start, as a supervisor would wait."""


@dataclass(eq=False)
class Member:
    """One process: which service it runs, its ways to the servers, and how it is to be started."""

    name: str
    service: str
    kafka: Bundle
    postgres: Link
    folder: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])
    http_port: int = 0
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    deaths: int = 0
    starting: bool = False
    memory: Memory = field(default_factory=Memory)
    started: float = 0.0

    @property
    def log(self) -> Path:
        """Give the file that all lives of the process write to."""
        return self.folder / f"{self.name}.log"

    @property
    def clock(self) -> Path:
        """Give the file that holds by how many seconds its clock is off."""
        return self.folder / f"{self.name}.clock"

    @property
    def orders(self) -> Path:
        """Give the file that names where it is to stop or to die."""
        return self.folder / f"{self.name}.orders"

    @property
    def alive(self) -> bool:
        """Say whether it runs, or is stopped."""
        return self.process is not None and self.process.returncode is None

    def count(self, words: bytes) -> int:
        """Count how often it has said something in its log."""
        return self.log.read_bytes().count(words)

    def measure(self) -> None:
        """Note how much memory it has, in MB."""
        if self.process is None or self.process.returncode is not None:
            return
        try:
            resident = psutil.Process(self.process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return
        self.memory.note(resident / 1_000_000, time.monotonic())

    def send(self, number: signal.Signals) -> bool:
        """Send a signal, if the process is alive."""
        if self.process is None or self.process.returncode is not None:
            return False
        self.process.send_signal(number)
        return True

    def arm(self, action: Literal["stop", "kill"], failpoint: Failpoint, count: int) -> None:
        """Have it stop or die as it lives, at the failpoint, the n-th time it gets there."""
        self.orders.write_text(f"{action}:{failpoint}:{count}")
        self.send(signal.SIGUSR1)

    def disarm(self) -> None:
        """Take that back: it does not stop or die any more where it has not yet."""
        self.orders.write_text("")

    async def start(self, extra: Mapping[str, str] | None = None) -> None:
        """Start the process, its log appended to."""
        argv = [sys.executable, "-m", "tradesaga.infra.cli.entry", "run", self.service, "--app", app.__name__]
        mine = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        environment = {**mine, **self.environment, **(extra or {})}
        environment |= {app.CLOCK: str(self.clock), app.ORDERS: str(self.orders)}
        with self.log.open("ab") as log:
            # In a session of its own: when whoever has started the run goes, the kernel hangs up on a group of which a
            # process is stopped.
            self.process = await asyncio.create_subprocess_exec(
                *argv, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.starts += 1
        self.started = time.monotonic()
        self.memory.begin(self.started)


class Crew:
    """All members, and the task that starts again whoever has died."""

    def __init__(self, folder: Path, shared: Mapping[str, str]) -> None:
        self._folder = folder
        self._shared = dict(shared)
        self.members: dict[str, Member] = {}
        self._next: dict[str, dict[str, str]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._starts: set[asyncio.Task[None]] = set()

    def add(self, name: str, service: str, kafka: Bundle, postgres: Link, database_url: str) -> Member:
        """Describe a member; it starts with the others."""
        http_port = free_port() if service == "door" else 0
        environment = {
            **self._shared,
            f"{PREFIX}REQUEST_KEYS": str(keys_in(self._folder)),
            f"{PREFIX}HOME": str(self._folder / f"{name}.home"),
            f"{PREFIX}KAFKA": kafka.addresses,
            f"{PREFIX}DATABASE_URL": database_url,
            f"{PREFIX}HTTP_PORT": str(http_port),
        }
        member = self.members[name] = Member(name, service, kafka, postgres, self._folder, environment, http_port)
        return member

    def of(self, *services: str) -> list[Member]:
        """Give the members that run these services."""
        return [member for member in self.members.values() if member.service in services]

    async def start(self) -> None:
        """Start everybody, and watch over them from now on."""
        for member in self.members.values():
            await member.start()
        self._keeper = asyncio.create_task(self._keep(), name="crew")

    async def stop(self) -> None:
        """End everybody, cleanly if they can."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper, *self._starts])
        for member in self.members.values():
            member.send(signal.SIGCONT)
            member.send(signal.SIGTERM)
        for member in self.members.values():
            await _reap(member)

    def fall_at(self, member: Member, failpoint: Failpoint, count: int) -> None:
        """Kill a member now; its next life ends at the failpoint, the n-th time it gets there."""
        self._next[member.name] = {VARIABLE: f"{failpoint}:{count}"}
        member.send(signal.SIGKILL)

    def lead_to(self, port: int) -> None:
        """Have everybody's way to PostgreSQL end at another server, as an address that moves does."""
        for member in self.members.values():
            member.postgres.target = port
            member.postgres.reset()

    def redeploy(self, member: Member, version: int) -> None:
        """End a member as a deploy would; from its next life on it knows this version of the definition."""
        member.environment[app.VERSION] = str(version)
        member.send(signal.SIGTERM)

    async def _keep(self) -> None:
        while True:
            for member in self.members.values():
                if not member.alive and not member.starting:
                    member.deaths += 1
                    member.starting = True
                    task = asyncio.create_task(self._start_again(member), name=f"start {member.name}")
                    self._starts.add(task)
                    task.add_done_callback(self._starts.discard)
                member.measure()
            await asyncio.sleep(0.1)

    async def _start_again(self, member: Member) -> None:
        await asyncio.sleep(AGAIN)
        await member.start(self._next.pop(member.name, None))
        member.starting = False


async def _reap(member: Member) -> None:
    if member.process is None:
        return
    try:
        await asyncio.wait_for(member.process.wait(), 30)
    except TimeoutError:
        member.process.kill()
        await member.process.wait()
