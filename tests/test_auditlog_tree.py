"""The tree beside log.db: kept hashes are never believed, and are mended from the rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditlog_help import DAMAGED, KEY, VAULT, genesis
from facekeep.auditlog import proofs
from facekeep.auditlog.keyed import LogKey
from facekeep.auditlog.merkle import Frontier
from facekeep.auditlog.rotation import signing_entry
from facekeep.auditlog.tiled import Tiled, is_signing
from facekeep.auditlog.tree import LogTree
from facekeep.errors import FacekeepError, FormatError, IntegrityError, UsageError
from facekeep.formats import entries
from facekeep.store import logdb, logtiles
from tree_help import TreeLab, signer


@pytest.fixture
def lab(tmp_path: Path) -> TreeLab:
    return TreeLab(tmp_path)


def check(lab: TreeLab) -> None:
    """Prove a few entries and older trees against the head."""
    snapshot = lab.tree.snapshot()
    size, root = snapshot.size, lab.log.head().root()
    assert snapshot.root() == root
    for index in {0, 1, 255, 256, size // 2, size - 1} & set(range(size)):
        leaf = lab.tree.leaf(index)
        proofs.verify_inclusion(leaf, index, size, snapshot.inclusion(index), root)
        proofs.verify_consistency(
            index + 1, snapshot.root(index + 1), size, root, snapshot.consistency(index + 1)
        )


@pytest.mark.parametrize("sizes", [(1,), (2, 255, 256, 257), (511, 512, 513), (300, 66_000, 66_048)])
def test_the_tree_follows_the_log(lab: TreeLab, sizes: tuple[int, ...]) -> None:
    for size in sizes:
        lab.fill(size)
        check(lab)


def test_nothing_is_built_when_the_log_is_opened_or_appended_to(lab: TreeLab) -> None:
    lab.fill(70_000)
    lab.decide(3)
    assert logtiles.read_state(lab.database.connection()) is None


def test_an_older_tree_s_proofs(lab: TreeLab) -> None:
    lab.fill(600)
    snapshot = lab.tree.snapshot()
    for size in (1, 5, 256, 300, 512, 599):
        root = snapshot.root(size)
        path = snapshot.inclusion(size - 1, size)
        proofs.verify_inclusion(lab.tree.leaf(size - 1), size - 1, size, path, root)
        proofs.verify_consistency(1, snapshot.root(1), size, root, snapshot.consistency(1, size))
    assert snapshot.root(0) == Frontier().root()
    assert snapshot.consistency(0) == ()


@pytest.mark.parametrize("size", [601, -1])
def test_a_tree_that_never_was_has_no_root_or_proof(lab: TreeLab, size: int) -> None:
    lab.fill(600)
    snapshot = lab.tree.snapshot()
    with pytest.raises(FacekeepError):
        snapshot.root(size)
    with pytest.raises(UsageError):
        snapshot.consistency(size)
    with pytest.raises(FacekeepError):
        snapshot.inclusion(600)


def test_a_snapshot_stays_what_it_was_while_the_log_grows(lab: TreeLab) -> None:
    lab.fill(500)
    snapshot = lab.tree.snapshot()
    lab.fill(1300)
    lab.tree.snapshot()
    assert snapshot.size == 500
    proofs.verify_inclusion(lab.tree.leaf(3), 3, 500, snapshot.inclusion(3), snapshot.root())


def test_another_process_built_further(lab: TreeLab) -> None:
    lab.fill(700)
    old = lab.log.head()
    lab.fill(66_000)
    lab.tree.snapshot()
    behind = LogTree(logdb.open_log(lab.path, VAULT), KEY, VAULT, lambda: old)
    assert behind.snapshot().root() == old.root()


def test_two_processes_build_at_once(lab: TreeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.fill(66_000)
    other = LogTree(logdb.open_log(lab.path, VAULT), KEY, VAULT, lab.log.head)
    extend = LogTree._extend

    def slow(self: LogTree, built: Tiled, stop: int) -> Tiled:
        if self is lab.tree and built.size == 0:
            other.snapshot()
        return extend(self, built, stop)

    monkeypatch.setattr(LogTree, "_extend", slow)
    check(lab)


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE tile SET hashes = zeroblob(length(hashes))",
        "UPDATE tile SET hashes = substr(hashes, 33)",
        "DELETE FROM tile",
        "DELETE FROM tile WHERE id = (SELECT max(id) FROM tile)",
        f"UPDATE tiled SET sealed = {DAMAGED}",
        "UPDATE tiled SET sealed = (SELECT sealed FROM head)",
        "UPDATE tiled SET sealed = x'00'",
        "DELETE FROM tiled",
    ],
)
@pytest.mark.parametrize("more", [0, 1000])
def test_altered_tiles_are_built_again(lab: TreeLab, attack: str, more: int) -> None:
    lab.fill(1_100)
    check(lab)
    lab.break_log(attack)
    lab.fill(1_100 + more)
    check(lab)
    for index in range(0, 1_100, 37):
        lab.tree.snapshot().inclusion(index)


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE entry SET sealed = (SELECT sealed FROM entry WHERE idx = 301) WHERE idx = 300",
        "UPDATE entry SET leaf = zeroblob(32) WHERE idx = 300",
        "UPDATE entry SET chain = zeroblob(32) WHERE idx = 300",
        "UPDATE entry SET control = 1 WHERE idx = 300",
        "DELETE FROM entry WHERE idx = 300",
    ],
)
def test_an_altered_row_is_named_and_nothing_is_signed(lab: TreeLab, attack: str) -> None:
    lab.fill(600)
    checkpoints = lab.break_log(attack)
    with pytest.raises(IntegrityError, match=r"log entry 30[01]"):
        checkpoints.snapshot()


def test_swapped_rows_are_noticed(lab: TreeLab) -> None:
    lab.fill(600)
    checkpoints = lab.break_log(
        "UPDATE entry SET idx = -1 WHERE idx = 300",
        "UPDATE entry SET idx = 300 WHERE idx = 301",
        "UPDATE entry SET idx = 301 WHERE idx = -1",
    )
    with pytest.raises(IntegrityError, match="log entry 300"):
        checkpoints.snapshot()


def test_a_row_altered_after_it_was_tiled_gives_no_proof(lab: TreeLab) -> None:
    lab.fill(600)
    lab.tree.snapshot()
    lab.break_log("UPDATE entry SET leaf = zeroblob(32) WHERE idx = 300")
    snapshot = lab.tree.snapshot()
    with pytest.raises(IntegrityError):
        snapshot.inclusion(301)


def test_progress_is_told(lab: TreeLab) -> None:
    lab.fill(66_000)
    told: list[tuple[int, int]] = []
    lab.tree.snapshot(lambda done, size: told.append((done, size)))
    assert told == [(65_536, 66_000), (65_792, 66_000)]


def test_the_state_is_bound_to_vault_and_key() -> None:
    sealed = LogKey(KEY, VAULT).tiles.seal(b"state")
    assert LogKey(KEY, VAULT).tiles.open(sealed) == b"state"
    for kind in (LogKey(b"x" * 32, VAULT).tiles, LogKey(KEY, b"x" * 16).tiles, LogKey(KEY, VAULT).pages):
        with pytest.raises(IntegrityError):
            kind.open(sealed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"frontier":[],"signing":[],"size":256,"v":1}',
        b'{"frontier":[],"signing":[],"size":1,"v":1}',
        b'{"frontier":[],"signing":[],"size":0,"v":2}',
        b'{"frontier":[],"more":1,"signing":[],"size":0,"v":1}',
        b'{"frontier":{},"signing":[],"size":0,"v":1}',
    ],
)
def test_a_malformed_state_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        Tiled.decode(body)


def test_only_a_signing_entry_looks_like_one() -> None:
    entry = signing_entry(signer(1), signer(2), by=None, time_ms=1)
    assert is_signing(entries.encode(entry))
    assert not is_signing(entries.encode(genesis()))
