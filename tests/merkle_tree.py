"""A whole Merkle tree in memory with its proofs (RFC 6962), and the check of consistency proofs (RFC 9162)."""

from collections.abc import Iterable, Sequence

from tradesaga.infra.audit_log.merkle import EMPTY_ROOT, Frontier, ProofError, hash_node


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Give the root over leaf hashes."""
    edge = Frontier.empty()
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
