"""What was sealed speaks against a database that was set back, once offsets and outboxes say nothing any more."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.harness import Bench, open_bench
from tests.integration.infra.outbox.test_guard import commit, halted, one_saga, processors
from tradesaga.consumers.audit.log.checkpoints import HistoryError
from tradesaga.consumers.audit.seal.sealer import Sealer
from tradesaga.consumers.audit.seal.service import check_topics
from tradesaga.infra.audit_log.checkpoint import Checkpoint, parse_unverified
from tradesaga.infra.audit_log.clock_evidence import UNKNOWN
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.audit_log.seals import SealTrust
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.outbox.guard import Guard
from tradesaga.infra.postgres.installation import read_identity
from tradesaga.schemas.topics import checkpoints_topic, events_topic

pytestmark = pytest.mark.stack


@dataclass
class Sealing:
    """A bench of which a saga is sealed, and the key that did it."""

    bench: Bench
    signer: Signer
    folder: Path

    @property
    def trust(self) -> SealTrust:
        """Return whom the groups believe."""
        return SealTrust("test", {self.signer.verifier.id: self.signer.verifier})

    async def seal(self, *, published: bool = True) -> list[str]:
        """Seal all that there is, publish it, and return the notes."""
        saga = self.bench.saga.name
        witness = WitnessFile(self.folder / "witness.jsonl")
        sealer = Sealer(self.signer, self.trust.keys, "test", {f"{saga}-log": events_topic(saga)}, witness)
        async with self.bench.pool.acquire() as sql:
            await sealer.open(sql)
            sealed = await sealer.seal(sql, UNKNOWN)
        for each in sealed if published else ():
            await self.publish(each.note)
        return [each.note for each in sealed]

    async def publish(self, note: str) -> None:
        """Put a checkpoint on its topic, as anybody may who reaches the broker."""
        topic = checkpoints_topic(self.bench.saga.name)
        await (await self.bench.producer.send(topic, note.partition("\n")[0].encode(), note.encode(), []))

    async def check(self) -> None:
        """Look at the topic as the sealer does before it seals."""
        saga = self.bench.saga.name
        async with self.bench.pool.acquire() as sql:
            await check_topics(sql, self.bench.kafka, {saga: events_topic(saga)}, self.trust)

    async def set_back(self) -> None:
        """Bring all lanes back to their beginning, so that neither offsets nor outboxes tell of it."""
        bench = self.bench
        async with bench.pool.acquire() as sql:
            here = str((await read_identity(sql)).identity)
            await sql.execute("UPDATE lane SET next_offset = 0, seen_offset = NULL, seen_crc = NULL")
            rows = await sql.fetch('SELECT "group", topic, partition FROM lane')
        for group in {row["group"] for row in rows}:
            places = {(row["topic"], row["partition"]): 0 for row in rows if row["group"] == group}
            await commit(bench.kafka, group, places, here)


@pytest.fixture
async def sealing(kafka: str, database_url: str, tmp_path: Path) -> AsyncIterator[Sealing]:
    """Yield a bench with one saga that has ended and is sealed."""
    async with open_bench(kafka, database_url) as bench:
        await one_saga(bench)
        made = Sealing(bench, Signer.generate("test"), tmp_path)
        assert await made.seal()
        yield made


async def test_a_database_behind_its_seals_halts_every_group_and_the_sealer(sealing: Sealing) -> None:
    """Kafka's offsets have expired and the outbox is no witness: the signed checkpoint still tells."""
    await sealing.check()
    await sealing.set_back()
    for processor in processors(sealing.bench):
        why = await halted(sealing.bench.run(processor, trust=sealing.trust))
        assert "is sealed up to offset" in why
        assert "tradesaga recover" in why
    with pytest.raises(HistoryError, match=r"is sealed up to offset .* `tradesaga recover"):
        await sealing.check()


async def test_an_empty_database_behind_seals_is_to_be_rebuilt(sealing: Sealing) -> None:
    """It has the installation's id and knows of nothing: the saga log does not begin anew."""
    await sealing.set_back()
    await sealing.bench.pool.execute("TRUNCATE lane")
    log = processors(sealing.bench)[2]
    why = await halted(sealing.bench.run(log, trust=sealing.trust))
    assert "knows nothing of it" in why
    assert "tradesaga recover database" in why


async def test_seals_of_strangers_halt_nobody(sealing: Sealing) -> None:
    """What no trusted key has signed, what is none, and what is sealed beyond the topic's end, is passed over."""
    (note, *_) = await _more(sealing)
    ahead = replace(parse_unverified(note), size=10**6, next_offset=10**6)
    await sealing.publish(Signer.generate("test").sign(ahead.to_text()))
    await sealing.publish(sealing.signer.sign(ahead.to_text()))
    await sealing.publish("no checkpoint")
    await sealing.publish(note.replace("\n1\n", "\n2\n"))
    await sealing.check()
    running = [sealing.bench.run(each, trust=sealing.trust) for each in processors(sealing.bench)]
    for each in running:
        await each.ready()
    await sealing.bench.settled(await sealing.bench.ask())


async def test_a_checkpoint_of_other_records_stops_the_sealer(sealing: Sealing) -> None:
    """The key has signed another root over as many records: the database is not the one that was sealed."""
    (note, *_) = await _more(sealing, published=False)
    other: Checkpoint = replace(parse_unverified(note), root=hashlib.sha256(b"other records").digest())
    await sealing.publish(sealing.signer.sign(other.to_text()))
    with pytest.raises(HistoryError, match=r"is not the one on Kafka; .* `tradesaga recover database`"):
        await sealing.check()


async def _more(sealing: Sealing, *, published: bool = True) -> list[str]:
    """Have another saga end, and seal it."""
    await one_saga(sealing.bench)
    return await sealing.seal(published=published)


async def test_seals_speak_for_the_saga_logs_own_database_alone(sealing: Sealing) -> None:
    """Lanes that it has left behind in its former database do not move any more."""
    await sealing.set_back()
    bench, (desk, _, log, _) = sealing.bench, processors(sealing.bench)
    async with bench.pool.acquire() as sql:
        for group, halts in ((desk, False), (log, True)):
            guard = Guard(
                bench.kafka, bench.saga.name, group.group, group.topics, trust=sealing.trust,
                group_filter=lambda name: name != "log",
            )  # fmt: skip
            assert ("is sealed up to offset" in await guard.refusal(sql)) is halts
