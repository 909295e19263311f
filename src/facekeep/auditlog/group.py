"""Group commit: whoever comes first commits for everybody waiting (SPEC §7, Order).

While one thread (the leader) is in its durable commit, others queue; when it is done it hands the queue to
the first of them. Nobody is woken before its request is durable or has failed.

Threads that were answered ask again, and while they evaluate they take the interpreter lock from the leader
at every statement of its transaction. So a crowd is woken only when the next leader waits for the disk.

A signal's exception may take any thread away between any two statements, a leader too. So whoever waits
longer than a commit takes looks whether anybody leads, and leads if nobody does.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from facekeep.auditlog.brake import Asked
from facekeep.errors import FacekeepError, StoreError
from facekeep.formats.canonical import JsonObject

_GATHER_MAX_S = 0.002  # longest wait for followers, seconds
_GATHER_REST = 16  # commits without that wait after it was in vain
_CROWD = 3  # answered threads that would hold the next leader up
_PATIENCE_S = 0.5  # after which a waiting thread looks whether anybody leads, seconds


class ControlMoved(Exception):
    """The log's control entries moved, the permit ran out, or the brake holds: evaluate again."""


class Request:
    """What one thread wants appended, and what became of it: ``first`` index, or ``error``."""

    __slots__ = ("_signal", "error", "first", "leads")

    def __init__(self) -> None:
        """Make a request that nobody waits for yet."""
        self._signal = threading.Lock()
        self._signal.acquire()
        self.first = -1
        self.error: BaseException | None = None
        self.leads = False

    def wake(self) -> None:
        """Let the waiting thread go on; a second time it is no error."""
        _release(self._signal)

    def wait(self, timeout_s: float) -> bool:
        """Block until ``wake``; False when the time is over before."""
        return self._signal.acquire(timeout=timeout_s)

    @property
    def is_done(self) -> bool:
        """Whether it is durable or has failed."""
        return self.first >= 0 or self.error is not None

    def settle(self) -> int:
        """Return the first index, or raise this request's error."""
        error = self.error
        if error is None and self.first >= 0:
            return self.first
        if error is None:
            raise StoreError("it is not known whether the entry was written: another thread was interrupted")
        if isinstance(error, FacekeepError):  # may be shared by several threads: raise a copy
            raise type(error)(str(error), next=error.next) from error
        raise type(error)(*error.args)  # this one's traceback would lead to itself, and keep what was opened


class DecisionRequest(Request):
    """One decision's canonical bytes, and under which conditions they may be appended."""

    __slots__ = ("allow", "asked", "body", "control_seq", "time_ms", "valid_until_ms")

    def __init__(
        self,
        body: bytes,
        time_ms: int,
        allow: bool,
        control_seq: int,
        valid_until_ms: int,
        asked: Asked | None = None,
    ) -> None:
        """Keep the parts; ``asked`` is what the brake counts."""
        super().__init__()
        self.body = body
        self.time_ms = time_ms
        self.allow = allow
        self.control_seq = control_seq
        self.valid_until_ms = valid_until_ms
        self.asked = asked


class ControlRequest(Request):
    """Validated control entries with their canonical bytes, to be appended together.

    With ``control_seq`` only if it is the head's: what they say was found out in that state.
    """

    __slots__ = ("control_seq", "items")

    def __init__(self, items: Sequence[tuple[JsonObject, bytes]], control_seq: int | None = None) -> None:
        """Keep the entries."""
        super().__init__()
        self.items = items
        self.control_seq = control_seq


