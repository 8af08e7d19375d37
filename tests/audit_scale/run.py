"""One run: real sagas whose steps do nothing, through the product's own services, then every command of the audit."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tradesaga.infra.postgres.database import session

ROOT: Final = Path(__file__).parents[2]
FACTS_OF_A_SAGA: Final = 6
CHUNK: Final = 5000
"""Sagas that are loaded at once."""
_ROLES: Final = ("steps", "log")
_SEALED: Final = """
SELECT coalesce((SELECT sum(size) FROM audit_edge), 0)::bigint, (SELECT count(*) FROM saga_event)
"""


@dataclass
class Stage:
    """What one command took: seconds by the wall and of processors, records, and its largest size in memory, in MB."""

    name: str
    records: int
    seconds: float
    processor: float = 0
    memory_mb: float = 0

    @property
    def rate(self) -> float:
        """Give records a second."""
        return self.records / self.seconds

    @property
    def rate_of_a_core(self) -> float:
        """Give records a second of processor time; zero where it was not measured."""
        return self.records / self.processor if self.processor else 0


@dataclass
class ScaleRun:
    """`environment` names servers; `folder` takes keys, the witness, logs and the export."""

    environment: dict[str, str]
    folder: Path
    stages: list[Stage] = field(default_factory=list[Stage])

    @property
    def database(self) -> str:
        """Give the database's URL."""
        return self.environment["TRADESAGA_DATABASE_URL"]

    @property
    def export(self) -> Path:
        """Name the export's folder."""
        return self.folder / "export"

    def load(self, facts: int) -> int:
        """Have the product's services make the facts that are not there yet, and the sealer seal them; count all."""
        environment = {
            **self.environment,
            "PYTHONPATH": str(ROOT),
            "TRADESAGA_APP": "tests.benchmarks.noop",
            "TRADESAGA_AUDIT_KEY": str(self.folder / "audit.key"),
            "TRADESAGA_AUDIT_WITNESS": str(self.folder / "witness.jsonl"),
        }
        self.environment = environment
        if not (self.folder / "audit.key").exists():
            _checked([*_tradesaga(), "audit", "keygen", environment["TRADESAGA_AUDIT_KEY"]], environment)
        product = [sys.executable, "-m", "tests.benchmarks.product"]
        _checked([*product, "init"], environment)
        before = asyncio.run(self._count())
        sagas = -(-(facts - before) // FACTS_OF_A_SAGA)
        began = time.monotonic()
        services = [*([*product, role] for role in _ROLES), [*_tradesaga(), "run", "audit-sealer"]]
        with _services(services, environment, self.folder) as watch:
            while sagas > 0:
                _checked([*product, "load", str(min(sagas, CHUNK)), "0"], environment)
                sagas -= CHUNK
                watch()
            loaded = time.monotonic() - began
            count = asyncio.run(self._until_sealed(watch))
        if count > before:
            self.stages.append(Stage("made by the product and sealed", count - before, loaded))
        return count

    async def _count(self) -> int:
        async with session(self.database) as sql:
            return await sql.fetchval("SELECT count(*) FROM saga_event")

    async def _until_sealed(self, watch: Any) -> int:
        deadline = time.monotonic() + 300
        async with session(self.database) as sql:
            while True:
                sealed, count = await sql.fetchrow(_SEALED) or (0, -1)
                if sealed == count:
                    return count
                watch()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{sealed} of {count} records are sealed")
                await asyncio.sleep(0.5)

    def tell(self, name: str, records: int, *arguments: str) -> Any:
        """Run a command of the audit, and take down what it took; give its JSON."""
        return self._measure(name, records, [*_tradesaga(), "audit", *arguments, "--json"], self.environment)

    def verify_with_nothing_in_reach(self, name: str, records: int, prefix: Sequence[str] = ()) -> Any:
        """Verify the export with no setting; `prefix` is a command that takes the network away."""
        command = [*prefix, *_tradesaga(), "audit", "verify", "--export", str(self.export)]
        bare = {key: value for key, value in os.environ.items() if not key.startswith("TRADESAGA_")}
        public = str(self.folder / "audit.key.pub")
        return self._measure(name, records, [*command, "--key", public, "--json"], bare)

    def _measure(self, name: str, records: int, command: Sequence[str], environment: dict[str, str]) -> Any:
        began = time.monotonic()
        with (self.folder / "out").open("w+b") as out, (self.folder / "err").open("w+b") as err:
            process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=out, stderr=err)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        told = (self.folder / "out").read_text()
        if process.returncode:
            raise RuntimeError(f"{name}: exit {process.returncode}: {told[-2000:]}{(self.folder / 'err').read_text()}")
        processor = usage.ru_utime + usage.ru_stime
        self.stages.append(Stage(name, records, seconds, processor, usage.ru_maxrss / 1024))
        return json.loads(told.splitlines()[-1])


def _tradesaga() -> list[str]:
    return [str(Path(sys.executable).parent / "tradesaga")]


def _checked(command: Sequence[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _services(commands: Sequence[Sequence[str]], environment: dict[str, str], folder: Path) -> Generator[Any]:
    """Run services; give a function that raises once one of them has ended."""
    with (folder / "services.log").open("ab") as log:
        running = [subprocess.Popen(command, env=environment, stderr=log) for command in commands]

        def watch() -> None:
            if ended := [process.args for process in running if process.poll() is not None]:
                raise RuntimeError(f"{ended} has ended: {(folder / 'services.log').read_text()[-2000:]}")

        try:
            yield watch
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(30)
