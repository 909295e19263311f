"""Roles and what each may do: one table, nothing implied."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """The four kinds of principal."""

    SERVICE = "service"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    DPO = "dpo"


class Action(StrEnum):
    """Everything a principal can ask for."""

    VERIFY = "verify"
    IDENTIFY = "identify"
    ENROLL = "enroll"
    GRANT = "grant"
    RENEW = "renew"
    WITHDRAW = "withdraw"
    SHRED = "shred"
    SUBJECTS = "subjects"
    BACKUP = "backup"
    RESTORE = "restore"
    CHECK = "check"
    STATUS = "status"
    LOG = "log"
    PRINCIPALS = "principals"
    SETTINGS = "settings"
    CLOCK = "clock"


_A = Action

#: role -> allowed actions. docs/integrator.md prints the same table; a test compares them.
ALLOWED: Final[dict[Role, frozenset[Action]]] = {
    Role.SERVICE: frozenset({_A.VERIFY, _A.IDENTIFY, _A.ENROLL, _A.GRANT, _A.RENEW, _A.WITHDRAW}),
    Role.OPERATOR: frozenset(
        {
            _A.ENROLL,
            _A.GRANT,
            _A.RENEW,
            _A.WITHDRAW,
            _A.SHRED,
            _A.SUBJECTS,
            _A.BACKUP,
            _A.RESTORE,
            _A.CHECK,
            _A.STATUS,
            _A.PRINCIPALS,
            _A.SETTINGS,
            _A.CLOCK,
        }
    ),
    Role.AUDITOR: frozenset({_A.CHECK, _A.STATUS, _A.LOG}),
    Role.DPO: frozenset({_A.SUBJECTS, _A.STATUS, _A.LOG, _A.WITHDRAW, _A.SHRED}),
}


def may(roles: frozenset[Role], action: Action) -> bool:
    """Whether any of the roles allows the action."""
    return any(action in ALLOWED[role] for role in roles)
