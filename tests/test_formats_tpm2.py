"""Bytes of the tpm2: provider: URIs, names and policies, sealed records."""

from __future__ import annotations

import pytest

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.tpm2 import (
    DEFAULT_TCTI,
    NV_FIRST,
    NV_LAST,
    SealedRoot,
    TpmAddress,
    counter_name,
    counter_policy,
    decode_sealed,
    default_index,
    parse_address,
)

SWTPM = "swtpm:host=127.0.0.1,port=2321"
SEALED = SealedRoot(7, b"\x00\x0b" + b"p" * 32, b"public", b"private")


@pytest.mark.parametrize(
    ("rest", "address"),
    [
        ("", TpmAddress(DEFAULT_TCTI, None, None)),
        ("nv=0x01800abc", TpmAddress(DEFAULT_TCTI, 0x01800ABC, None)),
        ("nv=0x01bfffff;tcti=device:/dev/tpm0", TpmAddress("device:/dev/tpm0", 0x01BFFFFF, None)),
        (f"tcti={SWTPM}?file=/k/a;b?c=d", TpmAddress(SWTPM, None, "/k/a;b?c=d")),
        ("tcti=tabrmd", TpmAddress("tabrmd", None, None)),
        ("?file=~/staff.tpm2", TpmAddress(DEFAULT_TCTI, None, "~/staff.tpm2")),
    ],
)
def test_a_uri_is_understood(rest: str, address: TpmAddress) -> None:
    assert parse_address(rest) == address


@pytest.mark.parametrize(
    "rest",
    [
        "/dev/tpm0",
        "nv=",
        "nv=0x1800abc",
        "nv=0x01800ABC",
        "nv=25168572",
        "nv=0x017fffff",
        "nv=0x01c00000",
        "nv=0x01800abc;",
        ";nv=0x01800abc",
        "nv=0x01800abc;nv=0x01800abd",
        f"tcti={SWTPM};nv=0x01800abc",
        "pin=1234",
        "tcti=",
        "tcti=device:/dev/tpm0 -x",
        "tcti=device:/dev/tpm0\n",
        "tcti=cmd:nc 127.0.0.1 1",
        "tcti=libtss2-tcti-cmd.so:sh",
        "tcti=../x.so",
        "?",
        "?file=",
        "?file=a\0b",
        "?path=a",
        "nv=0x01800abc?nv=0x01800abd",
    ],
)
def test_a_uri_of_another_form_is_refused(rest: str) -> None:
    with pytest.raises(FormatError):
        parse_address(rest)


def test_the_default_index_belongs_to_the_vault_and_to_the_owner() -> None:
    indices = {default_index(bytes([number]) * 16) for number in range(100)}
    assert len(indices) == 100
    assert all(NV_FIRST <= index <= NV_LAST for index in indices)


def test_names_and_policies_differ_by_all_that_goes_into_them() -> None:
    """What they are is held to by the TPM itself: see test_keys_tpm2_provider.py."""
    names = {
        counter_name(index, vault, written=written)
        for index in (NV_FIRST, NV_LAST)
        for vault in (b"a" * 16, b"b" * 16)
        for written in (True, False)
    }
    assert {len(name) for name in names} == {34}
    assert len({counter_policy(name, bound) for name in names for bound in (1, 2)}) == 16


def test_a_sealed_root_is_read_as_it_was_written() -> None:
    assert decode_sealed(SEALED.to_json()) == SEALED
    assert "private" not in repr(SEALED)


@pytest.mark.parametrize(
    "changed",
    [
        {"bound": 0},
        {"bound": -1},
        {"bound": True},
        {"bound": "7"},
        {"bound": 2**53},
        {"more": 1},
        {"parent": "00"},
        {"parent": 1},
        {"public": ""},
        {"public": "0"},
        {"public": "AA"},
        {"private": "00" * 1025},
        {"private": None},
    ],
)
def test_a_sealed_root_of_another_form_is_refused(changed: JsonObject) -> None:
    with pytest.raises(FormatError):
        decode_sealed({**SEALED.to_json(), **changed})
    with pytest.raises(FormatError):
        decode_sealed(
            {key: value for key, value in SEALED.to_json().items() if key != next(iter(changed), "")}
            | {"x": 1}
        )
