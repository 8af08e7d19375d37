"""Inclusion proofs out of a stream are those of the whole tree, wherever the leaves begin that are still there."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from tests.merkle_tree import Tree
from tradesaga.consumers.audit.report.seal_finder import Prover
from tradesaga.infra.audit_log.merkle import Frontier, check_inclusion

LEAVES = [hashlib.sha256(b"%d" % number).digest() for number in range(300)]


@given(st.data())
def test_proofs_are_those_of_the_whole_tree(data: st.DataObject) -> None:
    """Of any leaves in logs of any size, the oldest leaves retired or not."""
    total = data.draw(st.integers(1, 300))
    retired = data.draw(st.integers(0, total - 1))
    pairs = st.integers(retired + 1, total).flatmap(
        lambda size: st.tuples(st.integers(retired, size - 1), st.just(size))
    )
    wanted = data.draw(st.lists(pairs, min_size=1, max_size=6))
    frontier = Frontier.empty()
    for leaf in LEAVES[:retired]:
        frontier.append(leaf)
    prover = Prover(wanted, frontier if retired else None)
    for leaf in LEAVES[retired:total]:
        prover.take(leaf)
    tree = Tree(LEAVES[:total])
    for index, size in wanted:
        proof = prover.proof(index, size)
        assert proof == tree.inclusion(index, size)
        check_inclusion(LEAVES[index], index, size, tree.root(size), proof or [])


def test_a_proof_needs_all_leaves() -> None:
    """One that has not come leaves none."""
    prover = Prover([(2, 8)])
    for leaf in LEAVES[:7]:
        prover.take(leaf)
    assert prover.proof(2, 8) is None
