"""`tradesaga up`, `status`, `logs` and `down` as a user runs them, with a service of the user's own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tradesaga.infra.errors import ExitCode
from tradesaga.infra.kafka.admin import count_partitions
from tradesaga.infra.local_stack.process import is_alive
from tradesaga.infra.local_stack.state import StackState, read_state

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
SERVICE = """
import asyncio

async def tick(settings):
    print("brokers", settings.brokers(), flush=True)
    try:
        await asyncio.sleep(3600)
    finally:
        print("said good-bye", flush=True)

services = {"tick": tick}
"""
SECOND_SAGA = """
from tradesaga.sagas import saga, seconds, step
from tradesaga.schemas import Event

class Noted(Event):
    idempotency_key: str
    account: str

class Written(Event):
    pass

note = saga("note", version=1, deadline=seconds(5)).then(step("write", on=Noted, emits=Written))
"""


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack's folder and the environment in which its commands run."""

    home: Path
    environment: dict[str, str]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `tradesaga` to its end."""
        argv = [sys.executable, "-m", "tradesaga.infra.cli.entry", *arguments, "--dir", str(self.home)]
        return subprocess.run(
            argv, env=self.environment, cwd=self.home.parent, capture_output=True, text=True, timeout=240, check=False
        )

    def status(self) -> dict[str, Any]:
        """Read `status --json`."""
        return json.loads(self.command("status", "--json").stdout)

    def state(self) -> StackState:
        """Read the state file."""
        return read_state(self.home)


@pytest.fixture(scope="module")
def module_stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Choose one folder for all tests here, so that its servers are created once."""
    tmp_path = tmp_path_factory.mktemp("stack")
    given = {"TRADESAGA_KAFKA", "TRADESAGA_DATABASE_URL", "TRADESAGA_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in given}
    paths = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[4])))
    own = {"TRADESAGA_KAFKA_HEAP": "256m", "TRADESAGA_APP": "my_app", "PYTHONPATH": paths}
    own |= {"TRADESAGA_PARTITIONS": "3"}
    return Stack(tmp_path / "home", environment | own)


@pytest.fixture
def mine(module_stack: Stack) -> Iterator[Stack]:
    """Give a stack that is down, with the service in place, and bring it down at the end."""
    (module_stack.home.parent / "my_app.py").write_text(SERVICE)
    yield module_stack
    assert module_stack.command("down").returncode == 0


def _until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.2)


def _kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)


def test_a_stack_lives_through_the_death_of_every_process(mine: Stack) -> None:
    """Service, venue, broker, database and supervisor are each killed once; all is back at the same addresses."""
    up = mine.command("up", "-d", "--separate", "--only", "tick", "--json")
    assert up.returncode == 0, up.stderr
    first = json.loads(up.stdout)
    assert first["services"][0]["state"] == "running"
    assert (first["together"], first["partitions"]) == (False, 3)
    assert first["venue"].startswith("http://127.0.0.1:")
    assert f"brokers {first['kafka']}" in mine.command("logs", "tick").stdout
    state = mine.state()
    processes = [part.process for part in state.parts] + [state.broker.process, state.postgres.process]
    for process in processes:
        _kill(process.pid if process else None)
    _until(lambda: mine.status()["services"][0]["state"] == "running" and None not in _servers(mine))
    assert _servers(mine) == [first["kafka"], first["database"], first["venue"]]
    assert mine.status()["services"][0]["pid"] != first["services"][0]["pid"]
    _kill(state.supervisor.pid if state.supervisor else None)
    again = mine.command("up", "-d", "--separate", "--only", "tick", "--json")
    assert json.loads(again.stdout)["kafka"] == first["kafka"]


def _servers(mine: Stack) -> list[str | None]:
    found = mine.status()
    return [found["kafka"], found["database"], found["venue"]]


def test_down_ends_everything_and_the_next_up_finds_the_same_ports(mine: Stack) -> None:
    """After `down` no process of the stack is left and services have ended cleanly; ports are remembered."""
    first = json.loads(mine.command("up", "-d", "--only", "tick", "--together", "--json").stdout)
    assert (first["together"], first["partitions"]) == (True, 3)
    assert "up --separate" in mine.command("status").stdout
    differing = mine.command("up", "-d", "--only", "tick", "--separate", "--json")
    assert json.loads(differing.stderr)["error"]["code"] == "stack-running"
    state = mine.state()
    processes = [part.process for part in (*state.parts, state.broker, state.postgres)] + [state.supervisor]
    assert all(is_alive(process) for process in processes)
    assert mine.command("down").returncode == 0
    assert not any(is_alive(process) for process in processes)
    assert "services | said good-bye" in mine.command("logs", "services").stdout
    assert "services | said good-bye" in mine.command("logs", "tick").stdout
    down = mine.command("status", "--json")
    assert down.returncode == ExitCode.UNAVAILABLE
    assert json.loads(down.stdout)["kafka"] is None
    second = json.loads(mine.command("up", "-d", "--only", "tick", "--json").stdout)
    assert second["together"] is True
    assert second["kafka"] == first["kafka"]
    assert second["services"][0]["metrics"] == first["services"][0]["metrics"]


