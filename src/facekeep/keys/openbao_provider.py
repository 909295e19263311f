"""The ``openbao:`` provider: roots sealed under versions of a transit key, which are trimmed (SPEC §4.5).

Trimming destroys all versions below a number, never one alone. Where a root that must live stands below one
that must die, it is first sealed again, above.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import ClassVar, Final, Self

from facekeep.errors import RootError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.holderfile import HolderRecord
from facekeep.keys.openbao_client import Client, Missing, Rejected
from facekeep.keys.openbao_transit import KeyState, TransitKey
from facekeep.keys.openbao_uri import Address, parse
from facekeep.keys.provider import Action, Candidate, Place, ProviderClass, Receipt
from facekeep.keys.sealed_holder import KeyGone, SealedHolder
from facekeep.store.holderfile import default_path

_DOMAIN: Final = b"facekeep/v1/openbao-root\0"
_CIPHERTEXT: Final = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]{1,400}={0,2}\Z")


class KeyWithheld(KeyGone):
    """The version is on the server and not used: a destruction stopped half way, or somebody withheld it."""


class OpenBaoProvider(SealedHolder):
    """Roots under one transit key. Erasing; a snapshot of the server revives what was trimmed since."""

    scheme: ClassVar[str] = "openbao"
    klass: ClassVar[ProviderClass] = "erasing"
    limits: ClassVar[tuple[str, ...]] = ("server_snapshot",)

    def __init__(self, address: Address, place: Place) -> None:
        """Keep where the key is; the server is asked by each call."""
        super().__init__(place, address.file or default_path(place.vault_id, self.scheme))
        name = address.key or f"facekeep-{place.vault_id.hex()}"
        self._key = TransitKey(Client(address.server, place.secrets), address.mount, name)
        self._open_to: tuple[str, ...] = ()  # what the key's settings allow and should not
        self._exportable = False
        self._made = False  # the key, by this object

    @classmethod
    def from_uri(cls, rest: str, place: Place) -> Self:
        """``openbao:https://HOST[:PORT]/MOUNT/[NAME][?QUERY]``, see SPEC §4.5."""
        return cls(parse(rest, place.base), place)

    @property
    def damage(self) -> tuple[str, ...]:
        """Records the last call could not open, and settings of the key that should not be."""
        return (*super().damage, *self._open_to)

    def provision(self, root: bytes) -> None:
        """Make key and holder file. Raises VaultExists where either is there; undoes what it made."""
        self._made = False
        try:
            super().provision(root)
        except BaseException:
            if self._made:
                with contextlib.suppress(RootError):
                    self._key.remove()
            raise

    def candidates(self) -> tuple[Candidate, ...]:
        """Roots that open; asked once more where another process sealed them anew and trimmed meanwhile."""
        seen = self.file.read()
        try:
            return super().candidates()
        except RootError:
            if self.file.read() == seen:
                raise
            return super().candidates()

    def abandon(self) -> Receipt:
        """Destroy every version that sealed a root, then the key."""
        held = self.file.read()
        receipt = super().abandon()
        if held:  # a later call would remove a key that somebody made of the same name
            self._key.remove()
        return receipt

    def receipt(self, action: Action) -> Receipt:
        """Receipt with the limit that a key has whose versions can be copied out of the server."""
        plain = super().receipt(action)
        if not self._exportable:
            return plain
        return replace(plain, limits=tuple(sorted({*plain.limits, "exportable_key"})))

    # What a holder of sealed roots does.

    def _begin(self) -> None:
        self._key.create()
        self._made = True

    def _end(self) -> None:
        self._key.remove()

    def _seal(self, root: bytes, fingerprint: bytes) -> JsonObject:
        if self._present().exportable:
            raise RootError(
                f"the transit key {self._key.path} may be exported or backed up: no new root goes under it",
                next="move the root to another holder, which this one can still be opened for",
            )
        return self._seal_above(root, fingerprint, self.file.read())

    def _unseal(self, sealed: JsonObject, fingerprint: bytes) -> bytes:
        version = _version(sealed)
        if not version:
            raise KeyGone("the record is damaged")
        try:
            state = self._state()
        except Missing as error:
            raise KeyGone(f"the transit key {self._key.path} is not on the server") from error
        if version < state.available:
            raise KeyGone(f"version {version} of the transit key was trimmed")
        if version > state.latest:
            raise KeyGone(f"the server has no version {version} of the key: it is older than the record")
        if version < state.decryption:
            lower = f"bao write {self._key.path}/config min_decryption_version={version}"
            raise KeyWithheld(f"the server does not decrypt with version {version} until: {lower}")
        try:
            return self._key.decrypt(str(sealed["ciphertext"]), self._associated(fingerprint))
        except Rejected as error:
            self._state()  # soft-deleted meanwhile: that can be undone, and is another error
            raise KeyGone(str(error)) from error

    def _destroy(self, record: HolderRecord, others: tuple[HolderRecord, ...]) -> tuple[HolderRecord, ...]:
        """Trim above the record's version; each other root that opens is above by then, durably."""
        self._present()
        doomed = _version(record.sealed)
        roots = {each.fingerprint: root for each in others if (root := self._root_of(each)) is not None}
        below = [each for each in others if not doomed or _version(each.sealed) <= doomed]
        low = {mark: roots[mark] for each in below if (mark := each.fingerprint) in roots}
        if low:
            others = self._reseal(record, others, low)
        living = [_version(each.sealed) for each in others if each.fingerprint in roots]
        floor = min(living) if living else self._key.fresh(_highest((record, *others)))
        self._key.destroy_below(floor)
        self._prove_gone(record)
        return others

    def _reseal(
        self, record: HolderRecord, others: tuple[HolderRecord, ...], roots: dict[bytes, bytes]
    ) -> tuple[HolderRecord, ...]:
        """Seal each of ``roots`` under a fresh version and write the file, the doomed record still in it."""
        moved: tuple[HolderRecord, ...] = (*others, record)
        for mark, root in roots.items():
            sealed = self._seal_above(root, mark, moved)
            moved = tuple(
                replace(each, sealed=sealed) if each.fingerprint == mark else each for each in moved
            )
            if self._unseal(sealed, mark) != root:
                raise RootError("the OpenBao server gives back another root than it was given")
        self.file.write(moved)
        return moved[:-1]

    def _seal_above(self, root: bytes, fingerprint: bytes, records: tuple[HolderRecord, ...]) -> JsonObject:
        """Seal under a fresh version, above that of every record."""
        version = self._key.fresh(_highest(records))
        ciphertext = self._key.encrypt(version, root, self._associated(fingerprint))
        return {"ciphertext": ciphertext, "version": version}

    def _root_of(self, record: HolderRecord) -> bytes | None:
        """Root of a record that must outlive another; None where its key is gone for good."""
        try:
            return self._open(record)
        except KeyWithheld:
            raise  # what can be had back is not trimmed
        except KeyGone:
            return None

    def _prove_gone(self, record: HolderRecord) -> None:
        """Ask the server to open what was destroyed; raises RootError if it does."""
        if not _version(record.sealed):
            return
        with contextlib.suppress(Rejected):
            self._key.decrypt(str(record.sealed["ciphertext"]), self._associated(record.fingerprint))
            raise RootError("the OpenBao server still opens a version that it was told to trim")

    def _present(self) -> KeyState:
        """Like ``_state``; where the key is not there nobody can say what became of its versions."""
        try:
            return self._state()
        except Missing as error:
            raise RootError(
                f"the transit key {self._key.path} is not on the server",
                next="check the URI against the server; if the key was deleted, give the holder up for lost",
            ) from error

    def _state(self) -> KeyState:
        """State of the key; what it allows and should not is kept for ``damage`` and receipts."""
        state = self._key.state()
        self._exportable = state.exportable
        found: list[str] = []
        if state.exportable:
            found.append(f"the transit key {self._key.path} may be exported or backed up in plaintext")
        if state.deletable:
            found.append(
                f"the transit key {self._key.path} may be deleted: "
                f"bao write {self._key.path}/config deletion_allowed=false"
            )
        self._open_to = tuple(found)
        return state

    def _associated(self, fingerprint: bytes) -> bytes:
        return _DOMAIN + self.place.vault_id + fingerprint


def _version(sealed: JsonObject) -> int:
    """Version of the key that sealed a record, 0 where it is damaged."""
    if set(sealed) != {"ciphertext", "version"} or not isinstance(sealed["ciphertext"], str):
        return 0
    found = _CIPHERTEXT.match(sealed["ciphertext"])
    version = sealed["version"]
    if found is None or isinstance(version, bool) or version != int(found[1]):
        return 0
    return int(found[1])


def _highest(records: tuple[HolderRecord, ...]) -> int:
    return max((_version(each.sealed) for each in records), default=0)
