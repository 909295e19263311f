"""The holder file on disk: replaced whole, so that it is the old one or the new one (SPEC §4.2)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from facekeep.errors import FormatError, RootError, VaultExists
from facekeep.files import PRIVATE, replace, sync_directory, user_directory
from facekeep.formats.holderfile import MAX_BYTES, HolderRecord, decode_holder, encode_holder
from facekeep.store.sqlite import translated

_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def default_path(vault_id: bytes, scheme: str) -> Path:
    """Return where a holder file is whose URI names none: the user's data directory."""
    return user_directory("XDG_DATA_HOME", ".local", "share") / f"{vault_id.hex()}.{scheme}"


class HolderFile:
    """Records of one holder. Nothing in it is secret; a copy opens nothing once the holder's key is gone."""

    def __init__(self, path: Path, vault_id: bytes, scheme: str) -> None:
        """Keep the path; the file is read anew by each call."""
        self.path = path
        self._vault_id = vault_id
        self._scheme = scheme

    def create(self) -> None:
        """Make it with no record; raises VaultExists where something has its name."""
        if self.path.exists() or self.path.is_symlink():
            raise VaultExists(f"there is already a file at {self.path}")
        with translated(str(self.path)):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.write(())

    def read(self) -> tuple[HolderRecord, ...]:
        """Return the records, the current one first; raises RootError where it is missing or foreign."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            raise RootError(
                f"the holder file {self.path} is missing",
                next="put it back at the path that vault.toml names",
            ) from None
        except OSError as error:
            raise RootError(f"{self.path} cannot be opened: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RootError(f"{self.path} is not a regular file")
            with translated(str(self.path)):
                data = os.read(descriptor, MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        try:
            vault_id, scheme, records = decode_holder(data)
        except FormatError as error:
            raise RootError(f"{self.path} is not a holder file, or is damaged: {error}") from error
        if vault_id != self._vault_id:
            raise RootError(f"{self.path} is the holder file of another vault")
        if scheme != self._scheme:
            raise RootError(f"{self.path} is the file of a {scheme}: holder")
        return tuple(sorted(records, key=lambda each: each.state))

    def write(self, records: Sequence[HolderRecord]) -> None:
        """Replace the file, durably."""
        data = encode_holder(self._vault_id, self._scheme, records)
        with translated(str(self.path)):
            replace(self.path, data, PRIVATE)

    def remove(self) -> None:
        """Remove the file: unlink, fsync of the directory."""
        with translated(str(self.path)):
            self.path.unlink(missing_ok=True)
            sync_directory(self.path.parent)
