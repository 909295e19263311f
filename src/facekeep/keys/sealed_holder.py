"""The part that providers share whose root stands sealed in a holder file (SPEC §4.2).

A subclass has keys that it can destroy, one for each root: in a token, a TPM, a server. It says how a root is
sealed and opened, and how its key is destroyed. A key is destroyed before its record is removed, so that an
interrupted destruction is found and done again; a key without a record has sealed nothing that was used.
"""

from __future__ import annotations

import abc
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from facekeep.crypto.primitives import compare
from facekeep.errors import RootError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.provider import Candidate, Place, Receipt, RootProvider, inode_of
from facekeep.store.holderfile import HolderFile

_SWAPS_FOLLOWED: Final = 3
_NO_ROOT: Final = "mend what its message names; a mirror or the recovery key opens the vault meanwhile"


class KeyGone(RootError):
    """The key that sealed one record is not there; what else the holder has may be sound."""


class SealedHolder(RootProvider):
    """Roots in a holder file, each under a key of its own that the holder can destroy."""

    def __init__(self, place: Place, file: Path) -> None:
        """Keep where the file is; it is read anew by each call."""
        self.place = place
        self.file = HolderFile(file, place.vault_id, self.scheme)
        self._damage: tuple[str, ...] = ()

    # What a subclass does. All raise RootError where the holder cannot be reached or refuses.

    @abc.abstractmethod
    def _seal(self, root: bytes, fingerprint: bytes) -> JsonObject:
        """Make a key for this root (32 bytes) and seal it; returns what the record keeps."""

    @abc.abstractmethod
    def _unseal(self, sealed: JsonObject, fingerprint: bytes) -> bytes:
        """Open what ``_seal`` made; raises KeyGone where its key was destroyed or never was."""

    @abc.abstractmethod
    def _destroy(self, record: HolderRecord, others: tuple[HolderRecord, ...]) -> tuple[HolderRecord, ...]:
        """Destroy a record's key, if it is there; returns ``others`` as they must stand from now on."""

    def _promote(self, record: HolderRecord) -> None:
        """Do what makes a record's root the current one, besides saying so in the file."""

    def _begin(self) -> None:
        """Prepare what has to be there before the first root."""

    def _end(self) -> None:
        """Remove what ``_begin`` made."""

    def _sweep(self, records: tuple[HolderRecord, ...]) -> None:
        """Destroy keys of this holder that no record names."""

    # The provider.

    @property
    def identity(self) -> str:
        """The holder file's real path."""
        return os.path.realpath(self.file.path)

    @property
    def places(self) -> tuple[str, ...]:
        """Path and inode of the holder file."""
        return (self.identity, *inode_of(self.file.path))

    @property
    def damage(self) -> tuple[str, ...]:
        """Records the last call could not open."""
        return self._damage

    def provision(self, root: bytes) -> None:
        """Take the first root as current. Raises VaultExists where the holder file is there."""
        self.file.create()
        try:
            self._begin()
            mark = root_fingerprint(self.place.vault_id, root)
            self.file.write([HolderRecord(mark, "current", self._seal(root, mark))])
            self._read(mark, root)
        except BaseException:
            self.file.remove()
            raise

    def unprovision(self) -> None:
        """Destroy every key and remove the file."""
        for record in self.file.read():
            self.drop(record.fingerprint)
        self._end()
        self.file.remove()

    def candidates(self) -> tuple[Candidate, ...]:
        """Roots of the records that open, the current one first; RootError where there are but none opens.

        Where none opens and the file changed meanwhile, another process was swapping: it is read again.
        """
        records = self.file.read()
        found, damage = self._opened(records)
        for _ in range(_SWAPS_FOLLOWED):
            if found or not damage or (changed := self.file.read()) == records:
                break
            records = changed
            found, damage = self._opened(records)
        self._damage = tuple(damage)
        if damage and not found:
            raise RootError(f"the {self.scheme}: holder has no root that opens ({damage[0]})", next=_NO_ROOT)
        return tuple(found)

    def _opened(self, records: tuple[HolderRecord, ...]) -> tuple[list[Candidate], list[str]]:
        """(roots that open, what is wrong with the others)."""
        found: list[Candidate] = []
        damage: list[str] = []
        for record in records:
            try:
                root = self._open(record)
            except KeyGone as error:
                damage.append(f"{record.state} root {record.fingerprint.hex()[:16]}: {error}")
            else:
                found.append(Candidate(record.fingerprint, record.state, root))
        return found, damage

    def stage(self, root: bytes) -> None:
        """Seal ``root`` under a new key, then write its record."""
        mark = root_fingerprint(self.place.vault_id, root)
        self._finish_drops()
        records = self.file.read()
        if any(each.fingerprint == mark for each in records):
            return
        if any(each.state == "staged" for each in records):
            raise RootError(
                f"the {self.scheme}: holder already holds a staged root",
                next="run any writing command: recovery promotes or drops it",
            )
        self._sweep(records)
        self.file.write([*records, HolderRecord(mark, "staged", self._seal(root, mark))])

    def read_back(self, fingerprint: bytes) -> bytes:
        """Return the root of this fingerprint, opened anew; raises RootError."""
        return self._open(self._find(fingerprint))

    def promote(self, fingerprint: bytes) -> Receipt:
        """Make a staged root the current one, after opening it once more."""
        record = self._find(fingerprint)
        self._open(record)
        self._promote(record)
        self.file.write(
            [
                replace(each, state="current" if each.fingerprint == fingerprint else "staged")
                for each in self.file.read()
            ]
        )
        return self.receipt("promoted")

    def drop(self, fingerprint: bytes) -> Receipt:
        """Destroy the key of this root, then remove its record."""
        records = self.file.read()
        for record in records:
            if record.fingerprint == fingerprint:
                others = tuple(each for each in records if each is not record)
                self.file.write(self._destroy(record, others))
        return self.receipt("destroyed")

    def abandon(self) -> Receipt:
        """Destroy the key of every record, those that no longer open among them."""
        for record in self.file.read():
            self.drop(record.fingerprint)
        return self.receipt("destroyed")

    def _finish_drops(self) -> None:
        """Drop each staged record whose key is gone: its destruction was interrupted before the record's."""
        for record in self.file.read():
            if record.state == "staged":
                try:
                    self._open(record)
                except KeyGone:
                    self.drop(record.fingerprint)

    def _find(self, fingerprint: bytes) -> HolderRecord:
        for record in self.file.read():
            if record.fingerprint == fingerprint:
                return record
        raise RootError(f"the {self.scheme}: holder does not hold the root {fingerprint.hex()[:16]}")

    def _open(self, record: HolderRecord) -> bytes:
        root = self._unseal(record.sealed, record.fingerprint)
        if not compare(root_fingerprint(self.place.vault_id, root), record.fingerprint):
            raise KeyGone("what it holds is another root than the record names")
        return root

    def _read(self, mark: bytes, root: bytes) -> None:
        if not compare(self.read_back(mark), root):
            raise RootError(f"the {self.scheme}: holder gives back another root than it was given")
