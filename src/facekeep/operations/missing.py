"""A file of an existing vault is gone: its name, and what to do.

vault.db can be made anew, because backups are merged into it; keys.db and log.db have live copies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from facekeep.errors import IntegrityError
from facekeep.formats.settings import Settings

DATA_FILE: Final = "vault.db"
LOST_LOG: Final = "facekeep restore --lost-log"
LOST_BOTH: Final = LOST_LOG + " --private FILE --root URI"  # and every root holder
SIDECARS: Final = ("-wal", "-shm")


def check_present(
    path: Path,
    settings: Settings,
    data_file: str = DATA_FILE,
    others: Sequence[str] = ("keys.db", "log.db"),
    remedy: str = LOST_LOG,
) -> None:
    """Raise IntegrityError for the first file of the vault that is not there.

    ``remedy`` is the command for a log that is lost with every copy.
    """
    for name in others:
        if not os.path.lexists(path / name):
            raise IntegrityError(f"{name} is missing from the vault", next=_put_back(settings, name, remedy))
    if not os.path.lexists(path / data_file):
        raise IntegrityError(
            f"{data_file} is missing from the vault",
            next="merge a backup into a new one: facekeep restore BACKUP (--no-backup where there is none)",
        )


def left_of(path: Path, name: str) -> str:
    """Return what is left of a missing file, in words; empty where nothing is."""
    return " and ".join(name + end for end in SIDECARS if os.path.lexists(path / (name + end)))


def _put_back(settings: Settings, name: str, remedy: str) -> str:
    without = f"; where there is none: {remedy}" if name == "log.db" else ""
    if not settings.copies:
        return (
            f"put your own copy of {name} back; vault.toml names none, and nothing opens the vault without it"
            + without
        )
    if not any((Path(copy) / name).is_file() for copy in settings.copies):
        return f"put {name} back from a live copy: bring back {' or '.join(settings.copies)}" + without
    return f"stop the vault, then put {name} back from its live copy: facekeep check --scrub"
