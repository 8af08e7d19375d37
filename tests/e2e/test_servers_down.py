"""Kafka or PostgreSQL down: at the start a clear error and exit 5; later everything waits and goes on."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.keys import keys_in
from tradesaga.infra.kafka.topics import all_topics, ensure_topics
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.local_stack.servers import revive_servers, start_servers, stop_servers
from tradesaga.infra.local_stack.state import read_state
from tradesaga.infra.postgres.migrate import migrate
from tradesaga.infra.settings import PREFIX
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.messages.lifecycle import StepUnknown

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

OUTCOMES = {
    "COMPLETED": [("book", "forward"), ("pay", "forward"), ("close", "forward")],
    "ABORTED": [("book", "forward"), ("pay", "forward"), ("pay", "back"), ("book", "back")],
}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Give the folder of servers that no other test uses, so that they may be killed."""
    # PostgreSQL runs under another account here, and pytest closes its own folders to all but one.
    with TemporaryDirectory(prefix="tradesaga-own-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        state = start_servers(folder)
        migrate(state.database_url)
        yield folder
        stop_servers(folder)


@pytest.fixture
async def bench(home: Path) -> AsyncIterator[Bench]:
    """Give a bench on them, with everything running."""
    state = read_state(home)
    async with open_bench(state.kafka, state.database_url, patience=1.0) as bench:
        await bench.serve_all()
        yield bench
        await bench.stop()
        await bench.pool.execute("DROP TABLE effect, attempt, far_call, far_order, far_report")


async def fall(home: Path, server: str) -> None:
    """Kill a server outright."""
    state = read_state(home)
    process = state.broker.process if server == "kafka" else state.postgres.process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)


async def check(bench: Bench, sagas: list[UUID]) -> None:
    """Hold each saga to one of the ends it may have, with its effects done once."""
    for saga_id in sagas:
        state = (await bench.settled(saga_id))["state"]
        assert await bench.effects(saga_id) == OUTCOMES[state], bench.tail.names(saga_id)
        taken = await bench.pool.fetchval("SELECT taken FROM far_order WHERE key = $1", f"{saga_id}:ship")
        assert taken == 1 if state == "COMPLETED" else taken in {1, None}


@pytest.mark.parametrize("server", ["kafka", "postgres"])
async def test_a_server_falls_and_comes_back(bench: Bench, home: Path, server: str) -> None:
    """Killed in the middle of twenty sagas and started again a little later: all of them end, and new ones do."""
    waiting = await bench.ask(confirm="wait")
    await bench.reaches(waiting, "confirm", RowStatus.WAITING)
    sagas = [await bench.ask() for _ in range(20)]
    await bench.heard(sagas[0], m.Booked)
    await fall(home, server)
    await asyncio.sleep(2)
    await asyncio.to_thread(revive_servers, home)
    await check(bench, sagas)
    await bench.far.report(f"{waiting}:ship", "r1", "done")
    await check(bench, [waiting])
    await bench.call_again()
    later = await bench.ask()
    await check(bench, [later])
    assert not bench.tail.of(later, StepUnknown)


async def run(*argv: str, **settings: str) -> tuple[int, str]:
    """Run a command with these settings alone; give its exit code and what it wrote to stderr."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tradesaga.infra.cli.entry", *argv,
        env=mine | {f"{PREFIX}{key}": value for key, value in settings.items()},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, error = await asyncio.wait_for(process.communicate(), 90)
    return process.returncode or 0, error.decode()


SERVICES = ["risk", "saga-log", "intake"]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_says_that_a_server_is_down(stack: Stack, tmp_path: Path, service: str) -> None:
    """Without Kafka, without PostgreSQL, with a wrong password: one sentence that says what to do, and exit 5."""
    await ensure_topics(stack.kafka, all_topics(["trade"]))
    keys_in(tmp_path)
    nobody = f"127.0.0.1:{free_port()}"
    host = stack.database_url.rsplit("@", 1)[1]
    cases = {
        "Kafka": {"KAFKA": nobody, "DATABASE_URL": stack.database_url},
        "PostgreSQL": {"KAFKA": stack.kafka, "DATABASE_URL": f"postgresql://a:b@{nobody}/tradesaga"},
        "password": {"KAFKA": stack.kafka, "DATABASE_URL": f"postgresql://tradesaga:wrong@{host}"},
    }
    ended = await asyncio.gather(*(run("run", service, HOME=str(tmp_path), **each) for each in cases.values()))
    for named, (code, error) in zip(cases, ended, strict=True):
        last = error.strip().splitlines()[-1]
        assert code == 5, error
        assert named in last
        assert "Traceback" not in error
        assert "wrong" not in error


async def test_a_wrong_dsn_is_refused_before_anything_is_tried(tmp_path: Path) -> None:
    """An address that is none names its variable, never its value, and exits 2."""
    code, error = await run("run", "risk", HOME=str(tmp_path), KAFKA="127.0.0.1:1", DATABASE_URL="mysql://a:secret@b/c")
    assert code == 2
    assert "TRADESAGA_DATABASE_URL" in error
    assert "secret" not in error
