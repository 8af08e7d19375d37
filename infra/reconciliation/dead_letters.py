"""Lists dead letters of records that contradict the rows of the service that read them: forged or foreign records.

A service copies such a record to the dead letters as a `contradiction`, and does nothing else with it. Commands and
reports are among them, which the audit log does not have.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.admin import count_partitions
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.kafka.dead_letters import CONTRADICTION
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.reconciliation.facts import SHOWN
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.envelope import SAGA_ID, STEP, TYPE
from tradesaga.schemas.topics import dead_letters_topic

_TEXT_LIMIT: Final = 200
_CLAIM_LIMIT: Final = 1000
RecordPosition = tuple[str, int, int]
"""Topic, partition, offset."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A record that rows contradict: its place, its headers, its value (`claimed`), and why it is contradicted."""

    type: str
    saga_id: str
    step: str
    source: str
    topic: str
    partition: int
    offset: int
    reader: str
    claimed: str
    reason: str

    @property
    def place(self) -> RecordPosition:
        """The record's place."""
        return self.topic, self.partition, self.offset

    def __str__(self) -> str:
        where = f"{self.topic}[{self.partition}] offset {self.offset}"
        return (
            f"forged or foreign: {self.type} at {where}, said to be of {self.source}, claimed {self.claimed}; "
            f"{self.reader} found: {self.reason}"
        )


@dataclass(slots=True)
class DeadLetterCheck:
    """The result of reading the dead letters: `count` contradictions, `records` the first ones by place, each once.

    `unread` is the reason if the dead letters could not be read.
    """

    since: datetime
    checked: int = 0
    count: int = 0
    records: list[Contradiction] = field(default_factory=list[Contradiction])
    unread: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the findings for scripts."""
        return {
            "since": self.since.isoformat(),
            "checked": self.checked,
            "contradictions": self.count,
            "records": [asdict(each) for each in self.records],
            "unread": self.unread or None,
        }


async def check_dead_letters(
    settings: Settings, since: datetime, known: Collection[RecordPosition] = ()
) -> DeadLetterCheck:
    """Read the trade's dead letters written from `since` on.

    Records at `known` places, which are listed already, are only counted. Uses bounded memory. `unread` is set if Kafka
    does not answer or has no such topic.
    """
    found, records = DeadLetterCheck(since), dict[RecordPosition, Contradiction]()
    brokers, topic = settings.brokers(), dead_letters_topic(trade.name)
    try:
        count = (await count_partitions(brokers, [topic]))[topic]
        async with TopicReader(brokers) as replay:
            ranges = await replay.ranges([(topic, number) for number in range(count)])
            firsts = await replay.first_at(dict.fromkeys(ranges, int(since.timestamp() * 1000)))
            for place, first in sorted(firsts.items()):
                async for batch in replay.read_remaining(place, first, ranges[place][1]):
                    for letter in batch:
                        _add(found, records, letter, known)
    except KafkaUnavailableError as error:
        found.unread = f"Kafka does not answer: {error}"
    except CommandError as error:
        found.unread = f"{error.where}: {error.what}"
    found.records = sorted(records.values(), key=lambda each: each.place)
    return found


def _add(
    found: DeadLetterCheck,
    records: dict[RecordPosition, Contradiction],
    letter: Record,
    known: Collection[RecordPosition],
) -> None:
    found.checked += 1
    headers = {name: value or b"" for name, value in letter.headers}
    if headers.get("ts_dlt_error_type") != CONTRADICTION.encode():
        return
    found.count += 1
    record = read_letter(letter, headers)
    if record is not None and len(records) < SHOWN and record.place not in known:
        records.setdefault(record.place, record)


def read_letter(letter: Record, headers: Mapping[str, bytes]) -> Contradiction | None:
    """Return the contradiction of a dead letter, None if the letter does not have its record's place."""
    try:
        partition, offset = int(headers.get("ts_dlt_partition", b"")), int(headers.get("ts_dlt_offset", b""))
    except ValueError:
        return None
    cut = headers.get("ts_dlt_value_bytes")
    claimed = _text(letter.value, _CLAIM_LIMIT) if cut is None else f"a value of {_text(cut)} bytes"
    return Contradiction(
        type=_text(headers.get(TYPE, b"")),
        saga_id=_text(headers.get(SAGA_ID, b"") or letter.key or b""),
        step=_text(headers.get(STEP, b"")),
        source=_text(headers.get("ce_source", b"")),
        topic=_text(headers.get("ts_dlt_topic", b"")),
        partition=partition,
        offset=offset,
        reader=_text(headers.get("ts_dlt_handler", b"") or headers.get("ts_dlt_group", b"")),
        claimed=claimed,
        reason=_text(headers.get("ts_dlt_error_message", b""), _CLAIM_LIMIT),
    )


def _text(raw: bytes, limit: int = _TEXT_LIMIT) -> str:
    """Return untrusted text so that it can be shown: bounded, and without control characters."""
    text = raw[:limit].decode("utf-8", "replace")
    shown = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)
    return shown + "..." if len(raw) > limit else shown
