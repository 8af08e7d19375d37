"""Reading back from the ends of partitions: newest first, whole, and no further than the bound."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.inspector import Inspector
from tradesaga.infra.kafka.topic_reader import ReadLimit, read_back


class Kafka:
    """Partitions that hold a record of `size` bytes at each offset; 50 come at once."""

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.read = 0

    async def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> AsyncGenerator[list[Record]]:
        """Yield the records of each range."""
        for (topic, number), (start, end) in ranges.items():
            for first in range(start, end, 50):
                page = [
                    Record(topic, number, n, 1, None, b"x" * self.size, ()) for n in range(first, min(end, first + 50))
                ]
                self.read += len(page)
                yield page


def back(kafka: Kafka, ends: Sequence[int], bound: ReadLimit, enough: int = 10**9) -> list[tuple[int, int]]:
    """Return the partition and offset of each record that is passed on, until there are enough."""
    taken: list[tuple[int, int]] = []

    def take(records: Sequence[Record]) -> None:
        taken.extend((each.partition, each.offset) for each in records)

    ranges = {("t", number): (0, end) for number, end in enumerate(ends)}
    asyncio.run(read_back(cast("Inspector", kafka), ranges, bound, take, lambda: len(taken) >= enough))
    return taken


@given(st.lists(st.integers(0, 1500), max_size=3), st.integers(1, 1200))
def test_the_last_records_of_each_partition_are_read_once(ends: list[int], records: int) -> None:
    """Of each as many as the bound says, or all that there are."""
    wanted = [(number, at) for number, end in enumerate(ends) for at in range(max(0, end - records), end)]
    assert sorted(back(Kafka(), ends, ReadLimit(records, 10**9))) == wanted


def test_what_is_enough_ends_the_reading_after_a_whole_step() -> None:
    """The first step has the last records, in order."""
    assert back(Kafka(), [5000], ReadLimit(5000, 10**9), enough=1) == [(0, at) for at in range(4900, 5000)]


def test_the_bound_of_bytes_holds_for_all_partitions_together() -> None:
    """What is not read is older than what is; one page may pass the bound."""
    kafka = Kafka(size=1000)
    taken = back(kafka, [1000, 1000], ReadLimit(1000, 300_000))
    assert kafka.read == len(taken) == 300
    assert {(number, at) for number in (0, 1) for at in range(900, 1000)} <= set(taken)
