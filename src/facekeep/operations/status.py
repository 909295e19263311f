"""What an operator and a subject's advocate look at: subjects, one decision, the vault's state."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.errors import FacekeepError, UsageError
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.terms import Scope
from facekeep.operations import recovering
from facekeep.operations.rows import LivingGrant, living

Progress = Callable[[int, int], None]
_DECISION = re.compile(r"(0|[1-9][0-9]{0,15})-([0-9a-f]{8})\Z")


@dataclass(frozen=True, slots=True)
class GrantInfo:
    """One grant as listed. ``state``: live, not_yet or expired; times in ms."""

    scope: str
    state: str
    not_before_ms: int
    expires_at_ms: int
    regions: tuple[str, ...]
    model: str
    images: int
    slot: int


@dataclass(frozen=True, slots=True)
class SubjectInfo:
    """A subject with living slots, and the grants."""

    subject: str
    tag: str
    grants: tuple[GrantInfo, ...]


def subjects(
    core: Core, session: Session, *, due_within_ms: int | None = None, progress: Progress | None = None
) -> Iterator[SubjectInfo]:
    """Yield subjects by tag; with ``due_within_ms`` only those with a grant that ends within that time.

    Opens every consent record, no template.
    """
    session.require(Action.SUBJECTS)
    view = core.view()
    now = core.clock.now_ms()
    total = core.data.count()
    by_tag: dict[bytes, tuple[str, list[GrantInfo]]] = {}  # and not the rows: a million take gigabytes
    for done, row in enumerate(core.data.rows()):
        if progress is not None and done % 1_000 == 0:
            progress(done, total)
        grant = living(core, view, row)
        if grant is not None:
            by_tag.setdefault(row.tag, (grant.subject, []))[1].append(_info(grant, now))
    for tag in sorted(by_tag):
        subject, grants = by_tag[tag]
        if due_within_ms is None or any(each.expires_at_ms <= now + due_within_ms for each in grants):
            yield SubjectInfo(subject, tag.hex(), tuple(sorted(grants, key=_scope)))


def _scope(grant: GrantInfo) -> Scope:
    return Scope.from_word(grant.scope)


def _info(grant: LivingGrant, now: int) -> GrantInfo:
    terms = grant.terms
    state = "not_yet" if now < terms.not_before_ms else "expired" if now >= terms.expires_at_ms else "live"
    return GrantInfo(
        terms.scope.word,
        state,
        terms.not_before_ms,
        terms.expires_at_ms,
        terms.regions,
        grant.row.model,
        grant.images,
        grant.row.slot,
    )


def decision(core: Core, session: Session, identity: str) -> JsonObject:
    """Log entry of a decision id such as ``1234-9f8a7c6d``; raises UsageError when there is none."""
    session.require(Action.STATUS)
    match = _DECISION.match(identity)
    if match is None or int(match[1]) >= core.log.head().size:
        raise UsageError("no decision has that id")
    entry = core.log.entry(int(match[1]))
    if entry["type"] != "decision" or not str(entry["nonce"]).startswith(match[2]):
        raise UsageError("no decision has that id")
    return entry


def status(core: Core, session: Session) -> JsonObject:
    """Return the state of the vault: epoch, holders, copies, counts, warnings with their remedy."""
    session.require(Action.STATUS)
    view = core.view()
    head, tree = view.head, view.tree
    missing = core.missing(view).tolist()
    copies: list[JsonValue] = [
        {"file": name, "path": str(state.path), "state": state.state}
        for name, states in (("keys.db", core.keys.copies_state()), ("log.db", core.log.copies_state()))
        for state in states
    ]
    holders: list[JsonValue] = [
        {
            "class": provider.klass,
            "layers": list(provider.layers),
            "limits": list(provider.limits),
            "scheme": provider.scheme,
        }
        for provider in core.providers
    ]
    scopes: JsonObject = {}
    for branch, kind in sorted(view.kinds.items()):
        scopes[str(branch)] = {"kind": kind, "used": head.alloc.get(branch, 0)}
    warnings = _warnings(core, copies, len(missing), len(head.operations))
    return {
        "backup": _last_backup(core),
        "branches": scopes,
        "copies": copies,
        "entries": head.size,
        "epoch": tree.epoch,
        "fingerprint": tree.fingerprint.hex(),
        "holders": holders,
        "missing": len(missing),
        "pending": len(head.operations),
        "recovery": recovering.stated(core),
        "region": core.settings.region,
        "rows": core.data.count(),
        "swapped_at_ms": tree.swapped_at_ms,
        "vault": core.vault_id.hex(),
        "warnings": warnings,
    }


def _warnings(core: Core, copies: list[JsonValue], missing: int, pending: int) -> list[JsonValue]:
    found: list[JsonValue] = []

    def warn(message: str, remedy: str) -> None:
        found.append({"message": message, "next": remedy})

    if not copies:
        warn("keys.db and log.db have no live second copy", "facekeep settings --copy DIR, on another disk")
    for copy in copies:
        if isinstance(copy, dict) and copy["state"] != "current":
            warn(
                f"the copy of {copy['file']} at {copy['path']} is {copy['state']}",
                "bring its directory back; the next writing command brings it up to date",
            )
    if missing:
        warn(
            f"{missing} living grant{'s have' if missing > 1 else ' has'} no row in vault.db",
            "restore a newer backup, or shred the subjects",
        )
    if pending:
        warn(
            f"{pending} operation{'s are' if pending > 1 else ' is'} pending",
            f"any writing command finishes {'them' if pending > 1 else 'it'}",
        )
    for message, remedy in _holder_warnings(core):
        warn(message, remedy)
    return found


def _holder_warnings(core: Core) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the holders, one that is away among them, and the remedy."""
    for provider in core.providers:
        try:
            provider.candidates()
        except FacekeepError as error:
            yield f"a root holder cannot be reached: {error}", error.next
            continue
        for damage in provider.damage:
            yield f"root holder {provider.scheme}: {damage}", "any shred writes the holder anew"
        if provider.klass == "recovery":
            for problem in recovering.problems(core):
                yield f"recovery key: {problem}", problem.next


def _last_backup(core: Core) -> JsonObject | None:
    entry = core.ledger.last_backup()
    if entry is None:
        return None
    return {"rows": entry["rows"], "sha256": entry["sha256"], "time_ms": entry["time_ms"]}
