"""Offsets at which Kafka gives nothing to anybody: none is missing there, and a record that is missing is found."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from sys import executable
from uuid import UUID

import asyncpg
import pytest

from tests.integration.consumers.audit.retention.rig import RetentionRig
from tests.integration.consumers.audit.rig import TOPIC, AuditRig
from tests.integration.consumers.saga_log.rig import PARTITIONS, Rig, open_rig, ready
from tests.integration.infra.kafka.test_transactions import transaction
from tests.sagas import Filled, Held, OrderAsked, Placed, Settled, headers_of, new_saga
from tests.waiting import until
from tradesaga.consumers.audit.export.command import Maker
from tradesaga.consumers.audit.export.folder import FreshFolder
from tradesaga.consumers.audit.export.manifest import Query
from tradesaga.consumers.audit.export.verify import Keys, verify_export
from tradesaga.consumers.audit.log.log_check import Report, Verdict
from tradesaga.consumers.audit.log.retired_ranges import read_saga_heads
from tradesaga.consumers.audit.log.rows import read_saga_rows, snapshot
from tradesaga.consumers.audit.replay.comparison import Comparison
from tradesaga.consumers.audit.replay.request import Range
from tradesaga.consumers.audit.replay.state import Identity, ReplayState
from tradesaga.consumers.audit.report.model import Proof
from tradesaga.consumers.audit.report.seal_finder import SealFinder
from tradesaga.consumers.audit.report.timeline_builder import arrange, rehash
from tradesaga.consumers.audit.seal.sealer import Sealer
from tradesaga.consumers.audit.verify.database import verify_database
from tradesaga.consumers.audit.verify.topics import TopicVerifier
from tradesaga.infra.audit_log.clock_evidence import UNKNOWN, ClockTier
from tradesaga.infra.audit_log.note import Signer, Verifier
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.postgres.database import Session

INDEPENDENT = Path(__file__).parents[1] / "export" / "independent.py"
STORY = (OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled(), Settled())


@pytest.fixture
async def audit(database_url: str, tmp_path: Path) -> AsyncIterator[AuditRig]:
    """Give a log without Kafka, in whose partition 0 a gap lies behind the second saga's records."""
    sql = await asyncpg.connect(database_url)
    try:
        rig = AuditRig(sql, tmp_path)
        await rig.record(3)
        rig.skip(0, 3)
        await rig.record(3)
        yield rig
    finally:
        await sql.close()


async def test_a_gap_that_a_transaction_left_breaks_no_verdict(audit: AuditRig) -> None:
    """The row behind it says how many offsets were skipped; sealed or not, alone or behind what was sealed."""
    assert [(each.verdict, each.what) for each in (await audit.verify()).findings] == [
        (Verdict.INCOMPLETE, "no checkpoint covers its 10 records") for _ in range(3)
    ]
    await audit.seal()
    assert (await audit.verify()).findings == []
    audit.skip(0, 1)
    await audit.record(3, STORY[:1])
    assert (await audit.verify()).findings == []


@pytest.mark.parametrize("offset", [1, 4, 8, 9])
async def test_a_row_that_is_deleted_before_it_is_sealed_is_found(audit: AuditRig, offset: int) -> None:
    """Before the gap, behind it, and elsewhere; `complete` no longer holds, and the place is named."""
    await audit.attack('DELETE FROM saga_event WHERE topic = $1 AND partition = 0 AND "offset" = $2', TOPIC, offset)
    await audit.seal()
    report = await audit.verify()
    assert not report.holds(Verdict.INCOMPLETE)
    assert any(f"{TOPIC}[0] offset {5 if offset == 8 else offset}" == each.where for each in report.findings)


@pytest.mark.parametrize(("offset", "skipped"), [(9, 1), (8, None), (8, 4), (8, 2), (8, 0), (8, -1)])
async def test_a_changed_number_of_skipped_offsets_is_found(audit: AuditRig, offset: int, skipped: int | None) -> None:
    """The hash covers it, and only one spelling of it."""
    where = 'WHERE topic = $1 AND partition = 0 AND "offset" = $2'
    if offset == 9:
        await audit.attack('DELETE FROM saga_event WHERE topic = $1 AND partition = 0 AND "offset" = $2', TOPIC, 8)
    await audit.attack(f"UPDATE saga_event SET skipped = $3 {where}", TOPIC, offset, skipped)
    await audit.seal()
    report = await audit.verify()
    assert not report.holds(Verdict.ALTERED)


