"""The audit commands against a system that does not stand still: records arrive and are sealed all the while."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.command import run_audit
from tests.integration.consumers.audit.retention.rig import RetentionRig
from tests.integration.consumers.audit.rig import STORY
from tests.integration.consumers.saga_log.rig import Rig, open_rig, ready
from tests.waiting import until
from tradesaga.consumers.audit.log.action_log import ActionLog
from tradesaga.consumers.audit.retention.legal_holds import Scope
from tradesaga.consumers.audit.seal.sealer import Sealer
from tradesaga.consumers.audit.verify.database import verify_database
from tradesaga.infra.audit_log.clock_evidence import UNKNOWN
from tradesaga.infra.audit_log.note import public_path, read_signer, read_trusted, write_new
from tradesaga.infra.audit_log.witness import WitnessEntry, WitnessFile
from tradesaga.infra.postgres.database import session

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]

ROUNDS = 2
"""Times that each command is run meanwhile."""
PAUSE = 0.01
"""Seconds between two seals: a hundred times as many as there are usually, so that each command meets some."""


@dataclass
class Busy:
    """A saga log that works, somebody who publishes facts, and a sealer, all at once."""

    rig: Rig
    folder: Path
    seals: int = 0
    told: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[UUID]:
        """Yield the id of a saga that has ended while other sagas go on."""
        async with self.rig.running() as worker:
            await ready(worker)
            first = await self._tell()
            tasks = [asyncio.create_task(each) for each in (self._talk(), self._seal())]
            try:
                await until(self._has_sealed)
                yield first
            finally:
                for task in tasks:
                    task.cancel()
                for ended in await asyncio.gather(*tasks, return_exceptions=True):
                    assert isinstance(ended, asyncio.CancelledError), ended

    async def _has_sealed(self) -> bool:
        return self.seals > 2

    async def _tell(self) -> UUID:
        saga_id = uuid4()
        for event in STORY:
            await self.rig.say(saga_id, event)
            self.told += 1
        return saga_id

    async def _talk(self) -> None:
        while True:
            await self._tell()

    async def _seal(self) -> None:
        """Seal again and again; only every third time the topic gets the checkpoints, as if Kafka were away often."""
        key = self.folder / "audit.key"
        groups = {f"{self.rig.saga.name}-log": self.rig.topic("events")}
        witness = WitnessFile(self.folder / "witness.jsonl")
        async with session(self.rig.url) as sql:
            sealer = Sealer(read_signer(key), read_trusted([public_path(key)]), "test", groups, witness)
            await sealer.open(sql)
            while True:
                for each in await sealer.seal(sql, UNKNOWN):
                    self.seals += 1
                    if self.seals % 3 == 0:
                        topic = self.rig.topic("checkpoints")
                        await self.rig.put(topic, str(each.origin).encode(), each.note.encode(), [])
                await asyncio.sleep(PAUSE)

    async def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run `tradesaga audit ... --json` beside it all: its exit code, and what it prints."""
        rig = self.rig
        return await asyncio.to_thread(run_audit, rig.kafka, rig.url, rig.saga.name, self.folder, *arguments)


@pytest_asyncio.fixture
async def busy(kafka: str, database_url: str, tmp_path: Path) -> AsyncIterator[Busy]:
    """Give a system that is ready to work, with a key."""
    write_new(tmp_path / "audit.key", "test")
    async with open_rig(kafka, database_url) as rig:
        yield Busy(rig, tmp_path)


async def test_a_healthy_log_verifies_at_any_moment(busy: Busy) -> None:
    """The database, the topics, with and without the database, an export, a replay, and the story of a saga."""
    async with busy.running() as saga_id:
        before, saga = busy.seals, ("--saga", busy.rig.saga.name)
        for number in range(ROUNDS):
            folder = str(busy.folder / f"export-{number}")
            for way in (
                ("verify",),
                ("verify", "--topics", *saga),
                ("verify", "--topics", "--no-database", *saga),
                ("export", "--out", folder),
                ("verify", "--export", folder),
                ("replay", *saga),
            ):
                code, report = await busy.run(*way)
                assert report.get("findings", []) == report.get("differences", []) == [], way
                assert code == 0, (way, report)
            assert (await busy.run("show", str(saga_id)))[0] == 0
        assert busy.seals > before + ROUNDS


class LateWitness(WitnessFile):
    """A witness before each reading of which something happens, whatever has been read elsewhere by then."""

    def __init__(self, path: Path, happen: Callable[[], Coroutine[Any, Any, object]]) -> None:
        super().__init__(path)
        self._happen = happen

    def read(self) -> Iterator[WitnessEntry]:
        """Let it happen, and read."""
        self._wait()
        yield from super().read()

    def last(self) -> dict[str, WitnessEntry]:
        """Let it happen, and read."""
        self._wait()
        return super().last()

    def _wait(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(self._happen())).result()


@dataclass
class Beside:
    """What another process does with the same database, witness and key."""

    rig: RetentionRig
    url: str

    async def seal(self) -> None:
        """Record and seal."""
        async with self._rig() as rig:
            await rig.record(3)
            assert await rig.seal() == 3

    async def hold(self) -> None:
        """Set a hold."""
        async with self._rig() as rig:
            await rig.hold(Scope.ACCOUNT, "A")

    @asynccontextmanager
    async def _rig(self) -> AsyncGenerator[RetentionRig]:
        sql = await asyncpg.connect(self.url)
        try:
            yield RetentionRig(sql, self.rig.folder, self.rig.signer, self.rig.known, self.rig.ends)
        finally:
            await sql.close()


@pytest_asyncio.fixture
async def beside(database_url: str, tmp_path: Path) -> AsyncIterator[Beside]:
    """Give a sealed log of some months of 2019, and somebody who works on it beside the test."""
    sql = await asyncpg.connect(database_url, server_settings={"timezone": "UTC"})
    rig = RetentionRig(sql, tmp_path)
    await rig.make_months()
    for month in (1, 2, 3):
        await rig.month(month, sagas=9)
    yield Beside(rig, database_url)
    await sql.close()


async def test_what_is_sealed_or_decided_meanwhile_is_not_missed_in_the_database(beside: Beside) -> None:
    """Whatever was read before the witness: what that has got since is in the database that is read after it."""
    rig, key = beside.rig, beside.rig.signer.verifier
    for happen in (beside.seal, beside.hold):
        witness = LateWitness(rig.witness.path, happen)
        report = await verify_database(rig.sql, "test", {key.id: key}, [witness], lambda _: None)
        assert report.findings == []
    log = ActionLog(rig.sql, "test", {key.id: key}, LateWitness(rig.witness.path, beside.hold))
    assert len(await log.read()) == 2


async def test_a_healthy_log_verifies_while_old_records_are_retired(beside: Beside, database_url: str) -> None:
    """Also between the commit of an operator's action and the moment at which the witness gets it."""

    async def work() -> None:
        for month in (1, 2):
            await beside.rig.month(3)
            await beside.rig.retire(month)

    sql = await asyncpg.connect(database_url)
    reader = RetentionRig(sql, beside.rig.folder, beside.rig.signer)
    working = asyncio.create_task(work())
    looks = 0
    while not working.done():
        assert (await reader.verify()).findings == []
        await reader.log.read()
        looks += 1
    await working
    report = await reader.verify()
    assert (report.findings, len(report.retired)) == ([], 2)
    assert looks
    await sql.close()
