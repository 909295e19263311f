"""PKCS #11 URIs (RFC 7512): which token, where its library and its PIN are (SPEC §4.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote_to_bytes

from facekeep.errors import UsageError

MATCHED: Final = (
    "token",
    "serial",
    "manufacturer",
    "model",
    "slot-id",
    "slot-description",
    "slot-manufacturer",
)
NAMING: Final = frozenset({"token", "serial", "slot-id"})  # one of them must be there
QUERY: Final = frozenset({"module-path", "pin-source", "x-file"})
DEFAULT_OBJECT: Final = "facekeep"

_LONGEST: Final = 4096  # characters of a URI
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_UNRESERVED: Final = r"A-Za-z0-9._~\-"
# RFC 7512 §2.3: pk11-pchar, pk11-qchar. Everything else is percent-encoded.
_PATH_VALUE: Final = re.compile(rf"(?:[{_UNRESERVED}:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{{2}})*\Z")
_QUERY_VALUE: Final = re.compile(rf"(?:[{_UNRESERVED}:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{{2}})*\Z")
_OBJECT: Final = re.compile(r"[A-Za-z0-9._-]{1,32}\Z")
_SLOT_ID: Final = re.compile(r"(?:0|[1-9][0-9]{0,19})\Z")
_HOW: Final = "write pkcs11:token=LABEL, or pkcs11:token=LABEL;serial=SERIAL?module-path=/usr/lib/NAME.so"
_REFUSED: Final = {
    "pin-value": "a PIN does not belong in vault.toml",
    "module-name": "a library is named by its whole path, in module-path",
    "id": "facekeep gives its keys their ids",
    "library-description": "the library is named by module-path",
    "library-manufacturer": "the library is named by module-path",
    "library-version": "the library is named by module-path",
}


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """What a token must be (attributes of ``MATCHED``), the label of the keys, and where the rest is found.

    ``module``, ``pin_source`` and ``file`` are None where the URI does not name them.
    """

    match: Mapping[str, str]
    label: str
    module: str | None
    pin_source: str | None
    file: str | None

    @property
    def name(self) -> str:
        """Words for the token in messages: ``token=staff, serial=0001``."""
        return ", ".join(f"{key}={value}" for key, value in self.match.items())


def parse(rest: str) -> Pkcs11Uri:
    """Parse what stands after ``pkcs11:``; raises UsageError for anything that would not be honoured.

    An attribute that facekeep does not know is refused, since a mistyped one would widen what is matched.
    """
    if len(rest) > _LONGEST or not rest.isascii():
        raise UsageError(
            "a pkcs11: URI is too long, or has characters that must be percent-encoded", next=_HOW
        )
    path, mark, query = rest.partition("?")
    said = _attributes(path, ";", _PATH_VALUE) if path else {}
    asked = _attributes(query, "&", _QUERY_VALUE) if mark else {}
    _check_known(said, {*MATCHED, "object", "type"})
    _check_known(asked, QUERY)
    label = said.pop("object", DEFAULT_OBJECT)
    if said.pop("type", "secret-key") != "secret-key":
        raise UsageError("a root is sealed under a secret key: type=secret-key is the only type", next=_HOW)
    if not _OBJECT.match(label):
        raise UsageError("object= is 1 to 32 letters, digits, dots, dashes and underscores", next=_HOW)
    if not NAMING & set(said):
        raise UsageError("the pkcs11: URI names no token", next=_HOW)
    if not _SLOT_ID.match(said.get("slot-id", "0")):
        raise UsageError("slot-id= is a decimal number", next=_HOW)
    return Pkcs11Uri(
        MappingProxyType({key: said[key] for key in MATCHED if key in said}),
        label,
        _absolute(asked.get("module-path")),
        _pin_source(asked.get("pin-source")),
        asked.get("x-file"),
    )


def _attributes(text: str, separator: str, form: re.Pattern[str]) -> dict[str, str]:
    """``name=value`` pairs, decoded; none may stand twice (RFC 7512 §2.3) or be empty."""
    found: dict[str, str] = {}
    for part in text.split(separator):
        name, equals, value = part.partition("=")
        if not equals or not _NAME.match(name) or not form.match(value):
            raise UsageError("a pkcs11: URI has a part that is not name=value, percent-encoded", next=_HOW)
        if name in found:
            raise UsageError(f"a pkcs11: URI has {name}= twice", next=_HOW)
        try:
            found[name] = unquote_to_bytes(value).decode()
        except UnicodeDecodeError:
            raise UsageError(f"{name}= in a pkcs11: URI is not UTF-8", next=_HOW) from None
        if not found[name] or not found[name].isprintable():
            raise UsageError(f"{name}= in a pkcs11: URI is empty or cannot be printed", next=_HOW)
    return found


def _check_known(found: Mapping[str, str], known: set[str] | frozenset[str]) -> None:
    for name in found:
        if name in known:
            continue
        if name == "pin-value":
            raise UsageError(
                f"pin-value= is refused: {_REFUSED[name]}",
                next="take it out, change the PIN, and use pin-source=file:PATH or FACEKEEP_PIN_FILE",
            )
        why = _REFUSED.get(name, f"facekeep knows no {name[:40]}= there")
        raise UsageError(f"a pkcs11: URI has {name[:40]}=, which is not honoured: {why}", next=_HOW)


def _absolute(path: str | None) -> str | None:
    if path is not None and not path.startswith("/"):
        raise UsageError("module-path= is an absolute path", next=_HOW)
    return path


def _pin_source(source: str | None) -> str | None:
    """Path of a PIN file. RFC 7512 §2.4 also has ``|COMMAND``, which no vault.toml shall run."""
    if source is None:
        return None
    path = source.removeprefix("file:").removeprefix("//")
    if source.startswith("|") or not path.startswith("/"):
        raise UsageError("pin-source= is a file: an absolute path, or file:/PATH", next=_HOW)
    return path
