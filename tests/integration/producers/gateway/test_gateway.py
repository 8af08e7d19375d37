"""The HTTP API on real servers: what each kind of request is answered, and what it leaves behind."""

import asyncio
import contextlib
import json
import socket
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from tests.broker import Seen, read_topic
from tests.doors import order, trade_of_its_own
from tests.keys import HELD, ROTATED, keys_in
from tests.waiting import until
from tradesaga.infra.postgres.database import session
from tradesaga.infra.settings import Settings
from tradesaga.infra.starts.accept import accept, make_start
from tradesaga.producers.gateway.service import serve
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.identity import made_with, saga_id
from tradesaga.schemas.messages.trade import TradeRequested

pytestmark = pytest.mark.stack
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def saga(kafka: str) -> Iterator[AnySaga]:
    """Give the trade saga under a name of this test."""
    with trade_of_its_own(kafka) as named:
        yield named


@pytest.fixture
async def api(kafka: str, database_url: str, saga: AnySaga) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a running gateway."""
    async with running(kafka, database_url, saga) as client:
        yield client


@contextlib.asynccontextmanager
async def running(kafka: str, database_url: str, saga: AnySaga) -> AsyncGenerator[httpx.AsyncClient]:
    """Run a gateway as `tradesaga run` would: as a task that is cancelled."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        keys = keys_in(Path(folder))
        settings = Settings(kafka=kafka, database_url=SecretStr(database_url), http_port=port, request_keys=keys)
        async with serving(settings, saga) as client:
            yield client


@contextlib.asynccontextmanager
async def serving(settings: Settings, saga: AnySaga) -> AsyncGenerator[httpx.AsyncClient]:
    """Run a gateway with these settings."""
    service = asyncio.create_task(serve(settings, saga))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.http_port}", timeout=30) as client:
        try:
            await until(lambda: answers(client))
            yield client
        finally:
            service.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await service


async def answers(client: httpx.AsyncClient) -> bool:
    """Say whether the server is there."""
    try:
        return (await client.get("/openapi.json")).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def published(kafka: str, saga: AnySaga, count: int) -> list[Seen]:
    """Read the saga's events."""
    return read_topic(kafka, f"{saga.name}.events", count, 12)


async def test_start_is_accepted_once(api: httpx.AsyncClient, kafka: str, saga: AnySaga) -> None:
    """A new request is 202 and one fact; sent again it is 200 and no second fact, however its JSON is spelled."""
    wanted = order(idempotency_key="k1", quantity="1000.50")
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    first = await api.post("/v1/trades", json=wanted, headers={"traceparent": trace})
    again = await api.post("/v1/trades", content=json.dumps(wanted, indent=2).encode(), headers=JSON)
    known = saga_id(saga.name, "alice", "k1")
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json() == again.json() == {"saga_id": str(known), "state_url": f"/v1/sagas/{known}"}
    assert first.headers["location"] == f"/v1/sagas/{known}"
    (fact,) = await asyncio.to_thread(published, kafka, saga, 1)
    assert fact.key == str(known).encode()
    assert fact.headers["ce_type"] == f"{saga.name}.trade-requested.v1".encode()
    assert fact.headers["traceparent"].split(b"-")[1] == trace.split("-")[1].encode()
    assert json.loads(fact.value) == {**wanted, "quantity": "1000.5"}


async def test_other_request_under_the_same_key_is_refused(api: httpx.AsyncClient, kafka: str, saga: AnySaga) -> None:
    """409, and the refusal is a fact; the first request stands."""
    await api.post("/v1/trades", json=order(idempotency_key="k2"))
    other = await api.post("/v1/trades", json=order(idempotency_key="k2", quantity="7"))
    assert (other.status_code, other.json()["error"]["code"]) == (409, "key-taken")
    facts = await asyncio.to_thread(published, kafka, saga, 2)
    assert [fact.headers["ce_type"].decode().split(".")[1] for fact in facts] == ["trade-requested", "start-refused"]


@pytest.mark.parametrize("held", HELD)
async def test_a_start_is_the_same_across_the_upgrade_and_a_rotation(
    kafka: str, database_url: str, saga: AnySaga, tmp_path: Path, held: str
) -> None:
    """However its first hash was made: 200 with the same saga, 409 for another request under its key."""
    wanted = order(idempotency_key="k")
    async with session(database_url) as sql, sql.transaction():
        starts = [make_start(saga, TradeRequested.model_validate(wanted))]
        await accept(sql, saga, starts, keys=HELD[held], source="/test", now=0)
    settings = Settings(
        kafka=kafka,
        database_url=SecretStr(database_url),
        http_port=free_port(),
        request_keys=keys_in(tmp_path, ROTATED),
    )
    async with serving(settings, saga) as api:
        again = await api.post("/v1/trades", json=wanted)
        other = await api.post("/v1/trades", json={**wanted, "quantity": "7"})
        fresh = await api.post("/v1/trades", json=order(idempotency_key="fresh"))
    assert (again.status_code, other.status_code, fresh.status_code) == (200, 409, 202)
    async with session(database_url) as sql:
        rows = await sql.fetch("SELECT saga_id::text, request_hash FROM start_request")
    hashes = {row["saga_id"]: row["request_hash"] for row in rows}
    assert hashes[again.json()["saga_id"]] == HELD[held].hash(TradeRequested.model_validate(wanted))
    assert made_with(hashes[fresh.json()["saga_id"]]) == ROTATED.keys[0].id


