"""The probe: an old backup against every key there is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from facekeep.audit.report import RuleBroken
from facekeep.errors import NotAllowed, UsageError
from facekeep.operations.probing import Probed
from facekeep.vault import Role
from tree_help import OTHER_VAULT, signer
from vaultlab import IDENTIFY, VERIFY, Lab, core, sql


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Return a vault where alice and bob are enrolled and backed up; alice and carol are erased later."""
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice", "bob", "carol")
    lab.do(lambda vault: vault.backup(tmp_path / "backup"))
    return lab


def shred(lab: Lab, *names: str) -> list[bytes]:
    """Proofs of erased people."""
    proofs = []
    with lab.open() as vault:
        for name in names:
            erasure = vault.shred(name).erasure
            proofs.append(vault.audit_proof(str(erasure)).data)
    return proofs


def probe(lab: Lab, proofs: Sequence[bytes], *old_keys: Path, backup: str = "backup") -> Probed:
    with lab.open() as vault:
        return vault.probe(lab.base / backup, proofs, old_keys=old_keys)


def broken(lab: Lab, proofs: Sequence[bytes], *old_keys: Path) -> str:
    with pytest.raises(RuleBroken) as caught:
        probe(lab, proofs, *old_keys)
    return caught.value.rule


def test_none_of_the_erased_opens_and_all_of_the_living(lab: Lab) -> None:
    found = probe(lab, shred(lab, "alice"))
    assert (found.erased.opened, found.erased.rows, found.named) == (0, 2, 2)
    assert (found.living.opened, found.living.rows) == (4, 4)
    assert found.trees == (("keys.db", True), ("live copy 1", True))
    assert found.to_json()["living"] == {"opened": 4, "rows": 4}


def test_several_proofs_and_an_erasure_without_one(lab: Lab) -> None:
    alice, carol = shred(lab, "alice", "carol")
    found = probe(lab, [alice, carol])
    assert (found.erased.rows, found.living.rows, found.other.rows) == (4, 2, 0)
    found = probe(lab, [alice])
    assert (found.erased.rows, found.other.rows, found.other.opened) == (2, 2, 0)


def test_an_old_keys_db_does_not_help(lab: Lab, tmp_path: Path) -> None:
    old = lab.save("old")
    proofs = shred(lab, "alice")
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    found = probe(lab, proofs, old / "vault/keys.db", old / "copy/keys.db")
    assert found.erased.opened == 0
    assert found.trees[2:] == (("keys.db", False), ("keys.db", False))
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    with pytest.raises(UsageError, match=r"no file none\.db"):
        probe(lab, proofs, tmp_path / "none.db")


def test_a_kept_old_root_is_caught(lab: Lab) -> None:
    """The root from before, put where the vault looks for one, with the keys.db of its time."""
    old = lab.save("old")
    proofs = shred(lab, "alice")
    with lab.open() as vault:
        kept = (old / "root.key").read_bytes()
        lab.root.write_bytes(kept)  # while the vault is open: it holds the new tree in memory
        with pytest.raises(RuleBroken, match="B4: 2 open"):
            vault.probe(lab.base / "backup", proofs, old_keys=[old / "vault/keys.db"])


def test_a_backup_from_after_the_erasure_shows_nothing(lab: Lab) -> None:
    proofs = shred(lab, "alice")
    lab.do(lambda vault: vault.backup(lab.base / "later"))
    with pytest.raises(RuleBroken, match=r"B2.*shows nothing"):
        probe(lab, proofs, backup="later")


def test_a_grant_that_the_proof_does_not_name(lab: Lab) -> None:
    proofs = shred(lab, "alice")
    rows = sql(lab.base / "backup", "SELECT slot, tag FROM grants ORDER BY slot")
    alice, bob = rows[0][1], next(slot for slot, tag in rows if tag != rows[0][1])
    sql(lab.base / "backup", "UPDATE grants SET tag = ? WHERE slot = ?", (alice, bob))
    assert broken(lab, proofs) == "B3"


def test_a_living_row_that_was_altered(lab: Lab) -> None:
    proofs = shred(lab, "alice")
    sql(lab.base / "backup", "UPDATE grants SET record = zeroblob(200)")
    assert broken(lab, proofs) == "B5"


def test_a_proof_that_does_not_verify_or_is_another_vaults(lab: Lab, tmp_path: Path) -> None:
    (proof,) = shred(lab, "alice")
    assert broken(lab, [proof.replace(b"alice", b"") + b" "]) == "B1"
    other = Lab(tmp_path / "other")
    other.base.mkdir()
    other.create().enrol("alice")
    (foreign,) = shred(other, "alice")
    assert broken(lab, [proof, foreign]) == "B1"
    keys = other.do(lambda vault: vault.audit_keys())
    with lab.open() as vault, pytest.raises(RuleBroken, match=r"B1.*another vault"):
        vault.probe(tmp_path / "backup", [foreign], keys)
    with lab.open() as vault, pytest.raises(RuleBroken, match="B1"):
        vault.probe(tmp_path / "backup", [proof], signer(vault=OTHER_VAULT).keys)


def test_what_is_no_backup(lab: Lab, tmp_path: Path) -> None:
    proofs = shred(lab, "alice")
    with pytest.raises(UsageError, match="no backup"):
        probe(lab, proofs, backup="none")
    with pytest.raises(UsageError, match="a shredding proof at least"):
        probe(lab, [])
    shutil.copy(tmp_path / "vault/keys.db", tmp_path / "wrong")
    with pytest.raises(Exception, match="wrong"):
        probe(lab, proofs, backup="wrong")


def test_a_service_may_not_probe(lab: Lab) -> None:
    proofs = shred(lab, "alice")
    keys = lab.do(lambda vault: vault.audit_keys())
    token = lab.add_principal(Role.SERVICE)
    with lab.open(token) as vault, pytest.raises(NotAllowed):
        vault.probe(lab.base / "backup", proofs, keys)


def test_no_template_is_opened(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = shred(lab, "alice")
    with lab.open() as vault:
        kind = type(core(vault).sealer)
        monkeypatch.setattr(kind, "open_templates", lambda *_: pytest.fail("a template was opened"))
        assert vault.probe(lab.base / "backup", proofs).living.opened == 4


def test_scopes_withdrawn_one_by_one(lab: Lab) -> None:
    with lab.open() as vault:
        vault.withdraw("alice", [VERIFY])
        last = vault.withdraw("alice", [IDENTIFY])
        proof = vault.audit_proof(str(last.erasure))
        assert proof.proven.op == "withdraw"
    assert probe(lab, [proof.data]).erased.rows == 2
