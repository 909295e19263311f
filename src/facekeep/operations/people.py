"""Adding, listing and revoking principals."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

from facekeep.access.core import FIRST_PRINCIPAL_INDEX, Core, View
from facekeep.access.principals import Principal, new_principal
from facekeep.access.roles import Action, Role
from facekeep.access.session import Session, load_principal
from facekeep.auditlog.prints import LoggedPrincipal
from facekeep.crypto import primitives as p
from facekeep.errors import FacekeepError, UsageError
from facekeep.formats import entries
from facekeep.formats.entryrules import Reason
from facekeep.formats.ids import GRANT_ID_LEN, slot_id
from facekeep.operations.allocation import next_index
from facekeep.operations.destroy import Destruction
from facekeep.operations.erase import Asked, announced, carry_out
from facekeep.operations.steps import reached
from facekeep.operations.writing import as_found, writing
from facekeep.store.keysdb import PrincipalRow

SYSTEM_BRANCH = 0
MISSING_ROW = "missing_row"


@dataclass(frozen=True, slots=True)
class Listed:
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
    slot, grant_id = slot_id(SYSTEM_BRANCH, index), p.random_bytes(GRANT_ID_LEN)
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

    A living principal without a row is ``missing_row``: nobody can use its token until the row is back.
    """
    session.require(Action.PRINCIPALS)
    view = core.view()
    logged = {each.id: each for each in living_principals(core, view)}
    rows = {row.principal for row in core.keys.principal_list(view.principal_slots())}
    listed = [_listed(each, *load_principal(core, view, each), logged.get(each)) for each in rows]
    listed.extend(
        Listed(each.id.hex(), "", each.roles, MISSING_ROW)
        for each in logged.values()
        if each.id not in rows and not view.pending.granting(each.slot)
    )
    return sorted(listed, key=lambda each: each.id)


def living_principals(core: Core, view: View) -> list[LoggedPrincipal]:
    """Principals that the log announced and whose slots live, by slot."""
    logged = core.ledger.principals()
    alive = view.tree.alive(np.array([each.slot for each in logged], np.int64))
    return [each for each, lives in zip(logged, alive.tolist(), strict=True) if lives]


def _listed(
    identity: bytes, principal: Principal | None, reason: Reason, logged: LoggedPrincipal | None
) -> Listed:
    if principal is None:
        return Listed(identity.hex(), "", logged.roles if logged else (), reason.value)
    roles = tuple(sorted(role.value for role in principal.roles))
    return Listed(identity.hex(), principal.label, roles, "active")


def revoke_principal(core: Core, session: Session, identity: str) -> int:
    """Shred a principal's slot; returns the index of the intent. The last one who may add others stays.

    The slot is the one that the log gave to that id, whatever keys.db says.
    """
    wanted = bytes.fromhex(identity) if _is_id(identity) else b""

    def find(view: View) -> Asked:
        slots = [each.slot for each in living_principals(core, view) if each.id == wanted]
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
    return indices[0]


def _is_id(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == 8  # noqa: PLR2004 - SPEC.md §2
    except ValueError:
        return False


def _others(core: Core, view: View, identity: bytes) -> bool:
    for other in core.keys.principal_list(view.principal_slots()):
        principal, _ = load_principal(core, view, other.principal)
        if other.principal != identity and principal is not None and Role.OPERATOR in principal.roles:
            return True
    return False