def test_up_in_the_foreground_shows_logs_and_stops_on_ctrl_c(mine: Stack) -> None:
    """Ctrl-C ends the services, the venue and the servers, and the command with exit code 0."""
    options = ("--separate", "--only", "tick", "--dir", str(mine.home))
    argv = [sys.executable, "-m", "tradesaga.infra.cli.entry", "up", *options]
    with subprocess.Popen(argv, env=mine.environment, stdout=subprocess.PIPE, text=True) as command:
        _until(lambda: mine.state().supervisor is not None)
        _until(lambda: mine.status()["services"][0]["state"] == "running")
        assert command.stdout is not None
        assert any("tick" in line for line in command.stdout)
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=120)
    assert command.returncode == 0
    assert mine.state().supervisor is None
    assert _servers(mine) == [None, None, None]


def test_given_servers_are_used_and_left_alone(mine: Stack, kafka: str, database_url: str) -> None:
    """With TRADESAGA_KAFKA and TRADESAGA_DATABASE_URL set, no server is started and none is stopped."""
    given = {"TRADESAGA_KAFKA": kafka, "TRADESAGA_DATABASE_URL": database_url, "TRADESAGA_PARTITIONS": "12"}
    with_given = Stack(mine.home, mine.environment | given)
    up = with_given.command("up", "-d", "--separate", "--only", "tick", "--json")
    assert up.returncode == 0, up.stderr
    assert json.loads(up.stdout)["kafka"] == kafka
    assert json.loads(up.stdout)["database"] == database_url
    assert with_given.state().broker.process is None
    assert with_given.state().postgres.process is None
    assert with_given.command("down").returncode == 0


def test_a_stack_with_three_partitions_trades_and_keeps_them(mine: Stack) -> None:
    """All services trade on them; another number is refused by the setting's name, and a later saga gets the same."""
    up = mine.command("up", "-d", "--together", "--json")
    assert up.returncode == 0, up.stderr
    for told in (("account", "create", "alice"), ("account", "fund", "alice", "USD", "100000")):
        assert mine.command(*told).returncode == 0
    order = ("--account", "alice", "--symbol", "EUR/USD", "--side", "buy", "--quantity", "1000")
    bought = mine.command("start", *order, "--wait", "--json")
    assert json.loads(bought.stdout)["state"] == "COMPLETED", bought.stderr
    assert mine.command("reconcile").returncode == 0
    assert mine.command("audit", "replay").returncode == 0
    assert mine.command("down").returncode == 0
    other = Stack(mine.home, mine.environment | {"TRADESAGA_PARTITIONS": "4"})
    refused = other.command("up", "-d", "--separate", "--only", "tick", "--json")
    error = json.loads(refused.stderr)["error"]
    assert (refused.returncode, error["code"]) == (ExitCode.REFUSED, "topics-differ")
    assert "topic trade.events has partitions=3, expected 4" in error["what"]
    assert "TRADESAGA_PARTITIONS" in error["do"]
    assert mine.state().partitions == 3
    (mine.home.parent / "my_app.py").write_text(SERVICE + SECOND_SAGA)
    unset = {name: value for name, value in mine.environment.items() if name != "TRADESAGA_PARTITIONS"}
    later = Stack(mine.home, unset).command("up", "-d", "--separate", "--only", "tick", "--json")
    assert later.returncode == 0, later.stderr
    counts = asyncio.run(count_partitions(mine.state().kafka, ["trade.events", "note.events", "note.checkpoints"]))
    assert counts == {"trade.events": 3, "note.events": 3, "note.checkpoints": 1}


def test_a_service_that_cannot_start_is_named(mine: Stack) -> None:
    """`up` gives up with exit code 5 and the service's last words, as JSON when asked."""
    (mine.home.parent / "my_app.py").write_text(
        "async def tick(settings):\n    raise RuntimeError('no luck today')\nservices = {'tick': tick}\n"
    )
    up = mine.command("up", "-d", "--separate", "--only", "tick", "--json")
    assert up.returncode == ExitCode.UNAVAILABLE
    error = json.loads(up.stderr)["error"]
    assert error["code"] == "service-failed"
    assert "no luck today" in error["what"]


def test_a_service_that_halts_is_named(mine: Stack) -> None:
    """`up` ends with exit code 4 and the reason long before its patience does; `status` shows it too."""
    (mine.home.parent / "my_app.py").write_text(
        "import asyncio\nfrom tradesaga.infra.telemetry.metrics import Health\n"
        "from tradesaga.infra.telemetry.metrics import register_worker\n"
        "async def tick(settings):\n    register_worker('tick', Health(halted='the topics belong to somebody else'))\n"
        "    await asyncio.sleep(3600)\nservices = {'tick': tick}\n"
    )
    up = mine.command("up", "-d", "--separate", "--only", "tick", "--json")
    assert up.returncode == ExitCode.REFUSED, up.stderr
    error = json.loads(up.stderr)["error"]
    assert error["code"] == "halted"
    assert "tick is halted" in error["what"]
    assert "belong to somebody else" in error["what"]
    (tick,) = mine.status()["services"]
    assert (tick["state"], tick["halted"]) == ("halted", "the topics belong to somebody else")
    assert "belong to somebody else" in mine.command("status").stdout


def test_an_unknown_service_and_an_unknown_log_are_not_found(mine: Stack) -> None:
    """Exit code 3, and what is known instead."""
    unknown = mine.command("up", "-d", "--only", "nobody", "--json")
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert "tick" in json.loads(unknown.stderr)["error"]["do"]
    assert mine.command("logs", "nobody").returncode == ExitCode.NOT_FOUND
