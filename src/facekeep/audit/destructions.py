"""What a destruction may name, and what it must (SPEC §11 R7, R16 to R18, R20, R21)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from facekeep.audit.galleries import Galleries
from facekeep.audit.people import People
from facekeep.audit.register import Grant, Register
from facekeep.audit.report import RuleBroken
from facekeep.formats.ids import SLOT_BITS, SYSTEM_SLOTS


@dataclass(slots=True)
class Operation:
    """An operation that is open: its first entry, what its parts have named so far."""

    first: int
    type: str
    op: str
    by: str | None
    time_ms: int
    slots: list[int] = field(default_factory=list)
    tags: list[bytes] = field(default_factory=list)
    voids: list[int] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)  # of the slots that are grants' (destroy only)
    sought: bool = False  # an erasure of somebody who could not be found, and so of no slot


class Destructions:
    """Judges destructive intents and carries out what they mean."""

    def __init__(self, register: Register, people: People, galleries: Galleries) -> None:
        """Work on the auditor's picture."""
        self._register = register
        self._people = people
        self._galleries = galleries

    def end(self, index: int, operation: Operation, slot: int) -> None:
        """Take one slot out of use that the part at ``index`` names; raises RuleBroken."""
        register, op = self._register, operation.op
        if slot >> SLOT_BITS == 0:
            self._end_principal(index, operation, slot)
            return
        known = slot in register.living or slot in register.announced or slot in register.dying
        if not known and slot not in register.dead:  # SPEC §11 R16
            raise RuleBroken("R16", index, f"it destroys slot {slot}, which was never given out")
        if op in _WITHOUT_SLOTS or op == "revoke":  # SPEC §11 R21
            raise RuleBroken(
                "R21" if op == "revoke" else "R16", index, f"op {op} names a grant's slot {slot}"
            )
        if slot in register.dead and op != "void":  # SPEC §11 R16
            raise RuleBroken("R16", index, f"slot {slot} was destroyed before")
        lived = slot in register.living
        grant = register.end(index, slot)
        operation.slots.append(slot)
        if grant is None:
            return
        operation.grants.append(grant)
        if lived:
            self._galleries.ended(slot, grant)
        if op == "expire" and grant.terms.expires_at_ms > operation.time_ms:  # SPEC §11 R20
            raise RuleBroken("R20", index, f"the grant in slot {slot} has not expired")

    def whole(self, index: int, operation: Operation) -> None:
        """Judge an intent whose last part stands at ``index``; raises RuleBroken."""
        op = operation.op
        if operation.tags and op != "shred":  # SPEC §11 R18
            raise RuleBroken("R18", index, f"op {op} names erased subjects")
        if operation.voids and op != "void":  # SPEC §11 R7
            raise RuleBroken("R7", index, f"op {op} voids an operation")
        judge = _JUDGES.get(op)
        if judge is not None and not operation.sought:
            judge(self, index, operation)

    def _end_principal(self, index: int, operation: Operation, slot: int) -> None:
        if slot < SYSTEM_SLOTS:  # SPEC §11 R16
            raise RuleBroken("R16", index, f"slot {slot} is one of the vault's own keys")
        if operation.op not in ("revoke", "void"):  # SPEC §11 R21
            raise RuleBroken("R21", index, f"op {operation.op} names slot {slot}, a principal's")
        if not self._people.knows(slot):  # SPEC §11 R16
            raise RuleBroken("R16", index, f"it destroys slot {slot}, which was never given out")
        if slot in self._register.dead and operation.op != "void":  # SPEC §11 R16
            raise RuleBroken("R16", index, f"slot {slot} was destroyed before")
        self._people.end(index, slot)
        self._register.end(index, slot)
        operation.slots.append(slot)

    def _shred(self, index: int, operation: Operation) -> None:
        register, tags = self._register, set(operation.tags)
        if not tags or not operation.slots:  # SPEC §11 R18
            raise RuleBroken("R18", index, "an erasure names no subject, or no slot")
        for slot, grant in zip(operation.slots, operation.grants, strict=True):  # SPEC §11 R18
            if grant.tag not in tags:
                raise RuleBroken("R18", index, f"slot {slot} is of a subject whom the erasure does not name")
        for tag in operation.tags:
            slots = register.of_tag.get(tag)
            if not slots:  # SPEC §11 R18
                raise RuleBroken("R18", index, f"the erased subject {tag.hex()} never had a grant")
            for slot in slots:
                if slot not in register.ended:  # SPEC §11 R18
                    raise RuleBroken(
                        "R18", index, f"the erasure leaves slot {slot} of the subject {tag.hex()}"
                    )
            register.erased.setdefault(tag, operation.first)

    def _withdraw(self, index: int, operation: Operation) -> None:
        tags = {grant.tag for grant in operation.grants}
        if len(tags) != 1:  # SPEC §11 R17
            raise RuleBroken("R17", index, f"a withdrawal names the slots of {len(tags)} subjects")
        scopes = {grant.terms.scope for grant in operation.grants}
        living, announced = self._register.living, self._register.announced
        for slot in self._register.of_tag[tags.pop()]:
            grant = living.get(slot) or announced.get(slot)
            if grant is not None and grant.terms.scope in scopes:  # SPEC §11 R17
                raise RuleBroken("R17", index, f"the withdrawal leaves slot {slot} of the same scope")

    def _needs_slots(self, index: int, operation: Operation) -> None:
        if not operation.slots:
            rule = "R21" if operation.op == "revoke" else "R20"
            raise RuleBroken(rule, index, f"op {operation.op} names no slot")


_WITHOUT_SLOTS: Final = ("extend", "rotate")
_JUDGES: Final[Mapping[str, Callable[[Destructions, int, Operation], None]]] = {
    "shred": Destructions._shred,  # noqa: SLF001 - the table of this very class
    "withdraw": Destructions._withdraw,  # noqa: SLF001
    "revoke": Destructions._needs_slots,  # noqa: SLF001
    "expire": Destructions._needs_slots,  # noqa: SLF001
}
