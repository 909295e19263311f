"""Who is asking: a token becomes a Session, checked again whenever the vault's state moves."""

from __future__ import annotations

import copy
from typing import Final, cast

from facekeep.access.core import Core, View
from facekeep.access.principals import Principal, read_token, token_mark
from facekeep.access.roles import Action, Role, allowed
from facekeep.auditlog.prints import principal_print
from facekeep.crypto import primitives as p
from facekeep.errors import FacekeepError, IntegrityError, NotAllowed, SlotDead, StoreError
from facekeep.formats.entryrules import Reason
from facekeep.store.keysdb import PrincipalRow

_UNTOLD: Final = frozenset((Reason.INTEGRITY, Reason.UNAVAILABLE))
_WORDS: Final = {
    Action.VERIFY: "verify subjects",
    Action.IDENTIFY: "search for subjects",
    Action.ENROLL: "enrol subjects",
    Action.GRANT: "add scopes",
    Action.RENEW: "renew grants",
    Action.WITHDRAW: "withdraw grants",
    Action.SHRED: "shred subjects",
    Action.SUBJECTS: "list subjects",
    Action.BACKUP: "make backups",
    Action.RESTORE: "restore backups",
    Action.CHECK: "check the vault",
    Action.STATUS: "see the vault's status",
    Action.LOG: "read the log",
    Action.PRINCIPALS: "manage principals",
    Action.SETTINGS: "change the settings",
    Action.CLOCK: "accept the clock",
    Action.KEYS: "rotate or move keys",
    Action.MAINTAIN: "maintain the vault",
}


#: what can be asked of a vault that is not whole: erasures, to see what is wrong, and to put it right
_ERASING: Final = frozenset(
    (Action.SHRED, Action.WITHDRAW, Action.PRINCIPALS, Action.CHECK, Action.STATUS, Action.RESTORE)
)


def read_principal(core: Core, view: View, row: PrincipalRow | None) -> tuple[Principal | None, Reason]:
    """Return (principal, OK) of a row that is whole and the log's, or (None, why not)."""
    if row is None:
        return None, Reason.PRINCIPAL_UNKNOWN
    if view.pending.destroying(row.slot):
        return None, Reason.PRINCIPAL_REVOKED
    if view.pending.granting(row.slot):
        return None, Reason.PRINCIPAL_UNKNOWN
    try:
        key = core.slot_key(view, row.slot)
        record = core.sealer.open_principal(key, row.slot, row.grant_id, row.commitment, row.sealed)
        principal = Principal.from_record(record)
        own = principal_print(row.principal, row.grant_id, row.commitment, principal.roles)
        logged = own == core.logged(row.slot)
    except SlotDead:
        return None, Reason.PRINCIPAL_REVOKED
    except FacekeepError as error:
        return None, _untold(error)
    if principal.id != row.principal:
        return None, Reason.INTEGRITY
    return (principal, Reason.OK) if logged else (None, Reason.PRINCIPAL_UNKNOWN)


def authenticate(
    core: Core, view: View, identity: bytes, token_hash: bytes
) -> tuple[Principal | None, Reason]:
    """Return (principal, OK) of a token, or (None, why not): unknown or revoked.

    The log knows the token. The row of keys.db says it sooner, and has the label; where it does not lead to
    the principal, the whole log is read.
    """
    row = core.keys.principal_get(identity)
    principal, reason = read_principal(core, view, row)
    if principal is None or row is None:
        return _by_log(core, view, identity, token_hash)
    fits = _fits(core, row.slot, row.grant_id, token_hash) and p.compare(principal.token_hash, token_hash)
    return (principal, reason) if fits else (None, Reason.PRINCIPAL_UNKNOWN)


def _by_log(core: Core, view: View, identity: bytes, token_hash: bytes) -> tuple[Principal | None, Reason]:
    try:
        logged = [each for each in core.ledger.principals() if each.id == identity]
        found = [each for each in logged if _lives(core, view, each.slot)]
    except FacekeepError as error:
        return None, _untold(error)
    if not found:
        return None, Reason.PRINCIPAL_REVOKED if logged else Reason.PRINCIPAL_UNKNOWN
    slot, grant_id, roles = found[-1].slot, found[-1].grant_id, found[-1].roles
    if view.pending.destroying(slot):
        return None, Reason.PRINCIPAL_REVOKED
    if view.pending.granting(slot) or not _fits(core, slot, grant_id, token_hash):
        return None, Reason.PRINCIPAL_UNKNOWN
    return Principal(identity, "", frozenset(map(Role, roles)), token_hash, 0), Reason.OK


