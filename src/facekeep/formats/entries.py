"""Log entries as values (SPEC §6.1, §6.2): one small builder for each type, and the strict parser.

Builders take identifiers of principals as hex text and every other fixed-length value as bytes, and
return what ``auditlog.log`` appends; it validates them again. Times are milliseconds since 1970.
A nonce that is not given is random.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import orjson

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject, JsonValue, encode_trusted
from facekeep.formats.decisions import (
    decision_allow,
    decision_body,
    decision_identify,
    decision_time_ms,
    decision_verify,
    is_decision,
)
from facekeep.formats.entryrules import (
    DESTROY_OPS,
    GRANT_OPS,
    LASTING_ROTATIONS,
    PROVIDER_CLASSES,
    ROTATION_REASONS,
    ROTATIONS,
    SCOPES,
    VOIDS_PER_ENTRY,
    Reason,
    validate,
)
from facekeep.formats.ids import to_ranges
from facekeep.limits import LIMITS

__all__ = [
    "DESTROY_OPS", "GRANT_OPS", "LASTING_ROTATIONS", "PROVIDER_CLASSES", "ROTATIONS", "ROTATION_REASONS",
    "SCOPES", "Reason", "backup", "checkpoint", "clock", "decision_allow", "decision_body",
    "decision_identify", "decision_time_ms", "decision_verify", "destroy_entries", "destroyed", "encode",
    "genesis", "grant_entries", "grant_item", "granted", "is_decision", "nonce_hex", "parse",
    "principal",
    "restarted", "restore", "rotated", "rotation", "settings", "slots_in", "slots_of", "sought", "validate",
]  # fmt: skip

_SLOT = re.compile(rb'"slot":(\d{1,16})')  # no string in an entry holds a quotation mark
_OPENING = (b',"type":"grant","v":1}', b',"type":"principal","v":1}')
_GRANT_OVERHEAD = 512  # bytes of a grant entry around its grants, rounded up

_RANGES_A_PART = 250  # a shredding proof carries whole entries: smaller than a reader must accept
_TAGS_A_PART = 100


def parse(data: bytes) -> JsonObject:
    """Parse one entry: at most 65,535 bytes, canonical, valid; raises FormatError."""
    if len(data) > LIMITS.entry_bytes:
        raise FormatError("a log entry is longer than 65,535 bytes")
    try:
        value = orjson.loads(data)
    except ValueError as error:
        raise FormatError("a log entry is not JSON") from error
    entry = validate(value)  # leaves no value unchecked, so the canonical form needs no second walk
    if encode_trusted(entry) != data:
        raise FormatError("a log entry is not in its canonical form")
    return entry


def encode(entry: Mapping[str, JsonValue]) -> bytes:
    """Validate and encode one entry; raises FormatError."""
    data = encode_trusted(validate(dict(entry)))
    if len(data) > LIMITS.entry_bytes:
        raise FormatError("a log entry is longer than 65,535 bytes")
    return data


def nonce_hex() -> str:
    """16 random bytes in hex: they keep an entry's leaf hash from being guessed."""
    return os.urandom(16).hex()


def _entry(kind: str, by: str | None, time_ms: int, nonce: str | None, further: JsonObject) -> JsonObject:
    common: JsonObject = {
        "v": 1,
        "type": kind,
        "nonce": nonce or nonce_hex(),
        "time_ms": time_ms,
        "by": by,
    }
    return common | further


def genesis(
    *,
    vault_id: bytes,
    epoch: int,
    fingerprint: bytes,
    provider_class: str,
    scheme: str,
    settings_digest: bytes,
    time_ms: int,
    by: str | None = None,
    suite: int = 1,
    matching: JsonObject | None = None,
    regions: Sequence[str] | None = None,
    nonce: str | None = None,
) -> JsonObject:
    """Entry 0 of every log. ``matching`` and ``regions`` are as in ``settings``."""
    further: JsonObject = {
        "vault": vault_id.hex(),
        "suite": suite,
        "epoch": epoch,
        "fingerprint": fingerprint.hex(),
        "provider": {"class": provider_class, "scheme": scheme},
        "settings": settings_digest.hex(),
    }
    return _entry("genesis", by, time_ms, nonce, further | stated(matching, regions))


def grant_item(
    *,
    slot: int,
    grant: bytes,
    tag: bytes,
    commitment: bytes,
    terms: bytes,
    model: str,
    source: int | None = None,
) -> JsonObject:
    """One element of ``grants``; ``source`` is its ``from``: the slot whose templates were opened."""
    return {
        "slot": slot,
        "grant": grant.hex(),
        "tag": tag.hex(),
        "commitment": commitment.hex(),
        "terms": terms.hex(),
        "model": model,
        "from": source,
    }


