"""A key tree with its file provider and saved copies, for the tests of keys/ and store/keysdb."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from facekeep.formats.ids import BRANCH_SLOTS, slot_id
from facekeep.formats.nodes import EMPTY_PIN, Kind, root_fingerprint
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.plan import plan
from facekeep.keys.provider import Candidate
from facekeep.keys.settle import settle
from facekeep.keys.slots import Slots
from facekeep.keys.swap import Swap, initial
from facekeep.keys.tree import KeyTree, open_tree
from facekeep.store.keysdb import KeysStore

VAULT = bytes(range(16))
NOW = 1_700_000_000_000
ALL_GIVEN = dict.fromkeys(range(200), BRANCH_SLOTS)


def candidate(root: bytes, vault_id: bytes = VAULT) -> Candidate:
    return Candidate(root_fingerprint(vault_id, root), "current", root)


class Lab:
    """keys.db in ``directory``, a root file, and the tree; branch 1 is verify, branch 2 identify."""

    def __init__(self, directory: Path, copies: Sequence[Path] = ()) -> None:
        self.directory = directory
        self.alloc = ALL_GIVEN
        self.path = directory / "keys.db"
        self.root_path = directory / "root.key"
        for copy in copies:
            copy.parent.mkdir(exist_ok=True)
        self.store = KeysStore.create(self.path, VAULT, copies)
        self.provider = FileProvider(self.root_path, VAULT)
        root = os.urandom(32)
        self.provider.provision(root)
        self.tree = initial(self.store, VAULT, root, NOW, (Kind.VERIFY, Kind.IDENTIFY))

    def root(self) -> bytes:
        return self.provider.read_back(self.tree.fingerprint)

    def swap(
        self, slots: Slots, take: Sequence[int] = (), on_step: Callable[[str], None] | None = None
    ) -> Swap:
        return Swap(
            self.store,
            self.tree,
            [self.provider],
            slots,
            pin=EMPTY_PIN,
            now_ms=NOW,
            alloc=self.alloc,
            take=take,
            on_step=on_step,
        )

    def shred(self, *slots: int, take: Sequence[int] = ()) -> KeyTree:
        self.tree, _ = self.swap(slots, take).run()
        return self.tree

    def quick_shred(self, slots: Slots, take: Sequence[int] = ()) -> KeyTree:
        """Shred without staging: plan, write, open; the provider is told afterwards."""
        root = os.urandom(32)
        self.store.write_swap(
            plan(self.tree, slots, new_root=root, pin=EMPTY_PIN, now_ms=NOW, alloc=self.alloc, take=take)
        )
        before = self.tree.fingerprint
        self.tree, winner = open_tree(self.store, VAULT, [candidate(root)])
        settle(self.store, winner, [self.provider], previous=before)
        return self.tree

    def recover(self) -> KeyTree:
        """Recovery of SPEC §3.5, steps 1 and 2, on fresh connections."""
        self.store.close()
        self.store = KeysStore.open(self.path, VAULT, self.store.copies.paths)
        self.tree, winner = open_tree(self.store, VAULT, self.provider.candidates())
        settle(self.store, winner, [self.provider])
        return self.tree

    def save(self, name: str) -> Path:
        """Copy keys.db as an attacker or a backup tool would, its WAL folded in."""
        target = self.directory / name
        with sqlite3.connect(self.path) as source, sqlite3.connect(target) as copy:
            source.backup(copy)
        source.close()
        copy.close()
        return target


def sql(path: Path, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
    """Run one statement on a closed keys.db, as somebody who may write the file would."""
    connection = sqlite3.connect(path)
    with connection:
        rows = connection.execute(statement, values).fetchall()
    connection.close()
    return rows


def copy_file(source: Path, target: Path) -> Path:
    shutil.copy(source, target)
    return target


def verify_slot(index: int) -> int:
    return slot_id(1, index)
