"""Bad records through the shipped participants and the saga log on a real database, judged as a worker would."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
import structlog

from tests.book import open_book
from tests.e2e.direct import commit_batch
from tests.fuzz.corpus import Corpus
from tests.integration.infra.venues.simulated_venue import SimulatedVenue
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.services import cash, risk, settlement
from tradesaga.consumers.services.execution import execution_participant
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Processor, Received
from tradesaga.infra.postgres.database import Session, session
from tradesaga.sagas.step_state import RowStatus
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.topics import PARTITIONS, dead_letters_topic

pytestmark = pytest.mark.stack
BATCH = 250
BATCHES = 40
OPEN = [int(status) for status in (RowStatus.INTENT, RowStatus.RETRY, RowStatus.COMPENSATING)]


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Session]:
    """Give a session on a book with one account, telling nobody of each of the thousands of dead letters."""
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()], logger_factory=_silence)
    async with session(database_url) as connection:
        await open_book(connection)
        yield connection
    structlog.reset_defaults()


def _silence(*_: object) -> structlog.testing.CapturingLogger:
    return structlog.testing.CapturingLogger()


@dataclass
class Driven:
    """A processor that owns its lanes; `said` counts what it wrote, by topic."""

    processor: Processor
    lanes: dict[int, Lane]
    places: dict[tuple[str, int], int]
    said: Counter[str] = field(default_factory=Counter[str])
    taken: int = 0

    async def judge(self, sql: Session, records: list[Record]) -> None:
        """Commit one batch."""
        wanted = [record for record in records if self.processor.wants(record.topic, record.headers)]
        here = [Received(self.places[each.topic, each.partition], each) for each in wanted if self._reads(each)]
        self.said.update(each.topic for each in await commit_batch(sql, self.processor, self.lanes, here))
        self.taken += len(here)

    def _reads(self, record: Record) -> bool:
        return (record.topic, record.partition) in self.places


async def drive(sql: Session, processor: Processor) -> Driven:
    """Claim every lane of a processor's group."""
    places = [(topic, number) for topic in processor.topics for number in range(PARTITIONS)]
    lanes = await lane_rows.acquire(sql, processor.group, places, "fuzz")
    await processor.open(sql, lanes, lambda: None)
    known = {(lane.topic, lane.partition): lane.id for lane in lanes}
    return Driven(processor, {lane.id: lane for lane in lanes}, known)


def participants() -> list[Processor]:
    """Give those that are shipped, the venue's with a venue in memory."""
    venue = SimulatedVenue({"EUR/USD": [Decimal("1.1")] * 3}, {"USD": Decimal(10**6), "EUR": Decimal(10**6)})
    far = execution_participant(venue, "paper")
    return [StepProcessor(each) for each in (risk.participant, cash.participant, settlement.participant, far)]


@pytest.mark.parametrize("seed", [11, 12])
async def test_participants_judge_whatever_comes(sql: Session, seed: int) -> None:
    """Ten thousand records for each: no batch fails, some are dead letters, and nothing is left without a turn."""
    corpus = Corpus(trade, seed)
    crew = [await drive(sql, processor) for processor in participants()]
    for number in range(BATCHES):
        records = [corpus.start(each) for each in corpus.ids] if number == 0 else []
        records += [corpus.any() for _ in range(BATCH - len(records))]
        for driven in crew:
            await driven.judge(sql, records)
    for driven in crew:
        await driven.processor.close()
    dead = sum(driven.said[dead_letters_topic("trade")] for driven in crew)
    assert min(driven.taken for driven in crew) > 50
    assert dead > 100
    left = "SELECT count(*) FROM step_execution WHERE status = ANY($1::int[]) AND due IS NULL"
    assert await sql.fetchval(left, OPEN) == 0


async def test_the_saga_log_keeps_whatever_comes(sql: Session) -> None:
    """Each of ten thousand records has its row in the audit log, with its bytes; what is parked is found."""
    corpus, log = Corpus(trade, 21), await drive(sql, SagaLog(Rules(trade)))
    kept: dict[tuple[int, int], bytes] = {}
    for number in range(BATCHES):
        records = [corpus.start(each) for each in corpus.ids] if number == 0 else []
        records += [record for record in (corpus.any() for _ in range(BATCH)) if record.topic == "trade.events"]
        kept |= {(record.partition, record.offset): record.value for record in records}
        await log.judge(sql, records)
    rows = await sql.fetch('SELECT partition, "offset", value, error FROM saga_event')
    assert {(row["partition"], row["offset"]): row["value"] for row in rows} == kept
    parked = sum(1 for row in rows if (row["error"] or "").startswith("parked: "))
    assert parked == await sql.fetchval("SELECT count(*) FROM parked") > 100
    assert log.said[dead_letters_topic("trade")] > 100
