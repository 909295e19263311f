"""Canonical JSON: RFC 8785 restricted to what facekeep writes (SPEC.md §1).

With ASCII keys, no floats and integers below 2^53, Python's ``json`` with sorted keys and no spaces *is*
RFC 8785; the tests hold it against the rfc8785 package.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import TypeAlias, cast

from facekeep.errors import FormatError

JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

_SAFE = 2**53
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


def dumps(value: JsonObject) -> bytes:
    """Encode; raises FormatError for anything outside the restriction."""
    _check(value)
    return encode_trusted(value)


def encode_trusted(value: JsonObject) -> bytes:
    """Encode what our own code built from checked parts, without walking it again."""
    try:
        return _encode(value).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise FormatError("a value cannot be written as canonical JSON") from error


def encode_text(text: str) -> bytes:
    """Encode one string, quotes included; raises FormatError for lone surrogates."""
    try:
        return encode_basestring(text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("a text is not valid Unicode") from error


def loads(data: bytes) -> JsonObject:
    """Parse one canonical object; raises FormatError unless it re-encodes to the same bytes."""
    try:
        value = json.loads(data.decode("utf-8"), parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError) as error:
        raise FormatError("bytes are not canonical JSON") from error
    if not isinstance(value, dict):
        raise FormatError("canonical JSON must be an object here")
    if dumps(cast("JsonObject", value)) != data:
        raise FormatError("JSON is not in its canonical form")
    return cast("JsonObject", value)


def _no_float(text: str) -> None:
    raise ValueError(text)


def _check(value: object) -> None:
    if value is None or isinstance(value, (bool, str)):
        return
    if isinstance(value, int):
        if not -_SAFE < value < _SAFE:
            raise FormatError("an integer is outside the range of canonical JSON")
    elif isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise FormatError("an object key is not ASCII text")
            _check(item)
    else:
        raise FormatError(f"canonical JSON has no place for {type(value).__name__}")
