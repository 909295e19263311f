"""The opening of a subject tag, as it stands in the receipt given at enrolment (SPEC.md §2, §12.4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import SALT_LEN, TAG_LEN, from_hex

MAX_BYTES = 262_144


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
        """Read ``salt``, ``subject`` and ``tag`` of a JSON object and ignore its other keys: FormatError."""
        value = read_object(data)
        subject = value.get("subject")
        if type(subject) is not str:
            raise FormatError("a receipt has no subject")
        return Opening(
            from_hex(value.get("tag"), TAG_LEN, "a receipt's tag"),
            from_hex(value.get("salt"), SALT_LEN, "a receipt's salt"),
            subject,
        )


def parse_tag(data: bytes) -> bytes:
    """Return the tag of a receipt, which may lack the rest; raises FormatError."""
    return from_hex(read_object(data).get("tag"), TAG_LEN, "a receipt's tag")


def read_object(data: bytes) -> dict[str, object]:
    """Parse one JSON object of at most 256 KiB, written by anybody; raises FormatError."""
    if len(data) > MAX_BYTES:
        raise FormatError("a receipt is too long")
    try:
        value = orjson.loads(data)
    except ValueError as error:
        raise FormatError("a receipt is not JSON") from error
    if type(value) is not dict:
        raise FormatError("a receipt is not a JSON object")
    return value
