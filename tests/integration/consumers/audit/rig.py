"""An audit log filled without Kafka: records of many sagas, folded and entered as the saga log would."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from tests.sagas import RECORDED_MS, Filled, Held, OrderAsked, Placed, Settled, headers_of, new_saga, small_saga
from tradesaga.consumers.audit.log.log_check import Report
from tradesaga.consumers.audit.seal.sealer import Sealer
from tradesaga.consumers.audit.verify.database import verify_database
from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.chain import FORMAT, StoredBytes, hash_row, read_row
from tradesaga.consumers.saga_log.fold import FoldResult, fold_record
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.audit_log.clock_evidence import UNKNOWN
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.postgres.database import Session
from tradesaga.schemas.messages.message import Event

PARTITIONS = 3
GROUP, TOPIC = "small-log", "small.events"
STORY: tuple[Event, ...] = (OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled(), Settled())

_LANE = """
INSERT INTO lane ("group", topic, partition, next_offset) VALUES ($1, $2, $3, $4)
ON CONFLICT ("group", topic, partition) DO UPDATE SET next_offset = excluded.next_offset
"""
_ALL = """
SELECT topic, partition, "offset", (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, key, headers,
    value, hash, skipped, saga_id, seq FROM saga_event ORDER BY topic, partition, "offset"
"""


@dataclass
class AuditRig:
    """One database with an audit log, a key, and a witness."""

    sql: Session
    folder: Path
    signer: Signer = field(default_factory=lambda: Signer.generate("test"))
    known: dict[UUID, Tracked] = field(default_factory=dict[UUID, Tracked])
    ends: dict[int, int] = field(default_factory=dict[int, int])
    rules: Rules = field(default_factory=lambda: Rules(small_saga(), PARTITIONS))
    now_ms: int = RECORDED_MS
    form: int = FORMAT
    """The format of the hashes that records get from now on; 1 is that of an older release."""
    skips: dict[int, int] = field(default_factory=dict[int, int])
    """By partition, offsets before the next record that Kafka gives to no consumer."""

    @property
    def witness(self) -> WitnessFile:
        """Give the witness."""
        return WitnessFile(self.folder / "witness.jsonl")

    def sealer(self) -> Sealer:
        """Give a sealer that has just started."""
        trusted = {self.signer.verifier.id: self.signer.verifier}
        return Sealer(self.signer, trusted, "test", {GROUP: TOPIC}, self.witness)

    async def record(self, sagas: int, story: Sequence[Event] = STORY) -> list[UUID]:
        """Enter the stories of new sagas, told side by side; each log gets its share of them."""
        ids = [new_saga(index % PARTITIONS, PARTITIONS) for index in range(sagas)]
        await self.go_on(ids, story)
        return ids

    async def go_on(self, ids: Sequence[UUID], story: Sequence[Event]) -> None:
        """Enter what these sagas do next."""
        outcomes = [self._fold(saga_id, event) for event in story for saga_id in ids]
        lanes = [(Lane(1, TOPIC, each.record.partition, 1, 0, 0, 0), each) for each in outcomes]
        async with self.sql.transaction():
            await store.enter(self.sql, lanes)
            for partition, end in self.ends.items():
                await self.sql.execute(_LANE, GROUP, TOPIC, partition, end)

    def skip(self, partition: int, offsets: int) -> None:
        """Leave a gap, as a transaction does."""
        self.ends[partition] = self.ends.get(partition, 0) + offsets
        self.skips[partition] = self.skips.get(partition, 0) + offsets

    async def enter(self, record: Record) -> None:
        """Enter one record of a known saga as it is, whatever it holds."""
        outcome = self._fold_record(record)
        await store.enter(self.sql, [(Lane(1, TOPIC, record.partition, 1, 0, 0, 0), outcome)])
        await self.sql.execute(_LANE, GROUP, TOPIC, record.partition, self.ends[record.partition])

    def _fold(self, saga_id: UUID, event: Event) -> FoldResult:
        key = str(saga_id).encode()
        partition = partition_of(key, PARTITIONS)
        offset = self.ends.get(partition, 0)
        headers = headers_of(self.rules.saga, event, saga_id)
        record = Record(TOPIC, partition, offset, self.now_ms + offset, key, event.to_wire(), headers)
        return self._fold_record(record)

    def _fold_record(self, record: Record) -> FoldResult:
        saga_id = UUID((record.key or b"").decode())
        self.ends[record.partition] = record.offset + 1
        record = record._replace(skipped=self.skips.pop(record.partition, 0))
        outcome = fold_record(
            self.rules, self.known.get(saga_id, Tracked(saga_id, record.partition)), record, self.form
        )
        assert outcome.tracked is not None
        self.known[saga_id] = outcome.tracked
        return outcome

    async def seal(self) -> int:
        """Seal with a sealer that starts anew, and give how many logs it signed."""
        sealer = self.sealer()
        await sealer.open(self.sql)
        return len(await sealer.seal(self.sql, UNKNOWN))

    async def verify(self, *, with_witness: bool = True, types: frozenset[str] | None = None) -> Report:
        """Verify what is there."""
        trusted = {self.signer.verifier.id: self.signer.verifier}
        witnesses = [self.witness] if with_witness else []
        return await verify_database(self.sql, "test", trusted, witnesses, lambda _: None, types=types)

    async def attack(self, statement: str, *args: object) -> None:
        """Run a statement as one who may do anything: superuser, no triggers."""
        await self.sql.execute("SET session_replication_role = replica")
        try:
            await self.sql.execute(statement, *args)
        finally:
            await self.sql.execute("SET session_replication_role = origin")

    async def recompute(self) -> None:
        """Make all hashes fit the rows again, as a careful attacker does."""
        heads: dict[UUID, bytes] = {}
        for row in await self.sql.fetch(_ALL):
            topic, partition, offset, recorded_ms, key, headers, value, found, skipped, saga_id, seq = row
            stored = StoredBytes(key, headers, value, found, skipped)
            record = read_row((topic, partition, offset, recorded_ms), stored)
            found = hash_row(heads.get(saga_id, b"") if seq is not None else b"", record, stored)
            if seq is not None:
                heads[saga_id] = found
            await self.attack(
                'UPDATE saga_event SET hash = $4 WHERE (topic, partition, "offset") = ($1, $2, $3)', *record[:3], found
            )

    async def rows(self, saga_id: UUID) -> list[asyncpg.Record]:
        """Give a saga's rows."""
        return await self.sql.fetch('SELECT * FROM saga_event WHERE saga_id = $1 ORDER BY "offset"', saga_id)
