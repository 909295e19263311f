"""New files in an export: written whole, durable before their names, never replaced by other bytes.

open(O_CREAT | O_EXCL, temporary), write, fsync, rename; and fsync of each directory touched at the end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from facekeep.errors import IntegrityError
from facekeep.files import sync_directory

TEMPORARY: Final = ".new-"  # prefix; a leftover is removed by the next run
_WRITERS: Final = 8  # threads: an fsync waits for the disk, not for us
_WAITING: Final = 32  # files in memory at most; a bundle can have 16 MiB


class NewFiles:
    """Writes files below a directory in threads; leaving the context waits for them and for the disk."""

    def __init__(self, directory: Path) -> None:
        """Write below ``directory``, which exists."""
        self.written = 0
        self._directory = directory
        self._touched = {directory}
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
                sync_directory(path)

    def put(self, name: str, data: bytes) -> None:
        """Write a file, or check that the one that is there has the same bytes (IntegrityError)."""
        self._futures.append(self._pool.submit(self._put, self._directory / name, data))
        self._settle(_WAITING)

    def _settle(self, most: int) -> None:
        while len(self._futures) > most:
            self.written += self._futures.popleft().result()

    def _put(self, path: Path, data: bytes) -> bool:
        if path.exists():
            if path.read_bytes() != data:
                raise IntegrityError(
                    f"{path.relative_to(self._directory)} in the export has other bytes than the log gives",
                    next="keep that directory as evidence, and export to another one",
                )
            return False
        self._make(path.parent)
        place(self._directory, path, data)
        return True

    def _make(self, parent: Path) -> None:
        with self._guard:
            while parent not in self._touched:
                parent.mkdir(parents=True, exist_ok=True)
                self._touched.add(parent)
                parent = parent.parent


def place(directory: Path, path: Path, data: bytes) -> None:
    """Write ``path`` atomically by way of a temporary in ``directory``; the name is not durable yet."""
    temporary = directory / f"{TEMPORARY}{os.urandom(8).hex()}"
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
