"""How long a vault is open: the calls under way, its end, and what a change of settings leaves behind.

Every public method of a vault, its galleries and its keys is a call. Files are closed once no call uses them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, Final, Protocol, TypeVar

from facekeep.errors import Busy, SettingsChanged, VaultClosed

T = TypeVar("T")
_CHANGES: Final = 8  # changes of settings that one call follows
_NOT_CALLS: Final = frozenset(("close",))


class Life:
    """The calls of one open vault. Thread-safe; in a forked child it counts nothing.

    ``follow`` opens the vault again after a change of settings, unless ``generation`` has moved from the one
    that it is called with.
    """

    def __init__(self, follow: Callable[[int], None]) -> None:
        """Begin with no call."""
        self.generation = 0
        self._follow = follow
        self._guard = threading.Condition()
        self._process = os.getpid()
        self._next = 0
        self._calls: dict[int, int] = {}  # number of a call -> its thread, oldest first
        self._streams: weakref.WeakKeyDictionary[Iterator[Any], int] = weakref.WeakKeyDictionary()
        self._left: list[tuple[int, Callable[[], None]]] = []  # number of the first call that is later
        self._ended = False
        self._ending: set[int] = set()  # threads, which wait for no other that ends it inside of a call
        self._gone = False

    def run(self, work: Callable[[], T]) -> T:
        """Do a call; anew where it found the settings changed, which is before it did anything.

        Raises VaultClosed.
        """
        with self.call():
            for _ in range(_CHANGES):
                seen = self.generation
                try:
                    return work()
                except SettingsChanged:
                    self._follow(seen)
            raise Busy("the settings are changed all the time; nothing was done")

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Keep every file open inside; raises VaultClosed, in place of what a closed file is taken for."""
        number = self._enter()
        try:
            yield
        except Exception:
            if self._gone:
                raise VaultClosed from None
            raise
        finally:
            self._leave(number)

    def each(self, items: Iterator[T]) -> Iterator[T]:
        """Yield ``items``, each in a call; the files that they are read from stay open for them."""
        stream = self._each(items)
        with self._guard:
            self._streams[stream] = self._next
        return stream

    def leave(self, close: Callable[[], None]) -> None:
        """Have ``close`` called once no call, and no stream, is left that began before now."""
        with self._guard:
            self._next += 1  # a number of its own: what began before has a smaller one
            self._left.append((self._next, close))
            self.generation += 1

    def end(self) -> None:
        """Let no call begin any more, wait for those under way in other threads, close what was left."""
        if self._process != os.getpid():
            self._ended = self._gone = True
            return
        with self._guard:
            self._ended = True
            self._ending.add(threading.get_ident())
            self._guard.notify_all()
            self._guard.wait_for(lambda: set(self._calls.values()) <= self._ending)
            self._gone = True
            left, self._left = self._left, []
        for _, close in left:
            close()

    def _each(self, items: Iterator[T]) -> Iterator[T]:
        while True:
            with self.call():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def _enter(self) -> int:
        if self._process != os.getpid():  # its lock may be held for ever; what was opened says so itself
            return -1
        with self._guard:
            me = threading.get_ident()
            if self._gone or (self._ended and me not in self._calls.values()):
                raise VaultClosed
            number, self._next = self._next, self._next + 1
            self._calls[number] = me
            return number

    def _leave(self, number: int) -> None:
        if self._process != os.getpid():
            return
        idle: list[Callable[[], None]] = []
        with self._guard:
            del self._calls[number]
            if self._ended:
                self._guard.notify_all()
            if self._left:
                oldest = min(next(iter(self._calls), self._next), *self._streams.values(), self._next)
                idle = [close for first, close in self._left if first <= oldest]
                self._left = [each for each in self._left if each[0] > oldest]
        for close in idle:
            close()


class Living(Protocol):
    """What has calls."""

    _life: Life


K = TypeVar("K", bound=Living)


def living(kind: type[K]) -> type[K]:
    """Make a call of every public method of a class, and of entering its ``with`` statement."""
    for name, member in list(vars(kind).items()):
        is_public = not name.startswith("_") or name == "__enter__"
        if is_public and isinstance(member, FunctionType) and name not in _NOT_CALLS:
            setattr(kind, name, _as_call(member))
    return kind


def _as_call(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def call(self: Living, *arguments: Any, **named: Any) -> T:  # noqa: ANN401 - those of the method
        return self._life.run(lambda: method(self, *arguments, **named))

    return call
