"""The services of one run: started, waited for until each owns its share of the lanes, asked what they did."""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.scale_out.stage import Rig
from tradesaga.infra.audit_log.note import write_new
from tradesaga.infra.local_stack.ports import free_port

_READY: Final = 60.0
_SAMPLE: Final = re.compile(r'^(tradesaga_batch_records_(?:count|sum))\{group="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Member:
    """One process; its port serves its metrics."""

    role: str
    process: "subprocess.Popen[bytes]"
    port: int
    words: Path
    """Where it writes to."""

    def ask(self, path: str) -> str:
        """Ask it over HTTP; an answer that something is not ready is one too."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()

    @property
    def ready(self) -> bool:
        """Say whether it owns lanes, or seals."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.role} has ended by itself: {self.words.read_text()[-2000:]}")
        try:
            told = json.loads(self.ask("/readyz"))
        except OSError:
            return False
        return bool(told["ready"] and told["workers"])

    def batches(self) -> Counter[str]:
        """Give how many batches it has committed, and how many messages were in them."""
        found: Counter[str] = Counter()
        for name, _, value in _SAMPLE.findall(self.ask("/metrics")):
            found["batches" if name.endswith("count") else "messages"] += int(float(value))
        return found


@dataclass(frozen=True)
class Crew:
    """Services that run."""

    members: Sequence[Member]

    def of(self, role: str) -> list[Member]:
        """Give the processes of one kind."""
        return [member for member in self.members if member.role == role]

    def batches(self, role: str) -> Counter[str]:
        """Add up what the processes of one kind have done."""
        return sum((member.batches() for member in self.of(role)), Counter[str]())


@contextmanager
def running(rig: Rig, workers: int, batch: int, *, networked: bool, beside: Sequence[str] = ()) -> Generator[Crew]:
    """Run so many processes of each service, and those beside them, until the body ends."""
    with ExitStack() as stack:
        roles = [role for role in ("steps", "log") for _ in range(workers)]
        members = [stack.enter_context(_member(rig, role, batch, networked=networked)) for role in (*roles, *beside)]
        crew = Crew(members)
        _await(rig, crew)
        yield crew


@contextmanager
def _member(rig: Rig, role: str, batch: int, *, networked: bool) -> Generator[Member]:
    port, environment = free_port(), rig.environment(role, networked=networked)
    key = rig.stage.home / "audit.key"
    if role == "sealer" and not key.exists():
        write_new(key, "scale")
    module = "tests.benchmarks.product" if role == "sealer" else "tests.benchmarks.scale_out.member"
    command = [sys.executable, "-m", module, role, *([] if role == "sealer" else [str(batch)])]
    file = rig.stage.home / f"{role}-{port}.log"
    with file.open("ab") as words:
        process = subprocess.Popen(
            command, env={**environment, "TRADESAGA_METRICS_PORT": str(port)}, stdout=words, stderr=words
        )
    try:
        yield Member(role, process, port, file)
    finally:
        process.terminate()
        process.wait(40)


def _await(rig: Rig, crew: Crew) -> None:
    """Wait until all are ready and each owns some of its group's lanes: a first member has all until others join."""
    until = time.monotonic() + _READY
    while not (all(member.ready for member in crew.members) and _shared(rig, crew)):
        if time.monotonic() > until:
            raise TimeoutError(f"the services are not ready after {_READY:.0f} seconds")
        time.sleep(0.1)


def _shared(rig: Rig, crew: Crew) -> bool:
    for role, group in (("steps", "bench-steps"), ("log", "bench-log")):
        rows = rig.stage.ask('SELECT DISTINCT owner FROM lane WHERE "group" = $1', group)
        owners = {row["owner"].rsplit(":", 1)[-1] for row in rows}
        if owners != {str(member.process.pid) for member in crew.of(role)}:
            return False
    return True
