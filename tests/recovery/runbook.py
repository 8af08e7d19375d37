"""The runbook's blocks as they stand in the document, and a stack to run them on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.clusters.standby import programs
from tradesaga.infra.local_stack.process import find, tail
from tradesaga.infra.local_stack.state import StackState, read_state

DOCUMENT = Path(__file__).parents[2] / "docs" / "disaster-recovery.md"
FENCE = re.compile(r'^```sh title="(?P<name>\w+)"\n(?P<body>.*?)^```$', re.MULTILINE | re.DOTALL)
LIMIT = 150.0
"""Seconds that a block may take."""


def blocks() -> dict[str, str]:
    """Give the document's blocks by name."""
    return {match["name"]: match["body"] for match in FENCE.finditer(DOCUMENT.read_text(encoding="utf-8"))}


@dataclass
class Ground:
    """A stack of its own in a folder, and how long each block took, in seconds."""

    folder: Path
    took: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    moment: str = ""

    @property
    def home(self) -> Path:
        """Name the stack's folder."""
        return self.folder / "stack"

    @property
    def state(self) -> StackState:
        """Read what the stack remembers of itself."""
        return read_state(self.home)

    def environment(self) -> dict[str, str]:
        """Give what the document's variables stand for."""
        path = [str(Path(sys.executable).parent), str(programs()), os.environ["PATH"]]
        given = {key: value for key, value in os.environ.items() if not key.startswith("TRADESAGA_")}
        return given | {
            "PATH": ":".join(path),
            "TRADESAGA_HOME": str(self.home),
            "TRADESAGA_KAFKA_HEAP": "256m",
            "BOOK": str(self.folder / "book.jsonl"),
            "ARCHIVE": str(self.folder / "archive"),
            "BACKUP": str(self.folder / "backup"),
            "DATABASE": self.state.database_url,
            "PGDATA": self.state.postgres.data,
            "MOMENT": self.moment,
        }

    def run(self, name: str) -> None:
        """Run a block line by line, as a person would, each timed; the services share a process to be light."""
        lines = "\n".join(f"{line}" for line in blocks()[name].splitlines())
        for command in _commands(lines):
            began = time.monotonic()
            self.sh(command.replace("tradesaga up -d", "tradesaga up -d --together"))
            self.took.setdefault(name, {})[command.splitlines()[0]] = round(time.monotonic() - began, 1)

    def sh(self, command: str) -> str:
        """Run a command and give what it prints; fails with what it said when it exits with anything but 0."""
        done = subprocess.run(
            ["bash", "-euc", command], env=self.environment(), capture_output=True, text=True, timeout=LIMIT,
            check=False, cwd=DOCUMENT.parents[1],
        )  # fmt: skip
        logs = "\n".join(f"{log.name}: {tail(log, 8)}" for log in (self.home / "logs").glob("*.log"))
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}\n{logs}"
        return done.stdout

    def strike(self, *, postgres: bool = False, kafka: bool = False) -> None:
        """Kill the supervisor and all that it runs, and the servers that are named, without a chance to do anything."""
        state = self.state
        victims = [state.supervisor, *(part.process for part in state.parts if part.serves)]
        victims += [state.postgres.process] * postgres + [state.broker.process] * kafka
        for victim in victims:
            process = find(victim)
            if process is not None:
                process.send_signal(signal.SIGKILL)
                process.wait(10)

    def start(self, prefix: str, count: int, *options: str) -> None:
        """Ask for trades of every kind."""
        requests: list[dict[str, str]] = []
        for number in range(count):
            kind = {"order_type": "MARKET", "side": ("BUY", "SELL")[number % 2], "account": "alice"}
            if number % 5 == 4:
                kind = {"order_type": "LIMIT", "limit_price": "0.9", "side": "BUY", "account": "bob"}
            requests.append({
                "idempotency_key": f"{prefix}{number}", "symbol": "EUR/USD", "quantity": "100",
                "time_in_force": "IOC", **kind,
            })  # fmt: skip
        file = self.folder / f"{prefix}.jsonl"
        file.write_text("".join(json.dumps(each) + "\n" for each in requests))
        self.sh(f"tradesaga start --file {file} {' '.join(options)} || [ $? = 1 ]")

    def archive(self) -> None:
        """Wait until all of the log so far is in the archive."""
        name = self.sh("psql -Atq $DATABASE -c 'SELECT pg_walfile_name(pg_switch_wal())'").strip()
        until = time.monotonic() + LIMIT
        while not (self.folder / "archive" / name).exists():
            assert time.monotonic() < until, name
            time.sleep(0.1)

    def states(self) -> dict[str, int]:
        """Count the sagas by state."""
        said = self.sh("psql -Atq $DATABASE -c 'SELECT state, count(*) FROM saga GROUP BY state'")
        return {state: int(count) for state, _, count in (line.partition("|") for line in said.splitlines())}


def _commands(lines: str) -> list[str]:
    """Join continued lines and here-documents into one command each."""
    found: list[str] = []
    until = ""
    for line in lines.splitlines():
        if until or (found and found[-1].endswith("\\")):
            found[-1] += f"\n{line}"
            until = "" if line == until else until
        else:
            found.append(line)
            until = "END" if line.endswith("<<END") else ""
    return found
