# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false
"""The topics against what was signed of them: clean, altered, cut, with gaps, made anew, another cluster's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from confluent_kafka import Producer as OtherProducer
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from tests.broker import delete_topics
from tests.conftest import Stack
from tests.integration.consumers.saga_log.rig import PARTITIONS, Rig, open_rig
from tests.sagas import Filled, Held, HoldRefused, OrderAsked, Placed, Settled, new_saga
from tests.waiting import until
from tradesaga.consumers.audit.log.checkpoints import read_stored_notes
from tradesaga.consumers.audit.log.log_check import Report, Verdict
from tradesaga.consumers.audit.seal.sealer import Sealer
from tradesaga.consumers.audit.verify.topics import TopicVerifier
from tradesaga.infra.audit_log.clock_evidence import UNKNOWN
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.topic_reader import TopicReader, TopicRewriter
from tradesaga.infra.kafka.topics import read_removals
from tradesaga.infra.postgres.database import session

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

_WRITERS_TIMES = {"retention.ms": "-1", "message.timestamp.type": "CreateTime"}
STORIES = [
    (OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled(), Settled()),
    (Held(), OrderAsked(idempotency_key="k", account="A"), HoldRefused()),
]


@dataclass
class SealedTopic:
    """A saga's topic that was sealed in two steps, and the records that it then had."""

    rig: Rig
    witness: WitnessFile
    signer: Signer = field(default_factory=lambda: Signer.generate("test"))
    records: list[Record] = field(default_factory=list[Record])

    @property
    def topic(self) -> str:
        """Name it."""
        return self.rig.topic("events")

    async def tell(self) -> None:
        """Tell stories, poison and strays among them, and have them taken in and sealed, twice."""
        for _ in range(2):
            async with self.rig.running():
                await self._say()
                await self.rig.recorded(await self._length())
            await self._seal()
        async with TopicReader(self.rig.kafka) as topics:
            for place, (begin, end) in (await self._held(topics)).items():
                self.records += [record async for batch in topics.read(place, begin, end) for record in batch]

    async def _say(self) -> None:
        for number, story in enumerate(STORIES * PARTITIONS):
            saga_id = new_saga(number % PARTITIONS, PARTITIONS)
            for event in story:
                await self.rig.say(saga_id, event)
        last = await self.rig.say(uuid4(), STORIES[0][0])
        await self.rig.put(last.topic, last.key or b"", b"{not json", list(last.headers))
        await self.rig.put(last.topic, b"nobody", b"{}", [])

    async def _length(self) -> int:
        async with TopicReader(self.rig.kafka) as topics:
            return sum(end for _, end in (await self._held(topics)).values())

    async def _held(self, topics: TopicReader) -> dict[tuple[str, int], tuple[int, int]]:
        return await topics.ranges([(self.topic, number) for number in range(PARTITIONS)])

    async def _seal(self) -> None:
        trusted = {self.signer.verifier.id: self.signer.verifier}
        async with session(self.rig.url) as sql:
            sealer = Sealer(self.signer, trusted, "test", {f"{self.rig.saga.name}-log": self.topic}, self.witness)
            await sealer.open(sql)
            assert await sealer.seal(sql, UNKNOWN)

    async def verify(self, log_id: str = "test", signer: Signer | None = None) -> Report:
        """Verify the topic as it is now, with the checkpoints of the database and of the witness."""
        key = (signer or self.signer).verifier
        async with TopicReader(self.rig.kafka) as topics:
            return await TopicVerifier(
                topics, [self.rig.rules], log_id, "here", {key.id: key}, self._sources,
                noted=[(self.rig.topic("checkpoints"), number) for number in range(PARTITIONS)],
                removals=await read_removals(self.rig.kafka, [self.topic]),
            ).run()  # fmt: skip

    async def _sources(self) -> dict[str, list[str]]:
        sql = await asyncpg.connect(self.rig.url)
        try:
            seen = [each.note for each in self.witness.read()]
            return {"witness": seen, "database": [note for *_, note in await read_stored_notes(sql)]}
        finally:
            await sql.close()

    async def put(self, records: list[Record], *, exact: bool = False) -> None:
        """Have a topic of that name with these records and no others, as somebody with every right may."""
        await asyncio.to_thread(self._make_anew)
        async with TopicRewriter(self.rig.kafka) as writer:
            for record in records:
                await writer.write(record, exact=exact)
            await writer.drain()

    def _make_anew(self) -> None:
        delete_topics(self.rig.kafka, [self.topic])
        admin = AdminClient({"bootstrap.servers": self.rig.kafka})
        admin.create_topics([NewTopic(self.topic, PARTITIONS, 1, config=_WRITERS_TIMES)])[self.topic].result()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sealed(
    stack: Stack, module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SealedTopic]:
    """Give a sealed topic; tests that change it put it back."""
    async with open_rig(stack.kafka, module_database_url) as rig:
        sealed = SealedTopic(rig, WitnessFile(tmp_path_factory.mktemp("audit") / "witness.jsonl"))
        await sealed.tell()
        yield sealed