def grant_entries(
    op: str, grants: Sequence[JsonObject], *, by: str | None, time_ms: int, nonces: Sequence[str] = ()
) -> list[JsonObject]:
    """One grant operation in as many parts as it needs, in the order given; [] without grants."""
    longest = max((len(encode_trusted(grant)) for grant in grants), default=1)
    room = (LIMITS.entry_bytes - _GRANT_OVERHEAD) // (longest + 1)
    chunks = _chunks(grants, min(LIMITS.grants_per_entry, room))
    return [
        _entry(
            "grant",
            by,
            time_ms,
            _nth(nonces, part),
            {"op": op, "part": part + 1, "parts": len(chunks), "grants": cast("JsonValue", chunk)},
        )
        for part, chunk in enumerate(chunks)
    ]


def principal(
    *,
    principal: str,
    slot: int,
    grant: bytes,
    commitment: bytes,
    roles: Iterable[str],
    by: str | None,
    time_ms: int,
    nonce: str | None = None,
) -> JsonObject:
    """Make the entry of a new principal in a system slot; roles are sorted here."""
    further: JsonObject = {
        "principal": principal,
        "slot": slot,
        "grant": grant.hex(),
        "commitment": commitment.hex(),
        "roles": cast("JsonValue", sorted(set(roles))),
    }
    return _entry("principal", by, time_ms, nonce, further)


def granted(of: int, *, by: str | None, time_ms: int, nonce: str | None = None) -> JsonObject:
    """Completion of the grant or principal operation whose first entry is ``of``; by nobody in recovery."""
    return _entry("granted", by, time_ms, nonce, {"of": of})


def destroy_entries(
    op: str,
    slots: Iterable[int] = (),
    *,
    ranges: Sequence[Sequence[int]] | None = None,
    tags: Iterable[bytes] = (),
    voids: Iterable[int] = (),
    by: str | None,
    time_ms: int,
    nonces: Sequence[str] = (),
) -> list[JsonObject]:
    """One destructive intent in as many parts as its slots, subject tags and voided operations need.

    Give the slots one by one, or as ``ranges`` that already ascend without touching.
    """
    spans = [list(span) for span in ranges] if ranges is not None else to_ranges(list(slots))
    columns = (
        _chunks(spans, _RANGES_A_PART),
        _chunks(sorted({tag.hex() for tag in tags}), _TAGS_A_PART),
        _chunks(sorted(set(voids)), VOIDS_PER_ENTRY),
    )
    parts = max(1, *map(len, columns))
    entries = []
    for part in range(parts):
        slots_, tags_, voids_ = (column[part] if part < len(column) else [] for column in columns)
        further = {
            "op": op,
            "part": part + 1,
            "parts": parts,
            "slots": slots_,
            "tags": tags_,
            "voids": voids_,
        }
        entries.append(_entry("destroy", by, time_ms, _nth(nonces, part), cast("JsonObject", further)))
    return entries


def sought(op: str, sought_as: bytes, nonce: str, *, by: str | None, time_ms: int) -> JsonObject:
    """Erasure of somebody who cannot be found: nobody is answered while it is open (SPEC §7)."""
    further: JsonObject = {
        "op": op, "part": 1, "parts": 1, "slots": [], "tags": [], "voids": [], "sought": sought_as.hex(),
    }  # fmt: skip
    return _entry("destroy", by, time_ms, nonce, further)


def destroyed(
    of: int,
    *,
    epoch: int,
    fingerprint: bytes,
    previous: bytes,
    receipts: Sequence[JsonObject],
    by: str | None,
    time_ms: int,
    nonce: str | None = None,
) -> JsonObject:
    """Completion of the destroy operation ``of``: the new root's fingerprint and the holders' receipts.

    In recovery ``by`` is None.
    """
    further: JsonObject = {
        "of": of,
        "epoch": epoch,
        "fingerprint": fingerprint.hex(),
        "previous": previous.hex(),
        "receipts": list(receipts),
    }
    return _entry("destroyed", by, time_ms, nonce, further)


