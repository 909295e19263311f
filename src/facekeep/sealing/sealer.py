"""Keys and opening of one grant's blobs, and sealing of principals (SPEC §5); ``many`` seals grants.

The sealer knows neither the gate nor the tree: it is given a slot key, a row, and for templates a Permit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.crypto import primitives as p
from facekeep.errors import IntegrityError
from facekeep.formats.canonical import JsonObject, dumps, loads
from facekeep.formats.terms import TERMS_LEN, Terms
from facekeep.sealing.permit import Permit
from facekeep.store.vaultdb import GrantRow

KIND_TEMPLATES: Final = b"\1"
KIND_RECORD: Final = b"\2"
KIND_PRINCIPAL: Final = b"\3"
RECORD_SALT_LEN: Final = 32
_SUITE: Final = p.SUITE.to_bytes(2, "big")
_MODEL_MOST: Final = 40
_NO_TAG: Final = bytes(32)
_NO_TERMS: Final = bytes(TERMS_LEN)


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals for one vault. ``vault_id`` is 16 bytes; ``mask_prefix`` begins what masks a handle (§5.8)."""

    vault_id: bytes
    mask_prefix: bytes
    _kdf_prefix: bytes
    _aad_prefixes: dict[bytes, bytes]

    @staticmethod
    def of(vault_id: bytes) -> Sealer:
        """Sealer of a vault."""
        kdf = p.domain("slot-kdf") + _SUITE + vault_id
        aads = {
            kind: p.domain("sealed") + _SUITE + kind + vault_id
            for kind in (KIND_TEMPLATES, KIND_RECORD, KIND_PRINCIPAL)
        }
        return Sealer(vault_id, p.domain("grant-id") + _SUITE + vault_id, kdf, aads)

    def prefixes(self, kind: bytes) -> tuple[bytes, bytes]:
        """(KDF prefix, AAD prefix) of a blob kind: what is the same for every row."""
        return self._kdf_prefix, self._aad_prefixes[kind]

    @staticmethod
    def model_tail(model: str) -> bytes:
        """End of the AAD: the model id with its length."""
        return _lp(model)

    def keys(self, slot_key: bytes, slot: int, grant_id: bytes) -> tuple[bytes, bytes]:
        """(encryption key, commitment) of a grant's slot."""
        return p.slot_kdf(slot_key, self._kdf_prefix + slot.to_bytes(8, "big") + grant_id)

    def row_key(self, slot_key: bytes, row: GrantRow) -> bytes:
        """Encryption key of a row; raises IntegrityError when its commitment is another's."""
        key, commitment = self.keys(slot_key, row.slot, row.grant_id)
        if not p.compare(commitment, row.commitment):
            raise IntegrityError("a row's key commitment is not that of its slot")
        return key

    def open_record(self, slot_key: bytes, row: GrantRow) -> JsonObject:
        """Open a consent record, and with it authenticate the whole row; raises IntegrityError.

        The sealed templates are authenticated by their hash, without being opened.
        """
        return loads(self.record_bytes(self.row_key(slot_key, row), row)[RECORD_SALT_LEN:])

    def record_bytes(self, key: bytes, row: GrantRow) -> bytes:
        """Open a record to its plaintext (SPEC §5.5) under ``row_key(...)``; raises IntegrityError."""
        plain = p.open_sealed(key, row.record, self._aad(KIND_RECORD, row) + p.sha256(row.templates))
        if p.sha256(plain) != Terms.unpack(row.terms).record_digest:
            raise IntegrityError("a consent record is not the one its terms name")
        return plain

    def open_templates(self, permit: Permit, key: bytes, row: GrantRow, out: memoryview) -> None:
        """Open a row's templates into ``out`` (count x dimension x 4 bytes); raises IntegrityError.

        ``key`` is ``row_key(...)``: the row's encryption key, its commitment compared.
        """
        if row.slot not in permit.slots:
            raise IntegrityError("a permit does not cover this slot")
        p.open_into(key, row.templates, self._aad(KIND_TEMPLATES, row), out)

    def seal_principal(
        self, slot_key: bytes, slot: int, grant_id: bytes, record: JsonObject
    ) -> tuple[bytes, bytes]:
        """(sealed blob, commitment) of a principal's record."""
        key, commitment = self.keys(slot_key, slot, grant_id)
        return p.seal(key, dumps(record), self._principal_aad(slot, grant_id)), commitment

    def open_principal(
        self, slot_key: bytes, slot: int, grant_id: bytes, commitment: bytes, sealed: bytes
    ) -> JsonObject:
        """Open a principal's record; raises IntegrityError."""
        key, expected = self.keys(slot_key, slot, grant_id)
        if not p.compare(expected, commitment):
            raise IntegrityError("a principal's key commitment is not that of its slot")
        return loads(p.open_sealed(key, sealed, self._principal_aad(slot, grant_id)))

    def _principal_aad(self, slot: int, grant_id: bytes) -> bytes:
        tail = slot.to_bytes(8, "big") + grant_id + _NO_TAG + _NO_TERMS + _lp("")
        return self._aad_prefixes[KIND_PRINCIPAL] + tail

    def _aad(self, kind: bytes, row: GrantRow) -> bytes:
        return b"".join(
            (
                self._aad_prefixes[kind],
                row.slot.to_bytes(8, "big"),
                row.grant_id,
                row.tag,
                row.terms,
                _lp(row.model),
            )
        )


def _lp(text: str) -> bytes:
    if not text.isascii() or len(text) > _MODEL_MOST:
        raise IntegrityError("a model id is longer than any of ours, or no ASCII")
    raw = text.encode("ascii")
    return len(raw).to_bytes(2, "big") + raw


def template_bytes(stack: npt.NDArray[np.float32]) -> memoryview:
    """Little-endian row-major bytes of a (count, dimension) float32 array."""
    return np.ascontiguousarray(stack, dtype="<f4").data.cast("B")


def first_template(out: memoryview, dimension: int) -> npt.NDArray[np.float32]:
    """View row 0 of opened bytes, the reference, as float32 (dimension,), without a copy."""
    return np.frombuffer(out, dtype="<f4", count=dimension)


def view_templates(out: memoryview, count: int, dimension: int) -> npt.NDArray[np.float32]:
    """View opened bytes as a (count, dimension) float32 array, without a copy."""
    return np.frombuffer(out, dtype="<f4").reshape(count, dimension)
