"""Merkle trees of append-only logs, as RFC 6962 section 2.1 hashes them.

    leaf = SHA-256(0x00 || data)        node = SHA-256(0x01 || left || right)

The tree over n leaves splits at the largest power of two below n. Hashes are 32 bytes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a log without leaves."""
HASH_BYTES: Final = 32


class ProofError(Exception):
    """A proof does not lead to the root."""


def hash_leaf(data: bytes) -> bytes:
    """Hash one leaf's data."""
    return hashlib.sha256(b"\0" + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """Hash two neighbouring subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Subtree(NamedTuple):
    """A perfect subtree of 2**level leaves from leaf `start` on, by its root."""

    start: int
    level: int
    root: bytes


@dataclass(slots=True)
class Frontier:
    """The frontier of a growing tree: the roots of its perfect subtrees, largest first; at most 64 hashes."""

    size: int
    peaks: list[bytes]

    @classmethod
    def empty(cls) -> "Frontier":
        """Return the frontier of an empty tree."""
        return cls(0, [])

    @classmethod
    def unpack(cls, size: int, packed: bytes) -> "Frontier":
        """Parse what `pack` returned. Raises `ValueError` where it does not fit the size."""
        if len(packed) != HASH_BYTES * size.bit_count():
            raise ValueError(f"{len(packed)} bytes are not the frontier of {size} leaves")
        return cls(size, [packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)])

    def pack(self) -> bytes:
        """Return the concatenated hashes."""
        return b"".join(self.peaks)

    def copy(self) -> "Frontier":
        """Return an independent copy."""
        return Frontier(self.size, list(self.peaks))

    def subtrees(self) -> list[Subtree]:
        """Return the perfect subtrees, largest first."""
        found: list[Subtree] = []
        start = 0
        for root in self.peaks:
            level = (self.size - start).bit_length() - 1
            found.append(Subtree(start, level, root))
            start += 1 << level
        return found

    def append(self, leaf: bytes) -> None:
        """Append a leaf, given by its hash."""
        peaks, carry, size = self.peaks, leaf, self.size
        sha256 = hashlib.sha256
        while size & 1:
            carry = sha256(b"\1" + peaks.pop() + carry).digest()
            size >>= 1
        peaks.append(carry)
        self.size += 1

    def append_subtree(self, level: int, root: bytes) -> None:
        """Append the perfect subtree of the next 2**level leaves by its root. Raises `ValueError` where none begins."""
        if level < 0 or self.size & ((1 << level) - 1):
            raise ValueError(f"no subtree of level {level} begins at leaf {self.size}")
        carry, size = root, self.size >> level
        while size & 1:
            carry = hash_node(self.peaks.pop(), carry)
            size >>= 1
        self.peaks.append(carry)
        self.size += 1 << level

    def root(self) -> bytes:
        """Return the root over all leaves so far."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = hash_node(peak, root)
        return root


@dataclass(slots=True)
class SubtreeRange:
    """A range of adjacent leaves as the fewest perfect subtrees; keeps at most two per level."""

    subtrees: list[Subtree] = field(default_factory=list[Subtree])

    def append(self, index: int, leaf: bytes) -> None:
        """Append leaf `index`, the one after the last, given by its hash."""
        start, level, root = index, 0, leaf
        while self.subtrees and self.subtrees[-1].level == level and not self.subtrees[-1].start & (2 << level) - 1:
            before = self.subtrees.pop()
            start, level, root = before.start, level + 1, hash_node(before.root, root)
        self.subtrees.append(Subtree(start, level, root))

    def take(self) -> list[Subtree]:
        """Return and remove all subtrees, first leaf first."""
        found, self.subtrees = self.subtrees, []
        return found


def check_inclusion(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Verify that a leaf is in a log (RFC 9162 section 2.1.3.2). Raises `ProofError`."""
    if not 0 <= index < size:
        raise ProofError(f"leaf {index} is beyond the log's {size}")
    node, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError("the proof is too long")
        if node & 1 or node == last:
            found = hash_node(sibling, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = hash_node(found, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofError("the proof is too short")
    if found != root:
        raise ProofError(f"the proof of leaf {index} does not lead to the root")
