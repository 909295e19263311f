"""Rotating the root, the key tree and the log's signing keys: each says in the log what, why and by whom.

Templates are re-sealed in ``rotate_templates``, the root's holders are changed in ``move``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.note import VerifierKey
from facekeep.operations import auditing
from facekeep.operations.destroy import Destruction, finish, intent
from facekeep.operations.rekeying import check_rekeyable
from facekeep.operations.steps import reached
from facekeep.operations.whose import keys_of
from facekeep.operations.writing import writing

Progress = Callable[[int, int], None]


class Why(StrEnum):
    """Why keys are rotated: the closed list of SPEC §6.1, since free text could name somebody."""

    SCHEDULED = "scheduled"
    COMPROMISE = "compromise"
    DEPARTURE = "departure"
    MIGRATION = "migration"
    ALGORITHM = "algorithm"
    DRILL = "drill"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Rotated:
    """What was rotated: index of the log's ``rotation`` entry, the epoch after it, nodes written anew."""

    what: str
    entry: int
    epoch: int
    nodes: int = 0

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {"entry": self.entry, "epoch": self.epoch, "nodes": self.nodes, "what": self.what}


def announcement(core: Core, session: Session, what: str, why: Why) -> JsonObject:
    """Make the entry that says what is rotated and why."""
    return entries.rotation(what, why.value, by=session.by, time_ms=core.clock.now_ms())


def rotate_root(core: Core, session: Session, why: Why) -> Rotated:
    """Replace the root with every holder; as much is written whatever the vault holds."""
    with writing(core, session, Action.KEYS):
        return _swap(core, session, "root", why, Destruction("rotate", ()))


def rotate_tree(core: Core, session: Session, why: Why, progress: Progress | None = None) -> Rotated:
    """Give every stored node a fresh key, and the subject index another one; replaces the root along with it.

    Slot keys stay: templates stay as they are. Raises IntegrityError where a key cannot be read or a subject
    id has two enrolments; nothing is done then.
    """
    with writing(core, session, Action.KEYS) as view:
        core.owners.everybody(keys_of(core), progress)
        check_rekeyable(core, view)
        return _swap(core, session, "tree", why, Destruction("rotate", (), rekey=True))


def rotate_signing(
    core: Core, session: Session, why: Why, progress: Progress | None = None
) -> tuple[int, tuple[VerifierKey, ...]]:
    """Give the log new signing keys, cross-signed by the old; returns the log index and the new keys."""
    with writing(core, session, Action.KEYS), auditing.signing(core) as checkpoints:
        snapshot = checkpoints.snapshot(progress)
        now = core.clock.now_ms()
        entry = checkpoints.rotation(snapshot, by=session.by, time_ms=now)
        index = core.log.append([announcement(core, session, "signing", why), entry])[1]
        reached("rotate.signed")
        return index, checkpoints.keys(checkpoints.snapshot())


def _swap(core: Core, session: Session, what: str, why: Why, destruction: Destruction) -> Rotated:
    first, *intents = core.log.append(
        [announcement(core, session, what, why), *intent(core, session.by, destruction)]
    )
    reached("rotate.announced")
    finish(core, session.by, intents[0], destruction)
    return Rotated(what, first, core.view().tree.epoch, 1 + (core.keys.node_count() if what == "tree" else 0))
