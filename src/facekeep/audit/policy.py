"""The rules of SPEC §11 over entries in order: pure, no I/O, no keys. A broken rule is RuleBroken.

Entries are validated and have passed the rules of §6.8 (``auditlog.rules``) before they come here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from facekeep.audit.destructions import Destructions, Operation
from facekeep.audit.galleries import Galleries
from facekeep.audit.limits import MatchingLimits
from facekeep.audit.people import NEEDS, People
from facekeep.audit.register import Grant, Register
from facekeep.audit.report import RuleBroken
from facekeep.audit.restarts import Restarts
from facekeep.audit.rotations import Rotations
from facekeep.auditlog.rules import too_early
from facekeep.formats.terms import covering_regions
from facekeep.limits import LIMITS

_MS_PER_DAY: Final = 86_400_000
_REPLACING: Final = ("renew", "reseal")
_FRESH: Final = ("enroll", "adopt")  # ops of grants that are filled from no other


class Policy:
    """State after the entries so far. After a RuleBroken it is of no further use."""

    def __init__(self, vault_id: bytes | None = None) -> None:
        """Start before entry 0; with ``vault_id`` the genesis entry must be that vault's."""
        self.register = Register()
        self.people = People()
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.waiting = False  # the next entry must go on with what the last one began
        self._vault_id = vault_id
        self._galleries = Galleries(self.register)
        self._destructions = Destructions(self.register, self.people, self._galleries)
        self._rotations = Rotations(self.register)
        self._restarts = Restarts(self.register, self.people)
        self._limits = MatchingLimits()
        self._open: dict[int, Operation] = {}
        self._fingerprints: set[str] = set()
        self._granted: tuple[int, Operation, str | None] | None = None  # a completion, of what, by whom
        self._due: frozenset[int] = frozenset()  # slots that must be destroyed in the same append

    def decision(self, index: int, entry: Mapping[str, Any]) -> None:
        """Judge a decision; nothing may be waiting."""
        if not entry["allow"]:
            self.counts["denied"] += 1
            return
        actions, op = self.people.active.get(entry["by"]), entry["op"]
        if actions is None:  # SPEC §11 R11
            raise RuleBroken("R11", index, self.people.why_not(entry["by"]))
        if op not in actions:  # SPEC §11 R12
            raise RuleBroken("R12", index, f"no role of principal {entry['by']} allows {op}")
        if op == "verify":
            self._verify(index, entry)
        else:
            self._galleries.check(index, entry)
        self._limits.check_region(index, entry)
        if "settings" not in actions:
            grant = self.register.living.get(entry.get("slot", -1))
            self._limits.check(index, entry, mean=grant is not None and grant.terms.count > 1)
        self.counts["scores told"] += "score" in entry
        self.counts[op] += 1

    def control(self, index: int, high_ms: int, entry: Mapping[str, Any]) -> None:
        """Judge any other entry, or refuse a decision where something waits.

        ``high_ms`` is the greatest time before it.
        """
        kind = entry["type"]
        if self._due and (kind != "destroy" or entry["op"] not in _REPLACING):
            self.finish()
        if index:
            self._restarts.before(index, entry)
        if not self._restarts.open:  # an adoption repeats the signing keys that were in force
            self._rotations.before(index, entry)
        if kind == "clock":
            self._clock(index, high_ms, entry)
        else:
            _HANDLERS[kind](self, index, entry)
        self._limits.take(entry)
        unfinished = entry.get("part", 0) != entry.get("parts", 0)
        self.waiting = bool(self._due) or self._rotations.waiting or unfinished or self._restarts.open

    def end(self, size: int) -> None:
        """Judge the end of a log of ``size`` entries."""
        self.finish()
        self._rotations.finish(size)
        self._restarts.finish(size)
        if not self._limits.are_known:
            self.notes.append("no entry names limits on matching: no decision was held to any (R36, R38)")

    def finish(self) -> None:
        """Judge what an append leaves behind: call it after the last entry, too."""
        if self._due and self._granted is not None:  # SPEC §11 R15
            index, operation, _ = self._granted
            raise RuleBroken(
                "R15", index, f"it leaves slot {min(self._due)}, which entry {operation.first} replaces"
            )

    def unfinished(self) -> list[Operation]:
        """Return the operations without a completion."""
        return list(self._open.values())

    def _verify(self, index: int, entry: Mapping[str, Any]) -> None:
        grant = self.register.living.get(entry["slot"])
        if grant is None:  # SPEC §11 R22
            raise RuleBroken("R22", index, self.register.why_not(entry["slot"]))
        terms = grant.terms
        if terms.scope != "verify" or entry["scope"] != "verify":  # SPEC §11 R23
            raise RuleBroken("R23", index, f"a grant for {terms.scope} used as one for {entry['scope']}")
        if grant.tag.hex() != entry["tag"] or terms.model != entry["model"]:  # SPEC §11 R23
            raise RuleBroken(
                "R23", index, f"the grant in slot {entry['slot']} is of another subject or model"
            )
        if entry["time_ms"] < terms.not_before_ms:  # SPEC §11 R24
            raise RuleBroken("R24", index, f"the grant began at {terms.not_before_ms}, after the decision")
        if entry["time_ms"] >= terms.expires_at_ms:  # SPEC §11 R24
            raise RuleBroken("R24", index, f"the grant had expired at {terms.expires_at_ms}")
        if terms.regions.isdisjoint(covering_regions(entry["region"])):  # SPEC §11 R25
            raise RuleBroken("R25", index, f"the grant does not cover the region {entry['region']}")

    def _genesis(self, index: int, entry: Mapping[str, Any]) -> None:
        if self._vault_id is not None and entry["vault"] != self._vault_id.hex():  # SPEC §11 R1
            raise RuleBroken("R1", index, f"the log is that of the vault {entry['vault']}")
        if entry["by"] is not None or entry["epoch"] != 1:  # SPEC §11 R1
            raise RuleBroken("R1", index, "it does not begin with epoch 1, by nobody")
        self._fingerprints.add(entry["fingerprint"])

    def _restart(self, index: int, entry: Mapping[str, Any]) -> None:
        if self._vault_id is not None and entry["vault"] != self._vault_id.hex():  # SPEC §11 R1
            raise RuleBroken("R1", index, f"the log is that of the vault {entry['vault']}")
        self.notes.append(self._restarts.begin(entry))
        self._fingerprints.add(entry["fingerprint"])

    def _restarted(self, index: int, entry: Mapping[str, Any]) -> None:
        self._restarts.end(index, entry)

    def _grant(self, index: int, entry: Mapping[str, Any]) -> None:
        operation = self._part(index, entry)
        time_ms, slack = entry["time_ms"], LIMITS.clock_slack_ms
        longest = time_ms + LIMITS.consent_days * _MS_PER_DAY + slack
        for item in entry["grants"]:
            grant = self.register.announce(index, operation.first, item)
            if grant.terms.expires_at_ms <= time_ms - slack and entry["op"] != "adopt":  # SPEC §11 R13
                raise RuleBroken(
                    "R13", index, f"the grant in slot {item['slot']} had expired before it was made"
                )
            if grant.terms.expires_at_ms > longest:  # SPEC §11 R13
                raise RuleBroken("R13", index, f"the grant in slot {item['slot']} lasts too long")
            if item["from"] is not None and entry["op"] == "adopt":  # SPEC §11 R14
                raise RuleBroken("R14", index, f"slot {item['slot']} is adopted from another grant")
            if item["from"] is not None:
                self._source(index, entry, (item["slot"], grant), item["from"])
            elif entry["op"] not in _FRESH:  # SPEC §11 R14
                raise RuleBroken(
                    "R14", index, f"slot {item['slot']} is filled from no grant, in op {entry['op']}"
                )
            operation.slots.append(item["slot"])
        self.counts["grants"] += len(entry["grants"])

    def _source(self, index: int, entry: Mapping[str, Any], made: tuple[int, Grant], slot: int) -> None:
        """Judge the opening of a grant's templates for another one, ``made``: its slot and itself (R14)."""
        (new, grant), old, op = made, self.register.living.get(slot), entry["op"]
        if old is None:  # SPEC §11 R14
            raise RuleBroken("R14", index, f"it opens what it may not: {self.register.why_not(slot)}")
        same = (old.tag, old.terms.model, old.terms.dimension, old.terms.metric) == (
            grant.tag, grant.terms.model, grant.terms.dimension, grant.terms.metric,
        )  # fmt: skip
        if not same or (op != "grant" and old.terms.scope != grant.terms.scope):  # SPEC §11 R14
            raise RuleBroken("R14", index, f"it opens slot {slot} of another subject, model or scope")
        count = old.terms.count
        if grant.terms.count < count or (op != "enroll" and grant.terms.count != count):  # SPEC §11 R14
            raise RuleBroken("R14", index, f"it seals another number of templates than slot {slot} holds")
        if op == "reseal":
            self._rotations.resealed(index, new, grant, slot, old)
        if op == "grant":
            self._live(index, entry["time_ms"], old, slot)

    def _live(self, index: int, time_ms: int, old: Grant, slot: int) -> None:
        """Only a renewal brings a lapsed grant back: it has the subject's new consent for the same scope."""
        slack = LIMITS.clock_slack_ms
        begins, ends = old.terms.not_before_ms - slack, old.terms.expires_at_ms + slack
        if not begins <= time_ms < ends:  # SPEC §11 R14
            raise RuleBroken("R14", index, f"it opens slot {slot} outside that grant's window")

    def _principal(self, index: int, entry: Mapping[str, Any]) -> None:
        self.people.announce(index, entry, adopted=self._restarts.open)
        operation = Operation(index, "principal", "", entry["by"], entry["time_ms"], [entry["slot"]])
        self._open[index] = operation

    def _part(self, index: int, entry: Mapping[str, Any]) -> Operation:
        """Open an operation with its first part, after asking who may; or return the one it belongs to."""
        hand = (entry["by"], entry["time_ms"])
        first = index - entry["part"] + 1
        operation = self._open.get(first)
        if operation is None:
            operation = self._open[first] = Operation(first, entry["type"], entry["op"], *hand)
            self._may(index, operation)
        elif (operation.by, operation.time_ms) != hand:  # SPEC §11 R4
            raise RuleBroken("R4", index, "it has another hand or time than the operation's first part")
        return operation

    def _may(self, index: int, operation: Operation) -> None:
        op = operation.op
        if operation.type == "destroy" and op in _REPLACING:
            self._replaces(index, operation)
        elif operation.type == "destroy" and op == "void":
            if operation.by is not None:  # SPEC §11 R7
                raise RuleBroken("R7", index, "a principal voids an operation; only a recovery does")
        else:
            self.people.may(index, operation.by, NEEDS[operation.type, op])

    def _replaces(self, index: int, operation: Operation) -> None:
        """Hold a replacement's destruction to the completion right before it (SPEC §11 R15)."""
        granted = self._granted
        if not self._due or granted is None:  # SPEC §11 R15
            raise RuleBroken("R15", index, "nothing was granted just before that replaces what it destroys")
        opener = granted[1]
        if operation.op != ("renew" if opener.op == "renew" else "reseal"):  # SPEC §11 R15
            raise RuleBroken("R15", index, f"op {operation.op} after a grant of op {opener.op}")
        if operation.by != granted[2]:  # SPEC §11 R15
            raise RuleBroken("R15", index, "it is of another hand than the completion before it")

    def _granted_entry(self, index: int, entry: Mapping[str, Any]) -> None:
        operation = self._close(index, entry)
        if operation.type == "principal":
            self.people.complete(operation.slots[0])
            return
        completed = self.register.complete(operation.slots)
        due: set[int] = set()
        for slot, grant in completed:
            self._galleries.granted(slot, grant)
            due.update(self.register.elsewhere(slot, grant))
        both = due.intersection(operation.slots)
        if both:  # SPEC §11 R15
            raise RuleBroken(
                "R15", index, f"it gives a subject two grants of one scope, slot {min(both)} one of them"
            )
        self._granted, self._due = (index, operation, entry["by"]), frozenset(due)

    def _close(self, index: int, entry: Mapping[str, Any]) -> Operation:
        operation = self._open.pop(entry["of"])
        if entry["by"] not in (None, operation.by):  # SPEC §11 R6
            raise RuleBroken("R6", index, f"it is not by the hand that began entry {operation.first}")
        self.counts["recovered"] += entry["by"] != operation.by
        return operation

    def _destroy(self, index: int, entry: Mapping[str, Any]) -> None:
        operation = self._part(index, entry)
        for first, count in entry["slots"]:
            for slot in range(first, first + count):
                self._destructions.end(index, operation, slot)
        operation.tags += map(bytes.fromhex, entry["tags"])
        operation.voids += entry["voids"]
        operation.sought = "sought" in entry
        if entry["part"] == entry["parts"]:
            self._destructions.whole(index, operation)
            self._whole(index, operation)

    def _whole(self, index: int, operation: Operation) -> None:
        self.counts[operation.op] += 1
        if operation.op == "void":
            voided = [slot for first in operation.voids for slot in self._open.pop(first).slots]
            if sorted(voided) != sorted(operation.slots):  # SPEC §11 R7
                raise RuleBroken("R7", index, "it does not destroy exactly the slots of what it voids")
            self.counts["voided"] += len(operation.voids)
        elif operation.op in _REPLACING:
            due, self._due = self._due, frozenset()
            if due != set(operation.slots):  # SPEC §11 R15
                raise RuleBroken("R15", index, "it does not destroy exactly the grants that were replaced")
        self.counts["slots named"] += len(operation.slots)

    def _destroyed(self, index: int, entry: Mapping[str, Any]) -> None:
        operation = self._close(index, entry)
        if entry["fingerprint"] in self._fingerprints:  # SPEC §11 R8
            raise RuleBroken("R8", index, "its root was in use before")
        if not any(receipt["action"] == "destroyed" for receipt in entry["receipts"]):  # SPEC §11 R8
            raise RuleBroken("R8", index, "it has no receipt for a root that was destroyed")
        self._fingerprints.add(entry["fingerprint"])
        self.register.destroy(operation.slots)

    def _clock(self, index: int, high_ms: int, entry: Mapping[str, Any]) -> None:
        self.people.may(index, entry["by"], NEEDS["clock", ""])
        if not too_early(high_ms, entry["time_ms"]):
            raise RuleBroken("R3", index, "it does not set the time back")  # SPEC §11 R3
        back = high_ms - entry["time_ms"]
        self.notes.append(f"entry {index}: principal {entry['by']} set the log's time back by {back} ms")

    def _backup(self, index: int, entry: Mapping[str, Any]) -> None:
        self.people.may(index, entry["by"], NEEDS["backup", ""])
        if entry["size"] > index:  # SPEC §11 R29
            raise RuleBroken("R29", index, f"it says the log had {entry['size']} entries")

    def _restore(self, index: int, entry: Mapping[str, Any]) -> None:
        self.people.may(index, entry["by"], NEEDS["restore", ""])
        fates = sum(entry[key] for key in ("merged", "dead", "present", "refused"))
        if fates != entry["rows"]:  # SPEC §11 R30
            raise RuleBroken("R30", index, f"of {entry['rows']} rows it accounts for {fates}")
        if entry["merged"] + entry["missing"] > len(self.register.living):  # SPEC §11 R30
            raise RuleBroken("R30", index, f"only {len(self.register.living)} grants live")

    def _rotation(self, index: int, entry: Mapping[str, Any]) -> None:
        self._by_role(index, entry)
        self._rotations.begin(index, entry)

    def _rotated(self, index: int, entry: Mapping[str, Any]) -> None:
        self._by_role(index, entry)
        self._rotations.end(index, entry)

    def _checkpoint(self, index: int, entry: Mapping[str, Any]) -> None:
        self._by_role(index, entry)
        if entry["size"] > index:  # SPEC §11 R34
            raise RuleBroken("R34", index, f"it says the log had {entry['size']} entries")

    def _by_role(self, index: int, entry: Mapping[str, Any]) -> None:
        self.people.may(index, entry["by"], NEEDS[entry["type"], ""])


_HANDLERS: Final[Mapping[str, Callable[[Policy, int, Mapping[str, Any]], None]]] = {
    "genesis": Policy._genesis,  # noqa: SLF001 - the table of this very class
    "restart": Policy._restart,  # noqa: SLF001
    "restarted": Policy._restarted,  # noqa: SLF001
    "grant": Policy._grant,  # noqa: SLF001
    "principal": Policy._principal,  # noqa: SLF001
    "granted": Policy._granted_entry,  # noqa: SLF001
    "destroy": Policy._destroy,  # noqa: SLF001
    "destroyed": Policy._destroyed,  # noqa: SLF001
    "backup": Policy._backup,  # noqa: SLF001
    "restore": Policy._restore,  # noqa: SLF001
    "settings": Policy._by_role,  # noqa: SLF001
    "rotation": Policy._rotation,  # noqa: SLF001
    "rotated": Policy._rotated,  # noqa: SLF001
    "checkpoint": Policy._checkpoint,  # noqa: SLF001
    "signing": Policy._by_role,  # noqa: SLF001
}
