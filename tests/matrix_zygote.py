"""A process that has loaded everything and opened nothing, and forks one for each task it is given.

What must be loaded in the process that is killed is: no PKCS #11 library, no SQLite file and no thread is
inherited from pytest. Run as a program: tasks on standard input, what became of them on standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import pkgutil
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar, cast

from facekeep import keys

P = ParamSpec("P")
T = TypeVar("T")
LOADED = ("matrix_work", "numpy.ma", "boto3", "keyring.backends.chainer")
TESTS = Path(__file__).resolve().parent


class Zygote:
    """The process, as pytest sees it."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "matrix_zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._guard = threading.Lock()

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What a function of an importable module returns in a new process."""
        killed, outcome, value = self._ask(function, arguments, named)
        assert not killed, f"{function.__name__} was killed by signal {killed}"
        assert outcome == "ok", f"{function.__name__} failed:\n{value}"
        return cast("T", value)

    def kill(self, function: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> None:
        """Call a function that kills its process: it must not come to its end."""
        killed, outcome, value = self._ask(function, arguments, named)
        assert killed == signal.SIGKILL, f"{function.__name__} was not killed: {outcome}: {value}"

    def _ask(self, *task: object) -> tuple[int, str, object]:
        with self._guard:
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            _send(stdin, pickle.dumps(task))
            killed, raw = pickle.loads(_receive(stdout))  # noqa: S301 - our own process wrote it
        outcome, value = pickle.loads(raw) if raw else ("nothing", None)  # noqa: S301 - likewise
        return killed, outcome, value

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(struct.pack(">I", len(data)) + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    head = pipe.read(4)
    return pipe.read(struct.unpack(">I", head)[0]) if len(head) == 4 else b""


def _run(raw: bytes) -> bytes:
    """What a task came to, as bytes: ("ok", value) or ("error", traceback)."""
    function: Callable[..., Any]
    function, arguments, named = pickle.loads(raw)  # noqa: S301 - pytest wrote it
    try:
        return pickle.dumps(("ok", function(*arguments, **named)))
    except BaseException:  # noqa: BLE001 - whatever it is, pytest says it
        return pickle.dumps(("error", traceback.format_exc()))


def _fork(raw: bytes) -> tuple[int, bytes]:
    """(signal that killed it or 0, outcome) of a task in a process of its own."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read)
            with os.fdopen(write, "wb") as pipe:
                pipe.write(_run(raw))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        done = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), done


def _load() -> None:
    """Import, once for all that are forked, what they would import."""
    for name in (*LOADED, *(each.name for each in pkgutil.iter_modules(keys.__path__, "facekeep.keys."))):
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)


def main() -> None:
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed must not end up among the answers
    _load()
    while task := _receive(stdin):
        _send(stdout, pickle.dumps(_fork(task)))


if __name__ == "__main__":
    main()
