"""A whole vault whose root is on an OpenBao server, with the token the operator guide's policy gives."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import openbao_help
from cli_help import Cli
from facekeep.errors import Denied, ErasurePending, RootError
from facekeep.formats import canonical
from facekeep.vault import Vault
from guide_help import Typist, frames, types
from vaultlab import MODEL, THRESHOLD, FakeClock, Lab, face, log_entries

_NUMBERS = itertools.count()


class OnServer(Lab):
    """A vault with its root under a key of its own; ada and grace are enrolled."""

    key: str = ""
    mirrored: bool = False  # the root file is the first holder, the server the second

    @property
    def root(self) -> Path:
        return self.base / "staff.holder"

    def create(self) -> OnServer:
        self.key = f"staff{next(_NUMBERS)}"
        Path(os.environ["FACEKEEP_OPENBAO_TOKEN_FILE"]).write_text(openbao_help.server().token_for(self.key))
        uri = openbao_help.uri(self.key, file="staff.holder")
        first, *others = [f"file:{self.base / 'root.key'}", uri] if self.mirrored else [uri]
        with Vault.create(self.path, root=first, mirrors=others, region="DE", clock=self.clock) as vault:
            assert vault.token
            self.token = vault.token
        self.enrol("ada", "grace")
        return self

    def matches(self, vault: Vault, subject: str) -> bool:
        return vault.verify(subject, face(subject), model=MODEL, threshold=THRESHOLD).match


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnServer]:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    monkeypatch.setenv("FACEKEEP_OPENBAO_TOKEN_FILE", str(file))
    monkeypatch.setenv("FACEKEEP_OPENBAO_SERVER", openbao_help.server().base)
    yield OnServer(tmp_path, clock=FakeClock()).create()
    openbao_help.server().unseal()  # where a test failed while it was sealed


@pytest.fixture
def mirrored(lab: OnServer, tmp_path: Path) -> OnServer:
    base = tmp_path / "mirrored"
    base.mkdir()
    made = OnServer(base, clock=lab.clock)
    made.mirrored = True
    return made.create()


def receipts(lab: Lab) -> str:
    """Every log entry, as text."""
    return lab.do(lambda vault: "\n".join(canonical.dumps(each).decode() for each in log_entries(vault)))


def test_a_vault_lives_on_a_server_and_another_process_sees_who_was_erased(lab: OnServer) -> None:
    with lab.open() as vault:
        assert lab.matches(vault, "ada")
    lab.fork(lambda: lab.do(lambda vault: len(vault.shred("ada").openings))).wait()
    with lab.open() as vault:
        assert lab.matches(vault, "grace")
        with pytest.raises(Denied):
            lab.matches(vault, "ada")
    assert len(openbao_help.server().key(lab.key)["keys"]) == 1
    assert '"scheme":"openbao"' in receipts(lab)
    assert '"server_snapshot"' in receipts(lab)
    lab.clean()


def test_attack_every_file_of_the_day_before_opens_nothing(lab: OnServer) -> None:
    saved = lab.save("before")
    lab.do(lambda vault: vault.shred("ada"))
    today = lab.root.read_bytes()
    lab.put_back(saved, "keys.db")
    shutil.copy2(saved / "root.key", lab.root)
    with pytest.raises(RootError, match="was trimmed"), lab.open():
        pass
    lab.root.write_bytes(today)
    with pytest.raises(RootError), lab.open():
        pass


def test_without_its_only_holder_an_open_vault_matches_and_an_erasure_waits(lab: OnServer) -> None:
    server = openbao_help.server()
    with lab.open() as vault:
        server.seal()
        assert lab.matches(vault, "ada")
        with pytest.raises(ErasurePending, match="sealed") as caught:
            vault.shred("ada")
        assert "unseal" in caught.value.next
        with pytest.raises(Denied):
            lab.matches(vault, "ada")
        assert lab.matches(vault, "grace")
    with pytest.raises(RootError, match="sealed"), lab.open():
        pass
    server.unseal()
    with lab.open() as vault:
        assert vault.status()["pending"] == 0  # opening has finished it
    lab.clean()


def test_a_mirror_that_is_sealed_leaves_a_shred_pending_and_denied(mirrored: OnServer) -> None:
    lab, server = mirrored, openbao_help.server()
    server.seal()
    with lab.open() as vault:
        with pytest.raises(ErasurePending, match="sealed") as caught:
            vault.shred("ada")
        assert "unseal" in caught.value.next
    with lab.open() as vault:
        with pytest.raises(Denied):
            lab.matches(vault, "ada")
        assert lab.matches(vault, "grace")
    server.unseal()
    lab.enrol("joan")  # any writing command finishes it
    assert '"scheme":"openbao"' in receipts(lab)
    assert len(server.key(lab.key)["keys"]) == 1
    lab.clean()


def test_a_creation_that_fails_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = openbao_help.server()
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(server.token_for("other"))
    monkeypatch.setenv("FACEKEEP_OPENBAO_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("FACEKEEP_OPENBAO_SERVER", server.base)
    with pytest.raises(RootError, match="denies GET transit/keys/other2"):
        Vault.create(
            tmp_path / "other",
            root=openbao_help.uri("other", file="other.holder"),
            mirrors=[openbao_help.uri("other2", file="nowhere.holder")],
        )
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "other.holder").exists()
    assert server.status("GET", f"{openbao_help.MOUNT}/keys/other") == 404


@types("OpenBao", "Once, on the server", "The vault")
def test_the_guides_commands_make_a_vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = openbao_help.server()
    typist = Typist(Cli(tmp_path, monkeypatch, made=False), monkeypatch)
    ((_, policy),) = frames("Once, on the server")
    (tmp_path / "facekeep-staff.hcl").write_text(policy)
    (tmp_path / "stand-ins/bao").symlink_to(openbao_help.binary())
    monkeypatch.setenv("BAO_ADDR", server.base)
    monkeypatch.setenv("BAO_TOKEN", server.token)
    typist.follow("OpenBao")
    said = typist.follow("Once, on the server", codes={0: 2})
    assert "path is already in use at transit" in said[0]  # the tests' server has it
    (tmp_path / "etc/facekeep").mkdir(parents=True)
    shutil.copy2("openbao-token", "etc/facekeep/openbao-token")
    shutil.copy2(server.directory / "ca.pem", "etc/facekeep/bao-ca.pem")
    typist.instead = {"https://bao.example.org:8200": f"https://127.0.0.1:{server.tls_port}"}
    typist.follow("The vault")
    assert (tmp_path / "srv/staff.vault/vault.toml").exists()
    assert server.key("staff")["min_available_version"] == 0
    (holder,) = (tmp_path / "data" / "facekeep").glob("*.openbao")
    assert b'"version":2' in holder.read_bytes()


@pytest.mark.parametrize("killed", ["before", "after"])
@pytest.mark.parametrize("step", ["stage", "write", "verify", "promote"])
def test_a_shred_killed_at_a_step_of_the_swap_is_completed(lab: OnServer, step: str, killed: str) -> None:
    saved = lab.save("before")
    lab.crash(lambda vault: vault.shred("ada"), f"{killed} {step}")
    with lab.open() as vault:
        assert lab.matches(vault, "grace")
        with pytest.raises(Denied):
            lab.matches(vault, "ada")
    lab.clean()
    assert len(openbao_help.server().key(lab.key)["keys"]) == 1
    lab.put_back(saved, "keys.db")
    shutil.copy2(saved / "root.key", lab.root)
    with pytest.raises(RootError, match="was trimmed"), lab.open():
        pass