def told(report: Report) -> str:
    """Give all findings as one text."""
    return "\n".join(f"{each.verdict} {each.where}: {each.what}" for each in report.findings)


async def test_a_clean_topic_is_unaltered_and_complete(sealed: SealedTopic) -> None:
    """Its hashes are those of the audit log's rows, unreadable, stray and early records included."""
    report = await sealed.verify()
    assert told(report) == ""
    assert report.rows == len(sealed.records) == await sealed.rig.pool.fetchval("SELECT count(*) FROM saga_event")
    assert (report.logs, report.unsealed, report.unreadable) == (PARTITIONS, 0, 2)
    assert report.checkpoints == 2 * PARTITIONS


async def test_a_copy_of_the_topic_with_its_times_is_as_good(sealed: SealedTopic) -> None:
    """Byte for byte, at the same offsets."""
    await sealed.put(sealed.records, exact=True)
    assert told(await sealed.verify()) == ""


def _change_value(records: list[Record]) -> list[Record]:
    return [
        _with_flipped_byte(record) if record.offset == 3 and record.partition == 1 else record for record in records
    ]


def _with_flipped_byte(record: Record) -> Record:
    return record._replace(value=bytes([record.value[0] ^ 1]) + record.value[1:])


def _change_time(records: list[Record]) -> list[Record]:
    return [each._replace(recorded_ms=each.recorded_ms - 1) if each.offset == 3 else each for each in records]


def _change_key(records: list[Record]) -> list[Record]:
    return [each._replace(key=str(uuid4()).encode()) if each.offset == 3 else each for each in records]


def _swap(records: list[Record]) -> list[Record]:
    return [*records[1::-1], *records[2:]]


def _cut(records: list[Record]) -> list[Record]:
    return records[:-3]


def _drop_one(records: list[Record]) -> list[Record]:
    return [each for each in records if (each.partition, each.offset) != (1, 2)]


