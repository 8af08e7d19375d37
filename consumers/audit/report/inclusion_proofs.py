"""Inclusion proofs out of a stream of leaves: memory grows with the proofs, not with the log."""

from collections.abc import Iterable
from dataclasses import dataclass

from tradesaga.infra.audit_log.merkle import Frontier

Span = tuple[int, int]
"""The leaves of a subtree: the first, and the one behind the last."""


def siblings(index: int, size: int) -> list[Span]:
    """Return the subtrees whose roots prove leaf `index` in a log of `size`, deepest first (RFC 6962 section 2.1.1)."""
    found: list[Span] = []
    start, end = 0, size
    while end - start > 1:
        split = start + (1 << (end - start - 1).bit_length() - 1)
        if index < split:
            found.append((split, end))
            end = split
        else:
            found.append((start, split))
            start = split
    return found[::-1]


@dataclass(slots=True)
class _Growing:
    span: Span
    frontier: Frontier


class Prover:
    """Collects what some proofs need while the leaves pass by: `wanted` are pairs of leaf and size.

    `begin` is the edge of the tree over leaves that are not at hand any more; none of them is wanted.
    Subtrees that several proofs share, as those of a saga's neighbouring records mostly are, are computed once.
    """

    def __init__(self, wanted: Iterable[tuple[int, int]], begin: Frontier | None = None) -> None:
        spans = {span for index, size in wanted for span in siblings(index, size)}
        self._waiting = sorted(spans, reverse=True)
        self._growing: list[_Growing] = []
        self._roots: dict[Span, bytes] = {}
        self._next = 0
        if begin is not None:
            self._pass(begin)

    def _pass(self, begin: Frontier) -> None:
        """Take what stands for the leaves that are not at hand: its subtrees lie within those that are asked for."""
        self._next = begin.size
        while self._waiting and self._waiting[-1][0] < begin.size:
            growing = _Growing(self._waiting.pop(), Frontier.empty())
            at = 0
            for peak, level in zip(begin.peaks, _levels(begin.size), strict=True):
                if growing.span[0] <= at and at + (1 << level) <= growing.span[1]:
                    growing.frontier.append_subtree(level, peak)
                at += 1 << level
            if growing.span[1] <= begin.size:
                self._roots[growing.span] = growing.frontier.root()
            else:
                self._growing.append(growing)

    def take(self, leaf: bytes) -> None:
        """Take the next leaf, given as its hash."""
        here = self._next
        while self._waiting and self._waiting[-1][0] == here:
            self._growing.append(_Growing(self._waiting.pop(), Frontier.empty()))
        self._next += 1
        ended = False
        for each in self._growing:
            each.frontier.append(leaf)
            if each.span[1] == self._next:
                self._roots[each.span] = each.frontier.root()
                ended = True
        if ended:
            self._growing = [each for each in self._growing if each.span[1] != self._next]

    def proof(self, index: int, size: int) -> list[bytes] | None:
        """Return a proof that was wanted; None where the leaves have not come to `size`."""
        roots = [self._roots.get(span) for span in siblings(index, size)]
        found = [root for root in roots if root is not None]
        return found if len(found) == len(roots) else None


def _levels(size: int) -> list[int]:
    """Return the levels of the perfect subtrees that make up a log of this size, the largest first."""
    return [level for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1]