def settings(
    digest: bytes,
    previous: bytes,
    *,
    by: str | None,
    time_ms: int,
    matching: JsonObject | None = None,
    regions: Sequence[str] | None = None,
    nonce: str | None = None,
) -> JsonObject:
    """Vault settings changed from digest ``previous`` to ``digest`` (SPEC §9).

    ``matching``: the limits on matching from now on, ``regions``: where it is allowed; None where they stay.
    """
    further: JsonObject = {"digest": digest.hex(), "previous": previous.hex()}
    return _entry("settings", by, time_ms, nonce, further | stated(matching, regions))


def stated(matching: JsonObject | None, regions: Sequence[str] | None) -> JsonObject:
    """Return the keys that name settings which decisions are held to, those that are given."""
    named: JsonObject = {} if matching is None else {"matching": matching}
    return named if regions is None else named | {"regions": list(regions)}


def clock(high_ms: int, *, by: str | None, time_ms: int, nonce: str | None = None) -> JsonObject:
    """Record that an operator accepted ``time_ms`` as the time, though the log had seen ``high_ms``."""
    return _entry("clock", by, time_ms, nonce, {"high_ms": high_ms})


def rotation(
    what: str,
    reason: str,
    *,
    below: Mapping[int, int] | None = None,
    model: str | None = None,
    by: str | None,
    time_ms: int,
    nonce: str | None = None,
) -> JsonObject:
    """Say what is to be rotated and why. Of templates: those in slots below an index of each branch."""
    bounds = [[branch, index] for branch, index in sorted((below or {}).items())]
    further = {"what": what, "reason": reason, "below": bounds, "model": model}
    return _entry("rotation", by, time_ms, nonce, cast("JsonObject", further))


def rotated(of: int, *, left: int = 0, by: str | None, time_ms: int, nonce: str | None = None) -> JsonObject:
    """End the rotation of entry ``of``; ``left`` living grants that it selected were not re-sealed."""
    return _entry("rotated", by, time_ms, nonce, {"of": of, "left": left})


def checkpoint(
    *, sha256: bytes, size: int, by: str | None, time_ms: int, nonce: str | None = None
) -> JsonObject:
    """Record that a checkpoint of ``size`` entries was published; ``sha256`` is that of the signed note."""
    return _entry("checkpoint", by, time_ms, nonce, {"sha256": sha256.hex(), "size": size})


def backup(
    *, rows: int, sha256: bytes, size: int, by: str | None, time_ms: int, nonce: str | None = None
) -> JsonObject:
    """Record a data backup of ``rows`` rows; ``size`` is the log's size it was taken at."""
    return _entry("backup", by, time_ms, nonce, {"rows": rows, "sha256": sha256.hex(), "size": size})


def restore(
    *,
    sha256: bytes,
    rows: int,
    merged: int,
    dead: int,
    present: int,
    refused: int,
    missing: int,
    by: str | None,
    time_ms: int,
    nonce: str | None = None,
) -> JsonObject:
    """Record a merged backup: what became of its rows, and how many living grants still lack one."""
    further: JsonObject = {
        "sha256": sha256.hex(),
        "rows": rows,
        "merged": merged,
        "dead": dead,
        "present": present,
        "refused": refused,
        "missing": missing,
    }
    return _entry("restore", by, time_ms, nonce, further)


def restarted(
    *,
    closed: Iterable[int],
    next_principal: int,
    left: int,
    by: str | None,
    time_ms: int,
    nonce: str | None = None,
) -> JsonObject:
    """End the adoption that begins a restarted log.

    No slot is given out again of the branches ``closed``, nor below the index ``next_principal`` of branch 0.
    ``left`` rows of vault.db have a living slot and were not adopted.
    """
    closed_: list[JsonValue] = [*sorted(closed)]
    further: JsonObject = {"closed": closed_, "next": next_principal, "left": left}
    return _entry("restarted", by, time_ms, nonce, further)


def slots_of(entry: JsonObject) -> list[int]:
    """Slots a grant or principal entry opens, in order; [] for any other type."""
    if entry["type"] == "principal":
        return [cast("int", entry["slot"])]
    if entry["type"] == "grant":
        return [cast("int", grant["slot"]) for grant in cast("list[JsonObject]", entry["grants"])]
    return []


def slots_in(body: bytes) -> list[int]:
    """``slots_of`` of an authenticated entry's canonical bytes, a hundred times faster than by parsing."""
    return [int(digits) for digits in _SLOT.findall(body)] if body.endswith(_OPENING) else []


def _chunks(items: Sequence[object], size: int) -> list[list[object]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _nth(nonces: Sequence[str], part: int) -> str | None:
    return nonces[part] if part < len(nonces) else None