BAD: list[tuple[bytes, int, str, str]] = [
    (b"", 422, "not-json", "Expecting value"),
    (b"\xff\xfe", 422, "not-json", "UTF-8"),
    (b"[" * 50 + b"]" * 50, 422, "not-json", "nested"),
    (b'{"account": "a", "account": "b"}', 422, "not-json", "'account' is repeated"),
    (b'"' + b'\\"' * 8000, 422, "not-json", "Unterminated string"),
    (b"{" + b",".join(b'"%d":1' % n for n in range(1900)) + b',"1899":1}', 422, "not-json", "'1899' is repeated"),
    (b"{" + b",".join(b'"%d":1' % n for n in range(1900)) + b"}", 422, "invalid", "fields or items are wrong"),
    (json.dumps(order(**{"x" * 16_000: 1})).encode(), 422, "invalid", "xxx: Extra inputs"),
    (json.dumps(order(quantity=float("nan"))).encode(), 422, "not-json", "NaN"),
    (json.dumps(order(quantity=1000)).encode(), 422, "invalid", "quantity"),
    (json.dumps(order(quantity="-1")).encode(), 422, "invalid", "quantity"),
    (json.dumps(order(quantity="0.000000001")).encode(), 422, "invalid", "quantity"),
    (json.dumps(order(account=None)).encode(), 422, "invalid", "account"),
    (json.dumps(order(limit_price="1.1")).encode(), 422, "invalid", "limit_price belongs to LIMIT"),
    (json.dumps(order(colour="red")).encode(), 422, "invalid", "colour"),
    (json.dumps(order(account="a" * 20_000)).encode(), 413, "too-large", "16384 bytes"),
]


@pytest.mark.parametrize("body", BAD, ids=[f"{row[2]} {row[3]}" for row in BAD])
async def test_bad_request_says_what_is_wrong(api: httpx.AsyncClient, body: tuple[bytes, int, str, str]) -> None:
    """Each bad body has a status, a code and a sentence; none of them is stored."""
    text, status, code, told = body
    answer = await api.post("/v1/trades", content=text, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert told in answer.json()["error"]["what"]
    assert (await api.get("/v1/sagas")).json() == {"sagas": [], "next": None}


async def test_body_without_a_length_is_bounded_too(api: httpx.AsyncClient) -> None:
    """A chunked body is refused as soon as it passes the limit, while its sender is still at it."""
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    host = f"{api.base_url.host}:{api.base_url.port}"
    head = f"POST /v1/trades HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n5000\r\n".encode() + b" " * 0x4800)
    assert (await reader.readline()).split()[1] == b"413"
    writer.close()


async def test_strangers_are_not_let_in(api: httpx.AsyncClient) -> None:
    """A foreign Host and a form's content type are refused: what a web page elsewhere could send."""
    foreign = await api.post("/v1/trades", json=order(), headers={"Host": "evil.example"})
    form = await api.post("/v1/trades", content=json.dumps(order()), headers={"Content-Type": "text/plain"})
    assert (foreign.status_code, form.status_code) == (421, 415)
    assert (await api.get("/v1/nothing")).json()["error"]["code"] == "not-found"
    assert (await api.put("/v1/trades")).status_code == 405


async def test_list_pages_and_filters(api: httpx.AsyncClient, database_url: str, saga: AnySaga) -> None:
    """Pages are newest first, join without gap or repeat, and the filters narrow them."""
    ids = await insert_sagas(database_url, saga, 25)
    seen: list[str] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        cursor = {"cursor": page["next"]} if page["next"] else {}
        page = (await api.get("/v1/sagas", params={"limit": 10, **cursor})).json()
        seen += [each["saga_id"] for each in page["sagas"]]
    assert seen == [str(each) for each in reversed(ids)]
    narrow = {"state": "COMPLETED", "account": "bob", "symbol": "GOOG/USD"}
    found = (await api.get("/v1/sagas", params=narrow)).json()["sagas"]
    assert [each["saga_id"] for each in found] == [str(ids[number]) for number in (24, 18, 12, 6, 0)]
    for wrong in ({"state": "GONE"}, {"limit": 0}, {"limit": 501}, {"cursor": "nonsense"}, {"account": "a\0"}):
        answer = await api.get("/v1/sagas", params=wrong)
        assert (answer.status_code, set(answer.json()["error"])) == (422, {"code", "what", "where", "do"})


