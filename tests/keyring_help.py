"""GNOME's secret service on a bus of the tests' own: a login whose keyring is unlocked."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wanting import wanting

DAEMONS = ("dbus-daemon", "gnome-keyring-daemon")


class Login:
    """The keyring's daemon; ``off`` and ``on`` again is another login of the same user."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._daemon: subprocess.Popen[bytes] | None = None

    def on(self) -> None:
        names = ("HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME")
        self._daemon = subprocess.Popen(
            ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **dict.fromkeys(names, str(self._home))},
        )
        assert self._daemon.stdin is not None
        assert self._daemon.stdout is not None
        self._daemon.stdin.write(b"login password\n")
        self._daemon.stdin.close()
        self._daemon.stdout.readline()  # says where its control socket is once it serves

    def off(self) -> None:
        if self._daemon is not None:
            _end(self._daemon)
            self._daemon = None


@contextlib.contextmanager
def login(home: Path, patch: pytest.MonkeyPatch) -> Iterator[Login]:
    """A bus, which this process uses, and the keyring of somebody at ``home``, who is logged in."""
    if not all(map(shutil.which, DAEMONS)):
        wanting(f"not installed: {' or '.join(DAEMONS)}")
    patch.delenv("DISPLAY", raising=False)
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address=unix:dir={home}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert bus.stdout is not None
    patch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.stdout.readline().strip())
    found = Login(home)
    found.on()
    try:
        yield found
    finally:
        found.off()
        _end(bus)


def lock() -> None:
    """Lock the keyring of the login."""
    import secretstorage  # noqa: PLC0415 - comes with keyring on Linux

    with contextlib.closing(secretstorage.dbus_init()) as connection:
        secretstorage.get_default_collection(connection).lock()


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
