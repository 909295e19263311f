"""How far the tiles of log.db were built (SPEC §10.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from facekeep.auditlog.merkle import HASH_LEN, Frontier
from facekeep.errors import FormatError
from facekeep.formats import canonical
from facekeep.formats.ids import from_hex
from facekeep.formats.tiles import WIDTH

_SIGNING: Final = b'"type":"signing"'


def is_signing(body: bytes) -> bool:
    """Whether the canonical bytes of a valid entry are those of type ``signing``.

    No other entry has these bytes: no value of free text stands in an entry, and no other key ``type``.
    """
    return _SIGNING in body


@dataclass(frozen=True, slots=True)
class Tiled:
    """Tiles of the first ``size`` entries (a multiple of 256) were built; their frontier; rotations seen."""

    size: int = 0
    frontier: tuple[bytes, ...] = ()
    signing: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.dumps(
            {
                "frontier": [item.hex() for item in self.frontier],
                "signing": list(self.signing),
                "size": self.size,
                "v": 1,
            }
        )

    @staticmethod
    def decode(data: bytes) -> Tiled:
        """Parse strictly; raises FormatError."""
        value = canonical.loads(data)
        size, frontier, signing = value.get("size"), value.get("frontier"), value.get("signing")
        if type(size) is not int or type(frontier) is not list or type(signing) is not list or size % WIDTH:
            raise FormatError("the state of log.db's tiles is malformed")
        found = Tiled(
            size,
            tuple(from_hex(item, HASH_LEN, "a frontier hash") for item in frontier),
            tuple(cast("list[int]", signing)),
        )
        Frontier(found.size, found.frontier)
        if found.encode() != data:
            raise FormatError("the state of log.db's tiles is malformed")
        return found
