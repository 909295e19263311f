"""The ``keyring:`` layer: a KEK in the keyring of the operating system (SPEC §4.6).

The keyring is opened by the login of one user on one machine; a copy of the other files alone opens nothing.
Keyrings that store in clear, or not at all, are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, Self

from facekeep.crypto import primitives as p
from facekeep.errors import FacekeepError, FormatError, MissingDependency, RootError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import from_hex
from facekeep.keys.layers import About, Layer, only
from facekeep.keys.provider import Place
from facekeep.keys.sealed_holder import KeyGone

ENTRY_LEN: Final = 8  # random bytes that tell holders of one vault apart in one keyring
_INSTALL: Final = "pip install 'facekeep[keyring]'"

# Keyrings of operating systems, all of which store under the user's login. A list of those that are bad would
# never be complete.
_MODULES: Final = frozenset(
    {f"keyring.backends.{each}" for each in ("SecretService", "libsecret", "kwallet", "macOS", "Windows")}
)


class KeyringLayer(Layer):
    """One entry for each holder: service ``facekeep`` or that of ``?service=``, user VAULT-ENTRY."""

    word: ClassVar[str] = "keyring"

    def __init__(self, place: Place, service: str = "facekeep") -> None:
        """Keep the service's name; the keyring is looked up by each call."""
        super().__init__(place)
        self._service = service

    @classmethod
    def from_uri(cls, head: str, options: Mapping[str, str], place: Place) -> Self:
        """``keyring:?service=NAME``, optional."""
        only(options, frozenset({"service"}), cls.word)
        if head:
            raise UsageError("nothing stands after keyring: but options", next="write keyring:?service=NAME")
        return cls(place, options.get("service", "facekeep"))

    def begin(self) -> None:
        """Look for a keyring that may be used."""
        _backend()

    def new_key(self, about: About, proven: JsonObject | None) -> tuple[JsonObject, bytes]:
        """Take the entry of a record that opened, as the keyring has it now; else make one, read back."""
        if proven is not None:
            return proven, self.fetch(about, proven)
        params: JsonObject = {"entry": p.random_bytes(ENTRY_LEN).hex()}
        key = p.random_bytes(p.KEY_LEN)
        with _translated():
            _backend().set_password(self._service, self._user(params), key.hex())
        if not p.compare(self.fetch(about, params), key):
            raise RootError("the keyring gives back another key than it was given")
        return params, key

    def fetch(self, about: About, params: JsonObject) -> bytes:
        """Read the entry."""
        del about
        user = self._user(params)
        with _translated():
            found = _backend().get_password(self._service, user)
        if found is None:
            raise RootError(
                f"the keyring has no entry {user} of {self._service}",
                next="run as the user who made the vault, or restore that user's keyring",
            )
        try:
            return from_hex(found, p.KEY_LEN, "a key")
        except FormatError:
            raise RootError(f"the keyring's entry {user} of {self._service} is not a key") from None

    def forget(self, params: JsonObject) -> None:
        """Delete the entry."""
        super().forget(params)
        with _translated():
            _backend().delete_password(self._service, self._user(params))

    def _user(self, params: JsonObject) -> str:
        try:
            if params.keys() != {"entry"}:
                raise KeyGone("its keyring parameters are not those of SPEC §4.6")
            entry = from_hex(params["entry"], ENTRY_LEN, "a keyring entry")
        except FormatError as error:
            raise KeyGone(f"its keyring parameters are damaged: {error}") from None
        return f"{self.place.vault_id.hex()}-{entry.hex()}"


def _backend() -> Any:  # noqa: ANN401 - an extra, not there to be named
    """Return the keyring in use; raises MissingDependency, and RootError for one that protects nothing."""
    try:
        import keyring  # noqa: PLC0415 - an extra
        from keyring.backends.chainer import ChainerBackend  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependency("the keyring: layer needs the keyring package", next=_INSTALL) from error
    with _translated():
        found = keyring.get_keyring()
        if isinstance(found, ChainerBackend):  # it writes to the first and reads from any
            found = next(iter(found.backends), found)
    if type(found).__module__ not in _MODULES:
        raise RootError(
            f"the keyring in use ({type(found).__module__}) is none that a login protects",
            next="start the desktop's secret service (gnome-keyring, KWallet), or choose another layer",
        )
    return found


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn whatever a keyring raises into a RootError: backends raise errors of many libraries."""
    try:
        yield
    except FacekeepError:
        raise
    except Exception as error:
        raise RootError(
            f"the keyring refuses or cannot be reached ({type(error).__name__})",
            next="unlock the keyring of the user who runs facekeep, then try again",
        ) from error
