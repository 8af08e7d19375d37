"""The live auditor: quiet on a busy run, loud when somebody changes what was written, back after a SIGKILL."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.integration.consumers.saga_log.rig import Rig, open_rig, ready
from tests.sagas import Filled, Held, HoldRefused, OrderAsked, Placed, Settled
from tests.waiting import until
from tradesaga.consumers.audit.replay.auditor import Auditor, AuditPass
from tradesaga.consumers.audit.replay.differences import Difference
from tradesaga.consumers.audit.replay.state import Identity, ReplayState
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.schemas.messages.lifecycle import AbortRequested
from tradesaga.schemas.topics import saga_topics

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

STORIES = [
    (OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled(), Settled()),
    (OrderAsked(idempotency_key="k", account="A"), HoldRefused()),
    (Held(), OrderAsked(idempotency_key="k", account="A"), AbortRequested(operator="desk", reason="a test")),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(stack: Stack, module_database_url: str) -> AsyncIterator[Rig]:
    """Give a saga's topics and a database; the tests talk to them in turn."""
    async with open_rig(stack.kafka, module_database_url) as rig:
        yield rig


async def say_stories(rig: Rig, rounds: int) -> None:
    """Tell some stories, poison and strays among them, and wait until all has been taken in."""
    for _ in range(rounds):
        for story in STORIES:
            saga_id = uuid4()
            for event in story:
                await rig.say(saga_id, event)
    last = await rig.say(uuid4(), STORIES[0][0])
    await rig.put(last.topic, last.key or b"", b"{not json", list(last.headers))
    await rig.put(last.topic, b"nobody", b"{}", [])
    elsewhere = next(key for number in range(99) if rig.rules.home(key := UUID(int=number)) != last.partition)
    await rig.put(last.topic, str(elsewhere).encode(), b"{}", list(last.headers))


@asynccontextmanager
async def auditing(rig: Rig, path: Path | None = None) -> AsyncGenerator[tuple[Auditor, asyncpg.Connection]]:
    """Give an auditor that takes no rest between its laps, and its session."""
    sql = await asyncpg.connect(rig.url)
    try:
        async with TopicReader(rig.kafka) as topics:
            with ReplayState(path, Identity.of(rig.rules, "c", "auditor"), rig.rules) as replay_state:
                yield Auditor(rig.rules, replay_state, topics, lap=0), sql
    finally:
        await sql.close()


async def laps(auditor: Auditor, sql: asyncpg.Connection, number: int = 6) -> list[Difference]:
    """Look often enough for a lap over the few sagas that there are; give what was found."""
    return [each for _ in range(number) for each in (await auditor.look(sql)).fresh]


async def test_it_is_quiet_while_sagas_run(rig: Rig) -> None:
    """It looks all the time while the saga log works, and has seen everything when that is done."""
    looks: list[AuditPass] = []
    async with auditing(rig) as (auditor, sql), rig.running() as worker:
        await ready(worker)
        talk = asyncio.create_task(say_stories(rig, 15))
        while not talk.done():
            looks.append(await auditor.look(sql))
        await talk

        async def all_seen() -> bool:
            looks.append(await auditor.look(sql))
            return looks[-1].lag == 0

        await until(all_seen)
        assert await laps(auditor, sql) == []
    assert [each.fresh for each in looks if each.fresh] == []
    assert sum(each.records for each in looks) == await rig.pool.fetchval("SELECT count(*) FROM saga_event")
    assert sum(1 for each in looks if each.records) > 1


