"""Every root holder is lost: the recovery key, and nothing else, brings the vault back (SPEC §4.7)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from facekeep.audit.bundle import verify
from facekeep.audit.certificate import render
from facekeep.audit.logs import verify_log
from facekeep.errors import ErasurePending, NotAllowed, RootError, UsageError, VaultExists
from facekeep.formats.canonical import JsonObject
from facekeep.formats.recoverykey import recovery_uri
from facekeep.formats.settings import Settings
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.recovery_key import WEAKENING, RecoveryKey
from facekeep.keys.secrets import Secrets
from facekeep.operations import recovering
from facekeep.operations.move import Holders
from facekeep.operations.rescue import Rescued, rescue
from facekeep.vault import Role, Vault
from recovery_help import KEY, OTHER
from vaultlab import Lab, core, log_entries, matches, reason

STEPS = [
    "move.provisioned",
    "move.staged",
    "move.announced",
    "move.renamed",
    "rescue.begun",
    "move.intended",
    "before stage",
    "after stage",
    "before write",
    "after write",
    "before promote",
    "after promote",
    "destroy.completed",
    "move.cleared",
    "move.forgetting",
    "move.forgotten",
    "move.ended",
]


class Lost(Lab):
    """A vault with people, a recovery key, and a root file that can be lost."""

    @property
    def new_root(self) -> Path:
        return self.base / "new.root"

    def rescue(self, key: RecoveryKey = KEY, token: str | None = None, uri: str | None = None) -> Rescued:
        place = uri or f"file:{self.new_root}"
        return rescue(self.path, key, token or self.token, self.clock, Secrets(), root_uri=place)

    def settings(self) -> Settings:
        return Settings.decode((self.path / "vault.toml").read_text())


@pytest.fixture
def lab(tmp_path: Path) -> Lost:
    lab = Lost(tmp_path, recovery=recovery_uri(KEY.public))
    lab.create()
    lab.enrol("ada", "bob")
    return lab


def lose(lab: Lost) -> Path:
    """Take the root file away, as a dead disk would; returns where it is kept for the attacks."""
    return lab.root.rename(lab.base / "lost.root")


def test_the_vault_comes_back_with_a_fresh_root(lab: Lost) -> None:
    before = lab.do(lambda vault: vault.status())
    lost = lose(lab)
    with pytest.raises(RootError, match="missing"):
        lab.do(lambda vault: matches(vault, "ada"))
    done = lab.rescue()
    assert done == Rescued(f"file:{lab.new_root}", (f"file:{lab.root}",), 2)
    with lab.open() as vault:
        assert matches(vault, "ada")
        assert not matches(vault, "ada", "bob")
        assert vault.status()["fingerprint"] != before["fingerprint"]
        ends = [each for each in log_entries(vault) if each["type"] == "destroyed"]
    assert said(ends[-1]) == [
        ("file", "promoted"),
        ("file", "destroyed"),
        ("recovery", "promoted"),
        ("recovery", "destroyed"),
        ("lost", "lost"),
        ("memory", "lost"),
    ]
    with lab.open() as vault:
        vault.audit_export(lab.base / "export")
        verify_log(lab.base / "export", vault.audit_keys(every=True))
    assert lab.settings().holders == (f"file:{lab.new_root}", recovery_uri(KEY.public))
    assert lab.settings().leaving == ()
    lab.clean()
    shutil.copy2(lost, lab.new_root)  # the old root, found again
    with pytest.raises(RootError, match="no root opens"):
        lab.do(lambda vault: matches(vault, "ada"))


def said(entry: JsonObject) -> list[tuple[str, str]]:
    return [(str(each["scheme"]), str(each["action"])) for each in entry["receipts"]]  # type: ignore[union-attr, index, call-overload] # JSON


def test_the_recovery_key_works_again_after_it_was_used(lab: Lost) -> None:
    lose(lab)
    lab.rescue()
    lab.new_root.unlink()
    done = lab.rescue(uri=f"file:{lab.base / 'third.root'}")
    assert done.epoch == 3
    lab.clean()


def test_an_erasure_that_waited_is_finished_and_never_undone(lab: Lost) -> None:
    file = next(lab.path.glob("recovery-*"))
    file.rename(lab.base / "away")
    with lab.open() as vault, pytest.raises(ErasurePending):
        vault.shred("ada")
    (lab.base / "away").rename(file)
    lose(lab)
    lab.rescue()
    with lab.open() as vault:
        assert reason(vault, "ada") in {"subject_unknown", "destroyed"}
        assert matches(vault, "bob")
        assert vault.status()["pending"] == 0
    lab.clean()


def test_the_certificate_of_an_erasure_that_was_finished_so_says_what_was_lost(lab: Lost) -> None:
    lab.crash(lambda vault: vault.shred("ada"), "destroy.announced")
    lose(lab)
    lab.rescue()
    with lab.open() as vault:
        (tag,) = [each["tags"] for each in log_entries(vault) if each["type"] == "destroy" and each["tags"]]
        proof = vault.audit_proof(str(tag[0]))  # type: ignore[index] # JSON
        page = render(verify(proof.data, vault.audit_keys()))
    assert "lost (erasing): given up as lost" in page
    assert "a holder that was given up is not known" in page
    assert WEAKENING.replace("'", "&#x27;") in page


def test_an_erasure_that_was_written_but_not_promoted_is_finished(lab: Lost) -> None:
    lab.crash(lambda vault: vault.shred("ada"), "before promote")
    lose(lab)
    lab.rescue()
    with lab.open() as vault:
        assert reason(vault, "ada") in {"subject_unknown", "destroyed"}
        assert matches(vault, "bob")
    lab.clean()


@pytest.mark.parametrize("step", STEPS)
def test_a_rescue_that_is_killed_is_begun_again_or_goes_on(lab: Lost, step: str) -> None:
    lose(lab)
    lab.kill(lab.rescue, step)
    try:
        lab.rescue()
    except UsageError as error:  # the log says already that it is done
        assert "still opens" in str(error)  # noqa: PT017
        assert step in {"move.forgotten", "move.ended"}
    with lab.open() as vault:
        assert matches(vault, "ada")
        assert matches(vault, "bob")
    assert lab.settings().root_uri == f"file:{lab.new_root}"
    assert lab.settings().leaving == ()
    lab.clean()
    recovering.recover_root(lab.path, KEY, Secrets())


@pytest.mark.parametrize("also", ["old", "new", "both"])
@pytest.mark.parametrize(
    "step",
    [
        "move.announced", "move.renamed", "move.intended", "after write",
        "destroy.completed", "move.cleared", "move.forgetting",
    ],
)  # fmt: skip
def test_a_move_was_under_way_when_holders_were_lost(lab: Lost, step: str, also: str) -> None:
    """An operator moves the root because its disk is dying, and is too late."""
    moved = lab.base / "moved.root"
    lab.crash(lambda vault: vault.keys.move(Holders(root_uri=f"file:{moved}")), step)
    lost = [path for path, gone in ((lab.root, also != "new"), (moved, also != "old")) if gone]
    kept = [path.rename(path.with_suffix(".kept")) for path in lost if path.exists()]
    done = lab.rescue()
    assert lab.settings().leaving == ()
    assert done.root_uri == (f"file:{moved}" if also == "old" else f"file:{lab.new_root}")
    with lab.open() as vault:
        assert matches(vault, "ada")
        current = core(vault).view().tree.fingerprint
        for path in kept:
            provider = FileProvider(path, core(vault).vault_id)
            assert current not in {each.fingerprint for each in provider.candidates()}
        vault.audit_export(lab.base / "export")
        verify_log(lab.base / "export", vault.audit_keys(every=True))
    lab.clean()


def test_a_wrong_private_key_changes_nothing(lab: Lost) -> None:
    lose(lab)
    before = {path: path.read_bytes() for path in lab.files() if path.suffix not in {".db-shm", ".db-wal"}}
    with pytest.raises(RootError, match="not the vault's recovery key"):
        lab.rescue(OTHER)
    assert {path: path.read_bytes() for path in before} == before
    assert not lab.new_root.exists()


def test_a_principal_without_the_role_recovers_nothing(lab: Lost) -> None:
    token = lab.add_principal(Role.SERVICE)
    lose(lab)
    with pytest.raises(NotAllowed):
        lab.rescue(token=token)
    assert not lab.new_root.exists()


def test_a_vault_whose_root_is_there_is_not_recovered(lab: Lost) -> None:
    with pytest.raises(UsageError, match="still opens this vault"):
        lab.rescue()
    assert not lab.new_root.exists()


def test_a_mirror_that_is_there_is_used_instead(tmp_path: Path) -> None:
    lab = Lost(tmp_path)
    vault = Vault.create(
        lab.path,
        root=f"file:{lab.root}",
        mirrors=[f"file:{tmp_path / 'mirror.root'}"],
        recovery=recovery_uri(KEY.public),
        clock=lab.clock,
    )
    lab.token = vault.token or ""
    vault.close()
    lose(lab)
    with pytest.raises(UsageError, match="still opens this vault"):
        lab.rescue()
    (tmp_path / "mirror.root").unlink()
    assert lab.rescue().lost == (f"file:{lab.root}", f"file:{tmp_path / 'mirror.root'}")
    lab.clean()


def test_the_lost_place_is_not_taken_again_and_another_file_is_not_overwritten(lab: Lost) -> None:
    lose(lab)
    with pytest.raises(UsageError, match="one of those that are lost"):
        lab.rescue(uri=f"file:{lab.root}")
    other = Lab(lab.base / "other").create()
    with pytest.raises((VaultExists, RootError)):
        lab.rescue(uri=f"file:{other.root}")
    other.clean()


def test_a_damaged_root_file_counts_as_lost(lab: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(lab.base / "data"))
    lab.root.write_bytes(bytes(8192)[:-1] + b"x")
    done = rescue(lab.path, KEY, lab.token, lab.clock, Secrets())
    assert done.root_uri.startswith(f"file:{lab.base / 'data'}")
    lab.clean()
