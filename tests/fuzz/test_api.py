# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The HTTP API under schemathesis, by its own OpenAPI document, and under bodies that no document foresees."""

import asyncio
import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from pydantic import SecretStr
from schemathesis import GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi import checks

from tests.conftest import RUN_FOLDER, Stack
from tests.doors import order, trade_of_its_own
from tests.fuzz.mutation import HOSTILE, Mutator
from tests.keys import keys_in
from tests.waiting import until
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.settings import Settings
from tradesaga.producers.gateway.service import serve
from tradesaga.sagas.definition import AnySaga

pytestmark = pytest.mark.stack
EXAMPLES = 60
BODIES = 250
UNHURRIED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
KNOWN = {200, 202, 409, 413, 415, 421, 422, 429, 503}


@contextmanager
def gateway(stack: Stack, url: str, saga: AnySaga) -> Generator[str]:
    """Run the gateway in a thread of its own, for clients that block."""
    loop, port = asyncio.new_event_loop(), free_port()
    keys = keys_in(Path(os.environ[RUN_FOLDER]))
    settings = Settings(kafka=stack.kafka, database_url=SecretStr(url), http_port=port, request_keys=keys)
    task = loop.create_task(serve(settings, saga))

    async def run() -> None:
        await asyncio.wait([task])

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    base = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(until(lambda: _answers(base)))
        yield base
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(60)
        loop.close()


async def _answers(base: str) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{base}/openapi.json")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def base(stack: Stack, module_database_url: str) -> Iterator[str]:
    """Give the address of a gateway of this module's own."""
    with pytest.MonkeyPatch.context() as environment, trade_of_its_own(stack.kafka) as saga:
        environment.setenv("TRADESAGA_GATEWAY_LAG_SECONDS", "600")  # no saga log runs here
        with gateway(stack, module_database_url, saga) as address:
            yield address


@pytest.fixture(scope="module")
def schema(base: str) -> BaseSchema:
    """Give the document, with cases good and bad."""
    loaded = schemathesis.openapi.from_url(f"{base}/openapi.json")
    loaded.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    return loaded


OPERATIONS = [("/v1/trades", "POST"), ("/v1/sagas", "GET"), ("/v1/sagas/{saga_id}", "GET")]


# The gateway runs in a thread of this process: its clients' delays draw from `random` while an example is drawn.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each[0])
def test_every_answer_is_in_the_document(schema: BaseSchema, operation: tuple[str, str]) -> None:
    """No server error, no undocumented status or shape; what the document forbids is refused."""
    path, method = operation
    strategy: Any = schema[path][method].as_strategy()
    # A limit price that a market order must not have is more than a schema can say.
    excluded = [checks.positive_data_acceptance]

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=UNHURRIED)
    @given(case=strategy)
    def check(case: Any) -> None:
        case.call_and_validate(excluded_checks=excluded)

    check()


def test_any_body_is_answered(base: str) -> None:
    """Hundreds of spoilt bodies: each has a known status, and an error has code, sentence, place and advice."""
    mutator = Mutator(Random(5), {})
    seen: dict[int, int] = {}
    with httpx.Client(base_url=base, timeout=30) as client:
        for number in range(BODIES):
            good = httpx.Request("POST", base, json=order(idempotency_key=f"k{number % 50}")).content
            body = HOSTILE[number] if number < len(HOSTILE) else mutator.bytes(good)
            answer = client.post("/v1/trades", content=body, headers={"Content-Type": "application/json"})
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            assert answer.status_code in KNOWN, (body[:200], answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"code", "what", "where", "do"}
        assert client.get("/v1/sagas").status_code == 200
    assert seen[422] > BODIES // 2, seen
