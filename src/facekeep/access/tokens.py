"""Where a token comes from. Never the command line: other users see that."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from facekeep.errors import NotAllowed, StoreError, UsageError
from facekeep.files import user_directory

_LONGEST: Final = 4096  # bytes of a token file


def token_directory() -> Path:
    """Return where ``init`` puts tokens: the user's configuration directory."""
    return user_directory("XDG_CONFIG_HOME", ".config") / "tokens"


def default_file(vault_id: str) -> Path:
    """Return the token file that ``init`` writes for a vault."""
    return token_directory() / f"{vault_id}.token"


def find_token(named: str | None, vault_id: str) -> str:
    """Return the token in the file ``named``, FACEKEEP_TOKEN, FACEKEEP_TOKEN_FILE, or what ``init`` wrote."""
    if named:
        return read_token_file(Path(named))
    if token := os.environ.get("FACEKEEP_TOKEN"):
        return token
    if file := os.environ.get("FACEKEEP_TOKEN_FILE"):
        return read_token_file(Path(file))
    with contextlib.suppress(UsageError):  # a user without a home
        default = default_file(vault_id)
        if os.path.exists(default):  # noqa: PTH110 - False, too, for what may not be looked at
            return read_token_file(default)
    raise NotAllowed(
        "there is no token for this vault",
        next="put one in FACEKEEP_TOKEN, or name its file with --token-file; an operator adds them",
    )


def read_token_file(path: Path) -> str:
    """Read a token file that only its owner can read; raises NotAllowed, StoreError."""
    with told(path):
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


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Have an error name the token file."""
    try:
        yield
    except FileNotFoundError:
        raise NotAllowed(f"there is no token file {path.name}") from None
    except OSError as error:
        raise StoreError(f"the token file {path.name}: {error.strerror or error}") from error
