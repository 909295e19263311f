"""The ``pkcs11:`` provider: each root under an AES key of its own in a PKCS #11 token (SPEC §4.3).

What is destroyed is looked for on the token by the root's fingerprint, never by what the holder file says:
whoever can write that file could otherwise have a key pass for destroyed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Self

from facekeep.crypto.primitives import random_bytes
from facekeep.errors import FacekeepError, FormatError, MissingDependency, RootError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.ids import from_hex
from facekeep.formats.nodes import KEY_LEN
from facekeep.formats.pkcs11uri import Pkcs11Uri, parse
from facekeep.keys.provider import Action, Place, ProviderClass, Receipt
from facekeep.keys.sealed_holder import KeyGone, SealedHolder
from facekeep.store.holderfile import default_path

if TYPE_CHECKING:
    from facekeep.keys.pkcs11_keys import TokenKeys

_DOMAIN: Final = b"facekeep/v1/pkcs11-root\0"
_IV_LEN: Final = 12
_TAG_LEN: Final = 16
_FILES: Final = ("filesystem_snapshot", "flash_remanence")  # limits of a token that is a directory


class Pkcs11Provider(SealedHolder):
    """Roots sealed in a holder file, keys in the token of ``uri``. Erasing: the key object is destroyed."""

    scheme: ClassVar[str] = "pkcs11"
    klass: ClassVar[ProviderClass] = "erasing"
    limits: ClassVar[tuple[str, ...]] = ("token_clone",)

    def __init__(self, uri: Pkcs11Uri, place: Place, file: Path) -> None:
        """Keep what is meant; the token is looked for by each call."""
        super().__init__(place, file)
        self._uri = uri
        self._keys: TokenKeys | None = None
        self._made: bytes | None = None  # fingerprint of the root that was sealed last

    @classmethod
    def from_uri(cls, rest: str, place: Place) -> Self:
        """``pkcs11:token=LABEL;serial=SERIAL;object=NAME?module-path=SO&pin-source=file:/PIN&x-file=PATH``."""
        uri = parse(rest)
        if uri.file is None:
            return cls(uri, place, default_path(place.vault_id, cls.scheme))
        try:
            return cls(uri, place, place.base / Path(uri.file).expanduser())
        except RuntimeError as error:
            raise UsageError("x-file= names an unknown home directory") from error

    @property
    def keys(self) -> TokenKeys:
        """The token's keys; raises MissingDependency without python-pkcs11."""
        if self._keys is None:
            try:
                from facekeep.keys.pkcs11_keys import TokenKeys  # noqa: PLC0415 - an extra
            except ImportError as error:
                raise MissingDependency(
                    "a pkcs11: root needs python-pkcs11: pip install 'facekeep[pkcs11]'"
                ) from error
            self._keys = TokenKeys(self._uri, self.place.vault_id, self.place.secrets)
        return self._keys

    def provision(self, root: bytes) -> None:
        """Take the first root as current; on failure no key of it stays on the token."""
        self._made = None
        try:
            super().provision(root)
        except BaseException:
            if self._made is not None:  # before that, a key of this root is another holder's
                with contextlib.suppress(FacekeepError):
                    self.keys.destroy(self._made, None)
            raise

    def drop(self, fingerprint: bytes) -> Receipt:
        """Destroy the key of this root, whether or not a record names it, then remove its record."""
        if all(record.fingerprint != fingerprint for record in self.file.read()):
            self.keys.destroy(fingerprint, None)
        return super().drop(fingerprint)

    def abandon(self) -> Receipt:
        """Destroy the key of every record, and every other key of this holder."""
        super().abandon()
        self._sweep(())
        return self.receipt("destroyed")

    def receipt(self, action: Action) -> Receipt:
        """Receipt; a token that is not hardware has the limits of the files it is made of."""
        try:
            software = self.keys.software()
        except (RootError, MissingDependency):
            software = True  # not known: claim less
        limits = (*_FILES, *self.limits) if software else self.limits
        return Receipt(self.klass, self.scheme, action, tuple(sorted(limits)))

    def _begin(self) -> None:
        self.keys.begin()

    def _end(self) -> None:
        self._sweep(())

    def _sweep(self, records: tuple[HolderRecord, ...]) -> None:
        self.keys.sweep([record.fingerprint for record in records])

    def _seal(self, root: bytes, fingerprint: bytes) -> JsonObject:
        self._made = fingerprint
        iv = random_bytes(_IV_LEN)
        ciphertext, serial = self.keys.seal(root, fingerprint, iv, self._aad(fingerprint))
        return {"ciphertext": ciphertext.hex(), "iv": iv.hex(), "serial": serial}

    def _unseal(self, sealed: JsonObject, fingerprint: bytes) -> bytes:
        try:
            iv = from_hex(sealed.get("iv"), _IV_LEN, "the nonce")
            ciphertext = from_hex(sealed.get("ciphertext"), KEY_LEN + _TAG_LEN, "the sealed root")
            serial = _serial(sealed)
        except FormatError as error:
            raise KeyGone(f"its record in {self.file.path} is damaged: {error}") from error
        root, here = self.keys.unseal(ciphertext, fingerprint, iv, self._aad(fingerprint))
        if root is None:
            raise KeyGone(
                "its key is no longer in the token, or is another"
                if here == serial
                else f"its key is in the token of serial {serial}, and this is {here}"
            )
        return root

    def _destroy(self, record: HolderRecord, others: tuple[HolderRecord, ...]) -> tuple[HolderRecord, ...]:
        try:
            serial: str | None = _serial(record.sealed)
        except FormatError:
            serial = None
        self.keys.destroy(record.fingerprint, serial)
        return others

    def _aad(self, fingerprint: bytes) -> bytes:
        return _DOMAIN + self.place.vault_id + fingerprint


def _serial(sealed: JsonObject) -> str:
    serial = sealed.get("serial")
    if not isinstance(serial, str) or set(sealed) != {"ciphertext", "iv", "serial"}:
        raise FormatError("it has not the keys it should")
    return serial
