"""The AES keys that one pkcs11: holder has in its token, one for each root (SPEC §4.3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypedDict, TypeVar, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11 import exceptions as rv
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import GCMParams

from facekeep.errors import RootError
from facekeep.formats.pkcs11uri import Pkcs11Uri
from facekeep.keys.pkcs11_token import Token, is_software, serial_of
from facekeep.keys.secrets import Secrets

T = TypeVar("T")

_ID_LEN: Final = 16  # some tokens have no room for 32
_TAG_BITS: Final = 128
_WANTED: Final = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
}
_ASKED: Final = {**_WANTED, Attribute.MODIFIABLE: False}


class _Gcm(TypedDict):
    mechanism: Mechanism
    mechanism_param: GCMParams


class _Key(Protocol):
    """What is used of an AES key object; the library makes its classes as it goes."""

    def __getitem__(self, attribute: Attribute) -> object: ...
    def encrypt(self, data: bytes, *, mechanism: Mechanism, mechanism_param: GCMParams) -> bytes: ...
    def decrypt(self, data: bytes, *, mechanism: Mechanism, mechanism_param: GCMParams) -> bytes: ...
    def destroy(self) -> None: ...


class TokenKeys:
    """Keys labelled ``OBJECT/VAULT-ID``, id the first 16 bytes of the root's fingerprint."""

    def __init__(self, uri: Pkcs11Uri, vault_id: bytes, secrets: Secrets) -> None:
        """Keep the label; nothing is opened."""
        self.label = f"{uri.label}/{vault_id.hex()}"
        self._name = uri.name
        self._token = Token(uri, secrets)

    def begin(self) -> None:
        """Raise RootError for a token that cannot do it, or has keys of this label: another holder's."""

        def work(session: pkcs11.Session) -> None:
            if not {Mechanism.AES_GCM, Mechanism.AES_KEY_GEN} <= set(session.token.slot.get_mechanisms()):
                raise rv.MechanismInvalid
            if self._all(session):
                raise RootError(
                    f"the token {self._name} already has keys labelled {self.label}",
                    next="give this holder a name of its own in its URI: object=NAME",
                )

        self._token.call(work)

    def seal(self, root: bytes, fingerprint: bytes, iv: bytes, aad: bytes) -> tuple[bytes, str]:
        """Seal ``root`` under a new key; returns ciphertext with tag, and the token's serial number."""

        def work(session: pkcs11.Session) -> tuple[bytes, str]:
            _destroy(self._of(session, fingerprint))  # left by an interrupted staging
            key = _generate(session, self.label, fingerprint[:_ID_LEN])
            try:
                _check(key)
                ciphertext = key.encrypt(root, **_gcm(iv, aad))
            except BaseException:
                with contextlib.suppress(PKCS11Error):
                    key.destroy()
                raise
            return bytes(ciphertext), serial_of(session.token)

        return self._token.call(work)

    def unseal(
        self, ciphertext: bytes, fingerprint: bytes, iv: bytes, aad: bytes
    ) -> tuple[bytes | None, str]:
        """Return (the root, or None where no key there opens it; the token's serial number)."""

        def work(session: pkcs11.Session) -> tuple[bytes | None, str]:
            serial = serial_of(session.token)
            for key in self._of(session, fingerprint):
                try:
                    return bytes(key.decrypt(ciphertext, **_gcm(iv, aad))), serial
                except PKCS11Error:
                    # There is no one code for a wrong tag; a library that lost its token fails here again.
                    session.token.slot.get_token()
                    self._of(session, fingerprint)
            return None, serial

        return self._believed(work, lambda done: done[0] is not None)

    def destroy(self, fingerprint: bytes, serial: str | None) -> None:
        """Destroy every key of this root. Raises RootError where that cannot be known to have been done.

        ``serial`` is that of the token it was made in, where it is known: a key that is absent from another
        token is not a key destroyed.
        """

        def work(session: pkcs11.Session) -> tuple[bool, str]:
            found = self._of(session, fingerprint)
            _destroy(found)
            if self._of(session, fingerprint):
                raise RootError(f"the token {self._name} keeps a key that it was told to destroy")
            return bool(found), serial_of(session.token)

        destroyed, here = self._believed(work, lambda done: done[0])
        if not destroyed and serial not in {None, here}:
            raise RootError(
                f"the key to destroy is in the token of serial {serial}, and this is {here}",
                next="bring that token; nothing is called destroyed until then",
            )

    def sweep(self, fingerprints: Sequence[bytes]) -> None:
        """Destroy every key of this holder but those of ``fingerprints``."""
        kept = {each[:_ID_LEN] for each in fingerprints}

        def work(session: pkcs11.Session) -> None:
            _destroy([key for key in self._all(session) if key[Attribute.ID] not in kept])

        self._token.call(work)

    def software(self) -> bool:
        """Whether the token may be made of files. Raises RootError."""
        return self._token.call(is_software)

    def _believed(self, work: Callable[[pkcs11.Session], T], found: Callable[[T], bool]) -> T:
        """Do ``work``; where it found nothing, again with a library that remembers nothing.

        A library may answer from memory, or find nothing where a directory of tokens was away for a moment.
        """
        done = self._token.call(work)
        if found(done):
            return done
        self._token.restart()
        return self._token.call(work)

    def _all(self, session: pkcs11.Session) -> list[_Key]:
        return _found(session, self._template())

    def _of(self, session: pkcs11.Session, fingerprint: bytes) -> list[_Key]:
        return _found(session, {**self._template(), Attribute.ID: fingerprint[:_ID_LEN]})

    def _template(self) -> dict[Attribute, object]:
        return {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: self.label}


def _found(session: pkcs11.Session, template: dict[Attribute, object]) -> list[_Key]:
    return cast("list[_Key]", list(session.get_objects(template)))


def _generate(session: pkcs11.Session, label: str, key_id: bytes) -> _Key:
    """Have the token make the key. CKA_COPYABLE came with PKCS #11 v2.40: a token may not know it."""
    for template in ({**_ASKED, Attribute.COPYABLE: False}, _ASKED):
        try:
            key = session.generate_key(
                KeyType.AES,
                256,
                id=key_id,
                label=label,
                store=True,
                capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                template=template,
            )
            return cast("_Key", key)
        except (rv.AttributeTypeInvalid, rv.TemplateInconsistent):
            if template is _ASKED:
                raise
    raise AssertionError


def _check(key: _Key) -> None:
    """Raise RootError where the token made another key than it was asked for."""
    wrong = [attribute.name for attribute, value in _WANTED.items() if key[attribute] != value]
    if wrong:
        raise RootError(
            f"the token does not keep its keys to itself: {', '.join(wrong)}",
            next="take a token whose keys are sensitive, private and not extractable",
        )


def _destroy(keys: Sequence[_Key]) -> None:
    for key in keys:
        key.destroy()


def _gcm(iv: bytes, aad: bytes) -> _Gcm:
    return {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(iv, aad, _TAG_BITS)}
