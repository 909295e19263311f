"""Strict text shared by the transparency-log formats: lines, decimals, base64 (SPEC §10.1)."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from typing import Final

from facekeep.errors import FormatError

NUMBER_MAX: Final = 2**63 - 1  # largest size, index and timestamp: what every peer can hold

_DECIMAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


def decode_text(data: bytes, what: str) -> str:
    """Decode UTF-8 without control characters below U+0020 but newline, ending in a newline."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8") from error
    check_text(text, what)
    if not text.endswith("\n"):
        raise FormatError(f"{what} does not end with a newline")
    return text


def check_text(text: str, what: str) -> None:
    """Raise FormatError if there is a control character below U+0020 other than newline."""
    if _CONTROL.search(text):
        raise FormatError(f"{what} has a control character (a carriage return, perhaps)")


def to_lines(text: str, what: str) -> list[str]:
    """Lines of a text that ends in a newline. Never ``splitlines``: it also splits at U+0085 and U+2028."""
    lines = text.split("\n")
    if lines.pop():
        raise FormatError(f"{what} does not end with a newline")
    return lines


def parse_decimal(text: str, what: str) -> int:
    """Canonical ASCII decimal below 2^63; never ``int`` alone: it takes signs, spaces and underscores."""
    if not _DECIMAL.match(text) or (number := int(text)) > NUMBER_MAX:
        raise FormatError(f"{what} is not a canonical decimal number below 2^63")
    return number


def check_number(number: int, what: str) -> int:
    """Return a count that ``parse_decimal`` could have given, or raise FormatError."""
    if type(number) is not int or not 0 <= number <= NUMBER_MAX:
        raise FormatError(f"{what} is not a number from 0 to 2^63 - 1")
    return number


def encode_base64(raw: bytes) -> str:
    """Return base64 of RFC 4648 §4, padded."""
    return base64.b64encode(raw).decode("ascii")


def decode_base64(text: str, what: str, length: int | None = None) -> bytes:
    """Decode the one canonical spelling; Python's decoder alone lets spare bits before ``=`` through."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise FormatError(f"{what} is not base64") from error
    if encode_base64(raw) != text:
        raise FormatError(f"{what} is not in canonical base64")
    if length is not None and len(raw) != length:
        raise FormatError(f"{what} is not {length} bytes long")
    return raw


def check_name(name: str, what: str) -> str:
    """Return a legal key name (no Unicode space, plus or control character), or raise FormatError."""
    if not name or "+" in name or any(char.isspace() or unicodedata.category(char) == "Cc" for char in name):
        raise FormatError(f"{what} is empty or has a space, a plus sign or a control character")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(f"{what} is not Unicode text") from error
    return name
