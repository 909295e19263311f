"""Adding, listing and revoking principals."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

from facekeep.access.core import FIRST_PRINCIPAL_INDEX, Core, View
from facekeep.access.principals import new_principal, token_mark
from facekeep.access.roles import Action, Role
from facekeep.access.session import Session, read_principal
from facekeep.answers import Ambiguous
from facekeep.auditlog.prints import LoggedPrincipal
from facekeep.errors import FacekeepError, UsageError
from facekeep.formats import entries
from facekeep.formats.ids import slot_id
from facekeep.operations.allocation import next_index
from facekeep.operations.destroy import Destruction
from facekeep.operations.erase import Asked, announced, carry_out
from facekeep.operations.steps import reached
from facekeep.operations.writing import as_found, writing
from facekeep.store.keysdb import PrincipalRow

SYSTEM_BRANCH = 0
MISSING_ROW = "missing_row"


@dataclass(frozen=True, slots=True)
class Listed(Ambiguous):
    """A principal as listed; ``state`` is ``active``, ``missing_row`` or a reason code."""

    id: str
    label: str
    roles: tuple[str, ...]
    state: str


def install_principal(core: Core, view: View, by: str | None, label: str, roles: frozenset[Role]) -> str:
    """Make a principal and return its token; the writer lock must be held."""
    now = core.clock.now_ms()
    principal, token = new_principal(label, roles, now)
    index = max(next_index(core, view, SYSTEM_BRANCH), FIRST_PRINCIPAL_INDEX)
    slot = slot_id(SYSTEM_BRANCH, index)
    grant_id = token_mark(core.vault_id, slot, principal.token_hash)
    key = core.slot_key(view, slot)
    sealed, commitment = core.sealer.seal_principal(key, slot, grant_id, principal.to_record())
    first = core.log.append(
        [
            entries.principal(
                principal=principal.id.hex(),
                slot=slot,
                grant=grant_id,
                commitment=commitment,
                roles=[role.value for role in roles],
                by=by,
                time_ms=now,
            )
        ]
    )[0]
    reached("principal.announced")
    core.keys.principal_put(PrincipalRow(slot, principal.id, grant_id, commitment, sealed))
    reached("principal.written")
    core.log.append([entries.granted(first, by=by, time_ms=core.clock.now_ms())])
    return token


def add_principal(core: Core, session: Session, label: str, roles: frozenset[Role]) -> tuple[str, str]:
    """Return (principal id, token) of a new principal. The token is not kept anywhere."""

    def add() -> str:
        with writing(core, session, Action.PRINCIPALS) as view:
            return install_principal(core, view, session.by, label, roles)

    token = as_found(add)
    return token.split(".")[1], token


def list_principals(core: Core, session: Session) -> list[Listed]:
    """Return every living principal of the log and every other one that has a row, by id.

    A living principal without a whole row is ``missing_row``: its token works, its label is lost.
    """
    session.require(Action.PRINCIPALS)
    view = core.view()
    logged = {each.id: each for each in living_principals(core, view) if not view.pending.granting(each.slot)}
    rows = core.keys.principal_list(view.principal_slots())
    at = {row.slot: row for row in rows}
    listed = [_listed(core, view, each, at.get(each.slot)) for each in logged.values()]
    strange = {row.principal: row for row in rows if row.principal not in logged}
    listed.extend(
        Listed(each.hex(), "", (), read_principal(core, view, row)[1].value) for each, row in strange.items()
    )
    return sorted(listed, key=lambda each: each.id)


def living_principals(core: Core, view: View) -> list[LoggedPrincipal]:
    """Principals that the log announced and whose slots live, by slot."""
    logged = core.ledger.principals()
    alive = view.tree.alive(np.array([each.slot for each in logged], np.int64))
    return [each for each, lives in zip(logged, alive.tolist(), strict=True) if lives]


def is_principals_row(core: Core, view: View, logged: LoggedPrincipal, row: PrincipalRow | None) -> bool:
    """Whether a row is whole, and that of a living principal."""
    if row is None or (row.principal, row.slot, row.grant_id, row.commitment) != logged[:4]:
        return False
    try:
        key = core.slot_key(view, row.slot)
        core.sealer.open_principal(key, row.slot, row.grant_id, row.commitment, row.sealed)
    except FacekeepError:
        return False
    return True


def _listed(core: Core, view: View, logged: LoggedPrincipal, row: PrincipalRow | None) -> Listed:
    """Return a living principal, with its row where that is whole."""
    principal, reason = read_principal(core, view, row)
    if principal is not None and principal.id == logged.id:
        return Listed(logged.id.hex(), principal.label, logged.roles, "active")
    state = reason.value if view.pending.destroying(logged.slot) else MISSING_ROW
    return Listed(logged.id.hex(), "", logged.roles, state)


def revoke_principal(core: Core, session: Session, identity: str) -> int:
    """Shred a principal's slot; returns the index of the intent. The last one who may add others stays.

    The slot is the one that the log gave to that id, whatever keys.db says.
    """
    wanted = bytes.fromhex(identity) if _is_id(identity) else b""
    finished: list[int] = []

    def find(view: View) -> Asked:
        slots = [each.slot for each in living_principals(core, view) if each.id == wanted]
        finished[:] = [] if slots else _revoked_just_now(core, wanted)
        if finished:
            return Asked(view, (), [])
        if not slots:
            raise UsageError("no principal has that id", next="see 'facekeep principal list'")
        if wanted == session.principal_id and not _others(core, view, wanted):
            raise UsageError(
                "that is the last principal who may manage principals",
                next="add another operator first: facekeep principal add --role operator",
            )
        return Asked(view, (), [Destruction("revoke", slots)])

    asked, indices = announced(core, session, Action.PRINCIPALS, find)
    carry_out(core, session.by, asked.whats, indices)
    with contextlib.suppress(FacekeepError), core.lock.held():
        left = core.keys.principal_get(wanted)
        if left is not None:  # it stood at another slot than the log's
            core.keys.principal_delete([left.slot])
    return (finished or indices)[0]


def _revoked_just_now(core: Core, wanted: bytes) -> list[int]:
    """Return the index of a pending revocation of this principal that this opening has finished."""
    theirs = {each.slot for each in core.ledger.principals() if each.id == wanted}
    return [each.first for each in core.finished if each.op == "revoke" and not theirs.isdisjoint(each.slots)]


def _is_id(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == 8  # noqa: PLR2004 - SPEC §2
    except ValueError:
        return False


def _others(core: Core, view: View, identity: bytes) -> bool:
    """Whether anybody else may manage principals."""
    return any(
        Role.OPERATOR in each.roles and each.id != identity and not _is_pending(view, each.slot)
        for each in living_principals(core, view)
    )


def _is_pending(view: View, slot: int) -> bool:
    return view.pending.destroying(slot) or view.pending.granting(slot)
