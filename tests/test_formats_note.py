"""Signed notes and verifier keys: strict, canonical, nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facekeep.errors import FormatError
from facekeep.formats.note import MAX_BYTES, MAX_SIGNATURES, KeyType, Note, Signature, VerifierKey
from facekeep.formats.text import check_name

PUBLIC = bytes(range(32))
KEY = VerifierKey("example.com/log", KeyType.ED25519, PUBLIC)
LINE = Signature("example.com/log", KEY.key_id, b"s" * 64)
NOTE = Note("one\n\ntwo\n", (LINE,))


def refuse(data: bytes) -> None:
    with pytest.raises(FormatError):
        Note.parse(data)


def test_a_note_splits_at_its_last_blank_line() -> None:
    assert Note.parse(NOTE.encode()) == NOTE
    assert NOTE.encode().startswith("one\n\ntwo\n\n— example.com/log ".encode())


def test_sixteen_signatures_are_read_and_a_hundred() -> None:
    for count in (16, MAX_SIGNATURES):
        lines = tuple(Signature(f"w{n}", bytes(4), b"s" * 2428) for n in range(count))
        assert Note.parse(Note("text\n", lines).encode()).signatures == lines


def test_more_signatures_than_the_limit_are_refused() -> None:
    lines = (LINE,) * (MAX_SIGNATURES + 1)
    refuse(b"text\n\n" + "".join(line.encode() for line in lines).encode())
    with pytest.raises(FormatError):
        Note("text\n", lines).encode()


def test_a_note_that_is_too_long_is_refused() -> None:
    refuse(b"x" * MAX_BYTES + NOTE.encode())
    with pytest.raises(FormatError):
        Note("x" * MAX_BYTES + "\n", (LINE,)).encode()


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("empty", b""),
        ("no blank line", b"text\n"),
        ("no signature", b"text\n\n"),
        ("carriage returns", NOTE.encode().replace(b"\n", b"\r\n")),
        ("one carriage return", NOTE.encode().replace(b"two\n", b"two\r\n")),
        ("trailing bytes", NOTE.encode() + b"x"),
        ("a trailing line", NOTE.encode() + b"x\n"),
        ("a trailing newline", NOTE.encode() + b"\n"),
        ("no final newline", NOTE.encode()[:-1]),
        ("a control character", NOTE.encode().replace(b"two", b"t\x00o")),
        ("a tab", NOTE.encode().replace(b"two", b"t\to")),
        ("not UTF-8", NOTE.encode().replace(b"two", b"t\xffo")),
        ("an overlong encoding", NOTE.encode().replace(b"two", b"t\xc0\xaeo")),
        ("a surrogate", NOTE.encode().replace(b"two", b"t\xed\xa0\x80o")),
        ("a hyphen for the dash", NOTE.encode().replace("—".encode(), b"-")),
        ("two spaces", NOTE.encode().replace(b"log ", b"log  ")),
        ("a no-break space", NOTE.encode().replace(b"log ", "log\u00a0".encode())),
        ("a name with plus", NOTE.encode().replace(b"example.com/log ", b"example+log ")),
        ("a name with U+2003", NOTE.encode().replace(b"example.com/log ", "exa\u2003mple ".encode())),
        ("no name", NOTE.encode().replace(b"example.com/log ", b" ")),
        ("only a key id", b"text\n\n" + f"— n {base64.b64encode(bytes(4)).decode()}\n".encode()),
        ("no base64", b"text\n\n" + "— n ????\n".encode()),
        ("non-ASCII base64", b"text\n\n" + "— n ÄÄÄÄ\n".encode()),
        ("base64 without padding", b"text\n\n" + "— n c2lnbmF0dXJ\n".encode()),
        ("url-safe base64", b"text\n\n" + "— n -_-_-_-_\n".encode()),
    ],
)
def test_a_malformed_note_is_refused(why: str, data: bytes) -> None:
    del why
    refuse(data)


def test_base64_malleability_is_refused_in_lines_of_unknown_signers() -> None:
    good = Note("text\n", (Signature("unknown", bytes(4), b"s"),)).encode()
    assert good.endswith(b"AAAAAHM=\n")
    assert base64.b64decode("AAAAAHN=", validate=True) == base64.b64decode("AAAAAHM=")
    refuse(good.replace(b"HM=", b"HN="))
    refuse(good.replace(b"HM=", b"HM=="))


def test_line_separators_of_unicode_are_text_and_not_lines() -> None:
    for char in "\u2028\u2029\u0085\x7f":
        note = Note(f"a{char}b\n", (LINE,))
        assert Note.parse(note.encode()) == note
        refuse(note.encode().replace(b"\n", char.encode()))


@given(st.binary(max_size=300))
@example(b"\n\n")
@example("\n\n— ".encode())
def test_any_bytes_are_a_canonical_note_or_refused(data: bytes) -> None:
    for candidate in (data, b"text\n\n" + data, "text\n\n— ".encode() + data + b"\n"):
        try:
            note = Note.parse(candidate)
        except FormatError:
            continue
        assert note.encode() == candidate


def test_a_verifier_key_splits_at_its_first_two_plus_signs() -> None:
    key = VerifierKey("n", KeyType.ED25519, b"\xfb\xef" + b"\xfb\xef\xbe" * 10)
    assert key.encode().count("+") > 2
    assert VerifierKey.parse(key.encode()) == key


def test_a_verifier_key_as_computed_by_hand() -> None:
    # H("example.com/log\n" || 0x01 || 00..1f)[0:4], by sha256sum
    assert KEY.encode() == "example.com/log+a06c8792+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


def test_the_same_key_under_another_type_has_another_id() -> None:
    assert KEY.key_id != VerifierKey(KEY.name, KeyType.COSIGNATURE_ED25519, PUBLIC).key_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "++",
        "n",
        "n+00000000",
        "n+00000000+",
        KEY.encode().upper(),
        KEY.encode() + " ",
        KEY.encode() + "\n",
        " " + KEY.encode(),
        KEY.encode().replace("log+", "log++"),
        KEY.encode().replace("example", "examplf"),
        KEY.encode().replace("+AQ", "+Ag"),
        KEY.encode()[:-4],
        KEY.encode() + "AAAA",
        "n m" + KEY.encode()[15:],
    ],
)
def test_a_malformed_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        VerifierKey.parse(text)


@pytest.mark.parametrize("kind", [0x02, 0x03, 0x05, 0xFF])
def test_a_verifier_key_of_an_unknown_type_is_refused(kind: int) -> None:
    material = base64.b64encode(bytes([kind]) + PUBLIC).decode()
    with pytest.raises(FormatError, match=f"0x{kind:02x}"):
        VerifierKey.parse(f"n+00000000+{material}")


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2028b", "a\u0085b", "a\nb", "a\x00b", "\ud800"])
def test_an_illegal_key_name_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        VerifierKey(name, KeyType.ED25519, PUBLIC)


@pytest.mark.parametrize("char", [*map(chr, (*range(0x21), *range(0x7F, 0xA1), 0x2028, 0x3000)), "+"])
def test_a_key_name_has_no_control_character_and_no_space(char: str) -> None:
    with pytest.raises(FormatError):
        check_name(f"a{char}b", "a key name")
