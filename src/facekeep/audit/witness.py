"""A witness's key file and its cosignatures (SPEC §12.6, C2SP tlog-cosignature)."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from facekeep.audit.inputs import read_file
from facekeep.auditlog.signed import Cosigner
from facekeep.errors import FormatError, StoreError, UsageError
from facekeep.files import PRIVATE, create
from facekeep.formats import text as strict
from facekeep.formats.note import KeyType, VerifierKey

_PREFIX: Final = "PRIVATE+KEY+"
_FILE_MAX: Final = 4_096
_SEED_LEN: Final = 32


def make_key(name: str, path: Path, kind: KeyType = KeyType.COSIGNATURE_ED25519) -> VerifierKey:
    """Write a fresh key to a new file that only its owner can read; returns the public key."""
    seed = os.urandom(_SEED_LEN)
    try:
        signer = Cosigner(name, seed, kind)
    except FormatError as error:
        raise UsageError(f"a witness cannot be called that: {error}") from error
    line = f"{_PREFIX}{name}+{signer.key.key_id.hex()}+{strict.encode_base64(bytes([kind]) + seed)}\n"
    try:
        create(path, line.encode(), PRIVATE)
    except OSError as error:
        raise StoreError(f"{path.name}: {error.strerror}", next="name a new file") from error
    return signer.key


def read_key(path: Path) -> Cosigner:
    """Read a key file; raises UsageError for one that others can read, FormatError for another form."""
    text = strict.decode_text(read_file(path, _FILE_MAX), "a witness's key file")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(f"others can read the witness's key in {path.name}", next=f"chmod 600 {path.name}")
    name, _, rest = text.removesuffix("\n").removeprefix(_PREFIX).partition("+")
    raw = strict.decode_base64(rest.partition("+")[2], "a witness's key")
    kinds = (KeyType.COSIGNATURE_ED25519, KeyType.COSIGNATURE_ML_DSA_44)
    if len(raw) != 1 + _SEED_LEN or raw[0] not in kinds or not any(raw[1:]):
        raise FormatError("a witness's key is not of type 0x04 or 0x06")
    signer = Cosigner(name, raw[1:], KeyType(raw[0]))
    if text != f"{_PREFIX}{name}+{signer.key.key_id.hex()}+{strict.encode_base64(raw)}\n":
        raise FormatError("a witness's key file is not in its canonical form")
    return signer