async def test_rows_of_the_older_format_have_no_gaps(audit: AuditRig) -> None:
    """Their hashes do not cover it, so nothing is believed of it."""
    audit.form = 1
    audit.skip(1, 2)
    await audit.record(3)
    report = await audit.verify()
    assert any(each.what == "offsets 10 to 11 are missing" for each in report.findings)


async def test_a_gap_between_the_formats_is_no_missing_record(database_url: str, tmp_path: Path) -> None:
    """The first row of the newer format says what lies between it and the last one of the older."""
    sql = await asyncpg.connect(database_url)
    try:
        rig = AuditRig(sql, tmp_path, form=1)
        await rig.record(3)
        await rig.seal()
        rig.form = 2
        rig.skip(0, 2)
        await rig.record(3)
        await rig.seal()
        assert (await rig.verify()).findings == []
        await rig.attack('DELETE FROM saga_event WHERE partition = 0 AND "offset" = 4')
        assert "offsets 4 to 4 are missing" in [each.what for each in (await rig.verify()).findings]
    finally:
        await sql.close()


async def test_months_with_gaps_are_retired_and_the_rest_still_proves_itself(database_url: str, tmp_path: Path) -> None:
    """Gaps within a month, and between what goes and what stays; each record that stays is proven at its leaf."""
    sql = await asyncpg.connect(database_url)
    try:
        rig = RetentionRig(sql, tmp_path)
        trusted = {rig.signer.verifier.id: rig.signer.verifier}
        await rig.make_months()
        sagas: list[UUID] = []
        for month in (1, 2, 3):
            await rig.month(month)
            rig.skip(0, 2)
            sagas = await rig.month(month)
            rig.skip(0, 1)
        assert await _proofs(sql, trusted, sagas[0]) == {Proof.PROVEN}
        for _ in range(2):
            await rig.retire()
            assert (await rig.verify()).findings == []
            assert await _proofs(sql, trusted, sagas[0]) == {Proof.PROVEN}
    finally:
        await sql.close()


class Log:
    """A saga log on real servers, all of whose sagas are of partition 0, with a sealer."""

    def __init__(self, rig: Rig, sql: Session, folder: Path) -> None:
        self.rig = rig
        self.sql = sql
        self.signer = Signer.generate("test")
        self.trusted = {self.signer.verifier.id: self.signer.verifier}
        self.witness = WitnessFile(folder / "witness.jsonl")
        self.topic = rig.topic("events")

    async def tell(self) -> UUID:
        """Publish the story of a saga."""
        saga_id = new_saga(0, PARTITIONS)
        for event in STORY:
            await self.rig.say(saga_id, event)
        return saga_id

    def tell_in_transaction(self, *, commits: bool) -> UUID:
        """Publish the story of a saga in one transaction, and end it."""
        saga_id = new_saga(0, PARTITIONS)
        with transaction(self.rig.kafka) as client:
            for event in STORY:
                headers: list[tuple[str, str | bytes | None]] = [*headers_of(self.rig.saga, event, saga_id)]
                client.produce(self.topic, key=str(saga_id), value=event.to_wire(), headers=headers)
            client.flush(20)
            client.commit_transaction(20) if commits else client.abort_transaction(20)
        return saga_id

    async def seal(self) -> None:
        """Seal what is there."""
        sealer = Sealer(self.signer, self.trusted, "test", {f"{self.rig.saga.name}-log": self.topic}, self.witness)
        await sealer.open(self.sql)
        await sealer.seal(self.sql, UNKNOWN)

    async def verify(self) -> Report:
        """Verify the database."""
        return await verify_database(self.sql, "test", self.trusted, [self.witness], lambda _: None)

    async def passed(self) -> bool:
        """Return whether the saga log has passed all that the topic has."""
        async with TopicReader(self.rig.kafka) as replay:
            ((_, end),) = (await replay.ranges([(self.topic, 0)])).values()
        lane = 'SELECT next_offset FROM lane WHERE "group" = $1 AND topic = $2 AND partition = 0'
        return await self.sql.fetchval(lane, f"{self.rig.saga.name}-log", self.topic) == end


@pytest.fixture
async def log(kafka: str, database_url: str, tmp_path: Path) -> AsyncIterator[Log]:
    """Give a saga log of its own."""
    sql = await asyncpg.connect(database_url)
    try:
        async with open_rig(kafka, database_url) as rig:
            yield Log(rig, sql, tmp_path)
    finally:
        await sql.close()


