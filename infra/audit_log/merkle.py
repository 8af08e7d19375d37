"""Merkle trees of append-only logs, as RFC 6962 section 2.1 hashes them.

    leaf = SHA-256(0x00 || data)        node = SHA-256(0x01 || left || right)

The tree over n leaves splits at the largest power of two below n. Hashes are 32 bytes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a log without leaves."""
HASH_BYTES: Final = 32


class ProofError(Exception):
    """A proof does not lead from the leaf, or the older root, to the root."""


def hash_leaf(data: bytes) -> bytes:
    """Hash one leaf's data."""
    return hashlib.sha256(b"\0" + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """Hash two neighbouring subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(slots=True)
class Edge:
    """The right edge of a growing tree: the roots of its perfect subtrees, largest first; 64 hashes at most."""

    size: int
    peaks: list[bytes]

    @classmethod
    def empty(cls) -> "Edge":
        """Begin a log."""
        return cls(0, [])

    @classmethod
    def unpack(cls, size: int, packed: bytes) -> "Edge":
        """Read what `pack` wrote; raises `ValueError` where it does not fit the size."""
        if len(packed) != HASH_BYTES * size.bit_count():
            raise ValueError(f"an edge of {len(packed)} bytes is none of {size} leaves")
        return cls(size, [packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)])

    def pack(self) -> bytes:
        """Write the peaks, one behind the other."""
        return b"".join(self.peaks)

    def copy(self) -> "Edge":
        """Give an edge that grows by itself."""
        return Edge(self.size, list(self.peaks))

    def append(self, leaf: bytes) -> None:
        """Add a leaf, given as its hash."""
        peaks, carry, size = self.peaks, leaf, self.size
        sha256 = hashlib.sha256
        while size & 1:
            carry = sha256(b"\1" + peaks.pop() + carry).digest()
            size >>= 1
        peaks.append(carry)
        self.size += 1

    def graft(self, level: int, root: bytes) -> None:
        """Add the perfect subtree of the next 2**level leaves by its root; raises `ValueError` where none can begin."""
        if level < 0 or self.size & ((1 << level) - 1):
            raise ValueError(f"no subtree of level {level} begins at leaf {self.size}")
        carry, size = root, self.size >> level
        while size & 1:
            carry = hash_node(self.peaks.pop(), carry)
            size >>= 1
        self.peaks.append(carry)
        self.size += 1 << level

    def root(self) -> bytes:
        """Give the root of the tree over all leaves so far."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = hash_node(peak, root)
        return root


class Subtree(NamedTuple):
    """A perfect subtree of 2**level leaves, the first of them leaf `start`, by its root."""

    start: int
    level: int
    root: bytes


@dataclass(slots=True)
class Stretch:
    """Neighbouring leaves as the fewest perfect subtrees, found as they come: at most two a level are kept."""

    subtrees: list[Subtree] = field(default_factory=list[Subtree])

    def append(self, index: int, leaf: bytes) -> None:
        """Add leaf `index`, the one after the last, given as its hash."""
        start, level, root = index, 0, leaf
        while self.subtrees and self.subtrees[-1].level == level and not self.subtrees[-1].start & (2 << level) - 1:
            before = self.subtrees.pop()
            start, level, root = before.start, level + 1, hash_node(before.root, root)
        self.subtrees.append(Subtree(start, level, root))

    def take(self) -> list[Subtree]:
        """Give what there is, first leaf first, and begin anew."""
        found, self.subtrees = self.subtrees, []
        return found


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Give the root over leaf hashes."""
    edge = Edge.empty()
    for leaf in leaves:
        edge.append(leaf)
    return edge.root()


class Tree:
    """A whole tree in memory, for proofs: 64 bytes a leaf. `leaves` are hashes."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.size = len(leaves)
        self._levels: list[list[bytes]] = [list(leaves)]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = zip(below[::2], below[1::2], strict=False)
            self._levels.append([hash_node(left, right) for left, right in pairs])

    def root(self, size: int | None = None) -> bytes:
        """Give the root over the first `size` leaves; default all."""
        size = self.size if size is None else size
        return self._root(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Prove that leaf `index` is under the root over the first `size` leaves (RFC 6962 section 2.1.1)."""
        size = self.size if size is None else size
        if not 0 <= index < size <= self.size:
            raise ValueError(f"leaf {index} of {size}: the log has {self.size}")
        return self._path(index, 0, size)

    def consistency(self, older: int, size: int | None = None) -> list[bytes]:
        """Prove that the log of `older` leaves is the beginning of that of `size` (RFC 6962 section 2.1.2)."""
        size = self.size if size is None else size
        if not 0 < older <= size <= self.size:
            raise ValueError(f"from {older} to {size}: the log has {self.size}")
        return self._between(older, 0, size, whole=True)

    def _root(self, start: int, end: int) -> bytes:
        count = end - start
        if count & (count - 1) == 0 and start % count == 0:
            level = count.bit_length() - 1
            return self._levels[level][start >> level]
        split = start + _split(count)
        return hash_node(self._root(start, split), self._root(split, end))

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        split = start + _split(end - start)
        if index < split:
            return [*self._path(index, start, split), self._root(split, end)]
        return [*self._path(index, split, end), self._root(start, split)]

    def _between(self, older: int, start: int, end: int, *, whole: bool) -> list[bytes]:
        if older == end:
            return [] if whole else [self._root(start, end)]
        split = start + _split(end - start)
        if older <= split:
            return [*self._between(older, start, split, whole=whole), self._root(split, end)]
        return [*self._between(older, split, end, whole=False), self._root(start, split)]


def _split(count: int) -> int:
    """Give the largest power of two below `count`, which is 2 or more."""
    return 1 << ((count - 1).bit_length() - 1)


def check_inclusion(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that a leaf is in a log; the algorithm is that of RFC 9162 section 2.1.3.2. Raises `ProofError`."""
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


def check_consistency(older: int, older_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that one log is the beginning of another; RFC 9162 section 2.1.4.2. Raises `ProofError`."""
    if not 0 <= older <= size:
        raise ProofError(f"a log of {older} leaves is no beginning of one of {size}")
    if older in {0, size}:
        if proof or older_root != (root if older else EMPTY_ROOT):
            raise ProofError("two logs of one size, or an empty one, need no proof and must agree")
        return
    path = list(proof) if older & (older - 1) else [older_root, *proof]
    if not path or _climb(path, older - 1, size - 1) != (older_root, root):
        raise ProofError(f"the log of {older} leaves is not the beginning of that of {size}")


def _climb(path: Sequence[bytes], node: int, last: int) -> tuple[bytes, bytes]:
    """Give the roots to which a consistency proof leads: of the older log, and of the longer one."""
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("the proof is too long")
        if node & 1 or node == last:
            first, second = hash_node(sibling, first), hash_node(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = hash_node(second, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofError("the proof is too short")
    return first, second
