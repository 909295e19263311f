"""Verdicts: the numbered steps and rules of SPEC §11, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from facekeep.answers import Ambiguous
from facekeep.errors import IntegrityError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.checkpoint import Checkpoint

#: Steps of verifying a log, then the rules every entry is judged by; the words of SPEC §11.
LOG_STEPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "L1": "the checkpoint is signed by the log's keys",
        "L2": "the tiles lead to the checkpoint's root",
        "L3": "every entry hashes to its leaf of the tree",
        "L4": "every entry is canonical and has the form of its type",
        "R1": "one genesis entry or restart, the first, of this vault",
        "R2": "no entry is dated more than 5 s before what the log had seen, but clock entries and denials",
        "R3": "the time is set back by clock entries only, each naming what it sets back",
        "R4": "the parts of an operation are whole, consecutive and of one hand",
        "R5": "a slot is given out once, in ascending order, in a branch of its scope",
        "R6": "a completion closes an open operation, by its own hand or in recovery",
        "R7": "only a recovery voids, only open grants, and destroys exactly their slots",
        "R8": "epochs grow, and root fingerprints form one chain with receipts for each root destroyed",
        "R9": "settings form one chain",
        "R10": "signing keys form one chain and sign the checkpoint",
        "R11": "whoever acts is a principal who was added and not revoked",
        "R12": "a role of that principal allows the action",
        "R13": "a grant's terms are well-formed, not lapsed, and end",
        "R14": "templates are opened for a new grant only from a live grant of the same subject and model",
        "R15": "a subject has one grant of a scope: a new one ends its predecessor in the same append",
        "R16": "a destruction names slots that were given out and are not destroyed, none of the system's",
        "R17": "a withdrawal ends every grant of one subject in the scopes it touches",
        "R18": "an erasure destroys every slot its subjects ever had, and nobody else's",
        "R19": "nothing is granted to an erased subject",
        "R20": "only lapsed grants are destroyed as expired",
        "R21": "a revocation destroys principals only",
        "R22": "a 1:1 decision opens a grant that is complete and not destroyed, nor about to be",
        "R23": "a 1:1 decision opens that subject's grant, of that scope and model",
        "R24": "a 1:1 decision is inside the grant's window",
        "R25": "a 1:1 decision is in a region the grant covers",
        "R26": "a 1:N decision compared exactly the grants that were valid: count and set digest",
        "R27": "the candidates of a 1:N decision are among the grants compared",
        "R28": "a 1:N decision accounts for every living grant it left out",
        "R29": "a backup entry is plausible",
        "R30": "a restore entry accounts for every row, and brings back no destroyed grant",
        "R31": "a root or key is replaced outside an erasure only after an entry that says why",
        "R32": "templates are re-sealed only in a rotation that selects them: same terms, new branches",
        "R33": "the end of a rotation accounts for every grant that it selected",
        "R34": "a checkpoint entry is plausible",
        "R35": "a log that does not begin with its vault says so, by whom, and what it adopts",
        "R36": "whoever may not change the limits on matching keeps to them",
        "R37": "a decision is in a region that the settings allow",
        "R38": "nobody who is bound was answered more often, or sooner, than the limits let",
    }
)


class Verdict(StrEnum):
    """What became of a step or rule."""

    HOLDS = "holds"
    BROKEN = "broken"
    NOT_JUDGED = "not judged"  # something before it was broken


@dataclass(frozen=True, slots=True)
class Step(Ambiguous):
    """One step or rule with its verdict."""

    id: str
    text: str
    verdict: Verdict
    detail: str = ""

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.id:<4}{self.verdict:<11}{self.text}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Report(Ambiguous):
    """What was verified: the log, its steps in order, counts, and what a reader should know besides."""

    origin: str
    size: int
    root: bytes
    steps: tuple[Step, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(
        checkpoint: Checkpoint | None,
        steps: tuple[Step, ...],
        counts: Mapping[str, int] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Report:
        """Report on the log of an opened checkpoint; None where it did not come to one."""
        if checkpoint is None:
            return Report("", 0, b"", steps, counts or {}, notes)
        return Report(checkpoint.origin, checkpoint.size, checkpoint.root, steps, counts or {}, notes)

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {
            "counts": dict(self.counts),
            "notes": list(self.notes),
            "origin": self.origin,
            "root": self.root.hex(),
            "size": self.size,
            "steps": [
                {"detail": step.detail, "id": step.id, "text": step.text, "verdict": str(step.verdict)}
                for step in self.steps
            ],
        }


class RuleBroken(IntegrityError):
    """A step or rule of SPEC §11 does not hold: which, at which entry (None: no single one), and why.

    ``report`` is filled in by whoever ran the whole verification.
    """

    default_next = "keep the export as evidence; ask the operator of the vault, and compare with a witness"

    def __init__(self, rule: str, index: int | None, why: str, *, next: str | None = None) -> None:  # noqa: A002 - the contract's name
        """Keep the parts; the message names them all."""
        where = "" if index is None else f"log entry {index}: "
        super().__init__(f"{rule}: {where}{why}", next=next)
        self.rule = rule
        self.index = index
        self.why = why
        self.report: Report | None = None


def verdicts(
    texts: Mapping[str, str], held: Iterable[str], error: RuleBroken | None = None, upto: int = 0
) -> tuple[Step, ...]:
    """Give each step its verdict. Where ``error`` stopped it, rules held for ``upto`` entries and no more.

    They were not judged where there are none, or where the entries themselves are not believed (L1 to L3).
    """
    believed = error is None or (upto > 0 and error.rule not in {"L1", "L2", "L3"})
    holding = frozenset(key for key in held if believed or not _of_entries(key))

    def step(key: str, text: str) -> Step:
        if error is not None and key == error.rule:
            where = "" if error.index is None else f"entry {error.index}: "
            return Step(key, text, Verdict.BROKEN, where + error.why)
        if key not in holding:
            return Step(key, text, Verdict.NOT_JUDGED)
        partly = error is not None and _of_entries(key)
        return Step(key, text, Verdict.HOLDS, f"for the first {upto} entries" if partly else "")

    return tuple(step(key, text) for key, text in texts.items())


def _of_entries(key: str) -> bool:
    """Whether a step is judged entry by entry."""
    return key.startswith("R") or key == "L4"
