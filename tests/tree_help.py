"""Logs of any size, made quickly, with what signs and proves them; for the tests of proofs and exports."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from auditlog_help import KEY, NOW, VAULT, Lab, decision
from facekeep.auditlog.checkpoints import Checkpoints
from facekeep.auditlog.keyed import LogKey
from facekeep.auditlog.merkle import EMPTY_ROOT, Frontier, leaf_hash
from facekeep.auditlog.rules import State
from facekeep.auditlog.signed import LogSigner
from facekeep.auditlog.tilehash import TileHashes, tile_root
from facekeep.auditlog.tree import LogTree
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.tiles import WIDTH, Tile
from facekeep.store import logdb

SIGNING_KEY = b"g" * 32
OTHER_VAULT = b"w" * 16


class TreeLab(Lab):
    """A log on disk with its tree and checkpoints."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.open_tree()

    def open_tree(self) -> Checkpoints:
        self.database = logdb.open_log(self.path, VAULT)
        self.tree = LogTree(self.database, KEY, VAULT, self.log.head)
        self.checkpoints = Checkpoints(self.tree, SIGNING_KEY, VAULT)
        return self.checkpoints

    def fill(self, size: int) -> None:
        """Append decisions until there are ``size`` entries, without the durable commits."""
        key = LogKey(KEY, VAULT)
        head = self.log.head()
        state, rows = State(head), []
        body = entries.decision_body(decision())
        place = body.index(b'"nonce":"') + len(b'"nonce":"')
        for index in range(head.size, size):
            body = body[:place] + f"{index:032x}".encode() + body[place + 32 :]
            leaf = leaf_hash(body)
            state.add_decision(NOW, leaf, key.chain(index, state.chain, leaf))
            rows.append(key.row(index, 0, body, leaf, state.chain))
        if not rows:
            return
        with self.database.transaction() as connection:
            logdb.insert_rows(connection, rows)
            logdb.write_head(connection, key.seal_head(state.head()))

    def break_log(self, *statements: str) -> Checkpoints:
        """Attack the closed file and open it again."""
        self.database.close()
        self.attack(*statements)
        self.log = self.open()
        return self.open_tree()


class Grown:
    """A tree in memory: leaves, roots at every size, tiles."""

    def __init__(self, bodies: Iterable[bytes]) -> None:
        self.bodies = list(bodies)
        self.leaves = [leaf_hash(body) for body in self.bodies]
        self.size = len(self.leaves)
        self.roots = [EMPTY_ROOT]
        frontier = Frontier()
        for leaf in self.leaves:
            frontier.append(leaf)
            self.roots.append(frontier.root())
        self._last: tuple[int, TileHashes] | None = None
        self.levels = [self.leaves]
        while len(below := self.levels[-1]) >= WIDTH:
            last = len(below) - WIDTH + 1
            self.levels.append([tile_root(below[at : at + WIDTH]) for at in range(0, last, WIDTH)])

    def tile(self, tile: Tile) -> Sequence[bytes]:
        return self.levels[tile.level][tile.n * WIDTH : tile.n * WIDTH + tile.width]

    def at(self, size: int) -> TileHashes:
        if self._last is None or self._last[0] != size:
            self._last = (size, TileHashes(size, self.tile))
        return self._last[1]

    def checkpoint(self, size: int, origin: str | None = None) -> Checkpoint:
        return Checkpoint(origin or signer().origin, size, self.roots[size])

    def signed(self, size: int) -> bytes:
        return signer().sign(self.checkpoint(size), NOW)


@functools.cache
def grown(size: int) -> Grown:
    return Grown(b"entry %d" % index for index in range(size))


@functools.cache
def signer(generation: int = 1, vault: bytes = VAULT) -> LogSigner:
    return LogSigner(SIGNING_KEY, vault, generation)


def altered(data: bytes, step: int = 1) -> Iterable[bytes]:
    """Every byte of ``data`` (or every ``step``-th) changed, one at a time."""
    for at in range(0, len(data), step):
        yield data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def refused(call: Callable[..., object], *arguments: object) -> bool:
    """Whether a call raises one of the errors for altered data."""

    try:
        call(*arguments)
    except IntegrityError:
        return True
    return False
