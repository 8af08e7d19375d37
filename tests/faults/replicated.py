"""PostgreSQL with a standby that confirms each commit before its client is told, and that takes over."""

import asyncio
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import asyncpg
import psutil

from tests.clusters.standby import add_standby, kill_server, promote, remove_outside, synchronise
from tests.faults.servers import Database
from tradesaga.infra.local_stack.postgres import stop_postgres
from tradesaga.infra.local_stack.process import find
from tradesaga.infra.local_stack.state import PostgresState

BEHIND: Final = 4.0
"""Seconds by which a late standby is behind."""


class Replicated(Database):
    """A primary and its standby; whoever is promoted gets a standby of its own.

    The small disk is left out: a standby on the same machine would lie on the same one. Where the standby is to be
    `late`, nobody waits for it, and it is some seconds behind when it takes over.
    """

    def __init__(self, home: Path, *, late: bool = False) -> None:
        super().__init__(home, tmpfs=False)
        self._late = late
        self._standby = PostgresState()
        self._homes: list[Path] = []

    async def start(self) -> None:
        """Start the primary, or start it again, and wait until its standby is at its heels again."""
        await super().start()
        if self._standby.process is not None:
            await synchronise(self._state, confirmed=not self._late)

    async def replicate(self) -> None:
        """Give the primary a standby, and have each commit wait for it."""
        home = self._home / f"standby-{len(self._homes) + 1}"
        home.mkdir(mode=0o711)
        self._homes.append(home)
        self._standby = await asyncio.to_thread(add_standby, self._state, home, self._environment())
        await synchronise(self._state, confirmed=not self._late)

    async def lose_primary(self) -> None:
        """Kill the primary as a power cut would, its standby being at its heels."""
        await synchronise(self._state, confirmed=not self._late)
        if self._late:
            await _follow_nobody(self._standby)
        await asyncio.to_thread(kill_server, self._state)

    def pause_standby(self) -> None:
        """Stop the standby where it stands: no commit is confirmed."""
        self._signal_standby(signal.SIGSTOP)

    def resume_standby(self) -> None:
        """Let it go on."""
        self._signal_standby(signal.SIGCONT)

    async def promote(self) -> None:
        """Make the standby the primary; it has no standby until `replicate`."""
        await promote(self._standby)
        self._state, self._standby = self._standby, PostgresState()

    def _signal_standby(self, number: signal.Signals) -> None:
        found = find(self._standby.process)
        for process in () if found is None else (*found.children(), found):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    async def stop(self) -> None:
        """Shut both down, and remove what they have left; only the logs stay, and the data of the last primary."""
        self.resume_standby()
        self._standby = await asyncio.to_thread(stop_postgres, self._standby)
        await super().stop()
        for home in (self._home, *self._homes):
            await asyncio.to_thread(remove_outside, home)
            if (inside := home / "postgres") != Path(self._state.data):
                await asyncio.to_thread(shutil.rmtree, inside, ignore_errors=True)


async def _follow_nobody(standby: PostgresState) -> None:
    """Have a standby stay where it is, and its primary go on for some seconds."""
    sql = await asyncpg.connect(standby.url, timeout=10)
    try:
        await sql.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await sql.execute("SELECT pg_reload_conf()")
    finally:
        await sql.close()
    await asyncio.sleep(BEHIND)
