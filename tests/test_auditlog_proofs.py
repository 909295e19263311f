"""Inclusion and consistency proofs: every pair of a small tree, and every way to be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekeep.auditlog import proofs
from facekeep.auditlog.merkle import EMPTY_ROOT, leaf_hash, node_hash
from facekeep.auditlog.tilehash import TileHashes, tile_root
from facekeep.errors import FormatError, IntegrityError, UsageError
from facekeep.formats.tiles import Tile
from tree_help import altered, grown

TREE = grown(300)


def no_inclusion(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> None:
    with pytest.raises(IntegrityError):
        proofs.verify_inclusion(leaf, index, size, path, root)


def no_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: list[bytes]) -> None:
    with pytest.raises(IntegrityError):
        proofs.verify_consistency(old, old_root, new, new_root, path)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 33, 255, 256, 257, 300])
def test_every_entry_and_every_older_tree_of_a_size(size: int) -> None:
    reader = TREE.at(size)
    assert proofs.tree_root(reader, size) == TREE.roots[size]
    for index in range(size):
        path = proofs.inclusion_proof(reader, index, size)
        assert len(path) <= (size - 1).bit_length()
        proofs.verify_inclusion(TREE.leaves[index], index, size, path, TREE.roots[size])
    for old in range(size + 1):
        path = proofs.consistency_proof(reader, old, size)
        proofs.verify_consistency(old, TREE.roots[old], size, TREE.roots[size], path)


def test_the_proofs_that_rfc_6962_spells_out() -> None:
    """RFC 6962 §2.1.3: a tree of seven leaves, nodes named as there."""
    a, b, c, d, e, f, j = TREE.leaves[:7]
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, right = node_hash(g, h), node_hash(i, j)
    reader = TREE.at(7)
    assert proofs.inclusion_proof(reader, 0, 7) == (b, h, right)
    assert proofs.inclusion_proof(reader, 3, 7) == (c, g, right)
    assert proofs.inclusion_proof(reader, 4, 7) == (f, j, k)
    assert proofs.inclusion_proof(reader, 6, 7) == (i, k)
    assert proofs.consistency_proof(reader, 3, 7) == (c, d, g, right)
    assert proofs.consistency_proof(reader, 4, 7) == (right,)
    assert proofs.consistency_proof(reader, 6, 7) == (i, j, k)


def test_a_tree_of_one_entry_needs_no_hashes() -> None:
    assert proofs.inclusion_proof(TREE.at(1), 0, 1) == ()
    proofs.verify_inclusion(TREE.leaves[0], 0, 1, (), TREE.leaves[0])
    no_inclusion(TREE.leaves[0], 0, 1, [TREE.leaves[0]], TREE.roots[2])


def test_size_0() -> None:
    assert proofs.tree_root(TREE.at(0), 0) == EMPTY_ROOT
    proofs.verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, ())
    proofs.verify_consistency(0, EMPTY_ROOT, 7, TREE.roots[7], ())
    no_consistency(0, bytes(32), 7, TREE.roots[7], [])
    no_consistency(0, EMPTY_ROOT, 0, TREE.roots[1], [])
    no_consistency(0, TREE.roots[1], 0, TREE.roots[1], [])
    no_consistency(0, EMPTY_ROOT, 7, TREE.roots[7], [TREE.roots[7]])
    no_inclusion(TREE.leaves[0], 0, 0, [], EMPTY_ROOT)


def test_two_trees_of_one_size_with_other_roots_are_a_fork() -> None:
    proofs.verify_consistency(7, TREE.roots[7], 7, TREE.roots[7], ())
    no_consistency(7, TREE.roots[7], 7, TREE.roots[8], [])
    no_consistency(7, TREE.roots[7], 7, TREE.roots[7], [TREE.roots[7]])


def test_a_log_truncated_and_regrown_is_a_fork() -> None:
    bodies = [*TREE.bodies[:100], b"another", *TREE.bodies[101:]]
    fork = type(TREE)(bodies)
    path = list(proofs.consistency_proof(fork.at(300), 200, 300))
    no_consistency(200, TREE.roots[200], 300, fork.roots[300], path)
    proofs.verify_consistency(
        100, TREE.roots[100], 300, fork.roots[300], proofs.consistency_proof(fork.at(300), 100, 300)
    )


def test_a_log_that_shrank_is_refused() -> None:
    path = list(proofs.consistency_proof(TREE.at(300), 200, 300))
    no_consistency(300, TREE.roots[300], 200, TREE.roots[200], path)
    with pytest.raises(UsageError):
        proofs.consistency_proof(TREE.at(200), 300, 200)


@pytest.mark.parametrize("other", [0, 1, 63, 64, 66, 127, 128, 129, 300])
def test_a_proof_for_another_size_or_index_is_refused(other: int) -> None:
    leaf, path = TREE.leaves[33], list(proofs.inclusion_proof(TREE.at(65), 33, 65))
    if other > 33:
        no_inclusion(leaf, 33, other, path, TREE.roots[other])
    no_inclusion(leaf, other, 65, path, TREE.roots[65])
    no_inclusion(leaf, -1, 65, path, TREE.roots[65])
    old = list(proofs.consistency_proof(TREE.at(65), 33, 65))
    if other:
        no_consistency(other, TREE.roots[other], 65, TREE.roots[65], old)


@pytest.mark.parametrize(("at", "size"), [(0, 2), (2, 3), (5, 7), (33, 65), (256, 300)])
def test_every_altered_byte_and_hash_is_refused(at: int, size: int) -> None:
    root, leaf = TREE.roots[size], TREE.leaves[at]
    path = list(proofs.inclusion_proof(TREE.at(size), at, size))
    for n, item in enumerate(path):
        for wrong in altered(item):
            no_inclusion(leaf, at, size, [*path[:n], wrong, *path[n + 1 :]], root)
        no_inclusion(leaf, at, size, [*path[:n], *path[n + 1 :]], root)
        no_inclusion(leaf, at, size, [*path[:n], item, *path[n:]], root)
    no_inclusion(leaf, at, size, [*path, bytes(32)], root)
    old = list(proofs.consistency_proof(TREE.at(size), at + 1, size))
    for n, item in enumerate(old):
        for wrong in altered(item):
            no_consistency(at + 1, TREE.roots[at + 1], size, root, [*old[:n], wrong, *old[n + 1 :]])
        no_consistency(at + 1, TREE.roots[at + 1], size, root, [*old[:n], *old[n + 1 :]])
    no_consistency(at + 1, TREE.roots[at + 1], size, root, [*old, bytes(32)])


def test_an_inner_node_is_not_taken_for_a_leaf() -> None:
    """Leaves and nodes are hashed under other prefixes: a tree of two is no tree of one entry."""
    pair = TREE.leaves[0] + TREE.leaves[1]
    assert leaf_hash(pair) != TREE.roots[2]
    no_inclusion(leaf_hash(pair), 0, 1, [], TREE.roots[2])


def test_extra_data_after_an_entry_are_another_leaf() -> None:
    path = list(proofs.inclusion_proof(TREE.at(65), 33, 65))
    for body in (
        TREE.bodies[33] + b"\n",
        TREE.bodies[33] + b" ",
        b" " + TREE.bodies[33],
        TREE.bodies[33] + b"\0",
    ):
        no_inclusion(leaf_hash(body), 33, 65, path, TREE.roots[65])


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_hash_of_another_length_is_refused(length: int) -> None:
    wrong = b"x" * length
    for leaf, path, root in (
        (wrong, [TREE.leaves[1]], TREE.roots[2]),
        (TREE.leaves[0], [wrong], TREE.roots[2]),
        (TREE.leaves[0], [TREE.leaves[1]], wrong),
    ):
        with pytest.raises(FormatError):
            proofs.verify_inclusion(leaf, 0, 2, path, root)
    with pytest.raises(FormatError):
        proofs.verify_consistency(1, wrong, 2, TREE.roots[2], [TREE.leaves[1]])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5)])
def test_an_entry_outside_the_tree_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(UsageError):
        proofs.inclusion_proof(TREE.at(size), index, size)


def test_a_hash_outside_the_tree_is_not_given() -> None:
    reader = TREE.at(5)
    for height, n in ((0, 5), (1, 2), (3, 0), (-1, 0), (0, -1)):
        with pytest.raises(IntegrityError):
            reader.subtree(height, n)


def test_a_tile_of_another_width_is_refused() -> None:
    with pytest.raises(IntegrityError):
        TileHashes(5, lambda tile: TREE.tile(tile)[:-1]).subtree(0, 0)
    with pytest.raises(IntegrityError):
        tile_root(TREE.leaves[:255])


def test_a_proof_reads_few_tiles() -> None:
    tree, read = grown(70_000), list[Tile]()

    def fetch(tile: Tile) -> list[bytes]:
        read.append(tile)
        return list(tree.tile(tile))

    path = proofs.inclusion_proof(TileHashes(70_000, fetch), 12_345, 70_000)
    proofs.verify_inclusion(tree.leaves[12_345], 12_345, 70_000, path, tree.roots[70_000])
    assert len(read) <= 5


@given(st.integers(1, 300), st.data())
def test_proofs_hold_for_any_sizes(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(0, new))
    path = proofs.consistency_proof(TREE.at(new), old, new)
    proofs.verify_consistency(old, TREE.roots[old], new, TREE.roots[new], path)
    other = data.draw(st.integers(0, 300))
    if other != old and old not in (0, new):
        no_consistency(old, TREE.roots[other], new, TREE.roots[new], list(path))
