"""A whole log replayed: tree, form, the rules of §6.8 and those of §11, in one pass over its entries.

The entries may come from an export (``audit.logs``) or from anywhere: whatever is asked for is checked here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn, cast

from facekeep.audit.policy import Policy
from facekeep.audit.report import LOG_STEPS, Report, RuleBroken, verdicts
from facekeep.auditlog.head import Head
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.restarting import check_restart
from facekeep.auditlog.rotation import Keyring
from facekeep.auditlog.rules import State
from facekeep.errors import FormatError, IntegrityError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.checkpoint import Checkpoint, vault_of
from facekeep.formats.entries import parse
from facekeep.limits import LIMITS

Progress = Callable[[int, int], None]
_STEP: Final = 8_192  # entries between two calls of the progress function
_NO_CHAIN: Final = bytes(32)  # chain values take the log key: an auditor has none

#: How the rules of §6.8 begin in ``auditlog.rules``, and their numbers in §11.
HEAD_RULES: Final[Mapping[str, str]] = {
    "genesis is the first entry": "R1",
    "its time is before": "R2",
    "it does not name the time": "R3",
    "it stands between two parts": "R4",
    "it is not the next part": "R4",
    "only principals stand in branch 0": "R5",
    "slot ": "R5",
    "it completes what is not": "R6",
    "it voids what is not": "R7",
    "its epoch and previous root": "R8",
    "it does not name the settings": "R9",
    "it destroys a slot that was never": "R16",
    "it destroys one of the vault's own": "R16",
    "its op destroys no slot": "R16",
    "it revokes nobody": "R21",
    "only a revocation destroys": "R21",
    "it gives slots out again": "R35",
    "a rotation of the same": "R31",
    "it ends what is not": "R31",
}


class _State(State):
    """The head's rules, a broken one named by its number in §11."""

    __slots__ = ()

    def _break(self, rule: str) -> NoReturn:
        number = next((number for start, number in HEAD_RULES.items() if rule.startswith(start)), "L4")
        raise RuleBroken(number, self.frontier.size, rule)


