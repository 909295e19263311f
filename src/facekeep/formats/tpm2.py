"""Bytes of the ``tpm2:`` provider: its URI, names and policies of a TPM, the sealed record (SPEC §4.4)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.nodes import MAX_INTEGER

DEFAULT_TCTI: Final = "device:/dev/tpmrm0"
NV_FIRST: Final = 0x01800000  # the owner's indices: TCG Registry of Reserved TPM 2.0 Handles, 1.1
NV_LAST: Final = 0x01BFFFFF
NAME_LEN: Final = 34  # u16(algorithm) || digest
LARGEST_BLOB: Final = 1024  # bytes of the public or the private part of a sealed object

_DEFAULT_NV: Final = b"facekeep/v1/tpm2-nv\0"
_MARK: Final = b"facekeep/v1/tpm2-counter\0"
_SHA256: Final = b"\x00\x0b"  # TPM_ALG_SHA256
_POLICY_NV: Final = b"\x00\x00\x01\x49"  # TPM_CC_PolicyNV
_UNSIGNED_LE: Final = b"\x00\x09"  # TPM_EO_UNSIGNED_LE
# TPMA_NV: counter (bits 4 to 7 = 1), AUTHWRITE, AUTHREAD, NO_DA; WRITTEN is set by the first increment.
_ATTRIBUTES: Final = 0x0204_0014
_WRITTEN: Final = 0x2000_0000

_INDEX: Final = re.compile(r"0x[0-9a-f]{8}\Z")
# Only transports that reach a TPM: libtss2's others start a program or load a library of any name.
_TCTI: Final = re.compile(r"(?:device|swtpm|mssim|tabrmd)(?::[A-Za-z0-9_./:=,@-]{0,200})?\Z")
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+\Z")


@dataclass(frozen=True, slots=True)
class TpmAddress:
    """What a ``tpm2:`` URI names: transport, NV index and holder file, the last two None for the default."""

    tcti: str
    index: int | None
    file: str | None


def parse_address(rest: str) -> TpmAddress:
    """Parse what stands after ``tpm2:``; raises FormatError."""
    attributes, mark, query = rest.partition("?")
    file = query.removeprefix("file=")
    if mark and (file == query or not file or "\0" in file):
        raise FormatError("after ? there is only file=PATH")
    given = [each.partition("=") for each in attributes.split(";")] if attributes else []
    values = {name: value for name, _, value in given}
    if [name for name, _, _ in given] != [name for name in ("nv", "tcti") if name in values]:
        raise FormatError("before ? there are only nv=INDEX and tcti=TRANSPORT, in this order, once each")
    tcti = values.get("tcti", DEFAULT_TCTI)
    if not _TCTI.match(tcti):
        raise FormatError("tcti= is device:, swtpm:, mssim: or tabrmd: with its options")
    index = _index(values["nv"]) if "nv" in values else None
    return TpmAddress(tcti, index, file or None)


def _index(text: str) -> int:
    if not _INDEX.match(text) or not NV_FIRST <= int(text, 16) <= NV_LAST:
        raise FormatError(f"nv= is an index of the owner, {NV_FIRST:#010x} to {NV_LAST:#010x}")
    return int(text, 16)


def default_index(vault_id: bytes) -> int:
    """NV index of a vault whose URI names none."""
    digest = hashlib.sha256(_DEFAULT_NV + vault_id).digest()
    return NV_FIRST + int.from_bytes(digest[:4], "big") % (NV_LAST - NV_FIRST + 1)


def counter_mark(vault_id: bytes) -> bytes:
    """Policy digest of a vault's counter (32 bytes): no policy leads to it, it says whose counter it is."""
    return hashlib.sha256(_MARK + vault_id).digest()


def counter_name(index: int, vault_id: bytes, *, written: bool = True) -> bytes:
    """Name of a vault's counter (34 bytes): the hash of its TPMS_NV_PUBLIC (TPM 2.0 part 1, Names)."""
    attributes = _ATTRIBUTES | (_WRITTEN if written else 0)
    public = index.to_bytes(4, "big") + _SHA256 + attributes.to_bytes(4, "big")
    return public_name(public + b"\x00\x20" + counter_mark(vault_id) + b"\x00\x08")


def public_name(public: bytes) -> bytes:
    """Name of the object or index with this public area, hashed with SHA-256."""
    return _SHA256 + hashlib.sha256(public).digest()


def counter_policy(name: bytes, bound: int) -> bytes:
    """Digest of PolicyNV(the counter of this name <= bound, unsigned) (TPM 2.0 part 3, TPM2_PolicyNV)."""
    arguments = hashlib.sha256(bound_bytes(bound) + b"\x00\x00" + _UNSIGNED_LE).digest()
    return hashlib.sha256(bytes(32) + _POLICY_NV + arguments + name).digest()


def bound_bytes(bound: int) -> bytes:
    """Operand that the TPM compares its counter with: eight bytes."""
    return bound.to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class SealedRoot:
    """``sealed`` of a record: bound of the counter, name of the parent key, the object's two parts."""

    bound: int
    parent: bytes
    public: bytes = field(repr=False)
    private: bytes = field(repr=False)

    def to_json(self) -> JsonObject:
        """Return the object that stands in the holder file."""
        return {
            "bound": self.bound,
            "parent": self.parent.hex(),
            "private": self.private.hex(),
            "public": self.public.hex(),
        }


def decode_sealed(item: JsonObject) -> SealedRoot:
    """Read ``sealed`` of a record; raises FormatError."""
    bound = item.get("bound")
    if set(item) != {"bound", "parent", "private", "public"} or type(bound) is not int:
        raise FormatError("a sealed root has not the keys it should")
    if not 0 < bound < MAX_INTEGER:
        raise FormatError("a sealed root's bound is out of range")
    parent = _blob(item["parent"])
    if len(parent) != NAME_LEN:
        raise FormatError("a sealed root's parent is no name")
    return SealedRoot(bound, parent, _blob(item["public"]), _blob(item["private"]))


def _blob(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > 2 * LARGEST_BLOB or not _HEX.match(text):
        raise FormatError("a sealed root is not in hex")
    return bytes.fromhex(text)
