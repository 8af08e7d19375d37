"""When somebody does not keep up, less is taken in, and who asks is told; nothing falls over, and nothing is lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from prometheus_client import REGISTRY

from tests.conftest import Stack
from tests.doors import order, trade_of_its_own
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.integration.consumers.saga_log.rig import Rig, open_rig, ready
from tests.integration.producers.gateway.test_gateway import running
from tests.keys import KEYS, keys_in
from tests.limits.slow_link import slow_database
from tests.sagas import OrderAsked
from tests.waiting import until
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.infra.cli.entry import execute
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.outbox.batch import BATCHES
from tradesaga.infra.postgres.database import Pool, open_pool
from tradesaga.infra.starts.backpressure import LOG, Backpressure, PipelineLag
from tradesaga.infra.telemetry.health import serve_probes
from tradesaga.infra.telemetry.metrics import register_worker
from tradesaga.producers.backpressure import StartBackpressure
from tradesaga.schemas import identity
from tradesaga.schemas.topics import starts_topic

pytestmark = pytest.mark.stack
LIMIT = 0.5
BATCH = 10


@pytest.fixture
async def rig(kafka: str, database_url: str) -> AsyncIterator[Rig]:
    """Give a saga with topics and a database of its own."""
    async with open_rig(kafka, database_url) as rig:
        yield rig


async def fall_behind(rig: Rig) -> list[UUID]:
    """Let the saga log run once, and then stand still while sagas are started."""
    async with rig.running() as worker:
        await ready(worker)
    sagas = [uuid4() for _ in range(5)]
    for saga_id in sagas:
        await rig.say(saga_id, OrderAsked(idempotency_key=str(saga_id), account="A"))
    return sagas


async def _closed(backpressure: Backpressure) -> bool:
    return backpressure.holds_back


async def late(lag: PipelineLag, pool: Pool) -> bool:
    """Say whether the pipeline is found to be behind."""
    return bool(await lag.find(pool))


async def test_lag_is_the_age_of_what_waits(rig: Rig) -> None:
    """Records count once they are older than the limit, no longer once they are read; a reader never run counts not."""
    # Longer than LIMIT: what has just been said must not be late already, on a busy machine either.
    async with PipelineLag(rig.kafka, rig.saga.name, 3) as lag, PipelineLag(rig.kafka, rig.saga.name, 60) as patient:
        assert await lag.find(rig.pool) == ""
        await fall_behind(rig)
        assert not await late(lag, rig.pool)
        await until(lambda: late(lag, rig.pool))
        assert "5 records wait" in await lag.find(rig.pool)
        assert not await late(patient, rig.pool)
        shown = REGISTRY.get_sample_value("tradesaga_pipeline_lag_records", {"group": f"{rig.saga.name}-log"})
        assert shown == 5
        async with rig.running():
            await rig.recorded(5)
        assert not await late(lag, rig.pool)


async def test_commands_start_nothing_while_the_log_is_behind(rig: Rig) -> None:
    """The first batch is refused at once, with exit 5; one that comes later waits until there is room."""
    async with PipelineLag(rig.kafka, rig.saga.name, LIMIT) as lag:
        begun, fresh = StartBackpressure(lag, rig.pool), StartBackpressure(lag, rig.pool)
        await begun.wait()
        await fall_behind(rig)
        await until(lambda: late(lag, rig.pool))
        with pytest.raises(CommandError, match="no saga is started now") as raised:
            await fresh.wait()
        assert (raised.value.code, raised.value.exit_code) == ("behind", ExitCode.UNAVAILABLE)
        await asyncio.sleep(1.1)
        waiting = asyncio.create_task(begun.wait())
        await asyncio.sleep(0.7)
        assert not waiting.done()
        async with rig.running():
            await asyncio.wait_for(waiting, 20)


async def test_the_start_command_says_so(
    rig: Rig, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`tradesaga start` exits 5 with one JSON error, and has started nothing."""
    await fall_behind(rig)
    settings = {
        "KAFKA": rig.kafka, "DATABASE_URL": database_url, "APP": "tests.named_saga", "GATEWAY_LAG_SECONDS": "0.1",
        "REQUEST_KEYS": str(keys_in(tmp_path)),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"TRADESAGA_{name}", value)
    monkeypatch.setattr("tests.named_saga.named", rig.saga)
    await asyncio.sleep(0.3)
    monkeypatch.setattr("sys.stdin", _Pipe(b'{"idempotency_key": "k", "account": "A"}\n'))
    code = await asyncio.to_thread(execute, ["start", "-f", "-", "--saga", rig.saga.name, "--json"])
    assert code == ExitCode.UNAVAILABLE
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "behind"
    assert await rig.pool.fetchval("SELECT count(*) FROM start_request") == 0


