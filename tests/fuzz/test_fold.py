"""The saga log's fold over bad records: it never raises, and each record is counted, recorded, parked or copied."""

from collections import Counter
from uuid import UUID

import orjson
import pytest

from tests.fuzz.corpus import Corpus
from tradesaga.consumers.saga_log.fold import FoldResult, fold_record
from tradesaga.consumers.saga_log.reading import Rules, saga_of
from tradesaga.consumers.saga_log.tracked_saga import Tracked, parked_records
from tradesaga.infra.kafka.codec import load_headers
from tradesaga.infra.kafka.dead_letters import RecordFault, dead_letter
from tradesaga.sagas.trade.definition import trade

RECORDS = 4000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_record_has_an_outcome(seed: int) -> None:
    """Of four thousand records none is passed over, what is stored can be stored, and good sagas go on."""
    rules, corpus = Rules(trade), Corpus(trade, seed)
    known: dict[UUID, Tracked] = {}
    tally: Counter[str] = Counter()
    for number in range(RECORDS):
        record = corpus.start(corpus.ids[number]) if number < len(corpus.ids) else corpus.any()
        saga_id = saga_of(record)
        tracked = known.get(saga_id) or Tracked(saga_id, rules.home(saga_id)) if saga_id is not None else None
        outcome = fold_record(rules, tracked, record)
        if outcome.tracked is not None and saga_id is not None:
            known[saga_id] = outcome.tracked._replace(parked=parked_records(outcome.tracked.parked[-20:]))
        tally[result_of(outcome)] += 1
        check_storable(outcome)
    assert tally.total() == RECORDS
    assert min(tally[kind] for kind in ("counted", "parked", "stray")) > RECORDS // 200, tally
    assert tally["lost"] == 0, tally


def result_of(outcome: FoldResult) -> str:
    """Say what became of a record; `lost` when nobody would ever hear of it."""
    if outcome.parked is not None:
        return "parked"
    if outcome.dead:
        return "stray"
    if outcome.refused:
        return "refused" if outcome.entry.error else "lost"
    if outcome.fact is not None:
        return "counted" if outcome.entry.seq is not None else "recorded"
    return "lost"


def check_storable(outcome: FoldResult) -> None:
    """Hold what would be written to what PostgreSQL and Kafka take."""
    entry, checkpoint = outcome.entry, outcome.tracked.snapshot if outcome.tracked is not None else None
    load_headers(entry.headers)
    assert len(entry.hash) == 33
    for text in (entry.event_type, entry.step, entry.added, entry.error):
        assert text is None or ("\0" not in text and text.encode())
    if checkpoint is not None:
        orjson.loads(checkpoint.context)
        assert "\0" not in checkpoint.request_hash
    for letter in outcome.dead:
        said = dead_letter("trade", "trade-log", letter.record, RecordFault(letter.kind, letter.reason), 0)
        assert said.key.encode() is not None
        assert said.header_text
