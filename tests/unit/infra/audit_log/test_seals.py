"""Which checkpoints are found on their topic, whatever else anybody has written there."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import cast
from uuid import UUID

from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.audit_log.seals import BOUND, SealTrust, read_seals
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.inspector import Inspector, TopicState
from tradesaga.schemas.topics import checkpoints_topic, events_topic

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
EVENTS, TOPIC = events_topic("t"), checkpoints_topic("t")
SIGNER = Signer.generate("test")
TRUST = SealTrust("test", {SIGNER.verifier.id: SIGNER.verifier})


class Kafka:
    """A topic of checkpoints, and one of facts with as many partitions as `ends`."""

    def __init__(self, values: Sequence[tuple[bytes, int]], ends: Sequence[int]) -> None:
        self._records = [
            Record(TOPIC, 0, at, when // 10**6, None, value, ()) for at, (value, when) in enumerate(values)
        ]
        self._ends = ends
        self.read = 0

    async def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        """Return how many partitions they have."""
        return {name: TopicState(UUID(int=1), 1 if name == TOPIC else len(self._ends)) for name in names}

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offsets."""
        return {place: (0, len(self._records) if place[0] == TOPIC else self._ends[place[1]]) for place in places}

    async def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> AsyncGenerator[list[Record]]:
        """Yield the records at once."""
        for start, end in ranges.values():
            self.read += end - start
            yield self._records[start:end]


def sealed(partition: int, size: int, *, at: int = 0, published: int = 0) -> tuple[bytes, int]:
    """Return a signed checkpoint, and when it was published; both in seconds after `NOW`."""
    checkpoint = Checkpoint(f"test/{EVENTS}/{partition}", size, bytes(32), size, "", NOW + at * SECOND)
    return SIGNER.sign(checkpoint.to_text()).encode(), NOW + max(at, published) * SECOND


def found(kafka: Kafka) -> dict[int, int]:
    """Return the size of each partition's last checkpoint."""
    seals = asyncio.run(read_seals(cast("Inspector", kafka), "t", TRUST))
    return {place[1]: seal.size for place, seal in seals.items()}


JUNK = (b"no checkpoint", NOW)


def test_the_last_records_suffice_where_each_partition_is_sealed_all_the_time() -> None:
    """A partition without a fact was never sealed, and is not looked for."""
    kafka = Kafka([sealed(n % 2, n // 2 + 1, at=n) for n in range(3000)], [1500, 1500, 0])
    assert found(kafka) == {0: 1500, 1: 1500}
    assert kafka.read == 100


def test_the_seal_of_a_quiet_partition_is_found_behind_those_of_busy_ones() -> None:
    """Its own is thousands of records before the end."""
    busy = [sealed(0, n + 1, at=n) for n in range(3000)]
    kafka = Kafka([sealed(1, 7), *busy], [3000, 7])
    assert found(kafka) == {0: 3000, 1: 7}


def test_junk_hides_no_seal_within_the_bound() -> None:
    """Behind the bound nothing is looked for."""
    assert found(Kafka([sealed(0, 9), *[JUNK] * (BOUND.records - 1)], [9])) == {0: 9}
    kafka = Kafka([sealed(0, 9), *[JUNK] * BOUND.records], [9])
    assert found(kafka) == {}
    assert kafka.read == BOUND.records


def test_large_junk_is_read_within_the_bound_of_bytes() -> None:
    """The seals before it are not looked for."""
    kafka = Kafka([sealed(0, 9), *[(b"x" * 1_000_000, NOW)] * 200], [9])
    assert found(kafka) == {}
    assert kafka.read <= 200


def test_an_old_seal_that_somebody_publishes_once_more_does_not_end_the_search() -> None:
    """It was signed long before; the newer one lies behind junk."""
    old, _ = sealed(0, 5)
    values = [(old, NOW), sealed(0, 9, at=60), *[JUNK] * 200, (old, NOW + 3600 * SECOND)]
    assert found(Kafka(values, [9])) == {0: 9}


def test_the_last_seal_published_once_more_is_still_the_last() -> None:
    """The search goes on to where the sealer published it, and ends there."""
    last, _ = sealed(0, 9)
    kafka = Kafka([*[JUNK] * 2000, (last, NOW), *[JUNK] * 200, (last, NOW + 3600 * SECOND)], [9])
    assert found(kafka) == {0: 9}
    assert kafka.read == 500
