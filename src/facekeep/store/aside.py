"""Moving a damaged file out of the way, for somebody to look at: it is never deleted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from facekeep.files import sync_directory
from facekeep.store.sqlite import translated

SIDECARS: Final = ("-wal", "-shm", "-journal")
_MOST: Final = 1_000  # damaged files of one name


def move_aside(path: Path) -> Path:
    """Rename a database and what stands beside it to ``NAME.damaged``, or that and a number; return the path.

    rename of each, fsync of the directory. Whoever has it open stops: it is not at its path any more.
    """
    ends = (".damaged", *(f".damaged-{number}" for number in range(2, _MOST)))
    with translated(path.name):
        target = next(
            each
            for end in ends
            if not any(map(os.path.lexists, _files(each := path.with_name(path.name + end))))
        )
        for beside, new in zip(_files(path), _files(target), strict=True):
            if beside.is_file():
                beside.rename(new)
        sync_directory(path.parent)
    return target


def _files(path: Path) -> list[Path]:
    return [path.with_name(path.name + end) for end in ("", *SIDECARS)]
