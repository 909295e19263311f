"""The ``restart`` entry: how a log begins whose predecessor is lost (SPEC §6.6). Pure: no I/O.

It names what the key tree knows of the lost log, and is signed with the log's own keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from facekeep.auditlog.signed import LOG_TYPES, LogSigner, verify_raw
from facekeep.crypto.primitives import domain
from facekeep.crypto.signing import check_ed25519_public
from facekeep.errors import IntegrityError
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject, JsonValue, encode_trusted
from facekeep.formats.checkpoint import origin_of
from facekeep.formats.note import VerifierKey

TYPE: Final = "restart"
_DOMAIN: Final = domain("restart")


def restart_entry(
    signer: LogSigner,
    *,
    vault_id: bytes,
    epoch: int,
    fingerprint: bytes,
    provider_class: str,
    scheme: str,
    settings_digest: bytes,
    pin: tuple[int, bytes],
    seen: tuple[int, bytes] | None,
    by: str,
    time_ms: int,
    matching: JsonObject | None = None,
    regions: Sequence[str] | None = None,
    nonce: str | None = None,
) -> JsonObject:
    """Make entry 0 of a restarted log. ``pin`` and ``seen`` are (size, root) of the log that is lost.

    ``pin`` is what the key tree knows of it, ``seen`` the newest checkpoint that was at hand.
    """
    entry: JsonObject = {
        "v": 1,
        "type": TYPE,
        "nonce": nonce or entries.nonce_hex(),
        "time_ms": time_ms,
        "by": by,
        "vault": vault_id.hex(),
        "suite": 1,
        "epoch": epoch,
        "fingerprint": fingerprint.hex(),
        "provider": {"class": provider_class, "scheme": scheme},
        "settings": settings_digest.hex(),
        "pin": _tree(*pin),
        "seen": None if seen is None else _tree(*seen),
        "keys": [key.encode() for key in signer.keys],
        **entries.stated(matching, regions),
    }
    entry["signatures"] = [each.hex() for each in signer.sign_raw(_message(entry))]
    check_restart(entry)
    return entry


def check_restart(entry: JsonObject) -> tuple[VerifierKey, ...]:
    """Verify one valid ``restart`` entry by itself, and return the keys that signed it.

    Raises IntegrityError or FormatError.
    """
    keys = tuple(VerifierKey.parse(text) for text in cast("list[str]", entry["keys"]))
    origin = origin_of(bytes.fromhex(str(entry["vault"])))
    if tuple(key.type for key in keys) != LOG_TYPES or {key.name for key in keys} != {origin}:
        raise IntegrityError("a restart does not name an Ed25519 and an ML-DSA-44 key of its log")
    check_ed25519_public(keys[0].public)
    signatures = [bytes.fromhex(each) for each in cast("list[str]", entry["signatures"])]
    verify_raw(keys, signatures, _message(entry))
    return keys


def named(entry: JsonObject, key: str) -> tuple[int, bytes]:
    """(size, root) of the lost log that a ``restart`` entry names: its ``pin``, or ``seen`` if not null."""
    tree = cast("JsonObject", entry[key])
    return cast("int", tree["size"]), bytes.fromhex(str(tree["root"]))


def _tree(size: int, root: bytes) -> JsonObject:
    return {"root": root.hex(), "size": size}


def _message(entry: JsonObject) -> bytes:
    """Return what is signed: the entry without its signatures."""
    unsigned: dict[str, JsonValue] = {key: value for key, value in entry.items() if key != "signatures"}
    return _DOMAIN + encode_trusted(unsigned)
