"""Numbered verification steps: each is run under its id, and the first that fails names itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from facekeep.audit.report import Report, RuleBroken, Step, Verdict
from facekeep.errors import IntegrityError
from facekeep.formats.checkpoint import Checkpoint

OnStep = Callable[[Step], None]
_NEXT = "keep the files as evidence; ask the operator of the vault for them again, by another way"


@dataclass
class Steps:
    """Runs the steps of ``texts`` in order; ``on_step`` hears of each verdict as it falls."""

    texts: Mapping[str, str]
    on_step: OnStep | None = None
    checkpoint: Checkpoint | None = None  # once it is opened, for the report
    done: list[Step] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, key: str) -> Iterator[list[str]]:
        """Run one step; yields a list for details. IntegrityError inside becomes RuleBroken of this step.

        Errors of another kind (a file that cannot be read, a missing package) are no verdict and pass.
        """
        details: list[str] = []
        try:
            yield details
        except IntegrityError as error:
            why = error.why if isinstance(error, RuleBroken) else str(error)
            further = _NEXT if error.next.command == error.default_next else error.next
            index = error.index if isinstance(error, RuleBroken) else None
            broken = RuleBroken(key, index, why, next=further)
            self._tell(key, Verdict.BROKEN, why)
            rest = [each for each in self.texts if each not in {step.id for step in self.done}]
            self.done += [Step(each, self.texts[each], Verdict.NOT_JUDGED) for each in rest]
            broken.report = self.report()
            raise broken from error
        self._tell(key, Verdict.HOLDS, "; ".join(details))

    def skip(self, key: str, why: str) -> None:
        """Say that a step was not asked for."""
        self._tell(key, Verdict.NOT_JUDGED, why)

    def report(self) -> Report:
        """Return what was found so far."""
        seen = self.checkpoint
        return Report(
            "" if seen is None else seen.origin,
            0 if seen is None else seen.size,
            b"" if seen is None else seen.root,
            tuple(self.done),
        )

    def _tell(self, key: str, verdict: Verdict, detail: str) -> None:
        step = Step(key, self.texts[key], verdict, detail)
        self.done.append(step)
        if self.on_step is not None:
            self.on_step(step)
