"""Where a new token is put. Never on a command line: other users see that."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from facekeep import files
from facekeep.access.tokens import default_file, token_directory, told
from facekeep.errors import UsageError, VaultExists

_ROOM = 128  # bytes kept for a token before there is one


class NewTokenFile:
    """A place kept for a token that does not exist yet, so that a full disk is noticed before.

    ``wanted`` None: the token goes to ``default_file`` once the vault's id is known.
    """

    def __init__(self, wanted: Path | None) -> None:
        """Make the file (0600) and the directory (0700); raises VaultExists, StoreError."""
        directory = token_directory() if wanted is None else wanted.absolute().parent
        self._wanted = wanted
        self._path = wanted or directory / files.temporary("token")
        with told(self._path):
            if wanted is None:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not directory.is_dir():
                raise UsageError("the token file's directory does not exist", next="make it first")
            try:
                self._descriptor = files.begin(self._path, files.PRIVATE)
            except FileExistsError:
                raise VaultExists(f"the token file {self._path.name} already exists") from None
            try:
                self._write(b"\n" * _ROOM)
            except BaseException:
                self.discard()
                self.close()
                raise

    def keep(self, token: str, vault_id: str) -> Path:
        """Write the token durably and return its file."""
        with told(self._path):
            self._write(token.encode("ascii") + b"\n")
            final = self._wanted or default_file(vault_id)
            if final != self._path:
                files.rename(self._path, final)
        return final

    def _write(self, data: bytes) -> None:
        """Replace the content, through the descriptor by which the file was made."""
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def discard(self) -> None:
        """Remove the file: no token came."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def reserved(wanted: Path | None) -> Iterator[NewTokenFile]:
    """Keep a place for a token; it is removed again when the work fails."""
    place = NewTokenFile(wanted)
    try:
        yield place
    except BaseException:
        place.discard()
        raise
    finally:
        place.close()
