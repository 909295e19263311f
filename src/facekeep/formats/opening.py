"""The opening of a subject tag, as it stands in the receipt given at enrolment (SPEC §2, §12.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import orjson

from facekeep.errors import FormatError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import SALT_LEN, TAG_LEN, from_hex

MAX_BYTES: Final = 262_144
_NEXT: Final = "name the file of the receipt that the person was given: facekeep enroll --json"


@dataclass(frozen=True, slots=True)
class Opening:
    """A subject's id and salt: together with the vault id they give the tag, and nothing else does."""

    tag: bytes
    salt: bytes = field(repr=False)
    subject: str = field(repr=False)

    def to_json(self) -> JsonObject:
        """Return the object, to be given to the subject only."""
        return {"salt": self.salt.hex(), "subject": self.subject, "tag": self.tag.hex()}

    @staticmethod
    def parse(data: bytes) -> Opening:
        """Read ``salt``, ``subject`` and ``tag`` of a JSON object and ignore its other keys: UsageError."""
        value = _object(data)
        subject = value.get("subject")
        if type(subject) is not str:
            raise UsageError("the receipt has no subject", next=_NEXT)
        return Opening(_hex(value, "tag", TAG_LEN), _hex(value, "salt", SALT_LEN), subject)


def parse_tag(data: bytes) -> bytes:
    """Return the tag of a receipt, which may lack the rest; raises UsageError."""
    return _hex(_object(data), "tag", TAG_LEN)


def _hex(value: dict[str, object], key: str, length: int) -> bytes:
    try:
        return from_hex(value.get(key), length, f"the receipt's {key}")
    except FormatError as error:
        raise UsageError(str(error), next=_NEXT) from None


def _object(data: bytes) -> dict[str, object]:
    if len(data) > MAX_BYTES:
        raise UsageError("the receipt is too long", next=_NEXT)
    try:
        value = orjson.loads(data)
    except ValueError:
        raise UsageError("the receipt is not JSON", next=_NEXT) from None
    if type(value) is not dict:
        raise UsageError("the receipt is not a JSON object", next=_NEXT)
    return value