def _untold(error: FacekeepError) -> Reason:
    """Return why it cannot be told who asks: what is damaged, or cannot be read at the moment."""
    return Reason.INTEGRITY if isinstance(error, IntegrityError) else Reason.UNAVAILABLE


def _lives(core: Core, view: View, slot: int) -> bool:
    """Whether the slot lives by the tree; by the log, where a damaged node hides it."""
    try:
        core.slot_key(view, slot)
    except SlotDead:
        return False
    except IntegrityError:
        control = (entry for _, entry in core.log.control_since(0) if entry["type"] == "destroy")
        spans = (span for entry in control for span in cast("list[list[int]]", entry["slots"]))
        return not any(first <= slot < first + count for first, count in spans)
    return True


def _fits(core: Core, slot: int, grant_id: bytes, token_hash: bytes) -> bool:
    return p.compare(token_mark(core.vault_id, slot, token_hash), grant_id)


class Session:
    """A token's principal; ``check`` gives a reason code, ``require`` raises NotAllowed."""

    def __init__(self, core: Core, token: str) -> None:
        """Authenticate; raises NotAllowed. The secret is compared in constant time."""
        self._core = core
        self.principal_id, self._token_hash = read_token(token)
        self._allowed: frozenset[Action] = frozenset()
        self._checked: tuple[int, Principal | None, Reason] = (-1, None, Reason.PRINCIPAL_UNKNOWN)
        if self._load(core.view()) is None:
            row = core.keys.principal_get(self.principal_id)
            if self._checked[2] is Reason.UNAVAILABLE:
                self.require_active()
            if row is not None and self._checked[2] is Reason.INTEGRITY:
                core.logged(row.slot)  # raises where it is the log that was altered
            raise NotAllowed(
                "the token's principal is unknown or revoked in this vault",
                next="ask an operator for a token: facekeep principal add",
            )

    def on(self, core: Core) -> Session:
        """Return the session of the same token on a vault that was opened again."""
        session = copy.copy(self)
        session._core = core  # noqa: SLF001 - its own
        session._checked = (-1, None, Reason.PRINCIPAL_UNKNOWN)  # noqa: SLF001
        return session

    @property
    def by(self) -> str:
        """Principal id as it stands in log entries."""
        return self.principal_id.hex()

    @property
    def label(self) -> str:
        """Name the operator gave the principal."""
        principal = self._checked[1]
        return principal.label if principal else ""

    @property
    def roles(self) -> tuple[str, ...]:
        """Role words, sorted."""
        principal = self._checked[1]
        return tuple(sorted(principal.roles)) if principal else ()

    @property
    def is_bound(self) -> bool:
        """Whether the limits on matching bind the principal, who may not change them (SPEC §9.3)."""
        return Action.SETTINGS not in self._allowed

    def check(self, view: View, action: Action) -> Reason:
        """Whether the principal may do this now."""
        principal = self._load(view)
        if principal is None:
            return self._checked[2]
        if self._core.impaired is not None and action not in _ERASING:
            return Reason.UNAVAILABLE
        return Reason.OK if action in self._allowed else Reason.ROLE

    def require(self, action: Action, view: View | None = None) -> None:
        """Raise NotAllowed unless the principal may do this now, or in a ``view`` just taken."""
        view = view or self._core.view()
        self.require_active(view)
        reason = self.check(view, action)
        if reason is Reason.UNAVAILABLE:
            self._core.require_whole()
            raise StoreError("a moment ago no other process could open the vault", next="try again")
        if reason is Reason.ROLE:
            who = f"role {self.roles[0]}" if len(self.roles) == 1 else f"roles {' and '.join(self.roles)}"
            raise NotAllowed(f"the {who} may not {_WORDS[action]}")

    def require_active(self, view: View | None = None) -> None:
        """Raise NotAllowed unless the principal is one of this vault now, or in a ``view`` just taken."""
        if self._load(view or self._core.view()) is not None:
            return
        if self._checked[2] is Reason.UNAVAILABLE:
            raise StoreError("it cannot be told now whether the token's principal is known; nothing was done")
        raise NotAllowed("the token's principal is unknown or revoked in this vault")

    def _load(self, view: View) -> Principal | None:
        seq, principal, _ = self._checked
        if seq != view.head.control_seq:
            principal, reason = authenticate(self._core, view, self.principal_id, self._token_hash)
            self._allowed = allowed(principal.roles) if principal else frozenset()
            known = -1 if reason in _UNTOLD else view.head.control_seq  # it may be put right
            self._checked = (known, principal, reason)
        return principal
