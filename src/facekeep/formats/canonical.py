"""Canonical JSON: RFC 8785 restricted to what facekeep writes (SPEC §1).

With ASCII keys, no floats and integers below 2^53, what orjson writes with sorted keys *is* RFC 8785; the
tests hold it against the rfc8785 package.
"""

from __future__ import annotations

from typing import TypeAlias, cast

import orjson

from facekeep.errors import FormatError

JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

_SAFE = 2**53


def dumps(value: JsonObject) -> bytes:
    """Encode; raises FormatError for anything outside the restriction."""
    _check(value)
    return encode_trusted(value)


def encode_trusted(value: JsonObject) -> bytes:
    """Encode what our own code built from checked parts, without walking it again."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise FormatError("a value cannot be written as canonical JSON") from error


def encode_text(text: str) -> bytes:
    """Encode one string, quotes included; raises FormatError for lone surrogates."""
    try:
        return orjson.dumps(text)
    except TypeError as error:
        raise FormatError("a text is not valid Unicode") from error


def loads(data: bytes) -> JsonObject:
    """Parse one canonical object; raises FormatError unless it re-encodes to the same bytes."""
    try:
        value = orjson.loads(data)
    except ValueError as error:
        raise FormatError("bytes are not canonical JSON") from error
    if not isinstance(value, dict):
        raise FormatError("canonical JSON must be an object here")
    if dumps(cast("JsonObject", value)) != data:
        raise FormatError("JSON is not in its canonical form")
    return cast("JsonObject", value)


def loads_trusted(data: bytes) -> JsonObject:
    """Parse one object that was canonical when it was sealed, and has just authenticated; FormatError."""
    try:
        value = orjson.loads(data)
    except ValueError as error:
        raise FormatError("bytes are not JSON") from error
    if not isinstance(value, dict):
        raise FormatError("canonical JSON must be an object here")
    return cast("JsonObject", value)


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
            kind = type(item)
            if kind is not str and (kind is not int or not -_SAFE < item < _SAFE):  # most need no call
                _check(item)
    else:
        raise FormatError(f"canonical JSON has no place for {type(value).__name__}")
