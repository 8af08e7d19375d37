"""Services as processes that can be killed at any moment."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.service import NAME
from tests.waiting import until
from tradesaga.infra.settings import PREFIX

SESSION_MS = 1500
PATIENCE = 30.0


@dataclass
class Crew:
    """The processes that run one saga; each writes a log of its own into `folder`."""

    saga: str
    kafka: str
    url: str
    folder: Path
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict[str, asyncio.subprocess.Process])

    async def start(self, *kinds: str) -> None:
        """Start a process for each kind."""
        for kind in kinds:
            with (self.folder / f"{kind}.log").open("a") as log:
                # In a session of its own, or one that is stopped may have the kernel hang up on all of the tests.
                self.processes[kind] = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.e2e.service", kind,
                    stdout=log, stderr=log, env=self._environment(), start_new_session=True,
                )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        mine = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        settings = {"KAFKA": self.kafka, "DATABASE_URL": self.url, "SESSION_TIMEOUT_MS": str(SESSION_MS)}
        return mine | {f"{PREFIX}{key}": value for key, value in settings.items()} | {NAME: self.saga}

    async def kill(self, kind: str) -> None:
        """End a process without giving it a chance to do anything."""
        process = self.processes.pop(kind)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def replace(self, kind: str) -> None:
        """Kill a process and start another of its kind."""
        await self.kill(kind)
        await self.start(kind)

    async def stop(self) -> None:
        """End what runs, cleanly, and fail if any of them had ended before."""
        ended = {kind: process.returncode for kind, process in self.processes.items() if process.returncode is not None}
        for process in self.processes.values():
            if process.returncode is None:
                process.terminate()
        for process in self.processes.values():
            await asyncio.wait_for(process.wait(), PATIENCE)
        self.processes.clear()
        assert not ended, f"{ended}: {self.tail()}"

    def tail(self) -> str:
        """Give the end of each log, for a failing test to show."""
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))

    async def until_ready(self, *kinds: str) -> None:
        """Wait until processes that have just been started say that they own their lanes."""

        async def claimed() -> bool:
            return all("lanes acquired" in (self.folder / f"{kind}.log").read_text() for kind in kinds)

        await until(claimed, PATIENCE)
