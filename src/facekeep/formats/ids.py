"""Identifiers (SPEC §2): slots, hex fields, subject ids, subject tags' input."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from facekeep.errors import FormatError, UsageError, WrongType
from facekeep.limits import LIMITS

FANOUT: Final = 120
LEAF_SPAN: Final = FANOUT
LEVEL2_SPAN: Final = FANOUT**2
BRANCH_SLOTS: Final = FANOUT**3
SLOT_BITS: Final = 21
SYSTEM_SLOTS: Final = 16  # of branch 0, for the vault's own keys: no principal takes them (SPEC §3.4)
VAULT_ID_LEN: Final = 16
GRANT_ID_LEN: Final = 16
TAG_LEN: Final = 32
SALT_LEN: Final = 32

_MODEL = re.compile(r"[a-z0-9._:/-]{1,40}\Z")
_HEX = re.compile(r"(?:[0-9a-f]{2})*\Z")
_FORBIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def slot_id(branch: int, index: int) -> int:
    """Slot id of slot ``index`` of ``branch``; raises FormatError out of range."""
    if not (0 <= branch < 2**32 and 0 <= index < BRANCH_SLOTS):
        raise FormatError("a slot is outside the key tree")
    return branch << SLOT_BITS | index


def split_slot(slot: int) -> tuple[int, int]:
    """Return (branch, index) of a slot id; raises FormatError out of range."""
    branch, index = slot >> SLOT_BITS, slot & (1 << SLOT_BITS) - 1
    if slot < 0 or branch >= 2**32 or index >= BRANCH_SLOTS:
        raise FormatError("a slot id is outside the key tree")
    return branch, index


def from_hex(text: object, length: int, what: str) -> bytes:
    """Strict lower-case hex of exactly ``length`` bytes; raises FormatError naming ``what``."""
    if not isinstance(text, str) or len(text) != 2 * length or not _HEX.match(text):
        raise FormatError(f"{what} is not {length} bytes of lower-case hex")
    return bytes.fromhex(text)


@lru_cache(maxsize=64)
def check_model_id(text: str) -> str:
    """Return the model id, or raise FormatError."""
    if not _MODEL.match(text):
        raise FormatError("a model id is not 1 to 40 characters of a-z 0-9 . _ : / -")
    return text


def check_subject_id(subject: str) -> bytes:
    """UTF-8 bytes of an acceptable subject id; raises UsageError, which never repeats the id."""
    if not isinstance(subject, str):
        raise WrongType(f"a subject id is text, not {type(subject).__name__}")
    if not subject:
        raise UsageError("the subject id is empty")
    if subject.isascii() and subject.isprintable() and " " not in (subject[0], subject[-1]):
        return _bounded(subject.encode("ascii"))
    if any(unicodedata.category(char) in _FORBIDDEN for char in subject):
        raise UsageError("the subject id has control or invisible characters")
    if subject != subject.strip() or unicodedata.normalize("NFC", subject) != subject:
        raise UsageError("the subject id has spaces at an end or is not in Unicode NFC form")
    return _bounded(subject.encode("utf-8"))


def check_subject_ids(subjects: Sequence[str]) -> list[bytes]:
    """``check_subject_id`` of many; plain ones are looked at all at once."""
    if not all(isinstance(each, str) for each in subjects):
        raise WrongType("a subject id is text")
    whole = "".join(subjects)
    plain = whole.isascii() and whole.isprintable() and " " not in whole and all(subjects)
    if plain and max(map(len, subjects), default=0) <= LIMITS.subject_id_bytes:
        return [subject.encode("ascii") for subject in subjects]
    return [check_subject_id(subject) for subject in subjects]


def _bounded(raw: bytes) -> bytes:
    if len(raw) > LIMITS.subject_id_bytes:
        raise UsageError(f"the subject id is longer than {LIMITS.subject_id_bytes} bytes")
    return raw


def to_ranges(slots: list[int]) -> list[list[int]]:
    """Sorted unique slots as ``[first, count]`` ranges, ascending, not touching (SPEC §6.1)."""
    ranges: list[list[int]] = []
    for slot in sorted(set(slots)):
        if ranges and slot == ranges[-1][0] + ranges[-1][1]:
            ranges[-1][1] += 1
        else:
            ranges.append([slot, 1])
    return ranges


def from_ranges(ranges: list[list[int]]) -> list[int]:
    """Slots of a list of ranges."""
    return [first + offset for first, count in ranges for offset in range(count)]
