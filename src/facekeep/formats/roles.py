"""Which role may do what, in the words that stand in entries: one table, nothing implied (SPEC §11.3).

The vault's gate and an auditor who has only the log read the same table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

#: role -> allowed actions.
ALLOWED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "service": frozenset({"verify", "identify"}),
        "registrar": frozenset({"enroll", "grant", "renew", "withdraw"}),
        "operator": frozenset(
            {
                "enroll", "grant", "renew", "withdraw", "shred", "subjects", "backup", "restore", "check",
                "status", "principals", "settings", "clock", "keys", "maintain",
            }
        ),
        "auditor": frozenset({"check", "status", "log"}),
        "dpo": frozenset({"subjects", "status", "log", "withdraw", "shred"}),
    }
)  # fmt: skip


def actions_of(roles: Iterable[str]) -> frozenset[str]:
    """Return everything that any of the roles allows; KeyError for a word that is no role."""
    return frozenset().union(*(ALLOWED[role] for role in roles))
