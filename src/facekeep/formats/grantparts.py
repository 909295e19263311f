"""The entries of a grant operation in their canonical form, built without intermediate values (SPEC §6.1).

Enrolment in bulk spends a good part of its time on them. ``entries.grant_entries`` and ``encode`` give the
same bytes; what a caller could get wrong is checked here as there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.columns import decimal, each_row, hexadecimal, side_by_side
from facekeep.formats.entryrules import GRANT_OPS, INDEX_MASK, SAFE
from facekeep.formats.ids import BRANCH_SLOTS, GRANT_ID_LEN, TAG_LEN, check_model_id, from_hex
from facekeep.formats.terms import TERMS_LEN
from facekeep.limits import LIMITS

_PRINCIPAL_LEN: Final = 8
_COMMITMENT_LEN: Final = 32
_TAG_AT: Final = GRANT_ID_LEN
_TERMS_AT: Final = _TAG_AT + TAG_LEN
_COMMITMENT_AT: Final = _TERMS_AT + TERMS_LEN
_HEAD: Final = _COMMITMENT_AT + _COMMITMENT_LEN
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


class Columns(NamedTuple):
    """n elements that replace others: ``slots`` and ``sources`` int64 (n,), one model id each.

    ``heads`` are uint8 (n, 168): grant id || tag || terms || commitment.
    """

    slots: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    heads: npt.NDArray[np.uint8]
    models: Sequence[str]


class Part(NamedTuple):
    """One entry: what the log's rules look at, and its canonical bytes."""

    facts: JsonObject
    body: bytes


def grant_parts(
    op: str, grants: Sequence[Element], *, by: str | None, time_ms: int, nonces: Sequence[str] = ()
) -> list[Part]:
    """One grant operation in as many parts as it needs, in the order given; raises FormatError."""
    texts = [_element(each) for each in grants]
    slots = [each.slot for each in grants]
    return _parts(op, slots, lambda held: ",".join(texts[held]), by=by, time_ms=time_ms, nonces=nonces)


def grant_columns(
    op: str, grants: Columns, *, by: str | None, time_ms: int, nonces: Sequence[str] = ()
) -> list[Part]:
    """``grant_parts`` of thousands of grants, given as columns; raises FormatError."""
    slots = grants.slots.tolist()
    return _parts(op, slots, _joined(grants), by=by, time_ms=time_ms, nonces=nonces)


def _parts(
    op: str,
    slots: Sequence[int],
    joined: Callable[[slice], str],
    *,
    by: str | None,
    time_ms: int,
    nonces: Sequence[str],
) -> list[Part]:
    """Entries of these slots; ``joined`` gives the texts of a slice of them, with commas between."""
    if op not in GRANT_OPS or not 0 <= time_ms < SAFE:
        raise FormatError("a log entry's op or time_ms is not in its range")
    author = "null" if by is None else f'"{from_hex(by, _PRINCIPAL_LEN, "a principal id").hex()}"'
    width = LIMITS.grants_per_entry
    parts = -(-len(slots) // width)
    made = []
    for number in range(parts):
        held = slice(number * width, (number + 1) * width)
        nonce = nonces[number] if number < len(nonces) else os.urandom(16).hex()
        text = _ENTRY % (author, joined(held), nonce, op, number + 1, parts, time_ms)
        grants: list[JsonValue] = [{"slot": slot} for slot in slots[held]]
        facts: JsonObject = {
            "by": by,
            "grants": grants,
            "op": op,
            "part": number + 1,
            "parts": parts,
            "time_ms": time_ms,
            "type": "grant",
        }
        made.append(Part(facts, text.encode("ascii")))
    return made


def _joined(grants: Columns) -> Callable[[slice], str]:
    """Texts of elements: of one width, as a table, where slots have as many digits and there is one model."""
    slots, sources, heads, models = grants
    if not _are_slots(slots) or not _are_slots(sources) or heads.shape[1:] != (_HEAD,):
        raise FormatError("a log entry's grant has a slot or a field that is none")
    digits, origin = decimal(slots), decimal(sources)
    if digits is None or origin is None or len(set(models)) != 1:
        texts = [_element(each) for each in _elements(grants)]
        return lambda held: ",".join(texts[held])
    table = side_by_side(
        len(slots),
        b'{"commitment":"',
        hexadecimal(heads[:, _COMMITMENT_AT:]),
        b'","from":',
        origin,
        b',"grant":"',
        hexadecimal(heads[:, :_TAG_AT]),
        f'","model":"{check_model_id(models[0])}","slot":'.encode("ascii"),
        digits,
        b',"tag":"',
        hexadecimal(heads[:, _TAG_AT:_TERMS_AT]),
        b'","terms":"',
        hexadecimal(heads[:, _TERMS_AT:_COMMITMENT_AT]),
        b'"},',
    )
    return lambda held: table[held].tobytes()[:-1].decode("ascii")


def _elements(grants: Columns) -> list[Element]:
    columns = grants.slots.tolist(), each_row(grants.heads), grants.models, grants.sources.tolist()
    return [
        Element(
            slot,
            head[:_TAG_AT],
            head[_TAG_AT:_TERMS_AT],
            head[_COMMITMENT_AT:],
            head[_TERMS_AT:_COMMITMENT_AT],
            model,
            source,
        )
        for slot, head, model, source in zip(*columns, strict=True)
    ]


def _are_slots(slots: npt.NDArray[np.int64]) -> bool:
    return bool(((slots >= 0) & (slots < SAFE) & (slots & INDEX_MASK < BRANCH_SLOTS)).all())


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
