"""Where a token comes from, and where a new one is put. Never the command line: other users see that."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from facekeep import files
from facekeep.errors import NotAllowed, StoreError, UsageError, VaultExists

_LONGEST = 4096  # bytes of a token file
_ROOM = 128  # bytes kept for a token before there is one


def token_directory() -> Path:
    """Return where ``init`` puts tokens: the user's configuration directory."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "facekeep" / "tokens"


def default_file(vault_id: str) -> Path:
    """Return the token file that ``init`` writes for a vault."""
    return token_directory() / f"{vault_id}.token"


def find_token(named: str | None, vault_id: str) -> str:
    """Token by --token-file, FACEKEEP_TOKEN, FACEKEEP_TOKEN_FILE, or the file that ``init`` wrote."""
    if named:
        return read_token_file(Path(named))
    if token := os.environ.get("FACEKEEP_TOKEN"):
        return token
    if file := os.environ.get("FACEKEEP_TOKEN_FILE"):
        return read_token_file(Path(file))
    default = default_file(vault_id)
    if default.exists():
        return read_token_file(default)
    raise NotAllowed(
        "there is no token for this vault",
        next="put one in FACEKEEP_TOKEN, or name its file with --token-file; an operator adds them",
    )


def read_token_file(path: Path) -> str:
    """Read a token file that only its owner can read; raises NotAllowed, StoreError."""
    with _told(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotAllowed(f"the token file {path.name} is not a regular file")
            if status.st_mode & 0o077:
                raise NotAllowed(f"others can read the token file {path.name}", next=f"chmod 600 '{path}'")
            raw = file.read(_LONGEST)
    try:
        return raw.decode("ascii").strip()
    except UnicodeDecodeError:
        raise NotAllowed(f"the token file {path.name} holds no token") from None


class NewTokenFile:
    """A place kept for a token that does not exist yet, so that a full disk is noticed before.

    ``wanted`` None: the token goes to ``default_file`` once the vault's id is known.
    """

    def __init__(self, wanted: Path | None) -> None:
        """Make the file (0600) and the directory (0700); raises VaultExists, StoreError."""
        directory = token_directory() if wanted is None else wanted.absolute().parent
        self._wanted = wanted
        self._path = wanted or directory / files.temporary("token")
        with _told(self._path):
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
        with _told(self._path):
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


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotAllowed(f"there is no token file {path.name}") from None
    except OSError as error:
        raise StoreError(f"the token file {path.name}: {error.strerror or error}") from error
