"""Exporting the log as static C2SP tiles: append-only files anyone can serve or archive (SPEC §10.7).

Order of a run: lock the directory; verify the checkpoint that is there against the log; write what is new
(``newfiles``); verify the tiles against the root; write the checkpoint last. Until then the old one
describes the export.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facekeep.auditlog.checkpoints import Checkpoints
from facekeep.auditlog.exported import CHECKPOINT, ExportDirectory, ExportedTree
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.newfiles import NewFiles
from facekeep.auditlog.tree import Progress, Snapshot
from facekeep.errors import Busy, IntegrityError, UsageError
from facekeep.files import PUBLIC, is_temporary, replace, unlock
from facekeep.formats import tiles
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.tiles import WIDTH, Tile
from facekeep.store.sqlite import translated


@dataclass(frozen=True, slots=True)
class Exported:
    """What a run did."""

    checkpoint: Checkpoint
    before: int  # size of the export until now
    files: int  # tiles and bundles written


def export(
    directory: Path, checkpoints: Checkpoints, *, time_ms: int, progress: Progress | None = None
) -> Exported:
    """Bring an export up to the present head, or begin one in a new or empty directory.

    Raises UsageError for a directory with other contents, Busy, and IntegrityError where the export is
    not of this log or of another history of it; then nothing there was changed.
    """
    with translated(directory.name or "the export"), _locked(directory):
        snapshot = checkpoints.snapshot()
        before = _before(directory, checkpoints, snapshot)
        note = checkpoints.make(snapshot, time_ms)
        checkpoint = Checkpoint(checkpoints.origin, snapshot.size, snapshot.root())
        with NewFiles(directory) as files:
            _entries(files, snapshot, before, progress)
            _tiles(files, snapshot, before)
        ExportedTree(ExportDirectory(directory), checkpoint)
        replace(directory / CHECKPOINT, note, PUBLIC)
        return Exported(checkpoint, before, files.written)


def prune(directory: Path) -> int:
    """Delete partial tiles and bundles whose full one is there; return how many.

    A reader takes the full tile instead. Without this an export only ever grows.
    """
    count = 0
    with translated(directory.name or "the export"), _locked(directory):
        for partial in sorted(directory.glob("tile/**/*.p")):
            if partial.with_suffix("").is_file():
                for file in partial.iterdir():
                    file.unlink()
                    count += 1
                partial.rmdir()
    return count


def _entries(files: NewFiles, snapshot: Snapshot, before: int, progress: Progress | None) -> None:
    """Write entry bundles and their leaf hashes."""
    size = snapshot.size
    bodies = snapshot.tree.bodies(before - before % WIDTH, size)
    for bundle in tiles.bundles_between(before, size):
        entries = list(itertools.islice(bodies, bundle.width))
        leaves = [leaf_hash(entry) for entry in entries]
        if len(entries) != bundle.width or leaves != list(snapshot.tree.fetch(Tile(0, *bundle))):
            raise IntegrityError(f"log entries from {bundle.n * WIDTH} on are not those of their leaf hashes")
        files.put(bundle.path, tiles.encode_bundle(entries))
        files.put(Tile(0, *bundle).path, b"".join(leaves))
        if progress is not None:
            progress(min(size, (bundle.n + 1) * WIDTH), size)


def _tiles(files: NewFiles, snapshot: Snapshot, before: int) -> None:
    """Write the tiles above the leaves."""
    for tile in tiles.tiles_between(before, snapshot.size):
        if tile.level:
            hashes = snapshot.tree.fetch(tile)
            if len(hashes) != tile.width:
                raise IntegrityError(f"{tile.path} cannot be made: log.db's tiles are incomplete")
            files.put(tile.path, b"".join(hashes))


def _before(directory: Path, checkpoints: Checkpoints, snapshot: Snapshot) -> int:
    """Size of the export that is there, 0 in an empty directory."""
    names = {item.name for item in directory.iterdir() if not is_temporary(item.name)}
    if CHECKPOINT not in names:
        if names - {"tile"}:  # ``tile`` alone: the first run was interrupted
            raise UsageError(
                "the directory is not empty and holds no export", next="name a new or empty directory"
            )
        return 0
    return checkpoints.check_own(snapshot, ExportDirectory(directory).checkpoint()).size


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor)
        for left in directory.iterdir():
            if is_temporary(left.name):
                left.unlink()
        yield
    finally:
        unlock(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy("another process is exporting to the same directory") from None
