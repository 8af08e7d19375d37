"""The stack as `tradesaga up` starts it, on the stage's servers: one process each, or one for all."""

import os
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import psutil
import uvloop

from tests.benchmarks.stage import Stage
from tests.benchmarks.trades.accounts import open_accounts
from tests.benchmarks.trades.records import Records, records_of_product
from tradesaga.infra.local_stack.assembly import SUPERVISOR_PATIENCE
from tradesaga.infra.local_stack.parts import stop_parts
from tradesaga.infra.local_stack.ports import LOOPBACK
from tradesaga.infra.local_stack.process import find, stop
from tradesaga.infra.local_stack.state import ProcessId, StackState, read_state

_SERVERS = ("TRADESAGA_KAFKA", "TRADESAGA_DATABASE_URL", "TRADESAGA_VENUE_URL", "TRADESAGA_HOME")


@dataclass(frozen=True)
class Deployed:
    """A system that runs: its processes by name, the URL of its gateway, its records, and what is wrong with them."""

    name: str
    stage: Stage
    processes: Mapping[str, psutil.Process]
    gateway: str
    records: Records
    find_differences: Callable[[], list[str]] = list
    """Compares all money with the venue; that of the product is compared once, at the end of a run."""


class Deployment(Protocol):
    """One way to deploy one system."""

    @property
    def name(self) -> str:
        """The name in the tables."""
        ...

    @property
    def settings(self) -> dict[str, str]:
        """What is deployed."""
        ...

    def running(self, stage: Stage) -> AbstractContextManager[Deployed]:
        """Run services and venue, with accounts that have money."""
        ...


@dataclass(frozen=True)
class Product:
    """The product; `options` are those of `tradesaga up`."""

    name: str
    options: Sequence[str] = ()

    @property
    def settings(self) -> dict[str, str]:
        """What was deployed."""
        command = " ".join(["tradesaga", "up", *self.options])
        return {"command": command, "venue": "paper venue in its own process", "version": version("tradesaga")}

    @contextmanager
    def running(self, stage: Stage) -> Generator[Deployed]:
        """Run the services and the venue; raises if one of them had to be restarted."""
        command = [sys.executable, "-m", "tradesaga.infra.cli.entry", "up", "--detach", "--dir", str(stage.home)]
        subprocess.run([*command, *self.options], env=_own_servers(), check=True, stdout=subprocess.DEVNULL)
        state = read_state(stage.home)
        try:
            uvloop.run(open_accounts(stage.database))
            gateway, records = f"http://{LOOPBACK}:{state.http_port}", records_of_product(stage.database)
            yield Deployed(self.name, stage, _processes(stage, state), gateway, records)
            if restarted := [part.name for part in read_state(stage.home).parts if part.starts > 1]:
                raise RuntimeError(f"{self.name}: restarted while measuring: {', '.join(restarted)}")
        finally:
            stop(state.supervisor, patience=SUPERVISOR_PATIENCE)
            stop_parts(stage.home)


def _own_servers() -> dict[str, str]:
    """Return the environment without servers of others: the stage's folder names its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_SERVERS)}


def _processes(stage: Stage, state: StackState) -> dict[str, psutil.Process]:
    known: dict[str, ProcessId | None] = {part.name: part.process for part in state.parts}
    known["supervisor"] = state.supervisor
    found = {name: process for name, each in known.items() if (process := find(each)) is not None}
    return {**found, "PostgreSQL": stage.postgres, "Kafka": stage.kafka}


SEPARATE = Product("trades", ("--separate",))
TOGETHER = Product("trades, one process", ("--together",))
IDLE = Product("venue and sealer", ("--only", "audit-sealer"))
"""What the final check needs: the venue with its records, and one service, since `up` wants at least one."""
