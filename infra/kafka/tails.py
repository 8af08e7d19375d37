"""Reads partitions backwards from their ends, within limits, since anybody may have written there."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.identity import Inspector

_STEP: Final = 100
"""Records of each partition in the first step; each further step is `_GROWTH` times as long."""
_GROWTH: Final = 4


class ReadLimit(NamedTuple):
    """How far back to read: records of each partition, and bytes of all partitions together."""

    records: int
    size: int


async def read_back(
    inspector: Inspector,
    ranges: Mapping[Place, tuple[int, int]],
    bound: ReadLimit,
    take: Callable[[Sequence[Record]], None],
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Pass the records of these ranges to `take`, backwards from their ends, until `enough` or the limit.

    Records are read in steps, the last ones first; within a step those of a partition are in order. Where the byte
    limit ends a step early, the missing records are older than those of all earlier steps. Raises
    `KafkaUnavailableError`.
    """
    depth, step, size = 0, _STEP, 0
    deepest = min(bound.records, max((end - first for first, end in ranges.values()), default=0))
    while depth < deepest and not enough():
        deeper = min(deepest, depth + step)
        piece = {place: (max(first, end - deeper), max(first, end - depth)) for place, (first, end) in ranges.items()}
        async with aclosing(inspector.scan(piece)) as pages:
            async for page in pages:
                take(page)
                size += sum(record.size + len(record.key or b"") for record in page)
                if size >= bound.size:
                    return
        depth, step = deeper, step * _GROWTH
