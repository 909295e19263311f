"""The log's head: a value and its strict canonical form (SPEC §6.3); ``rules`` moves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

from facekeep.auditlog.merkle import HASH_LEN, Frontier
from facekeep.errors import FormatError
from facekeep.formats import canonical
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entries import DESTROY_OPS, GRANT_OPS, LASTING_ROTATIONS
from facekeep.formats.ids import BRANCH_SLOTS, from_hex

_KEYS: Final = frozenset(
    (
        "alloc",
        "chain",
        "control_chain",
        "control_seq",
        "epoch",
        "fingerprint",
        "frontier",
        "high_ms",
        "open",
        "settings",
        "size",
        "v",
    )
)
_OPS: Final = {"grant": GRANT_OPS, "destroy": DESTROY_OPS, "principal": ("",), "rotation": LASTING_ROTATIONS}


class Open(NamedTuple):
    """An operation without its completion: its entries are ``first`` to ``first + parts - 1``."""

    first: int  # index of its first entry
    parts: int
    type: str  # grant, principal, destroy or rotation
    op: str  # empty for principal; what is rotated for rotation


@dataclass(frozen=True, slots=True)
class Head:
    """State of the log after ``size`` entries; hashes are 32 bytes, times milliseconds.

    ``control_chain`` goes over the entries that are not decisions, and over nothing else.
    ``epoch`` and ``fingerprint`` are those of the last root replacement the log says is complete.
    """

    size: int
    control_seq: int
    high_ms: int
    frontier: tuple[bytes, ...]
    chain: bytes
    open: tuple[Open, ...] = ()
    alloc: Mapping[int, int] = field(default_factory=dict)
    settings: bytes = bytes(32)
    epoch: int = 0
    fingerprint: bytes = bytes(32)
    control_chain: bytes = bytes(32)

    @staticmethod
    def empty(chain: bytes) -> Head:
        """Head before the genesis entry; ``chain`` is chain(-1)."""
        return Head(0, 0, 0, (), chain)

    @property
    def operations(self) -> tuple[Open, ...]:
        """Open operations that recovery brings to an end: a rotation waits for its operator."""
        return tuple(each for each in self.open if each.type != "rotation")

    @property
    def rotations(self) -> tuple[Open, ...]:
        """Rotations that were begun and not ended; ``op`` is what they rotate."""
        return tuple(each for each in self.open if each.type == "rotation")

    @property
    def whole(self) -> bool:
        """False between two parts of one operation; such a head is never stored."""
        return not self.open or self.open[-1].first + self.open[-1].parts <= self.size

    def root(self) -> bytes:
        """RFC 6962 root hash of the ``size`` entries."""
        return Frontier(self.size, self.frontier).root()

    def pin(self) -> tuple[int, bytes, bytes]:
        """Return (size, root, chain) for the next root node (SPEC §3.3)."""
        return self.size, self.root(), self.chain

    def encode(self) -> bytes:
        """Canonical bytes of the head."""
        value: JsonObject = {
            "alloc": {str(branch): index for branch, index in self.alloc.items()},
            "chain": self.chain.hex(),
            "control_chain": self.control_chain.hex(),
            "control_seq": self.control_seq,
            "epoch": self.epoch,
            "fingerprint": self.fingerprint.hex(),
            "frontier": [item.hex() for item in self.frontier],
            "high_ms": self.high_ms,
            "open": [list(item) for item in self.open],
            "settings": self.settings.hex(),
            "size": self.size,
            "v": 1,
        }
        return canonical.encode_trusted(value)

    @staticmethod
    def decode(data: bytes) -> Head:
        """Parse strictly; raises FormatError."""
        value = canonical.loads(data)
        if value.keys() != _KEYS or type(value["v"]) is not int or value["v"] != 1:
            raise FormatError("a log head does not have exactly its keys")
        frontier, operations = _array(value, "frontier"), _array(value, "open")
        head = Head(
            size=_count(value, "size"),
            control_seq=_count(value, "control_seq"),
            high_ms=_count(value, "high_ms"),
            frontier=tuple(from_hex(item, HASH_LEN, "a frontier hash") for item in frontier),
            chain=from_hex(value["chain"], HASH_LEN, "a chain value"),
            open=tuple(_open(item) for item in operations),
            alloc=_alloc(value["alloc"]),
            settings=from_hex(value["settings"], HASH_LEN, "a settings digest"),
            epoch=_count(value, "epoch"),
            fingerprint=from_hex(value["fingerprint"], HASH_LEN, "a fingerprint"),
            control_chain=from_hex(value["control_chain"], HASH_LEN, "a control chain value"),
        )
        Frontier(head.size, head.frontier)
        _check_open(head)
        return head


def _count(value: JsonObject, key: str) -> int:
    number = value[key]
    if type(number) is not int or number < 0:
        raise FormatError(f"a log head's {key} is not a count")
    return number


def _array(value: JsonObject, key: str) -> list[object]:
    items = value[key]
    if type(items) is not list:
        raise FormatError(f"a log head's {key} is not an array")
    return cast("list[object]", items)


def _open(item: object) -> Open:
    if type(item) is not list or [type(part) for part in item] != [int, int, str, str]:
        raise FormatError("a log head's open operation is malformed")
    operation = Open(*item)
    if operation.parts < 1 or operation.op not in _OPS.get(operation.type, ()):
        raise FormatError("a log head's open operation is malformed")
    return operation


def _alloc(value: object) -> dict[int, int]:
    if type(value) is not dict:
        raise FormatError("a log head's alloc is not an object")
    result = {}
    for branch, index in value.items():
        if not (branch.isascii() and branch.isdigit() and branch == str(int(branch)) and int(branch) < 2**32):
            raise FormatError("a log head's alloc names no branch")
        if type(index) is not int or not 0 < index <= BRANCH_SLOTS:
            raise FormatError("a log head's alloc is out of range")
        result[int(branch)] = index
    return result


def _check_open(head: Head) -> None:
    """Operations ascend, do not overlap and are whole; counts fit each other."""
    end = 1
    for item in head.open:
        if item.first < end:
            raise FormatError("a log head's open operations overlap")
        end = item.first + item.parts
    if end > max(head.size, 1) or head.control_seq > head.size:
        raise FormatError("a log head's numbers contradict each other")
