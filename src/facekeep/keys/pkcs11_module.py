"""PKCS #11 libraries in this process: which are loaded, initialised once, one call at a time (SPEC §4.3).

A library is code, and vault.toml is believed before it is authenticated: what it names is loaded only from
where the system's administrator puts libraries. A library is told of no threads of ours (C_Initialize
without arguments), so ``PROCESS.lock`` is held for each call; a forked child initialises it anew (PKCS #11
v2.40 §5.4).
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import pkcs11
from pkcs11.exceptions import PKCS11Error

from facekeep.errors import RootError

VARIABLE: Final = "FACEKEEP_PKCS11_MODULE"
SOFTHSM: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
# As ssh-agent's default for PKCS #11 providers, and /opt, where vendors install.
_TRUSTED: Final = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/opt")

SessionKey: TypeAlias = tuple[str, int, bytes]  # library, slot id, serial


@dataclass(slots=True)
class _Process:
    """What this process has open. ``refused``: (serial, PIN) pairs that a token did not take."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    sessions: dict[SessionKey, pkcs11.Session] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)
    inherited: set[str] = field(default_factory=set)
    refused: set[tuple[bytes, bytes]] = field(default_factory=set, repr=False)

    def hold(self) -> None:
        """Let no fork happen in the middle of a call: the child would find the library's own locks taken."""
        self.lock.acquire()

    def go_on(self) -> None:
        """Let the next call begin."""
        self.lock.release()

    def start_child(self) -> None:
        """In a forked child nothing that the parent opened may be used."""
        self.lock = threading.RLock()
        self.sessions = {}
        self.inherited |= self.loaded


PROCESS: Final = _Process()
os.register_at_fork(before=PROCESS.hold, after_in_parent=PROCESS.go_on, after_in_child=PROCESS.start_child)


def module_path(named: str | None) -> str:
    """Path of the library: what the URI names, or FACEKEEP_PKCS11_MODULE, or SoftHSM. Raises RootError."""
    chosen = os.environ.get(VARIABLE)
    if named is not None:
        if named != chosen:
            _check_trusted(named)
        return named
    path = chosen or next((each for each in SOFTHSM if Path(each).exists()), None)
    if path is None:
        raise RootError(
            "no PKCS #11 library is named, and SoftHSM is not installed",
            next=f"name your token's library: ?module-path=/usr/lib/NAME.so in the URI, or {VARIABLE}",
        )
    if not Path(path).is_file():
        raise RootError(f"there is no PKCS #11 library at {path}", next=f"correct {VARIABLE}")
    return path


def _check_trusted(named: str) -> None:
    """Refuse a library that somebody who can write vault.toml may have put there."""
    path = Path(os.path.realpath(named))
    how = f"install the token's library, or name it yourself: export {VARIABLE}={named}"
    try:
        status = path.stat()
    except OSError as error:
        raise RootError(f"the PKCS #11 library {named}: {error.strerror}", next=how) from error
    if not stat.S_ISREG(status.st_mode) or not any(path.is_relative_to(each) for each in _TRUSTED):
        raise RootError(f"the PKCS #11 library {named} is not where the system keeps libraries", next=how)
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise RootError(
            f"others than root can write the PKCS #11 library {named}", next=f"chmod go-w '{path}'"
        )


def library(path: str) -> pkcs11._pkcs11.lib:  # type: ignore[name-defined,unused-ignore] # loaded on demand
    """Return the library, initialised in this process. The caller holds the lock. Raises RootError."""
    try:
        found = pkcs11.lib(path)
        if path in PROCESS.inherited:
            _initialize(path)
    except PKCS11Error as error:
        raise RootError(
            f"the PKCS #11 library {path} cannot be started: {describe(error)}",
            next="check its configuration (SoftHSM: SOFTHSM2_CONF and the directory of its tokens)",
        ) from error
    PROCESS.loaded.add(path)
    return found


def restart(path: str) -> None:
    """Initialise the library anew: some see a token that was away only then. Raises RootError."""
    with PROCESS.lock:
        library(path)
        try:
            _initialize(path)
        except PKCS11Error:
            library(path)  # says what is wrong


def _initialize(path: str) -> None:
    found = pkcs11.lib(path)
    for key in [each for each in PROCESS.sessions if each[0] == path]:
        del PROCESS.sessions[key]
    with contextlib.suppress(PKCS11Error):
        found.finalize()
    found.initialize()
    PROCESS.inherited.discard(path)


def describe(error: PKCS11Error) -> str:
    """One line on what a library said: the return code's name, and text where there is any."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
