"""Kills each process of the stack once while it trades: the services, the venue, the broker and the database."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from tradesaga.infra.local_stack.state import ProcessId, read_state


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