async def test_one_saga_is_shown_with_its_events(api: httpx.AsyncClient, database_url: str, saga: AnySaga) -> None:
    """A known saga has its columns and events, an unknown one is 404, a broken id 422."""
    (known,) = await insert_sagas(database_url, saga, 1)
    shown = (await api.get(f"/v1/sagas/{known}")).json()
    assert (shown["saga_id"], shown["state"], shown["events"]) == (str(known), "COMPLETED", [])
    assert shown["context"]["trade-requested"]["account"] == "bob"
    assert (await api.get(f"/v1/sagas/{uuid4()}")).status_code == 404
    assert (await api.get("/v1/sagas/nonsense")).status_code == 422


async def insert_sagas(database_url: str, saga: AnySaga, count: int) -> list[UUID]:
    """Write checkpoints as the saga log would, one a second, of changing state, account and symbol."""
    ids = [uuid4() for _ in range(count)]
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    async with session(database_url) as sql:
        for number, each in enumerate(ids):
            context = {
                "trade-requested": order(
                    account="alice" if number % 2 else "bob", symbol="EUR/USD" if number % 3 else "GOOG/USD"
                )
            }
            await sql.execute(
                "INSERT INTO saga (saga_id, name, version, lane, state, current_step_index, completed_steps,"
                " compensated_steps, context, progress, seq, head, request_hash, created_at, updated_at)"
                " VALUES ($1, $2, 1, 1, $3, 0, '[]', '[]', $4, '', 1, '', '', $5, $5)",
                each, saga.name, "COMPLETED" if number % 6 == 0 else "ABORTED", json.dumps(context),
                begun + timedelta(seconds=number),
            )  # fmt: skip
    return ids


async def test_too_busy_is_told(kafka: str, database_url: str, saga: AnySaga, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more trades under way than allowed, or a saga log that is too far behind, starts are answered 429."""
    monkeypatch.setenv("TRADESAGA_GATEWAY_IN_FLIGHT", "2")
    monkeypatch.setenv("TRADESAGA_GATEWAY_LAG_SECONDS", "0.6")
    async with running(kafka, database_url, saga) as api:
        assert (await api.post("/v1/trades", json=order())).status_code == 202
        await until(lambda: is_busy(api, "behind"))
        async with session(database_url) as sql:
            await sql.execute(
                "INSERT INTO saga SELECT saga_id, $1, 1, 1, 'RUNNING', 0, '[]', '[]', '{}', '', 1, '', NULL, NULL, '',"
                " now(), now() FROM start_request",
                saga.name,
            )
            await until(lambda: is_accepted(api))
            await sql.execute(
                "INSERT INTO saga SELECT gen_random_uuid(), $1, 1, 1, 'RUNNING', 0, '[]', '[]', '{}', '', 1, '', NULL,"
                " NULL, '', now(), now() FROM generate_series(1, 2)",
                saga.name,
            )
        await until(lambda: is_busy(api, "in flight"))


async def is_busy(api: httpx.AsyncClient, why: str) -> bool:
    """Say whether a start is refused for this reason."""
    answer = await api.post("/v1/trades", json=order(account=None))
    return answer.status_code == 429 and why in answer.json()["error"]["what"] and "retry-after" in answer.headers


async def is_accepted(api: httpx.AsyncClient) -> bool:
    """Say whether a start is looked at."""
    return (await api.post("/v1/trades", json=order(account=None))).status_code == 422


async def test_database_down_is_told(kafka: str, database_url: str, saga: AnySaga) -> None:
    """While the database takes no connection, reading and starting are 503; afterwards all goes on."""
    name = database_url.rsplit("/", 1)[1]
    admin_url = f"{database_url.rsplit('/', 1)[0]}/postgres"
    async with running(kafka, database_url, saga) as api:
        assert (await api.post("/v1/trades", json=order())).status_code == 202
        sql = await asyncpg.connect(admin_url)
        await sql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            started = await api.post("/v1/trades", json=order())
            listed = await api.get("/v1/sagas")
        finally:
            await sql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await sql.close()
        assert (started.status_code, listed.status_code) == (503, 503)
        assert started.headers["retry-after"] == "1"
        assert (await api.post("/v1/trades", json=order())).status_code == 202


async def test_what_was_accepted_is_published_before_the_end(kafka: str, database_url: str, saga: AnySaga) -> None:
    """A hundred starts at once are each accepted once; the service ends only when all are on Kafka."""
    async with running(kafka, database_url, saga) as api:
        answers = await asyncio.gather(*(api.post("/v1/trades", json=order()) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    facts = await asyncio.to_thread(published, kafka, saga, 100)
    assert {fact.key.decode() for fact in facts} == {answer.json()["saga_id"] for answer in answers}
