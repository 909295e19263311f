"""The state of the vault: what stands, what is due, what is wrong, and which command mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from facekeep.access.core import Core, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.crypto import memory
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.operations import expiring, recovering
from facekeep.operations.census import Census, branches_free, census
from facekeep.operations.due import Due, of_grants, periods
from facekeep.operations.health import HolderState, holders

_OVERDUE: Final = 2  # periods after which what runs by itself has evidently not run
_ROTATIONS: Final = {"move": "facekeep keys resume", "templates": "facekeep keys rotate templates"}


@dataclass(frozen=True, slots=True)
class _Seen:
    """Everything that was looked at, once."""

    core: Core
    view: View
    found: Census
    holders: Sequence[HolderState]
    copies: Sequence[Mapping[str, str]]
    dues: Sequence[Due]
    expiring: expiring.Expiring


def status(core: Core, session: Session) -> JsonObject:
    """Return the state of the vault; docs/operator.md lists the keys. Opens no record and no template."""
    session.require(Action.STATUS)
    seen = _look(core)
    head, tree, found = seen.view.head, seen.view.tree, seen.found
    branches: JsonObject = {
        str(branch): {"kind": kind, "used": head.alloc.get(branch, 0)}
        for branch, kind in sorted(seen.view.kinds.items())
    }
    history = core.ledger.history()
    return {
        "backup": _some(history.newest("backup"), "rows", "sha256", "time_ms"),
        "branches": branches,
        "branches_free": branches_free(seen.view),
        "checkpoint": _some(history.newest("checkpoint"), "sha256", "size", "time_ms"),
        "copies": [dict(each) for each in seen.copies],
        "due": [each.to_json(found.now_ms) for each in seen.dues],
        "entries": head.size,
        "epoch": tree.epoch,
        "expire_waiting": seen.expiring.waits,
        "fingerprint": tree.fingerprint.hex(),
        "holders": [each.to_json() for each in seen.holders],
        "memory_locked": memory.is_locked(),
        "missing": len(found.missing()),
        "pending": len(head.operations),
        "recovery": recovering.stated(core),
        "region": core.settings.region,
        "rotations": [each.op for each in head.rotations],
        "rows": len(found.rows),
        "rows_dead": len(found.dead_rows()),
        "scopes": found.scopes(),
        "swapped_at_ms": tree.swapped_at_ms,
        "time_ms": found.now_ms,
        "vault": core.vault_id.hex(),
        "warnings": [{"message": said, "next": step} for said, step in _warnings(seen)],
    }


def _look(core: Core) -> _Seen:
    view = core.view()
    found = census(core, view)
    states = (("keys.db", core.keys.copies_state()), ("log.db", core.log.copies_state()))
    copies = [
        {"file": name, "path": str(each.path), "state": each.state} for name, of in states for each in of
    ]
    dues = [*of_grants(core, found), *periods(core, view)]
    return _Seen(core, view, found, holders(core, view), copies, dues, expiring.plan(core, found))


def _some(entry: JsonObject | None, *keys: str) -> JsonValue:
    return None if entry is None else {key: entry[key] for key in keys}


def _warnings(seen: _Seen) -> Iterator[tuple[str, str]]:
    """Yield (what is wrong, what mends it), the gravest first."""
    yield from _of_holders(seen)
    yield from _of_copies(seen)
    yield from _of_operations(seen)
    yield from _of_schedule(seen)
    if not memory.is_locked():
        yield memory.NOT_LOCKED, memory.LOCK_IT


def _of_holders(seen: _Seen) -> Iterator[tuple[str, str]]:
    for each in seen.holders:
        if each.state == "away":
            yield f"a root holder cannot be reached: {each.trouble[0]}", each.next
            continue
        if each.state == "stale" and each.role != "leaving":
            yield f"root holder {each.scheme}: it does not hold the root in force", each.next
        for trouble in each.trouble:
            yield f"root holder {each.scheme}: {trouble}", each.next
        if each.role == "recovery":
            for problem in recovering.problems(seen.core):
                yield f"recovery key: {problem}", problem.next.command


def _of_copies(seen: _Seen) -> Iterator[tuple[str, str]]:
    if not seen.copies:
        yield (
            "keys.db and log.db have no live second copy",
            "facekeep settings --copy DIR, on another disk",
        )
    for copy in seen.copies:
        if copy["state"] != "current":
            yield (
                f"the copy of {copy['file']} at {copy['path']} is {copy['state']}",
                "bring its directory back; the next writing command brings it up to date",
            )


def _of_operations(seen: _Seen) -> Iterator[tuple[str, str]]:
    missing, pending = len(seen.found.missing()), len(seen.view.head.operations)
    if missing:
        yield (
            f"{missing} living grant{'s have' if missing > 1 else ' has'} no row in vault.db",
            "restore a newer backup, or shred the subjects",
        )
    if pending:
        yield (
            f"{pending} operation{'s are' if pending > 1 else ' is'} pending",
            f"any writing command finishes {'them' if pending > 1 else 'it'}: facekeep keys resume",
        )
    for rotation in seen.view.head.rotations:
        yield f"a rotation was begun and not ended: {rotation.op}", _ROTATIONS[rotation.op]


def _of_schedule(seen: _Seen) -> Iterator[tuple[str, str]]:
    if seen.expiring.waits:
        yield (
            f"{seen.expiring.waits} lapsed grants wait for a person: {seen.expiring.why}",
            "check the clock and the list, then: facekeep maintain --yes",
        )
    for due in seen.dues:
        if due.what == "expired" and not seen.expiring.slots:
            continue
        if due.what != "swap" and due.is_due(seen.found.now_ms):
            yield _WORDS[due.what], due.next
    swap = next((each for each in seen.dues if each.what == "swap"), None)
    if swap and seen.found.now_ms - swap.last_ms > _OVERDUE * (swap.due_ms - swap.last_ms):
        yield (
            "the log has not been pinned for two days: 'maintain' does not run",
            "facekeep maintain, from a timer",
        )


_WORDS: Final = {
    "expired": "grants are past their grace",
    "root": "the root is older than its greatest age",
    "tree": "the key tree is due for rotation",
    "signing": "the log's signing keys are due for rotation",
    "checkpoint": "a checkpoint is due",
    "backup": "a data backup is due",
    "templates": "templates are due to be sealed under new keys",
}
