from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekeep.errors import FormatError
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.rootfile import FILE_LEN, SLOT_LEN, RootSlot, SlotState, decode_slot, encode_slot

VAULT = bytes(range(16))
FULL = RootSlot(VAULT, SlotState.CURRENT, b"k" * 32)


def checked(body: bytes) -> bytes:
    return (body + hashlib.sha256(body).digest()).ljust(SLOT_LEN, b"\0")


def test_the_bytes_are_the_specified_ones() -> None:
    body = b"FKROOT1\n" + VAULT + b"\2" + b"k" * 32 + root_fingerprint(VAULT, b"k" * 32)
    assert encode_slot(FULL) == checked(body)
    assert FILE_LEN == 8192


@given(
    st.sampled_from([SlotState.STAGED, SlotState.CURRENT]), st.binary(min_size=32, max_size=32).filter(any)
)
def test_slots_survive_a_round_trip(state: SlotState, root: bytes) -> None:
    slot = RootSlot(VAULT, state, root)
    assert decode_slot(encode_slot(slot)) == slot


def test_an_empty_slot_has_no_fingerprint() -> None:
    slot = decode_slot(encode_slot(RootSlot(VAULT, SlotState.EMPTY)))
    assert slot.fingerprint == bytes(32)


@pytest.mark.parametrize(
    ("vault_id", "state", "root"),
    [
        (VAULT, SlotState.EMPTY, b"k" * 32),
        (VAULT, SlotState.CURRENT, bytes(32)),
        (VAULT[:-1], SlotState.CURRENT, b"k" * 32),
        (VAULT, SlotState.CURRENT, b"k" * 31),
    ],
)
def test_impossible_slots_are_refused(vault_id: bytes, state: SlotState, root: bytes) -> None:
    with pytest.raises(FormatError):
        RootSlot(vault_id, state, root)


@given(st.integers(0, SLOT_LEN * 8 - 1))
def test_any_flipped_bit_is_refused(position: int) -> None:
    raw = bytearray(encode_slot(FULL))
    raw[position // 8] ^= 1 << position % 8
    with pytest.raises(FormatError):
        decode_slot(bytes(raw))


@pytest.mark.parametrize(
    "body",
    [
        b"FKROOT1\n" + VAULT + b"\3" + b"k" * 32 + root_fingerprint(VAULT, b"k" * 32),
        b"FKROOT1\n" + VAULT + b"\2" + b"k" * 32 + root_fingerprint(VAULT, b"j" * 32),
        b"FKROOT1\n" + VAULT + b"\2" + bytes(32) + root_fingerprint(VAULT, bytes(32)),
        b"FKROOT1\n" + VAULT + b"\0" + bytes(32) + b"f" * 32,
        b"FKROOT2\n" + VAULT + b"\0" + bytes(64),
    ],
)
def test_a_right_check_value_does_not_excuse_wrong_fields(body: bytes) -> None:
    with pytest.raises(FormatError):
        decode_slot(checked(body))


@given(st.binary(max_size=300) | st.binary(min_size=SLOT_LEN, max_size=SLOT_LEN))
def test_no_bytes_raise_anything_but_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_slot(data)


def test_a_root_does_not_show_in_a_repr() -> None:
    assert "kkkk" not in repr(FULL)
