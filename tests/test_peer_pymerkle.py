"""pymerkle, an independent RFC 9162 tree, gives the same roots and the same proofs."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

from facekeep.auditlog import proofs
from tree_help import grown


@pytest.fixture(scope="module")
def pymerkle() -> Any:  # noqa: ANN401 - a package without types
    if os.environ.get("CI") == "true":
        return importlib.import_module("pymerkle")
    return pytest.importorskip("pymerkle", reason="install pymerkle to run the peer")


@pytest.fixture(scope="module")
def theirs(pymerkle: Any) -> Any:  # noqa: ANN401
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for body in grown(300).bodies:
        tree.append_entry(body)
    return tree


def test_the_same_root_at_every_size_from_0_to_300(theirs: Any) -> None:  # noqa: ANN401
    ours = grown(300)
    assert [theirs.get_root(size) for size in range(301)] == ours.roots


def test_the_same_root_at_65536_and_70000(pymerkle: Any) -> None:  # noqa: ANN401
    ours = grown(70_000)
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for body in ours.bodies:
        tree.append_entry(body)
    assert tree.get_root(65_536) == ours.roots[65_536]
    assert tree.get_root(70_000) == ours.roots[70_000]


def test_pymerkle_accepts_our_proofs_and_refuses_altered_ones(pymerkle: Any, theirs: Any) -> None:  # noqa: ANN401
    ours = grown(300)
    for size in (1, 2, 3, 7, 8, 64, 255, 256, 257, 300):
        for index in {0, size // 2, size - 1}:
            proof = theirs.prove_inclusion(index + 1, size)
            path = list(proofs.inclusion_proof(ours.at(size), index, size))
            assert proof.path[:1] == [ours.leaves[index]]
            assert sorted(proof.path[1:]) == sorted(path)
            proofs.verify_inclusion(ours.leaves[index], index, size, path, theirs.get_root(size))
            pymerkle.verify_inclusion(ours.leaves[index], ours.roots[size], proof)
            with pytest.raises(pymerkle.InvalidProof):
                pymerkle.verify_inclusion(ours.leaves[index], bytes(32), proof)
