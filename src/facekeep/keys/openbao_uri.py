"""Where an OpenBao holder's key is: the URI of ``openbao:`` (SPEC §4.5)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from facekeep.errors import UsageError

_FORM: Final = (
    "write openbao:https://HOST:PORT/MOUNT/NAME, or openbao:https://HOST:PORT/MOUNT/ for the default name"
)
_SEGMENT: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_URI: Final = re.compile(
    r"(?P<base>(?P<tls>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?)"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?)"
    rf"/(?P<mount>{_SEGMENT}(?:/{_SEGMENT})*)/(?P<key>{_SEGMENT})?(?:\?(?P<query>.+))?\Z"
)
_PATH: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*\Z")
_NAMES: Final = frozenset({"file", "ca", "namespace", "role", "auth"})
_MAX_PORT: Final = 65_535
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is reached: ``https://HOST:PORT``, the file of its CA, namespace, and AppRole if any."""

    base: str
    ca: Path | None = None
    namespace: str = ""
    role: str = ""
    auth: str = "approle"


@dataclass(frozen=True, slots=True)
class Address:
    """A transit key on a server, and the holder file; empty ``key``, no ``file``: the URI names none."""

    server: Server
    mount: str
    key: str
    file: Path | None


def parse(rest: str, base: Path) -> Address:
    """Read what stands after ``openbao:``; relative paths start at ``base``. Raises UsageError."""
    found = _URI.match(rest)
    if found is None or int(found["port"] or 1) > _MAX_PORT:
        raise UsageError("the root URI does not name a key of an OpenBao server", next=_FORM)
    if found["tls"] == "http" and not _loopback(found["host"]):
        raise UsageError(
            "an OpenBao server is asked by https: a root would cross the network in clear",
            next="write https; http is for 127.0.0.1, [::1] and localhost only",
        )
    query = _query(found["query"] or "")
    for name in ("namespace", "auth"):
        if name in query and not _PATH.match(query[name]):
            raise UsageError(f"the root URI's {name} is no path of an OpenBao server", next=_FORM)
    server = Server(
        found["base"],
        _path(query.get("ca"), base),
        query.get("namespace", ""),
        query.get("role", ""),
        query.get("auth", "approle"),
    )
    return Address(server, found["mount"], found["key"] or "", _path(query.get("file"), base))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _query(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in text.split("&") if text else ():
        name, equals, raw = pair.partition("=")
        try:
            value = unquote(raw, errors="strict")
        except UnicodeDecodeError:
            value = ""
        if name not in _NAMES or not equals or name in values:
            raise UsageError(
                f"the root URI has an unknown or repeated part {name[:20]!r}",
                next=f"each at most once: {', '.join(sorted(_NAMES))}; a token never stands in a URI",
            )
        if not value or not value.isprintable() or _BAD_ESCAPE.search(raw):
            raise UsageError(f"the root URI's {name} is empty or cannot be read", next=_FORM)
        values[name] = value
    return values


def _path(text: str | None, base: Path) -> Path | None:
    if text is None:
        return None
    try:
        return base / Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError("the root URI names an unknown home directory") from error
