"""The token that a pkcs11: URI names: found, logged in to, opened again after it was away (SPEC §4.3)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import pkcs11
from pkcs11 import SlotFlag, TokenFlag
from pkcs11 import exceptions as rv
from pkcs11.exceptions import PKCS11Error

from facekeep.errors import RootError
from facekeep.formats.pkcs11uri import Pkcs11Uri
from facekeep.keys.pkcs11_module import PROCESS, SessionKey, describe, library, module_path, restart
from facekeep.keys.secrets import Secrets, variable

T = TypeVar("T")

_PIN: Final = "pin"
_PAUSES: Final = (0.0, 0.1, 0.4)  # s before the token is looked for again
# What another try does not change.
_FINAL: Final = (
    rv.DeviceMemory,
    rv.MechanismInvalid,
    rv.MechanismParamInvalid,
    rv.TemplateInconsistent,
    rv.TokenWriteProtected,
)
_NEXT: Final = {
    rv.DeviceMemory: "the token is full: delete what is not needed on it, or take another token",
    rv.MechanismInvalid: "take a token that has CKM_AES_KEY_GEN and CKM_AES_GCM (pkcs11-tool -M)",
    rv.SessionCount: "the token has no free session: close other programs that use it",
    rv.TokenWriteProtected: "the token is write-protected: take that off",
}
_MEND: Final = "look at the token with its own tools (pkcs11-tool -L), then try again; nothing was destroyed"


class _Away(Exception):
    """No token in any slot is the one that is meant."""


class Token:
    """The token of a URI. Nothing is loaded or opened before the first ``call``."""

    def __init__(self, uri: Pkcs11Uri, secrets: Secrets) -> None:
        """Keep what is meant, and who is asked for the PIN."""
        self._uri = uri
        self._secrets = secrets
        self._pin_file = None if uri.pin_source is None else Path(uri.pin_source)

    def call(self, work: Callable[[pkcs11.Session], T]) -> T:
        """Do ``work`` in a session that is logged in; a lost session or token is looked for again.

        SoftHSM starts without a token whose files another process is writing at that moment: hence the pause.
        ``work`` may be begun more than once. Raises RootError.
        """
        path = module_path(self._uri.module)
        try:
            for pause in _PAUSES:
                try:
                    return self._attempt(path, work)
                except _FINAL:
                    raise
                except (_Away, PKCS11Error):
                    time.sleep(pause)
                    restart(path)
            return self._attempt(path, work)
        except _Away:
            raise RootError(
                f"the token {self._uri.name} is not there",
                next=f"insert or connect it, and see that 'pkcs11-tool --module {path} -L' lists it",
            ) from None
        except PKCS11Error as error:
            raise RootError(
                f"the token {self._uri.name} refuses: {describe(error)}", next=_NEXT.get(type(error), _MEND)
            ) from error

    def restart(self) -> None:
        """Forget what the library remembers of its tokens."""
        restart(module_path(self._uri.module))

    def _attempt(self, path: str, work: Callable[[pkcs11.Session], T]) -> T:
        pin: bytes | None = None
        while True:
            with PROCESS.lock:
                token = self._choose(path)
                key: SessionKey = (path, token.slot.slot_id, token.serial)
                if key not in PROCESS.sessions:
                    self._check_may_try(path, flags_of(token))
                    if pin is not None:
                        PROCESS.sessions[key] = self._login(path, token, pin)
                if key in PROCESS.sessions:
                    return work(PROCESS.sessions[key])
            # Whoever is asked may take their time: not under the lock, which holds up every fork.
            pin = self._secrets.get(_PIN, f"the token {self._uri.name}", self._pin_file)

    def _choose(self, path: str) -> pkcs11.Token:
        """Return the one token that is meant; raises _Away for none, RootError for several."""
        found: list[pkcs11.Token] = []
        for slot in library(path).get_slots(token_present=True):
            try:
                token = slot.get_token()
            except PKCS11Error:
                continue  # taken out just now, or not readable
            if TokenFlag.TOKEN_INITIALIZED in token.flags and self._is_meant(token):
                found.append(token)
        if not found:
            raise _Away
        if len(found) > 1:
            serials = ", ".join(sorted(serial_of(token) for token in found))
            raise RootError(
                f"{len(found)} tokens are {self._uri.name} (serials {serials})",
                next="take the others out; in the URI of a new holder, name one: serial=SERIAL",
            )
        return found[0]

    def _is_meant(self, token: pkcs11.Token) -> bool:
        slot = token.slot
        real = {
            "token": token.label,
            "serial": serial_of(token),
            "manufacturer": token.manufacturer_id,
            "model": token.model,
            "slot-id": str(slot.slot_id),
            "slot-description": slot.slot_description,
            "slot-manufacturer": slot.manufacturer_id,
        }
        return all(real[name] == value for name, value in self._uri.match.items())

    def _login(self, path: str, token: pkcs11.Token, pin: bytes) -> pkcs11.Session:
        """Try a PIN once. One that a token refused is never tried on it again by this process."""
        if (token.serial, pin) in PROCESS.refused:
            raise self._wrong_pin("was refused before and is not tried again")
        try:
            text = pin.decode()
            return token.open(rw=True, user_pin=text)
        except rv.UserAlreadyLoggedIn:
            return token.open(rw=True)  # by another part of this process
        except (UnicodeDecodeError, rv.PinIncorrect, rv.PinInvalid, rv.PinLenRange):
            PROCESS.refused.add((token.serial, pin))
            self._secrets.refuse(_PIN, self._pin_file)
            raise self._wrong_pin("is wrong; it is not tried again") from None
        except rv.PinLocked:
            raise self._locked(path) from None
        except rv.PinExpired:
            raise RootError(
                f"the PIN of the token {self._uri.name} has expired",
                next=f"change it: {_tool(path)} --login --change-pin",
            ) from None

    def _check_may_try(self, path: str, flags: TokenFlag) -> None:
        """Raise RootError where a login cannot be tried, or one more wrong PIN would lock the token."""
        if TokenFlag.USER_PIN_INITIALIZED not in flags:
            raise RootError(
                f"the token {self._uri.name} has no user PIN yet",
                next=f"set one: {_tool(path)} --login --login-type so --init-pin",
            )
        if TokenFlag.USER_PIN_LOCKED in flags:
            raise self._locked(path)
        if TokenFlag.USER_PIN_FINAL_TRY in flags:
            raise RootError(
                f"one more wrong PIN locks the token {self._uri.name}: none is tried",
                next=f"log in once yourself, with the right PIN: {_tool(path)} --login --list-objects",
            )

    def _locked(self, path: str) -> RootError:
        return RootError(
            f"the token {self._uri.name} is locked after wrong PINs",
            next=f"unlock it with its SO PIN: {_tool(path)} --login --login-type so --init-pin",
        )

    def _wrong_pin(self, what: str) -> RootError:
        where = self._pin_file or f"the file that {variable(_PIN)} names"
        return RootError(
            f"the PIN for the token {self._uri.name} {what}",
            next=f"correct it in {where}; a token locks itself after a few wrong ones",
        )


def flags_of(token: pkcs11.Token) -> TokenFlag:
    """Return the flags of a token as its library just gave them."""
    return token.flags


def serial_of(token: pkcs11.Token) -> str:
    """Return the serial number as text; bytes that are not ASCII are escaped."""
    return token.serial.rstrip(b"\0 ").decode("ascii", "backslashreplace")


def is_software(session: pkcs11.Session) -> bool:
    """Whether the token's keys may be files: its slot does not say that it is hardware (CKF_HW_SLOT)."""
    return SlotFlag.HW_SLOT not in session.token.slot.flags


def _tool(path: str) -> str:
    """Name the command that looks at a token, with the library it is to ask."""
    return f"pkcs11-tool --module {path}"
