"""New files in an export: written whole, durable before their names, never replaced by other bytes.

fsync of each directory touched at the end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from facekeep import files
from facekeep.errors import IntegrityError

_WRITERS: Final = 8  # threads: an fsync waits for the disk, not for us
_WAITING: Final = 32  # files in memory at most; a bundle can have 16 MiB


class NewFiles:
    """Writes files below a directory in threads; leaving the context waits for them and for the disk."""

    def __init__(self, directory: Path) -> None:
        """Write below ``directory``, which exists."""
        self.written = 0
        self._directory = directory
        self._touched = {Path()}
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._futures: deque[Future[bool]] = deque()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait; then make the names durable, unless something went wrong."""
        try:
            self._settle(0)
        finally:
            self._pool.shutdown()
        if kind is None:
            for path in sorted(self._touched, reverse=True):
                with files.below(self._directory, path.parts) as touched:
                    os.fsync(touched)

    def put(self, name: str, data: bytes) -> None:
        """Write a file, or check that the one that is there has the same bytes (IntegrityError)."""
        self._futures.append(self._pool.submit(self._put, name, data))
        self._settle(_WAITING)

    def _settle(self, most: int) -> None:
        while len(self._futures) > most:
            self.written += self._futures.popleft().result()

    def _put(self, name: str, data: bytes) -> bool:
        *folders, last = name.split("/")
        with files.below(self._directory, folders) as parent:
            there = files.read_in(parent, last, len(data) + 1)
            if there is None:
                with files.below(self._directory, ()) as aside:
                    files.put(parent, last, data, files.PUBLIC, aside)
        if there is not None and there != data:
            raise IntegrityError(
                f"{name} in the export has other bytes than the log gives",
                next="keep that directory as evidence, and export to another one",
            )
        with self._guard:
            self._touched.update(Path(name).parents)
        return there is None
