"""Sealing the grants of a batch, one or thousands (SPEC §5)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from facekeep.crypto import many
from facekeep.crypto import primitives as p
from facekeep.errors import FormatError
from facekeep.formats.columns import each_row
from facekeep.formats.ids import check_model_id
from facekeep.formats.terms import TERMS_LEN
from facekeep.sealing.handles import masked, table
from facekeep.sealing.sealer import KIND_RECORD, KIND_TEMPLATES, Sealer
from facekeep.store.vaultdb import GrantRow

_SHAPE = slice(52, 56)
_DIGEST = slice(56, TERMS_LEN)


class Place(NamedTuple):
    """A fresh slot, the grant id given to it, and what is derived from its key for both."""

    slot: int
    grant_id: bytes
    key: bytes
    commitment: bytes


class Plain(NamedTuple):
    """What is sealed in one place; ``terms`` are packed, ``templates`` little-endian float32."""

    tag: bytes
    model: str
    terms: bytes
    record: bytes
    templates: memoryview


def places(
    sealer: Sealer, slots: Sequence[int], keys: Sequence[bytes], handles: Sequence[bytes]
) -> list[Place]:
    """Give fresh slots, whose keys these are, the grant ids of these handles, and derive their keys."""
    keyed = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), p.KEY_LEN)
    ids = list(each_row(masked(sealer, slots, keyed, table(handles))))
    named = [slot.to_bytes(8, "big") + grant_id for slot, grant_id in zip(slots, ids, strict=True)]
    derived = many.derive_many(keys, sealer.prefixes(KIND_TEMPLATES)[0], named)
    return [
        Place(slot, grant_id, whole[: p.KEY_LEN], whole[p.KEY_LEN :])
        for slot, grant_id, whole in zip(slots, ids, derived, strict=True)
    ]


def seal_grants(sealer: Sealer, where: Sequence[Place], plain: Sequence[Plain]) -> list[GrantRow]:
    """Seal each grant in its place; the caller seals a place once.

    Raises FormatError when a shape or a record digest disagrees with the terms.
    """
    _check(plain)
    tails = {each.model: sealer.model_tail(check_model_id(each.model)) for each in plain}
    middles = [
        place.slot.to_bytes(8, "big") + place.grant_id + each.tag + each.terms + tails[each.model]
        for place, each in zip(where, plain, strict=True)
    ]
    sealed = many.seal_pairs(
        [place.key for place in where],
        [(each.templates, each.record) for each in plain],
        middles,
        (sealer.prefixes(KIND_TEMPLATES)[1], sealer.prefixes(KIND_RECORD)[1]),
    )
    return [
        GrantRow(place.slot, place.grant_id, each.tag, each.model, each.terms, place.commitment, *pair)
        for place, each, pair in zip(where, plain, sealed, strict=True)
    ]


def _check(plain: Sequence[Plain]) -> None:
    sizes: dict[bytes, int] = {}
    sha256 = hashlib.sha256
    for each in plain:
        shape = each.terms[_SHAPE]
        size = sizes.get(shape)
        if size is None:
            count, dimension = int.from_bytes(shape[:2], "big"), int.from_bytes(shape[2:], "big")
            size = sizes[shape] = 4 * count * dimension
        if each.templates.nbytes != size or each.terms[_DIGEST] != sha256(each.record).digest():
            raise FormatError("terms do not describe what is being sealed")
