"""`tradesaga audit replay` and `audit verify --topics` as a person runs them: what they print, and their exit codes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack, fresh_database
from tests.integration.consumers.saga_log.rig import Rig, open_rig
from tests.sagas import Filled, Held, OrderAsked, Placed, Settled
from tests.waiting import until
from tradesaga.consumers.audit.seal.sealer import Sealer
from tradesaga.infra.audit_log.clock_evidence import UNKNOWN
from tradesaga.infra.audit_log.note import public_path, read_signer, read_trusted, write_new
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.clock import format_time
from tradesaga.infra.errors import ExitCode
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.postgres.database import session
from tradesaga.schemas.topics import saga_topics

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

STORY = (OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled(), Settled())


class Desk:
    """A saga that has run, its folder with key and witness, and the command line."""

    def __init__(self, rig: Rig, home: Path) -> None:
        self.rig = rig
        self.home = home
        self.saga_id = uuid4()
        self.records: list[Record] = []

    async def work(self) -> None:
        """Run the saga, and seal it."""
        await ensure_topics(self.rig.kafka, saga_topics("trade"))
        async with self.rig.running():
            for event in STORY:
                self.records.append(await self.rig.say(self.saga_id, event))
                await asyncio.sleep(0.005)
            await self.rig.recorded(len(STORY))
        key = self.home / "audit.key"
        write_new(key, "test")
        async with session(self.rig.url) as sql:
            groups = {f"{self.rig.saga.name}-log": self.rig.topic("events")}
            witness = WitnessFile(self.home / "audit-witness.jsonl")
            sealer = Sealer(read_signer(key), read_trusted([public_path(key)]), "tradesaga", groups, witness)
            await sealer.open(sql)
            await sealer.seal(sql, UNKNOWN)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start `tradesaga audit ...`."""
        cluster = Cluster.parse(self.rig.kafka)
        environment = {
            **os.environ, "TRADESAGA_KAFKA": cluster.bootstrap, "TRADESAGA_TOPIC_PREFIX": cluster.prefix,
            "TRADESAGA_DATABASE_URL": self.rig.url,
            "TRADESAGA_HOME": str(self.home), "TRADESAGA_APP": "tests.named_saga", "TEST_SAGA": self.rig.saga.name,
        }  # fmt: skip
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tradesaga.infra.cli.entry", "audit", *arguments, env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *arguments: str) -> tuple[int, Any]:
        """Run it to its end; give its exit code, and what it printed as JSON, on stderr where it failed."""
        process = await self.start(*arguments, "--json")
        out, err = await process.communicate()
        return process.returncode or 0, json.loads(out or err)


@pytest.fixture(scope="module", params=["", "desk7"])
def prefix(request: pytest.FixtureRequest) -> str:
    """Return what the names of topics begin with on the cluster."""
    return request.param


@pytest.fixture(scope="module")
def url(stack: Stack, prefix: str) -> Iterator[str]:
    """Yield a database."""
    with fresh_database(stack) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def desk(stack: Stack, prefix: str, url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """Yield it."""
    async with open_rig(str(Cluster(stack.kafka, prefix)), url) as rig:
        desk = Desk(rig, tmp_path_factory.mktemp("desk"))
        await desk.work()
        yield desk


async def test_a_moment_is_shown(desk: Desk) -> None:
    """One saga with its steps and its context, as JSON."""
    at = format_time(desk.records[2].recorded_ms * 1_000_000)
    code, told = await desk.run("replay", "--saga", desk.rig.saga.name, "--at", at, "--id", str(desk.saga_id))
    assert (code, told["records"], told["later_records"], told["states"]) == (0, 3, 2, {"RUNNING": 1})
    assert [saga["saga_id"] for saga in told["shown"]] == [str(desk.saga_id)]
    assert told["shown"][0]["steps"] == {"hold": "done", "place": "done", "fill": "open", "settle": "open"}
    assert list(told["shown"][0]["context"]) == ["order-asked", "held", "placed"]


@pytest.mark.parametrize(
    ("arguments", "code", "slug"),
    [
        (("--at", "yesterday"), ExitCode.USAGE, "time-invalid"),
        (("--at", "2026-01-01T00:00:00Z", "--id", str(UUID(int=5))), ExitCode.NOT_FOUND, "not-found"),
        (("--offsets", "nonsense"), ExitCode.USAGE, "offsets-invalid"),
        (("--follow", "--from", "2026-01-01T00:00:00Z"), ExitCode.USAGE, "usage"),
        (("--resume", "/"), ExitCode.REFUSED, "resume-refused"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_a_sentence(
    desk: Desk, arguments: tuple[str, ...], code: ExitCode, slug: str
) -> None:
    """With the exit code that scripts know it by."""
    found, told = await desk.run("replay", "--saga", desk.rig.saga.name, *arguments)
    assert (found, told["error"]["code"]) == (code, slug)


async def test_a_comparison_is_resumed(desk: Desk, tmp_path: Path) -> None:
    """The second time nothing is read again, and the outcome is the same."""
    arguments = ("replay", "--saga", desk.rig.saga.name, "--resume", str(tmp_path / "file"))
    first, second = await desk.run(*arguments), await desk.run(*arguments)
    assert first == second
    assert (first[0], first[1]["equal"], first[1]["records"]) == (0, True, len(STORY))


async def test_topics_are_verified_without_a_database(desk: Desk) -> None:
    """By the witness, and the topic of checkpoints."""
    code, told = await desk.run("verify", "--topics", "--no-database", "--saga", desk.rig.saga.name)
    assert (code, told["unaltered"], told["complete"], told["rows"]) == (0, True, True, len(STORY))


async def test_topics_are_verified_with_the_database(desk: Desk) -> None:
    """Each record of the topics against its row, whatever the cluster calls the topics."""
    code, told = await desk.run("verify", "--topics", "--saga", desk.rig.saga.name)
    assert (code, told["unaltered"], told["complete"], told["rows"]) == (0, True, True, len(STORY))


async def test_following_ends_when_something_differs_or_somebody_ends_it(desk: Desk, tmp_path: Path) -> None:
    """Exit 0 by SIGTERM while all is well, exit 1 with both sides once it is not."""
    path = tmp_path / "file"
    arguments = ("replay", "--saga", desk.rig.saga.name, "--follow", "--resume", str(path), "--json")
    process = await desk.start(*arguments)

    async def has_begun() -> bool:
        return path.exists() and path.with_name("file-wal").exists() and path.with_name("file-wal").stat().st_size > 0

    await until(has_begun, 40)
    await asyncio.sleep(1)
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()
    assert (process.returncode, json.loads(out)["equal"]) == (0, True)

    async with session(desk.rig.url) as sql:
        await sql.execute("UPDATE saga SET state = 'ABORTED' WHERE saga_id = $1", desk.saga_id)
        process = await desk.start(*arguments)
        out, _ = await process.communicate()
        await sql.execute("UPDATE saga SET state = 'COMPLETED' WHERE saga_id = $1", desk.saga_id)
    told = json.loads(out)["differences"]
    assert process.returncode == ExitCode.CHECK_FAILED
    assert [(each["field"], each["topics"], each["database"]) for each in told] == [("status", "COMPLETED", "ABORTED")]