async def told(log: Log) -> list[UUID]:
    """Tell sagas, committed and aborted transactions between them, over two restarts, and seal."""
    sagas: list[UUID] = []
    for _ in range(3):  # what a session has passed last, and what it finds first, are a transaction's
        sagas.append(log.tell_in_transaction(commits=True))
        log.tell_in_transaction(commits=False)
        async with log.rig.running() as worker:
            await ready(worker)
            sagas.append(await log.tell())
            log.tell_in_transaction(commits=False)
            sagas.append(await log.tell())
            sagas.append(log.tell_in_transaction(commits=True))
            log.tell_in_transaction(commits=False)
            await log.rig.recorded(len(sagas) * len(STORY))
            await until(log.passed)
        await log.seal()
    return sagas


@pytest.mark.stack
async def test_transactions_on_the_topic_break_no_verdict(log: Log, tmp_path: Path) -> None:
    """Of the database, of the topics, of a replay from any offset, of an export, of each record's proof."""
    sagas = await told(log)
    # Brokers write markers a moment after the end of a transaction, so that gaps vary; together they are all there is.
    skips = await log.sql.fetch('SELECT skipped FROM saga_event WHERE skipped IS NOT NULL ORDER BY "offset"')
    size = await log.sql.fetchval('SELECT max("offset") + 1 - count(*) FROM saga_event')
    assert sum(row["skipped"] for row in skips) == size > 40
    assert len(skips) >= 6
    assert ((await log.verify()).findings, (await log.verify()).unsealed) == ([], 0)
    async with TopicReader(log.rig.kafka) as topics:
        report = await TopicVerifier(
            topics, [log.rig.rules], "test", "here", log.trusted, lambda: _notes(log), alone=True
        ).run()
        assert report.findings == []
        end = await log.sql.fetchval('SELECT max("offset") + 1 FROM saga_event')
        for begin in (0, *range(3, end, 4)):
            assert await _differing(log, topics, begin) == 0, begin
    await _check_export(log, tmp_path)
    for saga_id in sagas:
        assert await _proofs(log.sql, log.trusted, saga_id) == {Proof.PROVEN}


async def _notes(log: Log) -> dict[str, Sequence[str]]:
    return {"witness": [each.note for each in log.witness.read()]}


async def _differing(log: Log, topics: TopicReader, begin: int) -> int:
    asked = Range(offsets={(log.topic, 0): (begin, -1)}) if begin else Range()
    with ReplayState(None, Identity.of(log.rig.rules, "a cluster", "comparison"), log.rig.rules) as replay_state:
        return (await Comparison(log.sql, topics, log.rig.rules, replay_state, asked=asked).run()).differing


async def _check_export(log: Log, folder: Path) -> None:
    maker = Maker(log.signer, log.trusted, "test", {log.rig.saga.name: log.rig.saga}, {})
    path = folder / "export"
    with FreshFolder(path) as fresh:
        manifest = await maker.make(log.sql, Query(), fresh, lambda _: None)
    report = verify_export(path, Keys(log.trusted, log.trusted), [], lambda _, __: None)
    assert (report.findings, report.rows) == ([], manifest.records)
    assert all(not each.gaps for each in manifest.logs)
    key = str(log.signer.verifier)
    ran = await asyncio.create_subprocess_exec(executable, str(INDEPENDENT), str(path), key, key)
    assert await ran.wait() == 0


async def _proofs(sql: Session, trusted: Mapping[bytes, Verifier], saga_id: UUID) -> set[Proof]:
    async with snapshot(sql):
        rows = arrange(await read_saga_rows(sql, saga_id))
        hashes = rehash(rows, await read_saga_heads(sql, saga_id))
        sealing = SealFinder(sql, "test", trusted, ClockTier.parse("1 ms"))
        seals = await sealing.look([(row.position, found) for row, found in zip(rows, hashes, strict=True)])
    return {seal.proof for seal in seals.values()}


@pytest.mark.stack
async def test_a_last_row_that_is_deleted_during_a_restart_is_no_gap(log: Log) -> None:
    """The lane knows which record it has read last, whatever has become of its row."""
    async with log.rig.running() as worker:
        await ready(worker)
        await log.tell()
        await log.rig.recorded(len(STORY))
        log.tell_in_transaction(commits=False)
        await until(log.passed)
    await log.sql.execute("SET session_replication_role = replica")
    await log.sql.execute('DELETE FROM saga_event WHERE "offset" = 4')
    await log.sql.execute("SET session_replication_role = origin")
    async with log.rig.running() as worker:
        await ready(worker)
        await log.tell()
        await log.rig.recorded(2 * len(STORY) - 1)
    await log.seal()
    report = await log.verify()
    assert [(each.where, each.what) for each in report.findings] == [
        (f"{log.topic}[0] offset 4", "offsets 4 to 4 are missing")
    ]
