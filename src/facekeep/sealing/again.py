"""Sealing the grants of a rotation again: the same record, terms and templates, a fresh slot (SPEC §5)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facekeep.crypto import again
from facekeep.crypto.bulk import derive_many
from facekeep.crypto.primitives import BLOB_OVERHEAD
from facekeep.errors import IntegrityError
from facekeep.formats.columns import Table, be64, each_row, side_by_side
from facekeep.formats.ids import GRANT_ID_LEN
from facekeep.formats.terms import DIGEST_LEN, TERMS_DTYPE
from facekeep.sealing.handles import masked
from facekeep.sealing.permit import Permit
from facekeep.sealing.sealer import KIND_RECORD, KIND_TEMPLATES, Sealer
from facekeep.store.sealedrows import SealedRows, WholeRows

_FLOAT = 4  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """n rows that authenticate, each with its record opened; their templates are sealed as they were."""

    rows: SealedRows
    opened: list[again.Opened]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.opened)

    def only(self, mask: npt.NDArray[np.bool_]) -> Sound:
        """Return those rows where the mask (n,) is True."""
        return self if mask.all() else Sound(self.rows.only(mask), _where(self.opened, mask))


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """n fresh slots with their grant ids: ``slots`` int64 (n,), ``heads`` as in ``SealedRows``.

    ``keys`` are encryption key || commitment of each.
    """

    slots: npt.NDArray[np.int64]
    heads: Table
    keys: list[bytes]


def open_sound(sealer: Sealer, whole: WholeRows, keys: Table) -> Sound:
    """Open the records of the rows that authenticate under their slot keys, uint8 (n, 32); no others.

    Raises IntegrityError for a destroyed key. No template is opened.
    """
    rows = whole.rows
    kdf, aad = sealer.prefixes(KIND_TEMPLATES)[0], sealer.prefixes(KIND_RECORD)[1]
    derived, commitments = derive_many(keys, side_by_side(len(rows), kdf, be64(rows.slots), rows.grant_ids))
    terms = packed(rows)
    size = _FLOAT * terms["count"].astype(np.int64) * terms["dimension"] + BLOB_OVERHEAD
    claimed = (commitments == rows.commitments).all(axis=1) & (rows.sizes == size)
    opened = again.open_records(
        derived,
        rows.joined().each(),
        whole.records.each(),
        [aad + middle for middle in _middles(sealer, rows.slots, rows.identities, rows.models)],
        each_row(rows.terms[:, -DIGEST_LEN:]),
    )
    mask = claimed & np.array([each is not None for each in opened], np.bool_)
    return Sound(
        rows.only(mask), [each for each, good in zip(opened, mask.tolist(), strict=True) if each and good]
    )


def packed(rows: SealedRows) -> npt.NDArray[np.void]:
    """Terms of rows, of shape (n,) and TERMS_DTYPE."""
    return np.ascontiguousarray(rows.terms).reshape(-1).view(TERMS_DTYPE)


def fresh_places(
    sealer: Sealer, rows: SealedRows, old_keys: Table, slots: npt.NDArray[np.int64], keys: Table
) -> Places:
    """Give the grants of rows fresh slots; their handles go along. Keys are those of slots, uint8 (n, 32)."""
    count = len(slots)
    ids = masked(sealer, slots, keys, masked(sealer, rows.slots, old_keys, rows.grant_ids))
    kdf = sealer.prefixes(KIND_TEMPLATES)[0]
    derived, commitments = derive_many(keys, side_by_side(count, kdf, be64(slots), ids))
    return Places(slots, side_by_side(count, ids, rows.identities[:, GRANT_ID_LEN:], commitments), derived)


def seal_again(
    sealer: Sealer, permit: Permit, sound: Sound, where: Places, part: slice, scratch: memoryview
) -> tuple[list[bytes], list[bytes]]:
    """Seal a part of the rows in their places: (sealed templates, sealed records).

    Each row's templates are in the clear in ``scratch`` only, until the next row's; the caller zeroes it, and
    seals a place once. Raises IntegrityError.
    """
    rows = sound.rows
    slots, models = rows.slots[part], rows.models[part]
    if not permit.slots.issuperset(slots.tolist()):
        raise IntegrityError("a permit does not cover this slot")
    aad = sealer.prefixes(KIND_TEMPLATES)[1]
    identities = where.heads[part, : rows.identities.shape[1]]
    return again.seal_again(
        sound.opened[part],
        rows.joined().only(part).each(),
        [aad + middle for middle in _middles(sealer, slots, rows.identities[part], models)],
        where.keys[part],
        _middles(sealer, where.slots[part], identities, models),
        (aad, sealer.prefixes(KIND_RECORD)[1]),
        scratch,
    )


def _middles(
    sealer: Sealer, slots: npt.NDArray[np.int64], identities: Table, models: Sequence[bytes]
) -> Iterable[bytes]:
    """Slot || grant id || tag || terms || model of each row, as associated data have it (SPEC §5.2)."""
    tails = {model: sealer.model_tail(model.decode("ascii")) for model in set(models)}
    if len(tails) == 1:
        return each_row(side_by_side(len(slots), be64(slots), identities, *tails.values()))
    heads = each_row(side_by_side(len(slots), be64(slots), identities))
    return [head + tails[model] for head, model in zip(heads, models, strict=True)]


def _where(values: Sequence[again.Opened], mask: npt.NDArray[np.bool_]) -> list[again.Opened]:
    return list(itertools.compress(values, mask.tolist()))