class _Pipe:
    """Standard input with something in it."""

    def __init__(self, text: bytes) -> None:
        import io

        self.buffer = io.BytesIO(text)


async def test_starts_wait_on_their_topic_while_the_log_is_behind(rig: Rig) -> None:
    """The front door on Kafka refuses nothing: it is not opened before the saga log has caught up."""
    backpressure = Backpressure(PipelineLag(rig.kafka, rig.saga.name, LIMIT, (LOG,)), rig.pool, 100)
    watching = asyncio.create_task(backpressure.watch())
    async with rig.running(Intake(rig.saga, KEYS, backpressure=backpressure)) as intake:
        await ready(intake)
        await fall_behind(rig)
        await until(lambda: _closed(backpressure))
        await asyncio.sleep(0.7)  # a poll that was under way may still bring something
        await rig.put(starts_topic(rig.saga.name), b"any", _asked("later"), [])
        await asyncio.sleep(1.0)
        assert await rig.pool.fetchval("SELECT count(*) FROM start_request") == 0
        assert intake.health.poll_age < 1
        async with rig.running(SagaLog(rig.rules)):
            await rig.reached(_id(rig, "later"), "IDLE")
    watching.cancel()
    await asyncio.wait([watching])


async def test_starts_wait_on_their_topic_while_enough_is_under_way(rig: Rig) -> None:
    """However well the saga log keeps up: what is begun beyond what can be ended would only make all of it slower."""
    backpressure = Backpressure(PipelineLag(rig.kafka, rig.saga.name, 60, (LOG,)), rig.pool, 3)
    watching = asyncio.create_task(backpressure.watch())
    async with (
        rig.running(Intake(rig.saga, KEYS, backpressure=backpressure)) as intake,
        rig.running(SagaLog(rig.rules)),
    ):
        await ready(intake)
        for key in ("one", "two"):
            await rig.put(starts_topic(rig.saga.name), b"any", _asked(key), [])
            await rig.reached(_id(rig, key), "IDLE")
        assert not backpressure.holds_back
        await rig.put(starts_topic(rig.saga.name), b"any", _asked("three"), [])
        await until(lambda: _closed(backpressure))
        await asyncio.sleep(0.7)  # a poll that was under way may still bring something
        await rig.put(starts_topic(rig.saga.name), b"any", _asked("four"), [])
        await asyncio.sleep(1.0)
        assert await rig.pool.fetchval("SELECT count(*) FROM start_request") == 3
        await rig.pool.execute("UPDATE saga SET state = 'COMPLETED' WHERE saga_id = $1", _id(rig, "one"))
        await rig.reached(_id(rig, "four"), "IDLE")
    watching.cancel()
    await asyncio.wait([watching])


def _asked(key: str) -> bytes:
    return OrderAsked(idempotency_key=key, account="A").to_wire()


def _id(rig: Rig, key: str) -> UUID:
    return identity.saga_id(rig.saga.name, "A", key)


