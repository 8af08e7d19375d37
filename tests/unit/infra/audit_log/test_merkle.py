"""Merkle trees: the known roots of RFC 6962's own test log, and proofs that hold for the truth alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merkle_tree import Tree, check_consistency, root_of
from tradesaga.infra.audit_log.merkle import (
    EMPTY_ROOT,
    Frontier,
    ProofError,
    SubtreeRange,
    check_inclusion,
    hash_leaf,
    hash_node,
)

ENTRIES = [
    bytes.fromhex(entry)
    for entry in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
# Certificate Transparency's reference log over these entries, after each of them.
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

leaves = st.lists(st.binary(max_size=3).map(hash_leaf), min_size=1, max_size=70)


@pytest.mark.parametrize("count", range(1, 9))
def test_the_roots_are_those_of_the_reference_log(count: int) -> None:
    """Grown leaf by leaf, or built at once."""
    hashes = [hash_leaf(entry) for entry in ENTRIES]
    assert root_of(hashes[:count]).hex() == ROOTS[count - 1]
    assert Tree(hashes).root(count).hex() == ROOTS[count - 1]


def test_a_log_without_leaves_has_the_empty_root() -> None:
    """SHA-256 of nothing."""
    assert root_of([]) == Tree([]).root() == EMPTY_ROOT


def defined(hashes: list[bytes]) -> bytes:
    """Hash a tree exactly as section 2.1 defines it."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return hash_node(defined(hashes[:split]), defined(hashes[split:]))


@given(leaves)
def test_edge_and_tree_agree_with_the_definition(hashes: list[bytes]) -> None:
    """An edge written and read back grows on to the same root."""
    edge = Frontier.empty()
    for leaf in hashes:
        edge = Frontier.unpack(edge.size, edge.pack())
        edge.append(leaf)
    assert edge.root() == Tree(hashes).root() == defined(hashes)


@given(leaves, st.data())
def test_an_inclusion_proof_holds_for_its_leaf_alone(hashes: list[bytes], data: st.DataObject) -> None:
    """Another leaf, another place, a shorter or a longer proof: refused."""
    tree = Tree(hashes)
    size = data.draw(st.integers(1, len(hashes)))
    index = data.draw(st.integers(0, size - 1))
    proof, root = tree.inclusion(index, size), tree.root(size)
    check_inclusion(hashes[index], index, size, root, proof)
    wrong = [
        (hash_leaf(b"another"), index, proof),
        (hashes[index], size, proof),
        (hashes[index], index, [*proof, EMPTY_ROOT]),
        *([(hashes[index], index, proof[:-1])] if proof else []),
        *([(hashes[index], index, [EMPTY_ROOT, *proof[1:]])] if proof else []),
    ]
    for leaf, place, path in wrong:
        with pytest.raises(ProofError):
            check_inclusion(leaf, place, size, root, path)


@given(leaves, st.data())
def test_a_consistency_proof_holds_for_its_logs_alone(hashes: list[bytes], data: st.DataObject) -> None:
    """A log whose past was altered cannot be proved to go on from what it was."""
    tree = Tree(hashes)
    size = data.draw(st.integers(1, len(hashes)))
    older = data.draw(st.integers(1, size))
    proof = tree.consistency(older, size)
    check_consistency(older, tree.root(older), size, tree.root(size), proof)
    altered = list(hashes)
    altered[data.draw(st.integers(0, older - 1))] = hash_leaf(b"altered")
    other = Tree(altered)
    with pytest.raises(ProofError):
        check_consistency(older, tree.root(older), size, other.root(size), other.consistency(older, size))
    with pytest.raises(ProofError):
        check_consistency(older, tree.root(older), size, tree.root(size), [*proof, EMPTY_ROOT])


def test_an_edge_of_the_wrong_length_is_refused() -> None:
    """A stored edge that does not fit its size is damage, not a log."""
    with pytest.raises(ValueError, match="not the frontier of 3 leaves"):
        Frontier.unpack(3, bytes(32))


@given(leaves, st.data())
def test_a_stretch_that_is_not_at_hand_is_grafted(hashes: list[bytes], data: st.DataObject) -> None:
    """Whichever leaves are kept, the others' subtrees give the tree its root, and are few."""
    kept = data.draw(st.sets(st.integers(0, len(hashes) - 1)))
    edge, stretch, grafted = Frontier.empty(), SubtreeRange(), 0
    for index, leaf in enumerate(hashes):
        if index not in kept:
            stretch.append(index, leaf)
            continue
        for subtree in stretch.take():
            assert subtree.start == edge.size
            edge.append_subtree(subtree.level, subtree.root)
            grafted += 1
        edge.append(leaf)
    for subtree in stretch.take():
        edge.append_subtree(subtree.level, subtree.root)
        grafted += 1
    assert (edge.size, edge.root()) == (len(hashes), root_of(hashes))
    assert grafted <= (len(kept) + 1) * 2 * len(hashes).bit_length()


def test_no_subtree_is_grafted_where_none_begins() -> None:
    """A subtree of four leaves begins at a multiple of four."""
    edge = Frontier.empty()
    edge.append(hash_leaf(b""))
    with pytest.raises(ValueError, match="begins at leaf 1"):
        edge.append_subtree(2, hash_leaf(b""))
