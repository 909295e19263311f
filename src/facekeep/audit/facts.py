"""The entries of a shredding proof and what follows from them: steps P4 to P10 of SPEC §12.3. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from facekeep.audit.proven import Proven, ProvenGrant, Root
from facekeep.audit.steps import Steps
from facekeep.auditlog.restarting import check_restart
from facekeep.auditlog.rules import BEGINNINGS
from facekeep.errors import IntegrityError
from facekeep.formats.bundle import ShreddingProof
from facekeep.formats.canonical import JsonObject
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.terms import Terms

Entry: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Granted:
    index: int
    entry: Entry
    element: Entry


class Facts:
    """The entries of a bundle by type, and what follows from them; each method is one step."""

    def __init__(self, bundle: ShreddingProof) -> None:
        """Sort the entries by type; steps P1 to P3 have passed."""
        self.bundle = bundle
        self._tag = bundle.tag.hex()
        self._by_type: dict[str, list[tuple[int, Entry]]] = {}
        for held in bundle.entries:
            self._by_type.setdefault(str(held.entry["type"]), []).append(
                (held.index, cast("Entry", held.entry))
            )
        self._used: set[int] = set()
        self._completions = {entry["of"]: (index, entry) for index, entry in self._of("destroyed")}
        self._parts = [part for part in self._of("destroy") if _first(*part) == bundle.erasure]
        self.granted: list[_Granted] = []
        self._ends: dict[int, tuple[int, Entry]] = {}  # slot -> destroy entry that names it
        self._needles: list[bytes] = []  # what an entry holds that concerns the subject

    def _of(self, kind: str) -> list[tuple[int, Entry]]:
        return self._by_type.get(kind, [])

    def genesis(self) -> None:
        """P4: entry 0 is the genesis entry of this vault, or the restart of its log."""
        first = self.bundle.entries[0]
        if first.index != 0 or first.entry["type"] not in BEGINNINGS:
            raise IntegrityError("the log's first entry, the genesis entry, is not there")
        if first.entry["vault"] != self.bundle.vault.hex():
            raise IntegrityError("the genesis entry is that of another vault")
        if first.entry["type"] == "restart":
            check_restart(first.entry)
        self._used.add(0)

    def erasure(self) -> None:
        """P5: the erasure is a destruction that is here; a shred names the tag."""
        if not self._parts:
            raise IntegrityError(f"log entry {self.bundle.erasure} is not there, or is no destruction")
        self.op: str = self._parts[0][1]["op"]
        self.requested: Entry = self._parts[0][1]
        if any(entry["op"] != self.op for _, entry in self._parts):
            raise IntegrityError("the parts of the erasure are of different operations")
        if self.bundle.scopes and self.op != "withdraw":
            raise IntegrityError("a proof of some scopes is one of their withdrawal, and this is none")
        names = any(self._tag in entry["tags"] for _, entry in self._parts)
        if self.op == "shred" and not names:
            raise IntegrityError("the erasure does not name the subject tag")
        self._used |= {index for index, entry in self._parts if self._tag in entry["tags"]}

    def completion(self) -> None:
        """P6: its completion is here, later, with a receipt for a destroyed root."""
        if self.bundle.erasure not in self._completions:
            raise IntegrityError("the erasure has no completion: it was announced, not done")
        self.completed, self.completed_entry = self._completions[self.bundle.erasure]
        if self.completed <= self._parts[-1][0]:
            raise IntegrityError("the erasure was completed before it was announced")
        if not _destroyed_a_root(self.completed_entry):
            raise IntegrityError("no root holder gave a receipt for a root it destroyed")
        self._used.add(self.completed)

    def roots(self) -> None:
        """P7: an earlier entry shows the root that was replaced."""
        done = self.completed_entry
        self.after = Root(done["epoch"], bytes.fromhex(done["fingerprint"]))
        earlier = [*self._of("genesis"), *self._of("restart"), *self._of("destroyed")]
        found = [
            (index, entry)
            for index, entry in earlier
            if index < self.completed and entry["fingerprint"] == done["previous"]
        ]
        if not found:
            raise IntegrityError("no entry shows the root key that the erasure replaced")
        index, entry = found[-1]
        self.before = Root(entry["epoch"], bytes.fromhex(entry["fingerprint"]))
        if self.before.epoch >= self.after.epoch or self.before.fingerprint == self.after.fingerprint:
            raise IntegrityError("the root key was not replaced by the erasure")
        self._used.add(index)

    def grants(self) -> None:
        """P8: collect the grants of the tag, of a withdrawal those of its scopes."""
        for index, entry in self._of("grant"):
            for element in entry["grants"]:
                if self._is_meant(element):
                    self.granted.append(_Granted(index, entry, element))
                    self._used.add(index)
        if not self.granted:
            raise IntegrityError("the bundle holds no grant of the subject")
        slots = [each.element["slot"] for each in self.granted]
        if len(set(slots)) != len(slots):
            raise IntegrityError("a slot was granted twice")
        for each in self.granted:
            if each.index > self.bundle.erasure:
                raise IntegrityError(f"log entry {each.index} grants to the subject after the erasure")

    def destructions(self) -> None:
        """P9: find the completed destruction of each slot."""
        for each in self.granted:
            slot = each.element["slot"]
            ends = [
                (index, entry)
                for index, entry in self._of("destroy")
                if index > each.index and _first(index, entry) in self._completions and _names(entry, slot)
            ]
            if not ends:
                raise IntegrityError(f"slot {slot} of log entry {each.index} has no completed destruction")
            index, entry = ends[0]
            completion, done = self._completions[_first(index, entry)]
            if completion <= index or not _destroyed_a_root(done):
                raise IntegrityError(f"the destruction of slot {slot} has no completion with a receipt")
            if completion > self.completed:
                raise IntegrityError(f"slot {slot} of log entry {each.index} was destroyed after the erasure")
            if self.bundle.scopes and _first(index, entry) > self.bundle.erasure:
                raise IntegrityError(f"slot {slot} of log entry {each.index} lived on after the withdrawal")
            self._ends[slot] = (index, entry)
            self._used |= {index, completion}
        self._needles = [self._tag.encode(), *(str(slot).encode() for slot in self._ends)]
        named = {_first(*end) for end in self._ends.values()}
        if self.op != "shred" and self.bundle.erasure not in named:
            raise IntegrityError("the erasure destroys none of the subject's slots")

    def nothing_else(self) -> None:
        """P10: every entry was needed by an earlier step."""
        for held in self.bundle.entries:
            if held.index not in self._used:
                raise IntegrityError(f"log entry {held.index} has nothing to do with the erasure")

    def may_concern(self, body: bytes) -> bool:
        """Whether an entry of the whole log may hold the subject tag or one of the slots."""
        return any(needle in body for needle in self._needles)

    def judge(self, index: int, entry: Entry) -> None:
        """Judge an entry of the whole log; new consent after a withdrawal is none of the bundle's."""
        after = index > self.bundle.erasure
        if entry["type"] == "grant" and not (after and self.bundle.scopes):
            known = {each.element["slot"] for each in self.granted if each.index == index}
            slots = {each["slot"] for each in entry["grants"] if self._is_meant(each)}
            if slots - known:
                raise IntegrityError(f"log entry {index} holds a grant of the subject that the bundle lacks")
        elif entry["type"] == "decision" and entry["allow"] and after:
            used = {entry.get("slot"), *entry.get("candidates", ())} & self._ends.keys()
            if used or (entry.get("tag") == self._tag and not self.bundle.scopes):
                raise IntegrityError(f"log entry {index} uses the subject's templates after the erasure")

    def _is_meant(self, element: Entry) -> bool:
        """Whether a grant is one that the bundle is about; raises FormatError for terms that are none."""
        if element["tag"] != self._tag:
            return False
        scope = Terms.unpack(bytes.fromhex(element["terms"])).scope.word
        return not self.bundle.scopes or scope in self.bundle.scopes

    def proven(self, checkpoint: Checkpoint, steps: Steps) -> Proven:
        """Return what the entries say; every step has passed."""
        return Proven(
            vault=self.bundle.vault,
            tag=self.bundle.tag,
            checkpoint=checkpoint,
            signed_at_s=None,
            op=self.op,
            erasure=self.bundle.erasure,
            completion=self.completed,
            requested_ms=self.requested["time_ms"],
            completed_ms=self.completed_entry["time_ms"],
            before=self.before,
            after=self.after,
            receipts=tuple(cast("list[JsonObject]", self.completed_entry["receipts"])),
            grants=tuple(self._grant(each) for each in self.granted),
            statement=self.bundle.statement,
            made_ms=self.bundle.made_ms,
            report=steps.report(),
            restarted=self.bundle.entries[0].entry["type"] == "restart",
            scopes=self.bundle.scopes,
        )

    def _grant(self, granted: _Granted) -> ProvenGrant:
        terms = Terms.unpack(bytes.fromhex(granted.element["terms"]))
        index, end = self._ends[granted.element["slot"]]
        done = self._completions[_first(index, end)][1]
        return ProvenGrant(
            slot=granted.element["slot"],
            scope=terms.scope.word,
            model=granted.element["model"],
            granted_ms=granted.entry["time_ms"],
            not_before_ms=terms.not_before_ms,
            expires_at_ms=terms.expires_at_ms,
            regions=terms.regions,
            entry=granted.index,
            ended_op=end["op"],
            ended_by=index,
            ended_ms=done["time_ms"],
        )


def _first(index: int, entry: Entry) -> int:
    """Index of the first entry of the operation that a part belongs to."""
    return index - int(entry["part"]) + 1


def _names(entry: Entry, slot: int) -> bool:
    return any(first <= slot < first + count for first, count in entry["slots"])


def _destroyed_a_root(completion: Entry) -> bool:
    return any(receipt["action"] == "destroyed" for receipt in completion["receipts"])
