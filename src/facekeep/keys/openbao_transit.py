"""One transit key on an OpenBao server, and how its versions are made and destroyed (SPEC §4.5)."""

from __future__ import annotations

import base64
import binascii
import contextlib
from dataclasses import dataclass
from typing import Final

from facekeep.errors import RootError, VaultExists
from facekeep.keys.openbao_client import Client, Forbidden, Missing, Rejected
from facekeep.keys.openbao_http import Json

TYPE: Final = "aes256-gcm96"
MOST_ROTATIONS: Final = 64  # to come above a version; more means that the numbers are not ours

_CREATE: Final[Json] = {
    "type": TYPE,
    "derived": False,
    "exportable": False,
    "allow_plaintext_backup": False,
}


@dataclass(frozen=True, slots=True)
class KeyState:
    """What the server says of the key: version numbers, and whether versions can be copied out of it."""

    latest: int
    available: int  # versions below are trimmed; 0: none ever was
    decryption: int  # versions below are not used; they are still there from ``available`` on
    encryption: int  # 0: the latest only
    exportable: bool
    deletable: bool


class TransitKey:
    """The key ``name`` of the engine at ``mount``. Every method asks the server; raises RootError."""

    def __init__(self, client: Client, mount: str, name: str) -> None:
        """Keep where it is."""
        self._client, self._mount, self.name = client, mount, name
        self.path = f"{mount}/keys/{name}"

    def create(self) -> None:
        """Make it; raises VaultExists where one of its name is: what became of its versions is not known."""
        with contextlib.suppress(Missing):
            self._client.call("GET", self.path)
            raise VaultExists(
                f"there is already a transit key {self.path} on the OpenBao server",
                next="name another key in the URI; a root is sealed under a key made for it only",
            )
        self._client.call("POST", self.path, _CREATE)
        self.state()

    def state(self) -> KeyState:
        """Ask for its state. Raises Missing, or RootError for a key of a kind that is not ours."""
        data = self._client.call("GET", self.path)
        kind = (data.get("type"), data.get("derived"), data.get("imported_key", False))
        if kind != (TYPE, False, False):
            raise RootError(
                f"the transit key {self.path} is of another type than the one that was made",
                next="check the key and the mount in the URI",
            )
        if data.get("soft_deleted", False) is not False:
            raise RootError(
                f"the transit key {self.path} is soft-deleted",
                next=f"bao write -f {self.path}/soft-delete-restore",
            )
        return KeyState(
            latest=_number(data, "latest_version"),
            available=_number(data, "min_available_version"),
            decryption=_number(data, "min_decryption_version"),
            encryption=_number(data, "min_encryption_version"),
            exportable=data.get("exportable") is not False or data.get("allow_plaintext_backup") is not False,
            deletable=data.get("deletion_allowed") is not False,
        )

    def fresh(self, above: int) -> int:
        """Rotate until the latest version is above ``above``; returns it. It has sealed nothing yet."""
        for _ in range(MOST_ROTATIONS):
            self._client.call("POST", f"{self.path}/rotate", {})
            latest = self.state().latest
            if latest > above:
                return latest
        raise RootError(
            f"the transit key {self.path} is far older than the roots sealed under it",
            next="the server was restored from an old snapshot: restore a newer one",
        )

    def encrypt(self, version: int, plaintext: bytes, associated: bytes) -> str:
        """Ciphertext under that version of the key, in the server's text form."""
        body = {
            "plaintext": _b64(plaintext),
            "associated_data": _b64(associated),
            "key_version": version,
        }
        answer = self._client.call("POST", f"{self._mount}/encrypt/{self.name}", body)
        ciphertext = answer.get("ciphertext")
        if not isinstance(ciphertext, str) or not ciphertext.startswith(f"vault:v{version}:"):
            raise RootError("the OpenBao server sealed under another version of the key than it was told to")
        return ciphertext

    def decrypt(self, ciphertext: str, associated: bytes) -> bytes:
        """Plaintext. Raises Rejected where the version is gone, or the associated data or bytes differ."""
        body = {"ciphertext": ciphertext, "associated_data": _b64(associated)}
        answer = self._client.call("POST", f"{self._mount}/decrypt/{self.name}", body)
        try:
            return base64.b64decode(answer["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise RootError("the OpenBao server's answer has no plaintext") from error

    def destroy_below(self, floor: int) -> None:
        """Destroy every version below ``floor``: no longer used, then trimmed; the server is asked again."""
        state = self.state()
        if state.available < floor:
            minimums = {
                "min_decryption_version": max(floor, state.decryption),
                "min_encryption_version": max(floor, state.decryption, state.encryption),
            }
            self._client.call("POST", f"{self.path}/config", minimums)
            self._client.call("POST", f"{self.path}/trim", {"min_available_version": floor})
            if self.state().available < floor:
                raise RootError(f"the OpenBao server did not trim the transit key {self.path}")

    def remove(self) -> None:
        """Delete the key, whose versions were trimmed; where that is denied, nothing but a name is left."""
        with contextlib.suppress(Missing, Forbidden, Rejected):
            self._client.call("POST", f"{self.path}/config", {"deletion_allowed": True})
            self._client.call("DELETE", self.path)


def _number(data: Json, name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RootError(f"the OpenBao server's answer has no {name}")
    return value


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
