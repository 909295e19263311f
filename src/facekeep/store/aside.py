"""Databases that go: a damaged one is moved aside, for somebody to look at, and never deleted.

What stands at a name may be anything: a directory, a pipe, a link. It is renamed as it is, and not followed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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
            if os.path.lexists(beside):
                beside.rename(new)
        sync_directory(path.parent)
    return target


def discard(path: Path, ends: Sequence[str] = ("", *SIDECARS)) -> None:
    """Remove a database that came to nothing, and what stands beside it; raises StoreError.

    A directory in such a place is nobody's, and is renamed.
    """
    with translated(path.name):
        for each in (path.with_name(path.name + end) for end in ends):
            if each.is_dir() and not each.is_symlink():
                _rename_foreign(each)
            else:
                each.unlink(missing_ok=True)


def is_away(copy: Path, primary: Path) -> bool:
    """Whether a copy's directory is not there; one that leads to the primary's own is not the copy's."""
    try:
        return not copy.parent.is_dir() or copy.parent.samefile(primary.parent)
    except OSError:
        return True


def move_journal_aside(path: Path) -> None:
    """Rename what stands at the name of a database's rollback journal: ours are in WAL mode and have none."""
    journal = path.with_name(path.name + "-journal")
    with translated(path.name):
        if os.path.lexists(journal):
            _rename_foreign(journal)


def _rename_foreign(path: Path) -> None:
    names = (path.with_name(f"{path.name}.foreign-{number}") for number in range(1, _MOST))
    path.rename(next(each for each in names if not os.path.lexists(each)))


def _files(path: Path) -> list[Path]:
    return [path.with_name(path.name + end) for end in ("", *SIDECARS)]
