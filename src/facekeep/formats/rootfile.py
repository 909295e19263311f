"""The root file of the ``file:`` provider: two slots of 4,096 bytes (SPEC §4)."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from typing import Final

from facekeep.errors import FormatError
from facekeep.formats.ids import VAULT_ID_LEN
from facekeep.formats.nodes import KEY_LEN, ZERO_KEY, root_fingerprint
from facekeep.wiping import wipe_last

SLOT_LEN: Final = 4096
SLOTS: Final = 2
FILE_LEN: Final = SLOTS * SLOT_LEN

_MAGIC: Final = b"FKROOT1\n"
_STATE_AT: Final = len(_MAGIC) + VAULT_ID_LEN
_ROOT_AT: Final = _STATE_AT + 1
_CHECK_AT: Final = _ROOT_AT + 2 * KEY_LEN
_USED: Final = _CHECK_AT + 32
_PADDING: Final = bytes(SLOT_LEN - _USED)


class SlotState(enum.IntEnum):
    """What a slot holds."""

    EMPTY = 0
    STAGED = 1
    CURRENT = 2


@dataclass(frozen=True, slots=True)
class RootSlot:
    """One slot: whose it is, what it holds; FormatError for what no root file may hold.

    ``root`` is 32 zero bytes where it is empty, and so is its ``fingerprint`` (32 bytes).
    """

    vault_id: bytes
    state: SlotState
    root: bytes = field(default=ZERO_KEY, repr=False)
    fingerprint: bytes = field(init=False)

    def __del__(self) -> None:
        """Zero the root with the last who has it."""
        wipe_last(self, "root")

    def __post_init__(self) -> None:
        """Check the fields and name the root."""
        if len(self.vault_id) != VAULT_ID_LEN or len(self.root) != KEY_LEN:
            raise FormatError("a root slot has a field of the wrong length")
        empty = self.state is SlotState.EMPTY
        if empty is not (self.root == ZERO_KEY):
            raise FormatError("a root slot is empty with a key in it, or holds a zero key")
        mark = ZERO_KEY if empty else root_fingerprint(self.vault_id, self.root)
        object.__setattr__(self, "fingerprint", mark)


def encode_slot(slot: RootSlot) -> bytes:
    """Return the 4,096 bytes of a slot."""
    body = _MAGIC + slot.vault_id + bytes([slot.state]) + slot.root + slot.fingerprint
    return (body + hashlib.sha256(body).digest()).ljust(SLOT_LEN, b"\0")


def decode_slot(data: bytes) -> RootSlot:
    """Slot of exactly 4,096 bytes; raises FormatError, which never repeats the bytes."""
    if len(data) != SLOT_LEN or not data.startswith(_MAGIC):
        raise FormatError("a root slot has the wrong length or beginning")
    if hashlib.sha256(memoryview(data)[:_CHECK_AT]).digest() != data[_CHECK_AT:_USED]:
        raise FormatError("a root slot's check value does not match")
    try:
        state = SlotState(data[_STATE_AT])
    except ValueError:
        raise FormatError("a root slot has an unknown state") from None
    slot = RootSlot(data[len(_MAGIC) : _STATE_AT], state, data[_ROOT_AT : _ROOT_AT + KEY_LEN])
    if data[_ROOT_AT + KEY_LEN : _CHECK_AT] != slot.fingerprint or data[_USED:] != _PADDING:
        raise FormatError("a root slot is not in its canonical form")
    return slot