async def test_the_api_refuses_while_the_log_is_behind(
    kafka: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that has only just started knows of the lag too; its answer, its readiness and its metrics say so."""
    monkeypatch.setenv("TRADESAGA_GATEWAY_LAG_SECONDS", str(LIMIT))
    with trade_of_its_own(kafka) as saga:
        async with running(kafka, database_url, saga) as api:
            assert (await api.post("/v1/trades", json=order())).status_code == 202
        await asyncio.sleep(LIMIT)
        pool = await open_pool(database_url, max_size=1)
        async with pool, running(kafka, database_url, saga) as api:
            await pool.execute(
                'INSERT INTO lane ("group", topic, partition, epoch, owner) '
                "SELECT $1 || '-log', $1 || '.events', generate_series(0, 11), 1, 'nobody'", saga.name,
            )  # fmt: skip
            refused: list[httpx.Response] = []

            async def is_refused() -> bool:
                refused[:] = [await api.post("/v1/trades", json=order(account=None))]
                return refused[0].status_code == 429

            await until(is_refused)
            assert refused[0].json()["error"]["code"] == "behind"
            assert refused[0].headers["retry-after"] == "1"
            assert "is more than 0.5 s behind" in await _refusing()
            assert (REGISTRY.get_sample_value("tradesaga_starts_refused_total", _lag(saga.name)) or 0) >= 1
            await pool.execute("UPDATE lane SET next_offset = 1000")
            await until(lambda: _accepts(api))
            assert await _refusing() == ""


def _lag(saga: str) -> dict[str, str]:
    return {"saga": saga, "reason": "lag"}


async def _accepts(api: httpx.AsyncClient) -> bool:
    return (await api.post("/v1/trades", json=order(account=None))).status_code == 422


async def _refusing() -> str:
    port = free_port()
    async with serve_probes("127.0.0.1", port), httpx.AsyncClient() as client:
        said = (await client.get(f"http://127.0.0.1:{port}/readyz")).json()
    return said["refusing"].get("gateway", "")


async def test_a_slow_database_slows_what_is_taken_in(stack: Stack, database_url: str) -> None:
    """With every answer of PostgreSQL late, no more is fetched than may wait; no worker starts over, all sagas end."""
    async with open_bench(stack.kafka, database_url, patience=10.0, deadline=300.0) as bench:
        async with slow_database(database_url, 0.05) as (link, url), await open_pool(url, max_size=4) as slow:
            desk = bench.run(StepProcessor(bench.kit.desk), pool=slow, batch=BATCH)
            await desk.ready()
            register_worker("slow", desk.worker.health)
            sagas = [await bench.ask() for _ in range(150)]
            assert desk.worker.membership is not None
            inbox, held = desk.worker.membership.inbox, 0
            while await _booked(bench) < 60:
                held = max(held, inbox.records)
                await asyncio.sleep(0.01)
            assert inbox.full or held > BATCHES * BATCH
            assert held <= (BATCHES + 1) * BATCH
            assert desk.worker.health.lag_seconds > 0.2
            link.delay = 0.0
            await bench.serve(bench.kit.port, log=True)
            for saga_id in sagas:
                assert (await bench.settled(saga_id))["state"] == "COMPLETED"
            assert desk.worker.health.restarts == 0
            await bench.stop()
        assert await bench.pool.fetchval("SELECT count(*) FROM effect") == 3 * len(sagas)


async def _booked(bench: Bench) -> int:
    return len([heard for heard in bench.tail.records if heard.name == m.Booked.NAME])


async def test_a_slow_database_makes_the_api_refuse_and_not_fall(
    kafka: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many starts at once over a slow link: some are stored, the others told to come again; none is lost."""
    monkeypatch.setenv("TRADESAGA_GATEWAY_WAITING", "20")
    with trade_of_its_own(kafka) as saga:
        async with slow_database(database_url, 0.1) as (_, url), running(kafka, url, saga) as api:
            answers = await asyncio.gather(*(api.post("/v1/trades", json=order()) for _ in range(120)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {202, 429}
        assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 429} == {"too-busy"}
        pool = await open_pool(database_url, max_size=1)
        async with pool:
            assert await pool.fetchval("SELECT count(*) FROM start_request") == codes.count(202)
