"""The partition of a key, by Java's murmur2 as every Kafka client computes it.

aiokafka's implementation takes 30 us for a saga's id, as long as folding a record; this one reads whole words.
"""

import struct
from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_FACTOR: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_SAGA_KEY: Final = 36
"""Bytes of a saga's id."""


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of `key` on a topic with this many partitions."""
    # A saga's key recurs many times; other keys, which may be long, are not cached.
    hashed = _hash_again(key) if len(key) == _SAGA_KEY else _murmur2(key)
    return (hashed & 0x7FFFFFFF) % partitions


def _murmur2(key: bytes) -> int:
    words = len(key) // 4
    found = _SEED ^ len(key)
    for word in struct.unpack_from(f"<{words}I", key):
        mixed = word * _FACTOR & _MASK
        mixed = (mixed ^ mixed >> 24) * _FACTOR & _MASK
        found = found * _FACTOR & _MASK ^ mixed
    if rest := key[words * 4 :]:
        found = (found ^ int.from_bytes(rest, "little")) * _FACTOR & _MASK
    found = (found ^ found >> 13) * _FACTOR & _MASK
    return found ^ found >> 15


_hash_again = lru_cache(maxsize=32_768)(_murmur2)
