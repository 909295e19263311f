"""Every point of an operation at which it can fail or be killed, and doing so there.

A point is a name and how often it was come to: an announced step (``operations.steps``), the call of a root
holder, a change that a holder makes in its file, token, TPM or server, and a commit of a database. Loaded in
the process that is to fail, never in that of pytest.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from facekeep.errors import RootError, StoreError
from facekeep.keys import file_provider, openbao_client, tpm2_tools
from facekeep.keys.layered import LayeredHolder
from facekeep.keys.provider import RootProvider
from facekeep.operations import steps
from facekeep.store import holderfile
from facekeep.store.connect import Connection

CALLS = ("stage", "confirm", "promote", "drop", "abandon", "provision", "unprovision")
TPM_CHANGES = {"tpm2_nvincrement", "tpm2_nvdefine", "tpm2_nvundefine", "tpm2_create"}
SERVER_CHANGES = {"config", "rotate", "trim"}
GONE = "a failure that a test made"


class Point(NamedTuple):
    """``occurrence`` counts from 1. ``single``: announced at one moment, so nothing lies before it."""

    name: str
    occurrence: int
    single: bool = False


class Mode(enum.StrEnum):
    """How it ends at a point."""

    BEFORE = "failed before"
    AFTER = "failed after, persisted"
    KILLED = "kill -9 after"
    KILLED_BEFORE = "kill -9 before"

    @property
    def early(self) -> bool:
        return self in {Mode.BEFORE, Mode.KILLED_BEFORE}

    @property
    def kills(self) -> bool:
        return self in {Mode.KILLED, Mode.KILLED_BEFORE}


class Fault:
    """What happens in this process once it is armed: points are listed, and at one of them it ends."""

    def __init__(self, at: Point | None = None, mode: Mode | None = None) -> None:
        self.at, self.mode = at, mode
        self.armed = self.fired = False
        self.seen: list[Point] = []
        self._counts: Counter[str] = Counter()
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def effect(self, name: str, error: Callable[[], Exception]) -> Iterator[None]:
        """Go through a point: what is done inside is the effect."""
        point = self.enter(name)
        self.here(point, error, early=True)
        try:
            yield
        except BaseException:
            if point in self.seen:
                self.seen.remove(point)  # it has no effect after which to fail
            raise
        self.here(point, error, early=False)

    def enter(self, name: str, *, single: bool = False) -> Point | None:
        """Count a point; None while nothing is armed."""
        if not self.armed:
            return None
        with self._guard:
            self._counts[name] += 1
            point = Point(name, self._counts[name], single)
            self.seen.append(point)
        return point

    def here(self, point: Point | None, error: Callable[[], Exception], *, early: bool) -> None:
        """Fail or die, if this is the moment."""
        if point is None or point != self.at or self.mode is None or self.mode.early is not early:
            return
        self.fired = True
        if self.mode.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        raise error()

    # -- where the points are

    def install(self) -> None:
        """Have this process come to its points."""
        steps.observe(self._announced)
        self._commits()
        self._wrap(file_provider.FileProvider, "_write", "root file: write", _store_error)
        self._wrap(holderfile.HolderFile, "write", "holder file: replace", _store_error)
        self._wrap(openbao_client.Client, "call", _request, _root_error)
        self._wrap(tpm2_tools.Sitting, "run", _tool, _root_error)
        with contextlib.suppress(ImportError):
            from facekeep.keys import pkcs11_keys  # noqa: PLC0415 - an extra

            self._wrap(pkcs11_keys, "_generate", "token: make a key", _root_error)
            self._wrap(pkcs11_keys, "_destroy", lambda keys: keys and "token: destroy keys", _root_error)

    def hold(self, providers: tuple[RootProvider, ...]) -> None:
        """Take each call of these holders for a point, of those behind a layer too."""
        for number, provider in enumerate(providers, 1):
            self._calls(provider, f"holder {number}" if len(providers) > 1 else "holder")

    def _calls(self, provider: RootProvider, name: str) -> None:
        for call in CALLS:
            self._wrap(provider, call, f"{name}: {call}", _root_error)
        if isinstance(provider, LayeredHolder):
            self._calls(provider.inner, f"{name}, inner")

    def _wrap(
        self, owner: object, attribute: str, name: str | Callable[..., Any], error: Callable[[], Exception]
    ) -> None:
        original = getattr(owner, attribute)

        @functools.wraps(original)
        def wrapped(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever it is
            said = name if isinstance(name, str) else name(*arguments)
            if not said:
                return original(*arguments, **named)
            with self.effect(said, error):
                return original(*arguments, **named)

        setattr(owner, attribute, wrapped)

    def _announced(self, step: str) -> None:
        """``before X`` and ``after X`` are the two sides of a step X; another step is one moment."""
        side, _, rest = step.partition(" ")
        if side == "before":
            self.here(self.enter(f"step {rest}"), _store_error, early=True)
        elif side == "after":
            done = f"step {rest}"
            self.here(Point(done, self._counts[done]) if self.armed else None, _store_error, early=False)
        else:
            self.here(self.enter(f"step {step}", single=True), _store_error, early=False)

    def _commits(self) -> None:
        fault, execute = self, Connection.execute

        def watched(self: Connection, sql: str, parameters: Any = ()) -> sqlite3.Cursor:  # noqa: ANN401
            if sql.startswith("BEGIN"):
                began[self] = self.total_changes
            if sql != "COMMIT" or began.pop(self, None) == self.total_changes:
                return execute(self, sql, parameters)
            with fault.effect(f"{_file(execute(self, _WHERE).fetchone()[2])}: commit", _disk_error):
                return execute(self, sql, parameters)

        began: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()
        Connection.execute = watched  # type: ignore[assignment, method-assign]


_WHERE = "PRAGMA database_list"


def _file(address: str) -> str:
    path = Path(address)
    return f"copy of {path.name}" if path.parent.name == "copy" else path.name


def _request(_client: object, method: str, path: str, *_: object) -> str:
    if method == "GET" or "/decrypt/" in path:
        return ""
    if "/encrypt/" in path:
        return "server: encrypt"
    last = path.rpartition("/")[2]
    change = last if last in SERVER_CHANGES else {"POST": "create", "DELETE": "delete"}[method]
    return f"server: {change}"


def _tool(_bench: object, tool: str, *_: object, **__: object) -> str:
    return f"TPM: {tool}" if tool in TPM_CHANGES else ""


def _root_error() -> Exception:
    return RootError(GONE)


def _store_error() -> Exception:
    return StoreError(GONE)


def _disk_error() -> Exception:
    return sqlite3.OperationalError("disk I/O error: " + GONE)
