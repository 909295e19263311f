"""Passphrases, PINs and server tokens of root holders: found or asked for once, kept while the process lives.

Never on a command line and never in vault.toml. After each swap a process fetches the root again, so what
opens its holder stays in memory; docs/THREATS.md says what that means.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from facekeep.errors import RootError

Ask: TypeAlias = Callable[[str, str], bytes | None]
"""(name, what it is for) -> the secret, or None where nobody can be asked."""

_LONGEST: Final = 4096  # bytes of a secret


class Secrets:
    """Where holders get their secrets from, by name: ``passphrase``, ``pin``, ``openbao-token`` or another.

    In this order: what was found before; the file named by FACEKEEP_<NAME>_FILE (mode 0600); the file
    facekeep-<name> in $CREDENTIALS_DIRECTORY (systemd); ``ask``.
    """

    def __init__(self, ask: Ask | None = None, ask_new: Ask | None = None) -> None:
        """Use ``ask`` where no file has the secret, ``ask_new`` for one that is being chosen."""
        self._ask = ask
        self._ask_new = ask_new or ask
        self._known: dict[tuple[str, str], bytes] = {}  # by key and purpose
        self._refused: dict[str, bytes] = {}
        self._guard = threading.RLock()

    def get(self, name: str, purpose: str, file: Path | None = None, *, new: bool = False) -> bytes:
        """Return a secret; raises RootError where there is none, or the one there is was refused before.

        A holder whose URI names a ``file`` (mode 0600) takes it from there and from nowhere else. What was
        given for one purpose is not handed out for another: vault.toml names the purposes (SPEC §4.1).
        ``new``: nothing is sealed under it yet, so nothing would show that it was mistyped.
        """
        key = _key(name, file)
        with self._guard:
            if (key, purpose) not in self._known:
                found = self._find(name, purpose, new=new) if file is None else _read(file, private=True)
                if not found:
                    raise RootError(f"there is no {name} for {purpose}", next=_how(name))
                if self._refused.get(key) == found:
                    raise RootError(f"the {name} for {purpose} was refused before and is not tried again")
                self._known[key, purpose] = found
            return self._known[key, purpose]

    def unattended(self, name: str) -> bool:
        """Whether a secret is had without asking: then nobody sees for whom it is."""
        return bool(os.environ.get(variable(name)) or _credential(name))

    def refuse(self, name: str, file: Path | None = None) -> None:
        """Forget a secret that the holder refused, and never hand out the same one again."""
        key = _key(name, file)
        with self._guard:
            for known in [each for each in self._known if each[0] == key]:
                self._refused[key] = self._known.pop(known)

    def _find(self, name: str, purpose: str, *, new: bool) -> bytes | None:
        ask = self._ask_new if new else self._ask
        return _from_file(name) or (ask(name, purpose) if ask else None)


def check_named(setting: str, there: str, name: str, secrets: Secrets) -> None:
    """Raise RootError unless a secret may go ``there``, a place that vault.toml names (SPEC §4.1).

    vault.toml is read before it can be authenticated, and whoever may write it would have the secret sent to
    himself. So the operator's environment names the places too, with spaces between them: what ``setting``
    says, if it says anything, and it must where nobody is asked, who would see for whom the secret is.
    """
    named = os.environ.get(setting, "").split()
    if there in named or (not named and not secrets.unattended(name)):
        return
    raise RootError(
        f"vault.toml has the {name} sent to {there}, which {setting} does not name",
        next=f"if that is your own, say so where the secret comes from: {setting}={there}; "
        "if it is not, somebody edited vault.toml",
    )


def variable(name: str) -> str:
    """Name of the environment variable that names a secret's file."""
    return f"FACEKEEP_{name.upper().replace('-', '_')}_FILE"


def _key(name: str, file: Path | None) -> str:
    return name if file is None else f"{name} in {file}"


def _how(name: str) -> str:
    return f"put it into a file of mode 0600 and name that in {variable(name)}"


def _from_file(name: str) -> bytes | None:
    if named := os.environ.get(variable(name)):
        return _read(Path(named), private=True)
    path = _credential(name)
    return None if path is None else _read(path, private=False)


def _credential(name: str) -> Path | None:
    """Path of a secret that systemd hands over, where there is one."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory or "/") / f"facekeep-{name}"
    return path if directory and path.exists() else None


def _read(path: Path, *, private: bool) -> bytes:
    """First line of a file; ``private``: refuse one that others can read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RootError(f"the secret's file {path.name} is not a regular file")
            if private and status.st_mode & 0o077:
                raise RootError(f"others can read the secret's file {path.name}", next=f"chmod 600 '{path}'")
            raw = file.read(_LONGEST + 1)
    except OSError as error:
        raise RootError(f"the secret's file {path.name}: {error.strerror or error}") from error
    line = raw.split(b"\n", 1)[0].rstrip(b"\r")
    if not line or len(raw) > _LONGEST:
        raise RootError(f"the secret's file {path.name} is empty or longer than {_LONGEST} bytes")
    return line
