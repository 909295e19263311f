"""Which slots the log ever gave to which subject tag or principal: authenticated, complete, in memory.

What is destroyed is taken from here and never from vault.db, keys.db or a projection, so that nobody can
save a grant from its erasure by hiding a row, nor have another slot destroyed by altering one. A *print* is
what the log says of a slot in 16 bytes: a row with another print is not the one that the log announced.
Building it reads every control entry once; afterwards only what is new.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from facekeep.auditlog.log import AuditLog
from facekeep.crypto import primitives as p
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import TAG_LEN

PRINT_LEN: Final = 16
#: An element of ``grants`` in canonical form: its keys ascend, and no string holds a quotation mark. What
#: is in the log was validated: dots for hex digits are five times as fast.
_GRANT = re.compile(
    rb'{"commitment":"(.{64})","from":(?:null|\d{1,16}),"grant":"(.{32})","model":"([^"]{1,40})",'
    rb'"slot":(\d{1,16}),"tag":"(.{64})","terms":"(.{176})"}',
    re.DOTALL,
)
_PRINCIPAL: Final = b',"type":"principal","v":1}'


def grant_print(identity: bytes, model: str, commitment: bytes) -> bytes:
    """Print of a grant or of its row; ``identity`` is grant id || tag || packed terms, as in a SealedRow."""
    return p.sha256(b"g" + identity + commitment + model.encode("utf-8"))[:PRINT_LEN]


def principal_print(principal: bytes, grant: bytes, commitment: bytes, roles: Iterable[str]) -> bytes:
    """Print of a principal or of its row."""
    return p.sha256(b"p" + principal + grant + commitment + ",".join(sorted(roles)).encode())[:PRINT_LEN]


def entry_print(entry: JsonObject, slot: int) -> bytes | None:
    """Print of a slot by the authenticated entry that opened it; None if it did not."""
    values = cast("dict[str, Any]", entry)
    if values["type"] == "principal" and values["slot"] == slot:
        return _logged_principal(entry).print()
    for item in values["grants"] if values["type"] == "grant" else ():
        if item["slot"] == slot:
            identity = bytes.fromhex(item["grant"] + item["tag"] + item["terms"])
            return grant_print(identity, item["model"], bytes.fromhex(item["commitment"]))
    return None


class LoggedPrincipal(NamedTuple):
    """A principal as the log announced it."""

    id: bytes
    slot: int
    grant_id: bytes
    commitment: bytes
    roles: tuple[str, ...]

    def print(self) -> bytes:
        """Return its print."""
        return principal_print(self.id, self.grant_id, self.commitment, self.roles)


def _logged_principal(entry: JsonObject) -> LoggedPrincipal:
    values = cast("dict[str, Any]", entry)
    return LoggedPrincipal(
        bytes.fromhex(values["principal"]),
        values["slot"],
        bytes.fromhex(values["grant"]),
        bytes.fromhex(values["commitment"]),
        tuple(values["roles"]),
    )


class _Found(NamedTuple):
    """What control entries say: (tag, slot, print) of grants, and principals."""

    grants: list[tuple[bytes, int, bytes]]
    principals: list[LoggedPrincipal]

    def take(self, body: bytes) -> None:
        """Take up the canonical bytes of one authenticated entry."""
        for commitment, grant, model, slot, tag, terms in _GRANT.findall(body):
            raw = bytes.fromhex((grant + tag + terms + commitment).decode())
            mark = grant_print(raw[:-32], model.decode(), raw[-32:])
            self.grants.append((raw[16 : 16 + TAG_LEN], int(slot), mark))
        if body.endswith(_PRINCIPAL):
            self.principals.append(_logged_principal(entries.parse(body)))


class Ledger:
    """Subject tags and their slots, living and dead, in the order of the log."""

    def __init__(self, log: AuditLog) -> None:
        """Start empty; the first use reads the log."""
        self._log = log
        self._seen = 0
        self._guard = threading.Lock()
        self._keys: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._tags: npt.NDArray[np.uint8] = np.empty((0, TAG_LEN), np.uint8)
        self._slots: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._recent: dict[bytes, list[int]] = {}
        self._print_slots: npt.NDArray[np.int64] = np.empty(0, np.int64)  # ascending
        self._prints: npt.NDArray[np.uint8] = np.empty((0, PRINT_LEN), np.uint8)
        self._recent_prints: dict[int, bytes] = {}
        self._principals: dict[int, LoggedPrincipal] = {}

    def slots_of(self, tag: bytes, progress: Callable[[int, int], None] | None = None) -> list[int]:
        """Every slot ever granted to a tag, ascending."""
        with self._guard:
            self._catch_up(progress)
            return sorted({*self._sorted_slots(tag), *self._recent.get(tag, ())})

    def all_slots(self, progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.int64]:
        """Every slot ever granted to a subject, ascending, int64 of shape (n,)."""
        with self._guard:
            self._catch_up(progress)
            recent = [slot for slots in self._recent.values() for slot in slots]
            return np.union1d(self._slots, np.array(recent, np.int64))

    def owners(self, living: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]) -> set[bytes]:
        """Tags that own a slot for which ``living`` says True."""
        with self._guard:
            self._catch_up(None)
            recent = [(slot, tag) for tag, slots in self._recent.items() for slot in slots]
            owners = {self._tags[at].tobytes() for at in np.flatnonzero(living(self._slots))}
            mask = living(np.array([slot for slot, _ in recent], np.int64))
            return owners | {tag for (_, tag), lives in zip(recent, mask.tolist(), strict=True) if lives}

    def principals(self) -> list[LoggedPrincipal]:
        """Every principal ever announced, living and dead, by slot."""
        with self._guard:
            self._catch_up(None)
            return [each for _, each in sorted(self._principals.items())]

    def prints(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return prints of slots, uint8 of shape (n, 16); zero where the log never granted the slot."""
        with self._guard:
            self._catch_up(None)
            out = np.zeros((len(slots), PRINT_LEN), np.uint8)
            if len(self._print_slots):
                at = np.minimum(np.searchsorted(self._print_slots, slots), len(self._print_slots) - 1)
                held = self._print_slots[at] == slots
                out[held] = self._prints[at[held]]
            if self._recent_prints:
                for row, slot in enumerate(slots.tolist()):
                    mark = self._recent_prints.get(slot)
                    if mark is not None:
                        out[row] = np.frombuffer(mark, np.uint8)
            return out

    def _catch_up(self, progress: Callable[[int, int], None] | None) -> None:
        size = self._log.head().size
        found, seen = _Found([], []), self._seen
        for index, body in self._log.control_bodies(seen):
            found.take(body)
            if progress is not None:
                progress(index + 1, size)
            seen = index + 1
        self._seen = seen  # only now is it certain that none was left out
        self._principals.update((each.slot, each) for each in found.principals)
        if len(found.grants) > 10_000:  # noqa: PLR2004 - where sorting beats a dictionary
            self._rebuild(found.grants)
        else:
            for tag, slot, mark in found.grants:
                self._recent.setdefault(tag, []).append(slot)
                self._recent_prints[slot] = mark

    def _rebuild(self, found: list[tuple[bytes, int, bytes]]) -> None:
        found.extend(
            (tag, slot, self._recent_prints[slot]) for tag, slots in self._recent.items() for slot in slots
        )
        self._recent.clear()
        self._recent_prints.clear()
        tags = np.frombuffer(b"".join(tag for tag, _, _ in found), np.uint8).reshape(-1, TAG_LEN)
        marks = np.frombuffer(b"".join(mark for _, _, mark in found), np.uint8).reshape(-1, PRINT_LEN)
        fresh = np.array([slot for _, slot, _ in found], np.int64)
        self._tags = np.concatenate((self._tags, tags))
        self._slots = np.concatenate((self._slots, fresh))
        keys = np.ascontiguousarray(self._tags[:, :8]).view(np.uint64).ravel()
        order = np.argsort(keys, kind="stable")
        self._keys, self._tags, self._slots = keys[order], self._tags[order], self._slots[order]
        slots = np.concatenate((self._print_slots, fresh))
        order = np.argsort(slots, kind="stable")
        self._prints = np.concatenate((self._prints, marks))[order]
        self._print_slots = slots[order]

    def _sorted_slots(self, tag: bytes) -> list[int]:
        key = np.frombuffer(tag[:8], np.uint64)[0]
        low, high = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        whole = np.frombuffer(tag, np.uint8)
        return [int(self._slots[at]) for at in range(low, high) if (self._tags[at] == whole).all()]
