"""The rule by which an entry moves the head (SPEC §6.8), shared by the log and by offline auditors.

Pure: no I/O and no keys. A chain value is whatever the caller passes; only a holder of the log key can
compute one. Every broken rule is an IntegrityError naming the entry's index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from facekeep.auditlog.head import Head, Open
from facekeep.auditlog.merkle import Frontier
from facekeep.errors import IntegrityError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entries import LASTING_ROTATIONS, slots_of
from facekeep.formats.ids import BRANCH_SLOTS, SLOT_BITS, SYSTEM_SLOTS, split_slot
from facekeep.limits import LIMITS

NO_CONTROL: Final = bytes(32)  # the control chain before the first entry, and of those without the key
_INDEX_MASK: Final = (1 << SLOT_BITS) - 1
BEGINNINGS: Final = ("genesis", "restart")  # types of an entry 0
_GRANTING: Final = ("grant", "principal")
_WITHOUT_SLOTS: Final = ("extend", "rotate")


def advance(head: Head, entry: JsonObject, leaf: bytes, chain: bytes, control: bytes = NO_CONTROL) -> Head:
    """Head after a validated ``entry`` with that leaf hash and chain values, or IntegrityError."""
    state = State(head)
    state.add(entry, leaf, chain, control)
    return state.head()


def too_early(high_ms: int, time_ms: int) -> bool:
    """Whether an entry of ``time_ms`` is refused after ``high_ms`` (SPEC §7, Clock)."""
    return time_ms < high_ms - LIMITS.clock_slack_ms


def clock_exempt(entry: JsonObject) -> bool:
    """Whether an entry is recorded whatever the clock says: a ``clock`` entry, a denial."""
    return entry["type"] == "clock" or (entry["type"] == "decision" and not entry["allow"])


class State:
    """A head that moves in place: what ``advance`` does, without a new head for each entry.

    After an IntegrityError the state is of no further use.
    """

    __slots__ = (
        "alloc", "chain", "control_chain", "control_seq", "epoch", "fingerprint", "frontier", "high_ms",
        "open", "settings",
    )  # fmt: skip

    def __init__(self, head: Head) -> None:
        """Take up at ``head``."""
        self.control_seq = head.control_seq
        self.control_chain = head.control_chain
        self.high_ms = head.high_ms
        self.frontier = Frontier(head.size, head.frontier)
        self.chain = head.chain
        self.open = {operation.first: operation for operation in head.open}
        self.alloc = dict(head.alloc)
        self.settings = head.settings
        self.epoch = head.epoch
        self.fingerprint = head.fingerprint

    def head(self) -> Head:
        """Freeze the present state."""
        return Head(
            size=self.frontier.size,
            control_seq=self.control_seq,
            high_ms=self.high_ms,
            frontier=self.frontier.hashes(),
            chain=self.chain,
            open=tuple(self.open.values()),
            alloc=dict(self.alloc),
            settings=self.settings,
            epoch=self.epoch,
            fingerprint=self.fingerprint,
            control_chain=self.control_chain,
        )

    def unfinished(self) -> Open | None:
        """Return the operation some of whose parts are still to come, or None."""
        last = next(reversed(self.open.values()), None)
        return last if last and last.first + last.parts > self.frontier.size else None

    def add_decision(self, time_ms: int, leaf: bytes, chain: bytes) -> None:
        """Add a decision whose rules the caller has checked: the hot path."""
        if time_ms > self.high_ms:  # noqa: PLR1730 - the hot path; max() costs three times as much
            self.high_ms = time_ms
        self.frontier.append(leaf)
        self.chain = chain

    def add(self, entry: JsonObject, leaf: bytes, chain: bytes, control: bytes = NO_CONTROL) -> None:
        """Add any validated entry; raises IntegrityError naming its index and the broken rule.

        ``control`` is the control chain after it; a decision leaves that as it is.
        """
        values: Mapping[str, Any] = entry
        kind = values["type"]
        if (self.frontier.size == 0) is not (kind in BEGINNINGS):
            self._break("genesis is the first entry and no other")
        if too_early(self.high_ms, values["time_ms"]) and not clock_exempt(entry):
            self._break("its time is before what the log had already seen")
        unfinished = self.unfinished()
        if unfinished is not None and kind != unfinished.type:
            self._break("it stands between two parts of an operation")
        if kind != "decision":
            self.control_seq += 1
            self.control_chain = control
            rule = _RULES.get(kind)
            if rule is not None:
                rule(self, values)
        high_ms = values["time_ms"] if kind != "clock" else 0
        self.add_decision(high_ms, leaf, chain)

    def _genesis(self, entry: Mapping[str, Any]) -> None:
        self.alloc = {0: SYSTEM_SLOTS}
        self.settings = bytes.fromhex(entry["settings"])
        self.epoch, self.fingerprint = entry["epoch"], bytes.fromhex(entry["fingerprint"])

    def _restarted(self, entry: Mapping[str, Any]) -> None:
        if entry["next"] < self.alloc[0]:
            self._break("it gives slots out again")
        self.alloc |= {0: entry["next"]} | dict.fromkeys(entry["closed"], BRANCH_SLOTS)

    def _settings(self, entry: Mapping[str, Any]) -> None:
        if bytes.fromhex(entry["previous"]) != self.settings:
            self._break("it does not name the settings in force before it")
        self.settings = bytes.fromhex(entry["digest"])

    def _clock(self, entry: Mapping[str, Any]) -> None:
        if entry["high_ms"] != self.high_ms:
            self._break("it does not name the time the log had seen")
        self.high_ms = entry["time_ms"]

    def _grant(self, entry: Mapping[str, Any]) -> None:
        self._part(entry, entry["part"], entry["parts"], entry["op"])
        self._allocate(slots_of(dict(entry)), system=False)

    def _principal(self, entry: Mapping[str, Any]) -> None:
        self._part(entry, 1, 1, "")
        self._allocate([entry["slot"]], system=True)

    def _destroy(self, entry: Mapping[str, Any]) -> None:
        self._part(entry, entry["part"], entry["parts"], entry["op"])
        op = entry["op"]
        if op in _WITHOUT_SLOTS and entry["slots"]:
            self._break("its op destroys no slot")
        if op == "revoke" and not entry["slots"]:
            self._break("it revokes nobody")
        for first, count in entry["slots"]:
            if (first & _INDEX_MASK) + count > self.alloc.get(first >> SLOT_BITS, 0):
                self._break("it destroys a slot that was never given out")
            if first < SYSTEM_SLOTS:
                self._break("it destroys one of the vault's own keys")
            system = first >> SLOT_BITS == 0
            if op != "void" and system is not (op == "revoke"):
                self._break("only a revocation destroys a principal's slot, and no other")
        for index in entry["voids"]:
            self._close(index, _GRANTING, "it voids what is not an open grant")

    def _granted(self, entry: Mapping[str, Any]) -> None:
        self._close(entry["of"], _GRANTING, "it completes what is not an open grant")

    def _destroyed(self, entry: Mapping[str, Any]) -> None:
        self._close(entry["of"], ("destroy",), "it completes what is not an open destruction")
        if entry["epoch"] <= self.epoch or bytes.fromhex(entry["previous"]) != self.fingerprint:
            self._break("its epoch and previous root do not follow from the last root replacement")
        self.epoch, self.fingerprint = entry["epoch"], bytes.fromhex(entry["fingerprint"])

    def _rotation(self, entry: Mapping[str, Any]) -> None:
        if entry["what"] not in LASTING_ROTATIONS:
            return
        if any(each.type == "rotation" and each.op == entry["what"] for each in self.open.values()):
            self._break("a rotation of the same is open")
        self.open[self.frontier.size] = Open(self.frontier.size, 1, "rotation", entry["what"])

    def _rotated(self, entry: Mapping[str, Any]) -> None:
        self._close(entry["of"], ("rotation",), "it ends what is not an open rotation")

    def _part(self, entry: Mapping[str, Any], part: int, parts: int, op: str) -> None:
        """Open an operation with its first part, or check that this is the next part of it."""
        size = self.frontier.size
        operation = self.unfinished() or Open(size, parts, entry["type"], op)
        if operation[1:] != (parts, entry["type"], op) or part != size - operation.first + 1:
            self._break("it is not the next part of its operation")
        self.open[operation.first] = operation

    def _allocate(self, slots: Sequence[int], *, system: bool) -> None:
        for slot in _steps(slots):
            branch, index = split_slot(slot)
            if (branch == 0) is not system:
                self._break("only principals stand in branch 0, and nowhere else")
            if index < self.alloc.get(branch, 0):
                self._break(f"slot {slot} was given out before, or is reserved")
            self.alloc[branch] = min(index + 1, BRANCH_SLOTS)

    def _close(self, of: int, kinds: tuple[str, ...], rule: str) -> None:
        operation = self.open.get(of)
        if operation is None or operation.type not in kinds:
            self._break(rule)
        del self.open[of]

    def _break(self, rule: str) -> NoReturn:
        raise IntegrityError(f"log entry {self.frontier.size}: {rule}")


def _steps(slots: Sequence[int]) -> Sequence[int]:
    """Slots whose rules are those of all: the first and the last, where each follows the one before it."""
    if len(slots) > 2 and list(slots) == list(range(slots[0], slots[0] + len(slots))):  # noqa: PLR2004 - see above
        first, last = slots[0], slots[-1]
        return (first, last) if first >> SLOT_BITS == last >> SLOT_BITS else slots
    return slots


_RULES: Final[Mapping[str, Callable[[State, Mapping[str, Any]], None]]] = {
    "genesis": State._genesis,  # noqa: SLF001 - the table of this very class
    "restart": State._genesis,  # noqa: SLF001
    "restarted": State._restarted,  # noqa: SLF001
    "settings": State._settings,  # noqa: SLF001
    "clock": State._clock,  # noqa: SLF001
    "grant": State._grant,  # noqa: SLF001
    "principal": State._principal,  # noqa: SLF001
    "destroy": State._destroy,  # noqa: SLF001
    "granted": State._granted,  # noqa: SLF001
    "destroyed": State._destroyed,  # noqa: SLF001
    "rotation": State._rotation,  # noqa: SLF001
    "rotated": State._rotated,  # noqa: SLF001
}
