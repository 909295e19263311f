"""The entries of a grant operation in their canonical form, built without intermediate values (SPEC.md §6.1).

Enrolment in bulk spends a good part of its time on them. ``entries.grant_entries`` and ``encode`` give the
same bytes; what a caller could get wrong is checked here as there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.entryrules import GRANT_OPS, INDEX_MASK, SAFE, TERMS_LEN
from facekeep.formats.ids import BRANCH_SLOTS, GRANT_ID_LEN, TAG_LEN, check_model_id, from_hex
from facekeep.limits import LIMITS

_PRINCIPAL_LEN: Final = 8
_COMMITMENT_LEN: Final = 32
_LENGTHS: Final = (
    2 * (_COMMITMENT_LEN + GRANT_ID_LEN + TAG_LEN + TERMS_LEN),
    _COMMITMENT_LEN,
    GRANT_ID_LEN,
    TAG_LEN,
)
_ELEMENT: Final = '{"commitment":"%s","from":%s,"grant":"%s","model":"%s","slot":%d,"tag":"%s","terms":"%s"}'
_ENTRY: Final = (
    '{"by":%s,"grants":[%s],"nonce":"%s","op":"%s","part":%d,"parts":%d,"time_ms":%d,"type":"grant","v":1}'
)


class Element(NamedTuple):
    """An element of ``grants``: lengths 16, 32, 32 and 88 bytes; ``source`` is its ``from``."""

    slot: int
    grant_id: bytes
    tag: bytes
    commitment: bytes
    terms: bytes
    model: str
    source: int | None


class Part(NamedTuple):
    """One entry: what the log's rules look at, and its canonical bytes."""

    facts: JsonObject
    body: bytes


def grant_parts(
    op: str, grants: Sequence[Element], *, by: str | None, time_ms: int, nonces: Sequence[str] = ()
) -> list[Part]:
    """One grant operation in as many parts as it needs, in the order given; raises FormatError."""
    if op not in GRANT_OPS or not 0 <= time_ms < SAFE:
        raise FormatError("a log entry's op or time_ms is not in its range")
    author = "null" if by is None else f'"{from_hex(by, _PRINCIPAL_LEN, "a principal id").hex()}"'
    texts = [_element(each) for each in grants]
    width = LIMITS.grants_per_entry
    parts = -(-len(grants) // width)
    made = []
    for number in range(parts):
        held = slice(number * width, (number + 1) * width)
        nonce = nonces[number] if number < len(nonces) else os.urandom(16).hex()
        text = _ENTRY % (author, ",".join(texts[held]), nonce, op, number + 1, parts, time_ms)
        slots: list[JsonValue] = [{"slot": each.slot} for each in grants[held]]
        facts: JsonObject = {
            "by": by,
            "grants": slots,
            "op": op,
            "part": number + 1,
            "parts": parts,
            "time_ms": time_ms,
            "type": "grant",
        }
        made.append(Part(facts, text.encode("ascii")))
    return made


def _element(each: Element) -> str:
    slot, grant_id, tag, commitment, terms, model, source = each
    text = (commitment + grant_id + tag + terms).hex()
    if (len(text), len(commitment), len(grant_id), len(tag)) != _LENGTHS:
        raise FormatError("a log entry's grant has a field of another length")
    if not _is_slot(slot) or not (source is None or _is_slot(source)):
        raise FormatError("a log entry's slot is not a slot id")
    return _ELEMENT % (
        text[:64],
        "null" if source is None else source,
        text[64:96],
        check_model_id(model),
        slot,
        text[96:160],
        text[160:],
    )


def _is_slot(slot: int) -> bool:
    return 0 <= slot < SAFE and slot & INDEX_MASK < BRANCH_SLOTS