ATTACKS: dict[str, tuple[Callable[[list[Record]], list[Record]], set[Verdict]]] = {
    "value": (_change_value, {Verdict.ALTERED}),
    "time": (_change_time, {Verdict.ALTERED}),
    "key": (_change_key, {Verdict.ALTERED}),
    "swapped": (_swap, {Verdict.ALTERED}),
    "cut": (_cut, {Verdict.INCOMPLETE}),
    "one record dropped, the others moved up": (_drop_one, {Verdict.ALTERED, Verdict.INCOMPLETE}),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_altered_copy_is_found(sealed: SealedTopic, attack: str) -> None:
    """By one who writes the topic anew, times and offsets included."""
    change, broken = ATTACKS[attack]
    await sealed.put(change(sealed.records))
    report = await sealed.verify()
    assert {verdict for verdict in Verdict if not report.holds(verdict)} >= broken, told(report)


async def test_a_topic_that_was_made_anew_or_is_another_cluster_s_is_named(sealed: SealedTopic) -> None:
    """Of the same name, with other records, or with none."""
    others = [each._replace(recorded_ms=each.recorded_ms + 5000) for each in sealed.records]
    for records in (others, []):
        await sealed.put(records)
        report = await sealed.verify()
        assert not report.holds(Verdict.INCOMPLETE)
        assert told(report).count("another cluster's topic") == PARTITIONS


async def test_removed_records_are_a_gap(sealed: SealedTopic) -> None:
    """As retention, or somebody's `kafka-delete-records`, leaves it."""
    await sealed.put(sealed.records)
    admin = AdminClient({"bootstrap.servers": sealed.rig.kafka})
    for removed in admin.delete_records([TopicPartition(sealed.topic, 0, 2)]).values():
        await asyncio.to_thread(removed.result)
    report = await sealed.verify()
    assert not report.holds(Verdict.INCOMPLETE)
    assert f"{sealed.topic}[0] offset 0: the topic begins at offset 2" in told(report)


async def test_a_transaction_s_marker_is_no_gap(sealed: SealedTopic) -> None:
    """It takes an offset at which no consumer is given anything; a record of the transaction is one like any other."""
    await sealed.put(sealed.records)
    await asyncio.to_thread(_in_transaction, sealed.rig.kafka, sealed.records[0])
    await until(lambda: _is_marked(sealed))
    report = await sealed.verify()
    assert told(report) == ""
    assert report.unsealed == 1


async def _is_marked(sealed: SealedTopic) -> bool:
    """Say whether the broker has written the marker, which it does some time after the commit."""
    async with TopicReader(sealed.rig.kafka) as topics:
        ((_, end),) = (await topics.ranges([(sealed.topic, sealed.records[0].partition)])).values()
    return end == sum(each.partition == sealed.records[0].partition for each in sealed.records) + 2


def _in_transaction(kafka: str, record: Record) -> None:
    producer = OtherProducer({"bootstrap.servers": kafka, "transactional.id": uuid4().hex})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(record.topic, record.value, record.key, record.partition, headers=list(record.headers))
    producer.commit_transaction(30)


async def test_a_topic_that_is_compacted_is_named(sealed: SealedTopic) -> None:
    """Before anything is missing."""
    await sealed.put(sealed.records)
    admin = AdminClient({"bootstrap.servers": sealed.rig.kafka})
    entry = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, sealed.topic, incremental_configs=[entry])
    for done in admin.incremental_alter_configs([resource]).values():
        await asyncio.to_thread(done.result)

    async def told_of_it() -> bool:
        return any("cleanup.policy=compact" in remark for remark in (await sealed.verify()).remarks)

    for _ in range(20):
        if await told_of_it():
            return
        await asyncio.sleep(0.2)
    raise AssertionError("nobody said that the topic is compacted")


async def test_keys_that_have_not_signed_are_named(sealed: SealedTopic) -> None:
    """No checkpoint of theirs is believed, so nothing covers the records."""
    await sealed.put(sealed.records)
    report = await sealed.verify(signer=Signer.generate("somebody"))
    assert not report.holds(Verdict.ALTERED)
    assert not report.holds(Verdict.INCOMPLETE)
    assert "no known key has signed" in told(report)


async def test_checkpoints_of_another_installation_are_named(sealed: SealedTopic) -> None:
    """By the id that their origins begin with."""
    report = await sealed.verify(log_id="elsewhere")
    assert not report.holds(Verdict.INCOMPLETE)
    assert "of another installation than 'elsewhere'" in told(report)


async def test_a_forged_checkpoint_on_the_topic_is_named(sealed: SealedTopic) -> None:
    """Whoever can write to the topic of checkpoints cannot sign."""
    await sealed.put(sealed.records)
    await sealed.rig.put(sealed.rig.topic("checkpoints"), b"forged", b"test/x/0\n1\n\n", [])
    report = await sealed.verify()
    assert not report.holds(Verdict.ALTERED)
    assert sealed.rig.topic("checkpoints") in told(report)
    assert "a checkpoint is invalid" in told(report)