class Replay:
    """Feed entries in order, then ``finish``. After a RuleBroken it is of no further use."""

    def __init__(self, vault_id: bytes | None = None, keyring: Keyring | None = None) -> None:
        """Start before entry 0; ``keyring`` follows the log's signing keys where one is given."""
        self.policy = Policy(vault_id)
        self._state = _State(Head.empty(_NO_CHAIN))
        self._keyring = keyring
        self._slack = LIMITS.clock_slack_ms
        self._restarted = False  # the log begins with a restart

    @property
    def size(self) -> int:
        """Entries fed so far."""
        return self._state.frontier.size

    def feed(self, body: bytes) -> None:
        """Judge the next entry by its exact bytes; raises RuleBroken."""
        state, policy = self._state, self.policy
        index = state.frontier.size
        try:
            entry: Mapping[str, Any] = parse(body)
        except FormatError as error:  # SPEC §11 L4
            raise RuleBroken("L4", index, str(error)) from error
        leaf = leaf_hash(body)
        if entry["type"] == "decision" and index and not policy.waiting:
            time_ms = entry["time_ms"]
            if entry["allow"] and time_ms < state.high_ms - self._slack:  # SPEC §11 R2
                raise RuleBroken("R2", index, "its time is before what the log had already seen")
            policy.decision(index, entry)
            state.add_decision(time_ms, leaf, _NO_CHAIN)
            return
        high_ms = state.high_ms
        state.add(cast("dict[str, Any]", entry), leaf, _NO_CHAIN)
        policy.control(index, high_ms, entry)
        if entry["type"] in {"signing", "restart", "restarted"}:
            self._follow(index, cast("JsonObject", entry))

    def finish(self, checkpoint: Checkpoint | None = None) -> None:
        """Judge the log as a whole; with ``checkpoint`` it must be the tree of that. Raises RuleBroken."""
        self.policy.end(self.size)
        self._trusted_restart()
        state = self._state
        if state.unfinished() is not None:  # SPEC §11 R4
            raise RuleBroken("R4", self.size - 1, "the log ends between two parts of an operation")
        if checkpoint is not None:
            same = (self.size, state.frontier.root()) == (checkpoint.size, checkpoint.root)
            if not same:  # SPEC §11 L3
                raise RuleBroken("L3", None, "the entries do not lead to the checkpoint's size and root")

    def root(self) -> bytes:
        """Root hash of the entries fed so far."""
        return self._state.frontier.root()

    def counts(self) -> dict[str, int]:
        """Count what the log tells, by word."""
        policy = self.policy
        register = policy.register
        totals = Counter(policy.counts)
        totals.update(
            {
                "entries": self.size,
                "epoch": self._state.epoch,
                "subjects": len(register.of_tag),
                "subjects erased": len(register.erased),
                "grants living": len(register.living),
                "slots destroyed": len(register.dead),
                "principals active": len(policy.people.active),
                "operations open": len(policy.unfinished()),
            }
        )
        return dict(sorted(totals.items()))

    def notes(self) -> tuple[str, ...]:
        """Tell what breaks no rule and a reader should know."""
        waiting = (
            f"entry {each.first}: the {each.op or each.type} begun there is not complete; "
            + (
                "its slots are denied, not yet destroyed"
                if each.type == "destroy"
                else "it grants nothing yet"
            )
            for each in self.policy.unfinished()
        )
        return (*self.policy.notes, *waiting)

    def _follow(self, index: int, entry: JsonObject) -> None:
        """Follow the log's keys; without a keyring a restart is held to the keys it names itself."""
        rule = "R10" if entry["type"] == "signing" else "R35"
        try:
            if self._keyring is not None:
                self._keyring.follow(index, entry)
            elif entry["type"] == "restart":
                check_restart(entry)
        except IntegrityError as error:  # SPEC §11 R10, R35
            raise RuleBroken(rule, index, str(error).removeprefix(f"log entry {index}: ")) from error
        self._restarted = self._restarted or entry["type"] == "restart"

    def _trusted_restart(self) -> None:
        """Hold the keys that signed a restart to those that are trusted, which rotations may lead to."""
        try:
            if self._restarted and self._keyring is not None:
                self._keyring.keys_at(self.size)
        except IntegrityError as error:  # SPEC §11 R35
            raise RuleBroken(
                "R35", 0, "no trusted key signed the restart of the log", next=error.next
            ) from error


def replay(
    bodies: Iterable[bytes],
    *,
    checkpoint: Checkpoint | None = None,
    keyring: Keyring | None = None,
    judged: Iterable[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Judge entries given by their exact bytes in order; raises RuleBroken with its ``report``.

    ``checkpoint`` must have been opened (§10.5): the entries must be its tree, and its vault's. Without it
    L3 is not judged, without a ``keyring`` R10 is not. ``judged`` are steps the caller has carried out.
    ``progress`` is called with (entries done, entries in all).
    """
    run = Replay(None if checkpoint is None else vault_of(checkpoint.origin), keyring)
    total = 0 if checkpoint is None else checkpoint.size
    held = {"L4", *judged, *(key for key in LOG_STEPS if key[0] == "R" and (keyring or key != "R10"))}
    try:
        for done, body in enumerate(bodies, 1):
            run.feed(body)
            if progress is not None and done % _STEP == 0:
                progress(done, total or done)
        run.finish(checkpoint)
    except RuleBroken as error:
        error.report = report(run, checkpoint, held, error)
        raise
    if progress is not None:
        progress(run.size, run.size)
    return report(run, checkpoint, held | ({"L3"} if checkpoint else set()))


def report(
    run: Replay, checkpoint: Checkpoint | None, held: Iterable[str], error: RuleBroken | None = None
) -> Report:
    """Report on a replay as far as it came."""
    claimed = checkpoint or Checkpoint("none", run.size, run.root())
    upto = run.size if error is None or error.index is None else error.index
    return Report.of(claimed, verdicts(LOG_STEPS, held, error, upto), run.counts(), run.notes())
