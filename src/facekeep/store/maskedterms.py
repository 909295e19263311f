"""The terms of rows as they stand in vault.db: masked, so that they tell nothing to whoever has no key.

Masking and unmasking are the same. Nothing is authenticated here (SPEC §5.9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from facekeep.crypto import primitives as p
from facekeep.crypto.keystream import Keystream
from facekeep.formats.columns import Table
from facekeep.formats.ids import GRANT_ID_LEN, TAG_LEN
from facekeep.formats.terms import TERMS_LEN
from facekeep.store.bulk import Column
from facekeep.store.sealedrows import SealedRows

if TYPE_CHECKING:
    from facekeep.store.vaultdb import GrantRow

_GRANT_ID, _TERMS = 1, 4  # places in a GrantRow
_DOMAIN: Final = p.domain("terms")
_AT: Final = slice(GRANT_ID_LEN + TAG_LEN, GRANT_ID_LEN + TAG_LEN + TERMS_LEN)  # of a head


class TermsMask:
    """Masks under the vault's log key."""

    __slots__ = ("_stream",)

    def __init__(self, key: bytes, vault_id: bytes) -> None:
        """Take the log key and the vault id."""
        self._stream = Keystream(p.mac(key, _DOMAIN, vault_id))

    def rows(self, rows: Sequence[GrantRow]) -> list[GrantRow]:
        """Return the rows with other terms; what is no row of ours stays as it is."""
        sound = [len(row.grant_id) == GRANT_ID_LEN and len(row.terms) == TERMS_LEN for row in rows]
        ours = [row for row, fits in zip(rows, sound, strict=True) if fits]
        others = iter(self._column([row.grant_id for row in ours], [row.terms for row in ours]))
        return [
            row._replace(terms=next(others).tobytes()) if fits else row
            for row, fits in zip(rows, sound, strict=True)
        ]

    def columns(self, given: Sequence[Column]) -> list[Column]:
        """Return columns in the order of ``GrantRow``, all of them ours, with other terms."""
        columns = list(given)
        columns[_TERMS] = self._column(columns[_GRANT_ID], columns[_TERMS])
        return columns

    def heads(self, rows: SealedRows) -> SealedRows:
        """Return the rows with other terms in their heads."""
        heads = rows.heads.copy()
        heads[:, _AT] ^= self._stream.of(heads[:, :GRANT_ID_LEN], TERMS_LEN)
        return replace(rows, heads=heads)

    def _column(self, grant_ids: Column, terms: Column) -> Table:
        return _table(terms, TERMS_LEN) ^ self._stream.of(_table(grant_ids, GRANT_ID_LEN), TERMS_LEN)


def _table(column: Column, width: int) -> Table:
    if isinstance(column, np.ndarray):
        return np.asarray(column, np.uint8).reshape(-1, width)
    return np.frombuffer(b"".join(column), np.uint8).reshape(-1, width)  # type: ignore[arg-type] # bytes
