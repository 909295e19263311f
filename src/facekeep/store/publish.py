"""Files that others read while they are replaced: whole, or as they were."""

from __future__ import annotations

import os
from pathlib import Path

from facekeep.files import sync_directory
from facekeep.store.sqlite import translated


def replace_file(path: Path, data: bytes) -> None:
    """Put a file at ``path``, durably, by renaming; raises StoreError. Its mode is what the umask leaves."""
    with translated(path.name):
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
