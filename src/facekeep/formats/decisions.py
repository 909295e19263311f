"""Decision entries (SPEC §6.2): built on every verify and identify, so each builder is one dict.

Tags and digests are bytes, principals hex text, times milliseconds since 1970. ``decision_time_ms``
and ``decision_allow`` read canonical bytes by the order of their keys, without parsing them.
"""

from __future__ import annotations

from collections.abc import Sequence

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject, encode_trusted
from facekeep.formats.entryrules import INDEX_MASK, SAFE, validate
from facekeep.formats.ids import BRANCH_SLOTS, TAG_LEN, to_ranges
from facekeep.formats.nonces import entry_nonce

_SHAPES = 4096
_shapes: set[tuple[object, ...]] = set()  # words of verify decisions that ``validate`` has passed
_DECISION_END = b',"type":"decision","v":1}'
_DECISION_ALLOWED = b'{"allow":true,'


def decision_verify(
    *,
    by: str | None,
    time_ms: int,
    reason: str,
    scope: str,
    region: str,
    model: str,
    threshold_e6: int | None = None,
    tag: bytes | None = None,
    slot: int | None = None,
    match: bool | None = None,
    score: bool = False,
    nonce: str | None = None,
) -> JsonObject:
    """Make a 1:1 decision; reason ``ok`` allows, any other denies. ``threshold_e6``: distance times 10^6.

    ``score`` says that the distance left with the answer.

    Raises FormatError for what the log must not hold, a caller's malformed region or model included.
    """
    entry: JsonObject = {
        "allow": reason == "ok",
        "by": by,
        "model": model,
        "nonce": nonce or entry_nonce(),
        "op": "verify",
        "reason": str(reason),
        "region": region,
        "scope": scope,
        "time_ms": time_ms,
        "type": "decision",
        "v": 1,
    }
    if slot is not None:
        entry["slot"] = slot
    if tag is not None:
        entry["tag"] = tag.hex()
    if threshold_e6 is not None:
        entry["threshold_e6"] = threshold_e6
    if match is not None:
        entry["result"] = "match" if match else "no_match"
    if score:
        entry["score"] = True
    shape = (by, reason, scope, region, model, threshold_e6 is None, tag is None, slot is None, match, score)
    if shape not in _shapes or nonce is not None:
        validate(entry)
        if len(_shapes) >= _SHAPES:
            _shapes.clear()
        _shapes.add(shape)
    elif not (
        _is_count(time_ms)
        and (threshold_e6 is None or _is_count(threshold_e6))
        and (slot is None or (_is_count(slot) and slot & INDEX_MASK < BRANCH_SLOTS))
        and (tag is None or len(tag) == TAG_LEN)
    ):
        validate(entry)
    return entry


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < SAFE


def decision_identify(
    *,
    by: str | None,
    time_ms: int,
    reason: str,
    scope: str,
    region: str,
    model: str,
    threshold_e6: int | None = None,
    count: int | None = None,
    set_digest: bytes | None = None,
    candidates: Sequence[int] | None = None,
    excluded: int | None = None,
    omitted: Sequence[int] | None = None,
    mean_e6: int | None = None,
    most: int | None = None,
    score: bool = False,
    nonce: str | None = None,
) -> JsonObject:
    """Make a 1:N decision; ``candidates`` are the slots answered in rank order, None on a denial.

    ``omitted`` are slots whose grant the log allows but whose row was missing or damaged. ``mean_e6`` is the
    limit for means. ``most`` is at how many candidates the answer was cut, None where all that matched are in
    it. ``score`` says that distances left with the answer.

    Raises FormatError for what the log must not hold.
    """
    entry: dict[str, object] = {
        "allow": reason == "ok",
        "by": by,
        "candidates": None if candidates is None else list(candidates),
        "count": count,
        "excluded": excluded,
        "mean_e6": None if mean_e6 == threshold_e6 else mean_e6,
        "model": model,
        "most": most,
        "nonce": nonce or entry_nonce(),
        "omitted": None if omitted is None else to_ranges(list(omitted)),
        "op": "identify",
        "reason": str(reason),
        "region": region,
        "result": None if candidates is None else "match" if candidates else "no_match",
        "scope": scope,
        "score": True if score else None,
        "set": None if set_digest is None else set_digest.hex(),
        "threshold_e6": threshold_e6,
        "time_ms": time_ms,
        "type": "decision",
        "v": 1,
    }
    return validate({key: value for key, value in entry.items() if value is not None or key == "by"})


def decision_body(entry: JsonObject) -> bytes:
    """Return the canonical bytes of a decision that a builder here made: it is not checked again."""
    return encode_trusted(entry)


def decision_time_ms(body: bytes) -> int:
    """``time_ms`` of a decision's canonical bytes: it stands before the last two keys (§6.2)."""
    if not body.endswith(_DECISION_END):
        raise FormatError("these bytes are not a decision")
    end = len(body) - len(_DECISION_END)
    return int(body[body.rindex(b":", 0, end) + 1 : end])


def decision_allow(body: bytes) -> bool:
    """``allow`` of a decision's canonical bytes: it is the first key."""
    return body.startswith(_DECISION_ALLOWED)


def is_decision(body: bytes) -> bool:
    """Whether an entry's canonical bytes are a decision, by their end."""
    return body.endswith(_DECISION_END)
