"""The ``recovery:`` holder: each root sealed to a public key whose private half is offline (SPEC §4.7).

It gives no root back, so it opens no vault and, damaged, keeps none closed; a swap needs it, because a sealed
copy of the old root must go with the old root. The public key stands in vault.toml, which the log
authenticates: nothing else is believed about whom a root is sealed to.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

from facekeep.errors import FormatError, RootError, StoreError, UsageError
from facekeep.formats.holderfile import HolderRecord, State
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.recoverykey import SCHEME, SealedRoot, key_id, parse_recovery_rest
from facekeep.keys.provider import Candidate, Place, ProviderClass, Receipt, RootProvider
from facekeep.keys.recovery_key import RecoveryKey, check_sealed, seal_root
from facekeep.store.holderfile import HolderFile, default_path


class RecoveryHolder(RootProvider):
    """Roots in a holder file, each in an HPKE box. Callers see their fingerprints only."""

    scheme: ClassVar[str] = SCHEME
    klass: ClassVar[ProviderClass] = "recovery"
    limits: ClassVar[tuple[str, ...]] = ("offline_key",)

    def __init__(self, place: Place, public: bytes, file: Path) -> None:
        """Keep the public key (1,216 bytes) and where the file is; it is read anew by each call."""
        self.public = public
        self.mark = key_id(public)
        self.file = HolderFile(file, place.vault_id, SCHEME)
        self._vault_id = place.vault_id
        self._damage: tuple[str, ...] = ()

    @classmethod
    def from_uri(cls, rest: str, place: Place) -> Self:
        """``recovery:[PATH]?key=KEY``; without a path a file in the vault's directory, one for each key."""
        path, public = parse_recovery_rest(rest)
        if path:
            try:
                return cls(place, public, place.base / Path(path).expanduser())
            except RuntimeError as error:
                raise UsageError("the recovery URI names an unknown home directory") from error
        if place.directory is None:
            return cls(place, public, default_path(place.vault_id, SCHEME))
        return cls(place, public, place.directory / f"{SCHEME}-{key_id(public).hex()[:16]}")

    @property
    def identity(self) -> str:
        """The holder file's real path."""
        return os.path.realpath(self.file.path)

    @property
    def damage(self) -> tuple[str, ...]:
        """Records the last call found not sealed to this key."""
        return self._damage

    def provision(self, root: bytes) -> None:
        """Seal the first root. Raises VaultExists where the holder file is there."""
        self.file.create()
        try:
            self.file.write([self._record(root, "current")])
            self.check(root)
        except BaseException:
            self.file.remove()
            raise

    def unprovision(self) -> None:
        """Remove the file."""
        self.file.remove()

    def candidates(self) -> tuple[Candidate, ...]:
        """Fingerprint and state of each sealed root, the current one first, without the roots."""
        return tuple(Candidate(each.fingerprint, each.state, b"") for each in self._records())

    def stage(self, root: bytes) -> None:
        """Seal ``root``; a record of it that is sound stays, one that was altered is made again.

        What is not sealed to this key makes room.
        """
        mark = root_fingerprint(self._vault_id, root)
        records = self._records()
        if any(each.fingerprint == mark and self._is_sound(each, root) for each in records):
            return
        if any(each.state == "staged" and each.fingerprint != mark for each in records):
            raise RootError(
                f"the {SCHEME}: holder already holds a staged root",
                next="run any writing command: recovery promotes or drops it",
            )
        state: State = next((each.state for each in records if each.fingerprint == mark), "staged")
        others = [each for each in records if each.fingerprint != mark]
        self.file.write([*others, self._record(root, state)])

    def read_back(self, fingerprint: bytes) -> bytes:
        """Raise RootError: only the private key opens what is kept here."""
        raise RootError(
            f"the {SCHEME}: holder gives no root back: {fingerprint.hex()[:16]} is sealed to an offline key",
            next="facekeep keys recover, with the private key",
        )

    def confirm(self, winner: Candidate) -> None:
        """Check that the stored bytes are those that were sealed, to this key; raises RootError."""
        self.check(winner.root)

    def check(self, root: bytes) -> None:
        """Raise RootError unless a sound record of this root (32 bytes) is kept."""
        if not self._is_sound(self._find(root_fingerprint(self._vault_id, root)), root):
            raise RootError(
                "the root that is sealed to the recovery key was altered",
                next="rotate the root, which seals it anew; until then the recovery key opens nothing",
            )

    def promote(self, fingerprint: bytes) -> Receipt:
        """Call a staged record the current one."""
        self._find(fingerprint)
        self.file.write(
            [
                replace(each, state="current" if each.fingerprint == fingerprint else "staged")
                for each in self._records()
            ]
        )
        return self.receipt("promoted")

    def drop(self, fingerprint: bytes) -> Receipt:
        """Remove the record. Who copied it before still needs the private key: ``offline_key``."""
        records = self.file.read()
        others = [each for each in records if each.fingerprint != fingerprint]
        if len(others) != len(records):
            self.file.write(others)
        return self.receipt("destroyed")

    def abandon(self) -> Receipt:
        """Remove every record, those sealed to another key among them."""
        self.file.write(())
        return self.receipt("destroyed")

    def recover(self, key: RecoveryKey) -> tuple[Candidate, ...]:
        """Open every record with the private key; raises RootError, the first one's, where none opens."""
        found: list[Candidate] = []
        failed: list[RootError] = []
        if key.mark != self.mark:
            raise RootError(
                f"that private key is {key.mark.hex()[:16]}, not the vault's recovery key",
                next=f"use the one whose key id begins with {self.mark.hex()[:16]}",
            )
        for each in self._records():
            try:
                sealed = SealedRoot.from_json(each.sealed)
                root = key.open(sealed, self._vault_id, each.fingerprint)
            except RootError as error:
                failed.append(error)
            else:
                found.append(Candidate(each.fingerprint, each.state, root))
        if not found:
            raise failed[0] if failed else RootError(f"no root is sealed in {self.file.path}")
        return tuple(found)

    def _record(self, root: bytes, state: State) -> HolderRecord:
        sealed = seal_root(self.public, self._vault_id, root)
        return HolderRecord(root_fingerprint(self._vault_id, root), state, sealed.to_json())

    def _records(self) -> list[HolderRecord]:
        """Return the records sealed to this key, as far as one can see; the others are told as damage."""
        try:
            records = self.file.read()
        except StoreError as error:  # a holder that cannot be read is away; it keeps no vault closed
            raise RootError(str(error), next=error.next) from error
        good: list[HolderRecord] = []
        damage: list[str] = []
        for each in records:
            try:
                theirs = SealedRoot.from_json(each.sealed).mark
            except FormatError as error:
                damage.append(f"{each.state} root {each.fingerprint.hex()[:16]}: {error}")
                continue
            if theirs == self.mark:
                good.append(each)
            else:
                damage.append(f"{each.state} root {each.fingerprint.hex()[:16]} is sealed to another key")
        self._damage = tuple(damage)
        return good

    def _find(self, fingerprint: bytes) -> HolderRecord:
        for each in self._records():
            if each.fingerprint == fingerprint:
                return each
        raise RootError(f"the {SCHEME}: holder does not hold the root {fingerprint.hex()[:16]}")

    def _is_sound(self, record: HolderRecord, root: bytes) -> bool:
        return check_sealed(SealedRoot.from_json(record.sealed), self._vault_id, root)
