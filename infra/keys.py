"""Which partition a key belongs to: Java's murmur2, as every Kafka client that partitions by key computes it."""

from aiokafka.partitioner import murmur2  # pyright: ignore[reportUnknownVariableType] - untyped there


def partition_of(key: bytes, partitions: int) -> int:
    """Give the partition of `key` on a topic with this many."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
