"""Roles and what each may do, as types; the table itself is formats/roles.py."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from facekeep.formats import roles as words


class Role(StrEnum):
    """The five kinds of principal."""

    SERVICE = "service"
    REGISTRAR = "registrar"
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
    KEYS = "keys"
    MAINTAIN = "maintain"


#: role -> allowed actions, from the table in formats/roles.py. docs/integrator.md prints it, too.
ALLOWED: Final[dict[Role, frozenset[Action]]] = {
    Role(role): frozenset(map(Action, actions)) for role, actions in words.ALLOWED.items()
}


def allowed(roles: frozenset[Role]) -> frozenset[Action]:
    """Return everything that any of the roles allows."""
    return frozenset(action for role in roles for action in ALLOWED[role])
