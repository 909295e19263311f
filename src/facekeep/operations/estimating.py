"""What a rotation or a move would write, and about how long it takes: timed here and now, nothing is changed.

What cannot be tried without changing something is put together from what can: how long each holder takes to
give its root, how long a write beside the vault's files takes to be durable, how long a sample takes to be
read.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.errors import FacekeepError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.operations.rows import living
from facekeep.store.sqlite import translated

T = TypeVar("T")
SAMPLE: Final = 200  # records or entries timed
HOLDER_CALLS: Final = 10  # what a swap asks of one holder, each about as long as giving its root
_HOLDER_SYNCS: Final = 6  # its file written three times, and the directory each time; a root file takes two
_FILE_SYNCS: Final = 7  # of keys.db and log.db in a swap, by strace
_COPY_SYNCS: Final = 9  # of both live copies in one directory
_MOVE_SYNCS: Final = 12  # vault.toml twice, two entries of log.db, a new and an old holder file
_SYNCS_TIMED: Final = 4
_NODE_WORK: Final = 3  # a node is opened, sealed again, and opened once more to see that it is whole
_ENTRY_SHARE: Final = 1 / 3  # an entry among a whole log costs so much of one that is read among few
_PAGE: Final = bytes(4096)


@dataclass(frozen=True, slots=True)
class Extent:
    """What would be written anew, and about how long it takes.

    ``roots``: holders that get a new root. ``copies``: directories whose live copies follow. ``nodes`` of the
    key tree, the root node among them, and ``subjects`` of the index. ``entries`` of the log, which are read.
    """

    what: str
    seconds: float
    roots: int = 0
    copies: int = 0
    nodes: int = 0
    subjects: int = 0
    entries: int = 0

    def to_json(self) -> JsonObject:
        """Return it as JSON; the seconds are rounded up."""
        return {
            "copies": self.copies,
            "dry_run": True,
            "entries": self.entries,
            "nodes": self.nodes,
            "roots": self.roots,
            "seconds": whole(self.seconds),
            "subjects": self.subjects,
            "what": self.what,
        }


def whole(seconds: float) -> int:
    """Seconds as they are told: rounded up, so that only nothing takes none."""
    return math.ceil(seconds)


def extent(core: Core, session: Session, what: str) -> Extent:
    """Count what a rotation of the root, the tree or the signing keys would write, and time a sample."""
    session.require(Action.KEYS)
    if what not in {"root", "tree", "signing"}:
        raise UsageError("an extent is that of root, tree or signing")
    copies = len(core.settings.copies)
    if what == "signing":
        size = core.log.head().size
        return Extent(what, size * _entry_s(core, size), copies=copies, entries=size)
    roots, swap = len(core.providers), swap_s(core)
    if what == "root":
        return Extent(what, swap, roots, copies, nodes=1)
    nodes, rows = core.keys.node_count(), core.data.count()
    seconds = swap + nodes * (1 + copies) * _node_s(core) + rows * _record_s(core)
    return Extent(what, seconds, roots, copies, 1 + nodes, core.keys.index_count())


def of_move(core: Core, holders: int, joining: int) -> Extent:
    """Count and time what a move to so many holders would write, of which some are new."""
    copies = len(core.settings.copies)
    return Extent("move", swap_s(core, joining=joining, moving=True), holders, copies, nodes=1)


def swap_s(core: Core, *, joining: int = 0, moving: bool = False) -> float:
    """Seconds of one swap, about. A new holder is untried, and counts as the slowest of the present ones.

    One that is away counts for the time until that was known: nothing is done before it is back.
    """
    each = each_s(lambda holder: holder.candidates(), core.readers)
    asked = sum(each) + joining * max(each, default=0.0)
    syncs = _HOLDER_SYNCS * (len(each) + joining) + _FILE_SYNCS + _COPY_SYNCS * len(core.settings.copies)
    return asked * HOLDER_CALLS + (syncs + (_MOVE_SYNCS if moving else 0)) * _sync_s(core)


def each_s(act: Callable[[T], object], items: Iterable[T]) -> list[float]:
    """Seconds that each call took; one that fails took its time, too."""
    found = []
    for item in items:
        began = time.perf_counter()
        with contextlib.suppress(FacekeepError):
            act(item)
        found.append(time.perf_counter() - began)
    return found


def mean(seconds: Sequence[float]) -> float:
    """Mean of a sample; 0 of none."""
    return sum(seconds) / max(1, len(seconds))


def _sync_s(core: Core) -> float:
    """Seconds until a page is durable on the vault's disk, in a file that has no name and is gone at once."""
    with translated(core.path.name), tempfile.TemporaryFile(dir=core.path, buffering=0) as file:
        began = time.perf_counter()
        for _ in range(_SYNCS_TIMED):
            file.write(_PAGE)
            os.fsync(file.fileno())
        return (time.perf_counter() - began) / _SYNCS_TIMED


def _node_s(core: Core) -> float:
    """Seconds that a stored node costs when it is re-keyed, from the branch nodes."""
    tree = core.view().tree
    root = tree.root_node.node
    stored = [(branch, root.child(at)) for at, branch, _ in tree.branches() if root.is_stored(at)]
    return _NODE_WORK * mean(
        each_s(lambda each: tree.opened(core.keys.read_node(each[0], 1, 0)[0], each[1]), stored)
    )


def _record_s(core: Core) -> float:
    """Seconds that a record costs when the tree is re-keyed: twice among thousands, once alone."""
    view = core.view()
    return mean(each_s(lambda row: living(core, view, row), itertools.islice(core.data.rows(), SAMPLE)))


def _entry_s(core: Core, size: int) -> float:
    """Seconds that an entry costs which is authenticated before anything is signed, from the last ones."""
    began = time.perf_counter()
    read = sum(1 for _ in core.log.entries(max(0, size - SAMPLE), size))
    return (time.perf_counter() - began) / max(1, read) * _ENTRY_SHARE