class Group:
    """Leader and followers around one ``commit`` function."""

    def __init__(self, commit: Callable[[Sequence[Request], Callable[[], None]], None]) -> None:
        """Take the function that makes a batch durable and sets each request's ``first`` or ``error``.

        It calls its second argument right before it waits for the disk, if it does.
        """
        self._commit = commit
        self._done: list[Request] = []  # of the commit before, and not woken yet
        self._mutex = threading.Lock()
        self._leading = threading.Lock()  # held by the leader
        self._queue: list[Request] = []
        self._led = False
        self._active = 1  # threads that lately asked at the same time
        self._wanted = 0  # queue length the gathering leader waits for, 0 while none does
        self._skip = 0  # commits to go before the next wait
        self._gathered = threading.Lock()
        self._gathered.acquire()
        self._commit_s = 0.0  # seconds the last commit took

    def submit(self, request: Request) -> int:
        """Have ``request`` committed, by this thread or another; return its first index or raise."""
        with self._mutex:
            self._queue.append(request)
            if 0 < self._wanted <= len(self._queue):
                _release(self._gathered)
                self._wanted = 0
            leads = not self._led
            self._led = True
        if leads or self._follow(request):
            self._lead(request)
        return request.settle()

    def _follow(self, request: Request) -> bool:
        """Wait until the request is done, or this thread is to lead: True."""
        try:
            while not request.wait(_PATIENCE_S):
                if request.is_done:  # whoever should have woken it was interrupted
                    return False
                if not self._leading.locked():
                    return True
        except BaseException:  # a signal's exception: nobody may wait for a leader that went away
            self._abandon(request)
            raise
        return request.leads

    def _abandon(self, request: Request) -> None:
        """Take back what no leader has taken yet, and pass on the leadership if it came just now."""
        with self._mutex:
            if request not in self._queue:
                return
            self._queue.remove(request)
        if request.leads and not self._hand_over():
            self._wake_done()

    def _gather(self) -> None:
        """Wait, for less than a commit takes, until those woken by the last commit have asked again.

        Without it the first one back commits alone, and groups stay half as large as they could be.
        """
        with self._mutex:
            if self._skip or len(self._queue) >= self._active:
                self._skip = max(0, self._skip - 1)
                return
            self._wanted = self._active
        if not self._gathered.acquire(timeout=min(self._commit_s / 2, _GATHER_MAX_S)):
            with self._mutex:
                if self._wanted:
                    self._wanted, self._skip = 0, _GATHER_REST
                    return
            self._gathered.acquire(timeout=_GATHER_MAX_S)  # released between the timeout and the mutex

    def _lead(self, own: Request) -> None:
        with self._leading:
            self._lead_alone(own)

    def _lead_alone(self, own: Request) -> None:
        batch: list[Request] = []
        begun = time.monotonic()
        try:
            if not self._done:
                self._gather()
            with self._mutex:
                batch, self._queue = self._queue, []
            begun = time.monotonic()
            if batch:
                self._commit(batch, self._wake_done)
        except BaseException as error:
            failure = error if isinstance(error, FacekeepError) else _unforeseen(error)
            for request in batch:
                if not request.is_done:
                    request.error = failure
            if not isinstance(error, Exception):
                raise  # KeyboardInterrupt belongs to this thread alone
        finally:
            self._commit_s = time.monotonic() - begun
            with self._mutex:
                self._active = len(batch) + len(self._queue)
                if not batch and own in self._queue:  # a signal came while it gathered
                    self._queue.remove(own)
                    self._wanted = 0
                    self._gathered.acquire(blocking=False)
            self._wake_done()  # whom a commit that failed, or wrote nothing, has left
            self._done = [request for request in batch if request is not own]
            if not self._hand_over() or len(self._done) < _CROWD:
                self._wake_done()

    def _hand_over(self) -> bool:
        """Make the first who waits the leader; False when nobody does."""
        with self._mutex:
            if not self._queue:
                self._led = False
                return False
            following = self._queue[0]
            following.leads = True
        following.wake()
        return True

    def _wake_done(self) -> None:
        with self._mutex:
            done, self._done = self._done, []
        for request in done:
            request.wake()


def _release(lock: threading.Lock) -> None:
    with contextlib.suppress(RuntimeError):  # it was released already
        lock.release()


def _unforeseen(error: BaseException) -> StoreError:
    failure = StoreError(f"the log could not be written ({type(error).__name__})")
    failure.__cause__ = error
    return failure
