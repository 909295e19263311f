"""Consistency proofs, in the form of a C2SP tlog-witness request body (SPEC §10.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from facekeep.errors import FormatError
from facekeep.formats import text as strict
from facekeep.formats.checkpoint import ROOT_LEN, Checkpoint
from facekeep.formats.note import MAX_BYTES, Note

MAX_HASHES: Final = 63  # a tree has fewer than 2^63 leaves

_OLD: Final = "old "
_FILE_MAX: Final = MAX_BYTES + 100_000


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """An older size, the RFC 6962 proof from it, and the newer checkpoint; nothing is verified yet."""

    old: int
    hashes: tuple[bytes, ...]
    note: Note

    @property
    def checkpoint(self) -> Checkpoint:
        """What the note says, still unverified."""
        return Checkpoint.parse(self.note.text)

    def encode(self) -> bytes:
        """Return the file's bytes; raises FormatError for what ``parse`` would refuse."""
        if strict.check_number(self.old, "a proof's old size") > self.checkpoint.size:
            raise FormatError("a proof's old size is above the size of its tree")
        return f"old {self.old}\n{_coded(self.hashes)}\n".encode() + self.note.encode()

    @staticmethod
    def parse(data: bytes) -> ConsistencyProof:
        """Parse strictly, re-encode, compare; raises FormatError."""
        lines, note = _split(data)
        proof = ConsistencyProof(_number(lines), _hashes(lines[1:]), note)
        if proof.encode() != data:
            raise FormatError("a proof is not in its canonical form")
        return proof


def _split(data: bytes) -> tuple[list[str], Note]:
    """Lines before the first blank one, and the note after it."""
    if len(data) > _FILE_MAX:
        raise FormatError("a proof is too long")
    head, blank, rest = data.partition(b"\n\n")
    if not blank:
        raise FormatError("a proof has no blank line before its checkpoint")
    text = strict.decode_text(head + b"\n", "a proof")
    return strict.to_lines(text, "a proof"), Note.parse(rest)


def _number(lines: list[str]) -> int:
    if not lines or not lines[0].startswith(_OLD):
        raise FormatError("a proof does not begin with its old size")
    return strict.parse_decimal(lines[0][len(_OLD) :], "a proof's old size")


def _hashes(lines: list[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_HASHES:
        raise FormatError(f"a proof has more than {MAX_HASHES} hashes")
    return tuple(strict.decode_base64(line, "a proof's hash", ROOT_LEN) for line in lines)


def _coded(hashes: tuple[bytes, ...]) -> str:
    if len(hashes) > MAX_HASHES or any(len(item) != ROOT_LEN for item in hashes):
        raise FormatError(f"a proof has more than {MAX_HASHES} hashes, or one that is not 32 bytes long")
    return "".join(f"{strict.encode_base64(item)}\n" for item in hashes)