CHANGES = {
    "status": "UPDATE saga SET state = 'ABORTED' WHERE saga_id = $1",
    "nonsense": "UPDATE saga SET state = 'NONSENSE' WHERE saga_id = $1",
    "context": "UPDATE saga SET context = '{}' WHERE saga_id = $1",
    "value": "UPDATE saga_event SET value = '\\xff' WHERE saga_id = $1 AND seq = 2",
    "headers": "UPDATE saga_event SET headers = 'none' WHERE saga_id = $1 AND seq = 2",
    "event_time": "UPDATE saga_event SET event_time = event_time - 1 WHERE saga_id = $1 AND seq = 2",
    "row": "DELETE FROM saga_event WHERE saga_id = $1 AND seq = 5",
    "saga": "DELETE FROM saga WHERE saga_id = $1",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_behind_its_back_is_told(rig: Rig, change: str) -> None:
    """Of a saga that ended long ago, by one with every right; a lap over all sagas finds it, and tells it once."""
    async with rig.running():
        await say_stories(rig, 1)
        await rig.recorded((await rig.pool.fetchval("SELECT count(*) FROM saga_event")) or 1)
        async with auditing(rig) as (auditor, sql):
            await until(lambda: _is_level(auditor, sql))
            assert await laps(auditor, sql) == []
            saga_id = await rig.pool.fetchval("SELECT saga_id FROM saga WHERE state = 'COMPLETED' LIMIT 1")
            async with altered(rig, CHANGES[change], saga_id):
                found = await laps(auditor, sql)
            assert str(saga_id) in " ".join(each.where for each in found) or change in {
                "value",
                "headers",
                "event_time",
            }
            assert found
            assert await laps(auditor, sql) == []


async def _is_level(auditor: Auditor, sql: asyncpg.Connection) -> bool:
    return (await auditor.look(sql)).lag == 0


@asynccontextmanager
async def altered(rig: Rig, statement: str, saga_id: UUID) -> AsyncGenerator[None]:
    """Alter one saga as one who may do anything, and put it back afterwards."""
    async with rig.pool.acquire() as sql:
        await sql.execute("SET session_replication_role = replica")
        for table in ("saga", "saga_event"):
            await sql.execute(f"CREATE TEMP TABLE {table}_kept AS SELECT * FROM {table} WHERE saga_id = '{saga_id}'")
        await sql.execute(statement, saga_id)
        yield
        for table in ("saga", "saga_event"):
            await sql.execute(f"DELETE FROM {table} WHERE saga_id = $1", saga_id)
            await sql.execute(f"INSERT INTO {table} SELECT * FROM {table}_kept")
            await sql.execute(f"DROP TABLE {table}_kept")
        await sql.execute("SET session_replication_role = origin")


async def test_it_goes_on_where_it_was(rig: Rig, tmp_path: Path) -> None:
    """With nothing to read again, and with what it has found."""
    async with rig.running():
        await say_stories(rig, 1)
    async with auditing(rig, tmp_path / "a.db") as (auditor, sql):
        await until(lambda: _is_level_with_log(auditor, sql))
        saga_id = await rig.pool.fetchval("SELECT saga_id FROM saga WHERE state = 'COMPLETED' LIMIT 1")
        async with altered(rig, CHANGES["status"], saga_id):
            assert await laps(auditor, sql)
    async with auditing(rig, tmp_path / "a.db") as (auditor, sql):
        look = await auditor.look(sql)
        assert (look.records, look.behind, look.differing) == (0, 0, 1)
        assert [each.where for each in auditor.replay_state.differences(9)] == [f"saga {saga_id}"]


async def _is_level_with_log(auditor: Auditor, sql: asyncpg.Connection) -> bool:
    return (await auditor.look(sql)).behind == 0


async def test_the_service_alerts_and_survives_a_kill(rig: Rig, stack: Stack, tmp_path: Path) -> None:
    """`tradesaga run audit-replayer`: ready, then not, with the reason; the same after SIGKILL; /metrics counts."""
    await ensure_topics(stack.kafka, saga_topics("trade"))
    async with rig.running():
        await say_stories(rig, 2)
        port = free_port()
        async with service(rig, tmp_path, port) as process:
            await until(lambda: _page(port, "/readyz", '"ready": true'), 40)
            saga_id = await rig.pool.fetchval("SELECT saga_id FROM saga WHERE state = 'COMPLETED' LIMIT 1")
            async with altered(rig, CHANGES["status"], saga_id):
                await until(lambda: _page(port, "/readyz", "topics and database differ"), 40)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        async with service(rig, tmp_path, port):
            await until(lambda: _page(port, "/readyz", "topics and database differ in 1 places"), 40)
            wanted = f'tradesaga_audit_differences{{saga="{rig.saga.name}"}} 1.0'
            assert await _page(port, "/metrics", wanted)
            assert await _page(port, "/metrics", f'tradesaga_worker_lag_records{{group="{rig.saga.name}-audit"}}')


@asynccontextmanager
async def service(rig: Rig, home: Path, port: int) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run the service in a process of its own."""
    environment = {
        **os.environ, "TRADESAGA_KAFKA": rig.kafka, "TRADESAGA_DATABASE_URL": rig.url, "TRADESAGA_HOME": str(home),
        "TRADESAGA_APP": "tests.named_saga", "TEST_SAGA": rig.saga.name, "TRADESAGA_METRICS_PORT": str(port),
        "TRADESAGA_AUDIT_LAP": "0",
    }  # fmt: skip
    with (home / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tradesaga.infra.cli.entry", "run", "audit-replayer", env=environment, stderr=log
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _page(port: int, path: str, wanted: str) -> bool:
    return wanted in await asyncio.to_thread(_read, port, path)


def _read(port: int, path: str) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode()
    except HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""
