"""status: what it says is so, in every state a vault can be in, and each warning names what mends it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from facekeep.crypto import memory
from facekeep.errors import ErasurePending
from facekeep.formats.ids import BRANCH_SLOTS
from facekeep.vault import Holders, Selection, Vault, Why
from maintain_help import days, maintain
from vaultlab import DAY, IDENTIFY, VERIFY, Lab, core, matches


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("ada", "bob", days=20)
    return lab


def status(vault: Vault) -> dict[str, Any]:
    return dict(vault.status())


def seen(lab: Lab) -> dict[str, Any]:
    return lab.do(status)


def warned(found: dict[str, Any]) -> str:
    assert all(each["message"] and each["next"] for each in found["warnings"])
    return " | ".join(each["message"] for each in found["warnings"])


def test_a_vault_in_order_has_no_warning(lab: Lab) -> None:
    found = seen(lab)
    assert found["warnings"] == []
    assert [each["what"] for each in found["due"] if each["due"]] == []
    assert (found["epoch"], found["rows"], found["missing"], found["pending"]) == (1, 4, 0, 0)
    (holder,) = found["holders"]
    assert (holder["role"], holder["class"], holder["state"]) == ("first", "erasing", "current")


def test_grants_are_counted_by_scope_and_state(lab: Lab) -> None:
    lab.enrol("cy", days=2, scopes=[VERIFY])
    lab.crash(lambda vault: vault.withdraw("ada", [IDENTIFY]), "destroy.announced")
    days(lab, 3)
    lab.crash(lambda vault: vault.withdraw("bob", [IDENTIFY]), "destroy.announced")
    with lab.open() as vault:  # opening finishes it
        found = status(vault)["scopes"]
        assert found["verify"] == {
            "live": 2, "expired": 1, "pending": 0, "used": 3, "free": BRANCH_SLOTS - 3,
        }  # fmt: skip
        assert found["identify"] == {
            "live": 0, "expired": 0, "pending": 0, "used": 2, "free": BRANCH_SLOTS - 2,
        }  # fmt: skip
        assert status(vault)["branches_free"] == 120 - 6


def test_a_pending_erasure_shows_with_who_is_away(lab: Lab) -> None:
    mirror = lab.base / "mirror.root"
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[f"file:{mirror}"]))
        mirror.rename(lab.base / "away")
        with pytest.raises(ErasurePending):
            vault.withdraw("ada", [VERIFY])
        found = status(vault)
        assert [each["state"] for each in found["holders"]] == ["current", "away"]
        assert found["holders"][1]["role"] == "mirror"
        assert found["scopes"]["verify"]["pending"] == 1
        assert found["pending"] == 1
        said = warned(found)
        assert "cannot be reached" in said
        assert "1 operation is pending" in said
        (lab.base / "away").rename(mirror)
        vault.maintain()
        assert warned(status(vault)) == ""


def test_a_mirror_with_an_older_root_is_stale(lab: Lab) -> None:
    mirror = lab.base / "mirror.root"
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[f"file:{mirror}"]))
        shutil.copy2(mirror, lab.base / "old")
        vault.keys.rotate_root()
        shutil.copy2(lab.base / "old", mirror)
        found = status(vault)
        assert found["holders"][1]["state"] == "stale"
        assert "does not hold the root in force" in warned(found)
        with pytest.raises(ErasurePending, match="does not have the root in use"):
            vault.keys.rotate_root()
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    with lab.open() as vault:
        vault.keys.resume()
        assert status(vault)["holders"][1]["state"] == "current"


def test_copies_that_are_away(lab: Lab) -> None:
    lab.copy_dir.rename(lab.base / "gone")
    found = seen(lab)
    assert {each["state"] for each in found["copies"]} == {"away"}
    assert warned(found).count("the copy of") == 2


def test_no_copies_at_all(tmp_path: Path) -> None:
    assert "no live second copy" in warned(seen(Lab(tmp_path).create()))


def test_a_move_and_a_rotation_of_templates_that_were_cut_off(lab: Lab) -> None:
    lab.crash(lambda vault: vault.keys.rotate_templates(Why.DRILL, Selection()), "grant.written")
    lab.crash(lambda vault: vault.keys.move(Holders(root_uri=f"file:{lab.base / 'n'}")), "move.renamed")
    found = seen(lab)
    assert sorted(found["rotations"]) == ["move", "templates"]
    assert [each["role"] for each in found["holders"]] == ["first", "leaving"]
    steps = {each["next"] for each in found["warnings"]}
    assert {"facekeep keys resume", "facekeep keys rotate templates"} <= steps


def test_rows_that_are_missing_or_dead(lab: Lab) -> None:
    lab.crash(lambda vault: vault.withdraw("bob", [VERIFY]), "destroy.completed")
    lab.sql("vault.db", "DELETE FROM grants WHERE slot = (SELECT max(slot) FROM grants)")
    found = seen(lab)
    assert found["missing"] == 1
    assert "1 living grant has no row" in warned(found)
    assert found["rows_dead"] == 1
    maintain(lab)
    assert seen(lab)["rows_dead"] == 0


def test_what_is_due_and_since_when(lab: Lab) -> None:
    began = lab.clock.ms
    wanted = ["backup_days=3", "templates_days=3", "tree_days=3", "signing_days=0", "root_days=2"]
    lab.do(lambda vault: vault.change_settings(schedule=[*wanted, "swap_hours=24"]))
    lab.clock.ms += 3 * DAY
    found = {each["what"]: each for each in seen(lab)["due"]}
    assert found.keys() == {"backup", "templates", "tree", "root", "swap"}
    assert all(each["due"] and each["last_ms"] == began for each in found.values())
    assert found["tree"]["due_ms"] == began + 3 * DAY
    with lab.open() as vault:
        vault.backup(lab.base / "b")
        vault.keys.rotate_templates()
        vault.keys.rotate_tree()
        found = {each["what"]: each for each in status(vault)["due"]}
        assert {each["last_ms"] for each in found.values()} == {lab.clock.ms}
        assert warned(status(vault)) == ""
        assert matches(vault, "ada")


def test_templates_count_from_the_oldest_key_in_use(lab: Lab) -> None:
    began = lab.clock.ms
    lab.clock.ms += DAY
    lab.enrol("cy", days=20)
    with lab.open() as vault:
        due = {each["what"]: each for each in status(vault)["due"]}
        assert due["templates"]["last_ms"] == began
        vault.shred("ada", "bob")
        due = {each["what"]: each for each in status(vault)["due"]}
        assert due["templates"]["last_ms"] == lab.clock.ms


def test_maintain_that_does_not_run_shows(lab: Lab) -> None:
    lab.clock.ms += 2 * DAY
    assert "'maintain' does not run" in warned(seen(lab))
    maintain(lab)
    assert warned(seen(lab)) == ""


def test_lapsed_grants_show_before_and_after_their_grace(lab: Lab) -> None:
    lab.do(lambda vault: vault.change_settings(schedule=["grace_days=1"]))
    days(lab, 20)
    found = seen(lab)
    assert found["scopes"]["verify"]["expired"] == 2
    due = next(each for each in found["due"] if each["what"] == "expired")
    assert not due["due"]
    days(lab, 1)
    assert "past their grace" in warned(seen(lab))
    assert seen(lab)["expire_waiting"] == 0
    maintain(lab)
    assert "grace" not in warned(seen(lab))


def test_a_status_does_not_change_the_vault(lab: Lab) -> None:
    before = {path: path.read_bytes() for path in lab.files() if not path.name.endswith("-shm")}
    with lab.open() as vault:
        status(vault)
        assert core(vault).log.head().size == 4 + 1
    assert {path: path.read_bytes() for path in before if path.exists()} == {
        path: data for path, data in before.items() if path.exists()
    }


def test_memory_that_is_not_locked_is_said(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.open() as vault:
        assert vault.status()["memory_locked"] is memory.is_locked()
        monkeypatch.setattr(memory, "is_locked", lambda: False)
        found = vault.status()
        assert found["memory_locked"] is False
        warnings: Any = found["warnings"]
        assert {"message": memory.NOT_LOCKED, "next": memory.LOCK_IT} in warnings
