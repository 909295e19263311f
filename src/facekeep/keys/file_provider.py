"""The ``file:`` provider: the root in a file of two preallocated slots (SPEC §4).

Rule: the slot that holds the only copy of a needed root is never written to, so that no torn write can lose
it. Every method opens the file anew and locks it (flock) for the length of the call.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final, Self

from facekeep.errors import FormatError, RootError, StoreError, UsageError, VaultExists
from facekeep.files import sync_directory, unlock
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.rootfile import SLOT_LEN, SLOTS, RootSlot, SlotState, decode_slot, encode_slot
from facekeep.keys.provider import Candidate, Place, ProviderClass, Receipt, RootProvider, inode_of
from facekeep.store.sqlite import translated
from facekeep.wiping import wipe

_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_MISSING: Final = "put the root file back at the path named in vault.toml; without it nothing can be opened"


class FileProvider(RootProvider):
    """Root file at ``path``. Erasing, best effort: see ``limits``."""

    scheme: ClassVar[str] = "file"
    klass: ClassVar[ProviderClass] = "erasing"
    limits: ClassVar[tuple[str, ...]] = ("copied_file", "filesystem_snapshot", "flash_remanence")

    def __init__(self, path: Path, vault_id: bytes) -> None:
        """Keep path and vault id (16 bytes); the file is opened by each call."""
        self.path = path
        self._vault_id = vault_id
        self._damage: tuple[str, ...] = ()
        self._asked: tuple[int, ...] | None = None

    @classmethod
    def from_uri(cls, rest: str, place: Place) -> Self:
        """``file:PATH``, ``file:///PATH``: absolute, or relative to the base; ``~`` is expanded."""
        text = rest.removeprefix("//")
        if not text or "\0" in text or (text != rest and not text.startswith(("/", "~"))):
            raise UsageError("the root URI names no file", next="write file:PATH or file:///PATH")
        try:
            return cls(place.base / Path(text).expanduser(), place.vault_id)
        except RuntimeError as error:
            raise UsageError("the root URI names an unknown home directory") from error

    @property
    def identity(self) -> str:
        """The file's real path."""
        return os.path.realpath(self.path)

    @property
    def places(self) -> tuple[str, ...]:
        """Path and inode."""
        return (self.identity, *inode_of(self.path))

    def is_touched(self) -> bool:
        """Whether the file is another one, or was changed, since the last ``candidates``."""
        return self._stamp() != self._asked

    def _stamp(self) -> tuple[int, ...]:
        try:
            status = self.path.stat(follow_symlinks=False)
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns

    @property
    def damage(self) -> tuple[str, ...]:
        """Slots the last call could not read."""
        return self._damage

    def refusal(self) -> RootError | None:
        """Look at the file, without opening it: lstat."""
        try:
            self._check(os.lstat(self.path))
        except RootError as error:
            return error
        except OSError:
            return None
        return None

    def provision(self, root: bytes) -> None:
        """Make the file with ``root`` as current in slot 0.

        open(O_CREAT|O_EXCL|O_NOFOLLOW, 0600), fchmod, pwrite x 2, fsync; open(directory), fsync.
        """
        content = [self._slot(SlotState.CURRENT, root), self._slot(SlotState.EMPTY)]
        with translated(str(self.path)):
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
            except FileExistsError:
                raise VaultExists(f"there is already a file at {self.path}") from None
            try:
                os.fchmod(descriptor, 0o600)
                for number, data in enumerate(content):
                    _pwrite(descriptor, data, number)
                os.fsync(descriptor)
                sync_directory(self.path.parent)
            except BaseException:
                self.path.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)

    def unprovision(self) -> None:
        """Erase both slots and remove the file."""
        for candidate in self.candidates():
            self.drop(candidate.fingerprint)
        with translated(str(self.path)):
            self.path.unlink()
            sync_directory(self.path.parent)

    def candidates(self) -> tuple[Candidate, ...]:
        """Roots in readable slots, the current one first. open(O_RDONLY|O_NOFOLLOW), flock, pread."""
        self._asked = self._stamp()
        with self._opened(write=False) as descriptor:
            slots = self._read(descriptor)
        held = {slot.fingerprint: slot for slot in sorted(filter(None, slots), key=lambda slot: slot.state)}
        return tuple(
            Candidate(mark, "current" if slot.state is SlotState.CURRENT else "staged", slot.root)
            for mark, slot in reversed(held.items())
            if slot.state is not SlotState.EMPTY
        )

    def stage(self, root: bytes) -> None:
        """Write ``root`` into a slot that nothing depends on: pwrite, fsync, pread."""
        mark = root_fingerprint(self._vault_id, root)
        with self._opened(write=True) as descriptor:
            slots = self._read(descriptor)
            if self._find(slots, mark) is None:
                free = [number for number in range(SLOTS) if self._is_spare(slots, number)]
                if not free:
                    raise RootError(
                        f"{self.path} already holds a staged root",
                        next="run any writing command: recovery promotes or drops it",
                    )
                self._write(descriptor, free[0], self._slot(SlotState.STAGED, root))

    def read_back(self, fingerprint: bytes) -> bytes:
        """Return the root of this fingerprint, read from the file again; raises RootError."""
        for candidate in self.candidates():
            if candidate.fingerprint == fingerprint:
                return candidate.root
        raise RootError(f"{self.path} does not hold the root {fingerprint.hex()[:16]}")

    def promote(self, fingerprint: bytes) -> Receipt:
        """Copy the staged root into the other slot as current, over the root that stood there.

        pwrite, fsync, pread. At every moment one intact slot holds the root; afterwards both do, until the
        next one is staged.
        """
        with self._opened(write=True) as descriptor:
            slots = self._read(descriptor)
            here = self._find(slots, fingerprint)
            if here is None:
                raise RootError(f"{self.path} does not hold the root {fingerprint.hex()[:16]}")
            number, slot = here
            if slot.state is SlotState.STAGED:
                self._write(descriptor, 1 - number, self._slot(SlotState.CURRENT, slot.root))
            elif slots[1 - number] is None:
                self._erase(descriptor, 1 - number)  # an interrupted staging left it
        return self.receipt("promoted")

    def drop(self, fingerprint: bytes) -> Receipt:
        """Erase each slot that holds this root: pwrite empty, fsync, pread.

        An unreadable slot, which an interrupted erasure leaves, is erased too if the other holds a root.
        """
        with self._opened(write=True) as descriptor:
            slots = self._read(descriptor)
            kept = any(slot and slot.root != bytes(32) and slot.fingerprint != fingerprint for slot in slots)
            for number, slot in enumerate(slots):
                if self._is(slot, fingerprint) or (slot is None and kept):
                    self._erase(descriptor, number)
        return self.receipt("destroyed")

    def _slot(self, state: SlotState, root: bytes = bytes(32)) -> bytes:
        return encode_slot(RootSlot(self._vault_id, state, root))

    def _erase(self, descriptor: int, number: int) -> None:
        self._write(descriptor, number, self._slot(SlotState.EMPTY))

    def _write(self, descriptor: int, number: int, data: bytes) -> None:
        with translated(str(self.path)):
            _pwrite(descriptor, data, number)
            os.fsync(descriptor)
            if os.pread(descriptor, SLOT_LEN, number * SLOT_LEN) != data:
                raise StoreError(f"{self.path} does not keep what is written to it")

    @staticmethod
    def _is(slot: RootSlot | None, fingerprint: bytes) -> bool:
        return slot is not None and slot.state is not SlotState.EMPTY and slot.fingerprint == fingerprint

    @classmethod
    def _is_spare(cls, slots: list[RootSlot | None], number: int) -> bool:
        """Whether a slot is unreadable or empty, or holds what the other slot holds as current."""
        slot, other = slots[number], slots[1 - number]
        if slot is None or slot.state is SlotState.EMPTY:
            return True
        doubled = other is not None and other.state is SlotState.CURRENT and cls._is(slot, other.fingerprint)
        return doubled and slot.state is SlotState.STAGED

    @classmethod
    def _find(cls, slots: list[RootSlot | None], fingerprint: bytes) -> tuple[int, RootSlot] | None:
        """Slot number and slot of a root, the current one where it stands twice."""
        found = [(i, slot) for i, slot in enumerate(slots) if slot is not None and cls._is(slot, fingerprint)]
        return max(found, key=lambda each: each[1].state, default=None)

    def _read(self, descriptor: int) -> list[RootSlot | None]:
        """Both slots, None for an unreadable one; raises RootError if both are, or for another vault's."""
        slots: list[RootSlot | None] = []
        damage: list[str] = []
        with translated(str(self.path)):
            data = os.pread(descriptor, SLOTS * SLOT_LEN, 0)
            if len(data) < SLOTS * SLOT_LEN:  # the file ends here, or the disk fails here, which raises
                data += os.pread(descriptor, SLOTS * SLOT_LEN - len(data), len(data))
        for number in range(SLOTS):
            part = data[number * SLOT_LEN : (number + 1) * SLOT_LEN]
            try:
                slots.append(decode_slot(part))
            except FormatError as error:
                slots.append(None)
                damage.append(f"{self.path}: slot {number} is unreadable ({error})")
            wipe(part)
        wipe(data)
        self._damage = tuple(damage)
        if slots == [None, None]:
            raise RootError(f"{self.path} is not a root file, or both its slots are damaged", next=_MISSING)
        if any(slot is not None and slot.vault_id != self._vault_id for slot in slots):
            raise RootError(f"{self.path} is the root file of another vault", next=_MISSING)
        return slots

    @contextlib.contextmanager
    def _opened(self, *, write: bool) -> Iterator[int]:
        """Open, check what and whose it is, lock. O_NONBLOCK: a FIFO is refused instead of waited for."""
        try:
            descriptor = os.open(self.path, (os.O_RDWR if write else os.O_RDONLY) | _FLAGS)
        except FileNotFoundError:
            raise RootError(f"the root file {self.path} is missing", next=_MISSING) from None
        except OSError as error:
            raise _open_error(self.path, error) from error
        try:
            self._check(os.fstat(descriptor))
            with translated(str(self.path)):
                fcntl.flock(descriptor, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
            yield descriptor
        finally:
            unlock(descriptor)

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise RootError(f"{self.path} is not a regular file", next=_MISSING)
        if status.st_mode & 0o077:
            raise RootError(f"others can read or write {self.path}", next=f"chmod 600 '{self.path}'")
        if os.geteuid() not in (0, status.st_uid):
            raise RootError(f"{self.path} belongs to another user", next=f"chown $USER '{self.path}'")


def _open_error(path: Path, error: OSError) -> RootError | StoreError:
    if error.errno == errno.ELOOP:
        return RootError(f"{path} is a symbolic link", next="name the file itself in vault.toml")
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        return RootError(f"{path} cannot be opened: {error.strerror}", next=_MISSING)
    return StoreError(f"{path}: {error.strerror}")


def _pwrite(descriptor: int, data: bytes, number: int) -> None:
    if os.pwrite(descriptor, data, number * SLOT_LEN) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
