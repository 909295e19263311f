from __future__ import annotations

import pytest

from facekeep.errors import FormatError, UsageError
from facekeep.formats.recoverykey import (
    BOX_LEN,
    PrivateFile,
    PublicFile,
    SealedRoot,
    key_id,
    parse_recovery_rest,
    recovery_uri,
)
from recovery_help import KEY, SEED

PUBLIC = PublicFile(KEY.public).encode()
PRIVATE = PrivateFile(KEY.mark, SEED).encode()
SEALED = SealedRoot(KEY.mark, bytes(BOX_LEN), b"c" * 32)


def test_the_files_are_read_as_they_were_written() -> None:
    assert PublicFile.decode(PUBLIC.encode()).public == KEY.public
    assert PrivateFile.decode(PRIVATE.encode()) == PrivateFile(KEY.mark, SEED)
    assert PRIVATE.splitlines()[1:] == [
        f"key id: {key_id(KEY.public).hex()}",
        "seed: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ]


@pytest.mark.parametrize("text", [PUBLIC, PRIVATE], ids=["public", "private"])
def test_a_file_of_another_form_is_refused(text: str) -> None:
    decode = PublicFile.decode if text is PUBLIC else PrivateFile.decode
    head, mark, key, _ = text.split("\n")
    for bad in (
        "",
        text[:-1],
        text + "\n",
        text.replace("\n", "\r\n"),
        f"{head}\n{key}\n{mark}\n",
        f"{head}\n{mark.upper()}\n{key}\n",
        f"{head}\n{mark}\n{key[:-1]}\n",
        f"{head}\n{mark}\n{key} \n",
        f"{head} \n{mark}\n{key}\n",
        f"{head}\n{mark}\n{key.replace('A', '*', 1)}\n",
        text.replace("key 1", "key 2"),
        text + "x" * 5000,
        PRIVATE if text is PUBLIC else PUBLIC,
    ):
        with pytest.raises(FormatError):
            decode(bad.encode())


def test_a_public_key_that_its_key_id_does_not_name_is_refused() -> None:
    head, mark, _, _ = PUBLIC.split("\n")
    other = PublicFile(bytes(1216)).encode().split("\n")[2]
    with pytest.raises(FormatError, match="key id"):
        PublicFile.decode(f"{head}\n{mark}\n{other}\n".encode())


@pytest.mark.parametrize("path", ["", "../usb/staff.recovery", "/mnt/a b/r", "odd?key=x"])
def test_a_uri_gives_path_and_key_back(path: str) -> None:
    scheme, _, rest = recovery_uri(KEY.public, path).partition(":")
    assert scheme == "recovery"
    assert parse_recovery_rest(rest) == (path, KEY.public)


@pytest.mark.parametrize("change", ["cut", "padded", "standard", "long", "none", "nul"])
def test_a_uri_without_exactly_one_key_is_refused(change: str) -> None:
    rest = recovery_uri(KEY.public, "r").partition(":")[2]
    bad = {
        "cut": rest[:-1],
        "padded": rest + "==",
        "standard": rest.replace("-", "+").replace("_", "/"),
        "long": rest + "AAAA",
        "none": "r",
        "nul": "\0" + rest,
    }[change]
    with pytest.raises(UsageError, match="public key"):
        parse_recovery_rest(bad)


def test_a_record_is_read_as_it_was_written() -> None:
    assert SealedRoot.from_json(SEALED.to_json()) == SEALED


@pytest.mark.parametrize(
    "change",
    [
        {"box": 1},
        {"box": "AAAA"},
        {"box": "*" * 1560},
        {"check": "00"},
        {"key": None},
        {"key": KEY.mark.hex().upper()},
        {"more": 1},
    ],
)
def test_a_record_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        SealedRoot.from_json({**SEALED.to_json(), **change})  # type: ignore[dict-item] # wrong types are the point
