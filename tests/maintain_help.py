"""Days that go by in a vault that is maintained."""

from __future__ import annotations

from pathlib import Path

from facekeep.audit.logs import verify_log
from facekeep.formats.canonical import JsonObject
from facekeep.operations.maintain import Maintained
from facekeep.vault import Vault
from vaultlab import DAY, Lab, log_entries


def states(done: Maintained) -> dict[str, str]:
    """State of every step that was not simply not due."""
    return {each.name: each.state for each in done.steps if each.state not in {"not_due", "off"}}


def maintain(lab: Lab, **how: bool | str | Path) -> Maintained:
    return lab.do(lambda vault: vault.maintain(**how))  # type: ignore[arg-type]


def days(lab: Lab, count: int) -> None:
    """Let days go by, each of them with its root replaced; nothing is destroyed that lapsed meanwhile."""
    for _ in range(count):
        lab.clock.ms += DAY
        lab.do(lambda vault: vault.keys.rotate_root())


def expiries(vault: Vault) -> list[JsonObject]:
    return [each for each in log_entries(vault) if each["type"] == "destroy" and each["op"] == "expire"]


def audited(lab: Lab) -> None:
    """Have an auditor replay the log; everything else verifies, too."""
    with lab.open() as vault:
        assert vault.check().findings == []
        vault.audit_export(lab.base / "export")
        verify_log(lab.base / "export", vault.audit_keys(every=True))
