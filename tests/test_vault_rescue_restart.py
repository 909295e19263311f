"""Log, copies and every root holder are lost: the recovery key begins both anew (SPEC §6.6, §4.7)."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from facekeep.audit.logs import verify_log
from facekeep.errors import ErasurePending, FacekeepError, IntegrityError, NotAllowed, RootError, UsageError
from facekeep.formats.recoverykey import recovery_uri
from facekeep.formats.settings import Settings
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.recovery_key import RecoveryKey
from facekeep.keys.secrets import Secrets
from facekeep.operations import recovering
from facekeep.operations.move import Holders
from facekeep.operations.rescue import rescue
from facekeep.operations.restart import Restarted
from facekeep.vault import Role, Vault
from recovery_help import KEY, OTHER
from vaultlab import Lab, core, identify, log_entries, matches, reason

STEPS = [
    "restart.made",
    "restart.named",
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
    "restart.extended",
    "grant.written",
    "rotate.ended",
]
MOVES = [
    "move.announced",
    "move.renamed",
    "move.intended",
    "after write",
    "destroy.completed",
    "move.cleared",
]


class Lost(Lab):
    """A vault with people, a recovery key, and a root file that can be lost."""

    @property
    def new_root(self) -> Path:
        return self.base / "new.root"

    def settings(self) -> Settings:
        return Settings.decode((self.path / "vault.toml").read_text())

    def again(
        self, key: RecoveryKey | None = KEY, token: str | None = None, uri: str | None = None
    ) -> Restarted | None:
        return Vault.restart_log(
            self.path,
            token=token or self.token,
            recovery=key,
            root=(uri or f"file:{self.new_root}") if key else None,
            clock=self.clock,
        )

    def sound(self, holders: int = 1) -> None:
        """Everybody matches, an auditor finds nothing, and each holder has the present root alone."""
        self.clean()
        with self.open() as vault:
            assert matches(vault, "ada")
            assert identify(vault, "bob") == ["bob"]
            assert reason(vault, "eve") == "subject_unknown"
            shutil.rmtree(self.base / "export", ignore_errors=True)
            vault.audit_export(self.base / "export")
            assert "RESTARTED" in verify_log(self.base / "export", vault.audit_keys(every=True)).notes[0]
            current = core(vault).view().tree.fingerprint
        assert self.settings().leaving == ()
        assert len(self.settings().holders) == holders + 1
        for each in self.settings().holders[:-1]:
            assert {found.fingerprint for found in self.holder(each).candidates()} == {current}
        recovering.recover_root(self.path, KEY, Secrets())

    def holder(self, uri: str) -> FileProvider:
        return FileProvider(Path(uri.removeprefix("file:")), self.settings().vault_id)


@pytest.fixture
def lab(tmp_path: Path) -> Lost:
    lab = Lost(tmp_path, recovery=recovery_uri(KEY.public))
    lab.create()
    lab.enrol("ada", "bob", "eve")
    lab.do(lambda vault: vault.shred("eve"))
    return lab


def lose_log(lab: Lost) -> None:
    for path in lab.path.glob("log.db*"):
        path.unlink()


def lose(lab: Lost) -> Path:
    """Take log and root away; returns where the root is kept for the attacks."""
    lose_log(lab)
    return lab.root.rename(lab.base / "lost.root")


def kept(lab: Lost) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in lab.files() if not path.name.endswith(("-shm", "-wal"))}


def test_both_come_back_with_a_fresh_root(lab: Lost) -> None:
    before = lab.do(lambda vault: core(vault).view().tree.fingerprint)
    old = lose(lab)
    done = lab.again()
    assert done is not None
    assert (done.principals, done.grants) == (1, 4)
    lab.sound()
    with lab.open() as vault:
        assert core(vault).view().tree.fingerprint != before
        types = [str(each["type"]) for each in log_entries(vault)]
        first = next(each for each in log_entries(vault) if each["type"] == "destroyed")
    assert types.index("restarted") < types.index("rotation") < types.index("destroy")
    assert {"lost", "memory"} <= {each["scheme"] for each in first["receipts"]}  # type: ignore[union-attr, index, call-overload] # JSON
    assert lab.settings().root_uri == f"file:{lab.new_root}"
    shutil.copy2(old, lab.new_root)  # the old root, found again
    with pytest.raises(RootError, match="no root opens"):
        lab.do(lambda vault: matches(vault, "ada"))


def test_a_backup_stands_for_vault_db_too(lab: Lost) -> None:
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lose(lab)
    for path in lab.path.glob("vault.db*"):
        path.unlink()
    with pytest.raises(IntegrityError, match="lost too") as caught:
        lab.again()
    assert "the rest as before" in caught.value.next
    Vault.restart_log(
        lab.path,
        token=lab.token,
        backup=lab.base / "backup",
        recovery=KEY,
        root=f"file:{lab.new_root}",
        clock=lab.clock,
    )
    lab.sound()


def without(lab: Lost, gone: str) -> None:
    """As the guide says where a holder opens the vault yet: another that is lost is given up in a move."""
    try:
        lab.again(None)
    except ErasurePending:
        pass
    else:
        return
    root = f"file:{lab.new_root}" if gone == lab.settings().root_uri else None
    lab.do(lambda vault: vault.keys.move(Holders(root_uri=root, lost=[gone])))
    assert lab.again(None) is None


# -- the messages of that state lead here


def test_both_commands_name_the_way(lab: Lost) -> None:
    lose(lab)
    with pytest.raises(IntegrityError, match=r"log\.db is missing") as recover:
        rescue(lab.path, KEY, lab.token, lab.clock, Secrets())
    with pytest.raises(RootError, match="is missing") as restart:
        lab.again(None)
    for error in (recover.value, restart.value):
        assert "facekeep restore --lost-log --private FILE --root URI" in error.next.command


def test_without_a_recovery_key_it_says_that_there_is_no_way(tmp_path: Path) -> None:
    lab = Lost(tmp_path)
    lab.create()
    lose(lab)
    before = kept(lab)
    with pytest.raises(RootError) as caught:
        lab.again(None)
    assert "where every holder is lost, there is no way without one" in caught.value.next
    with pytest.raises(UsageError, match="no recovery key"):
        lab.again()
    assert kept(lab) == before


# -- attacks


def test_a_wrong_private_key_changes_nothing(lab: Lost) -> None:
    lose(lab)
    before = kept(lab)
    with pytest.raises(RootError, match="not the vault's recovery key"):
        lab.again(OTHER)
    assert kept(lab) == before


def test_the_private_key_of_whoever_edits_vault_toml_opens_nothing(lab: Lost) -> None:
    """The log vouches for vault.toml no more, so an attacker names a recovery key and a mirror of theirs."""
    lose(lab)
    toml = lab.path / "vault.toml"
    toml.write_text(toml.read_text().replace(recovery_uri(KEY.public), recovery_uri(OTHER.public)))
    assert lab.settings().recovery == (recovery_uri(OTHER.public),)
    before = kept(lab)
    for key in (KEY, OTHER):
        with pytest.raises(FacekeepError):
            lab.again(key)
    file = next(lab.path.glob("recovery-*"))
    shutil.copy2(file, lab.path / f"recovery-{OTHER.mark.hex()[:16]}")
    with pytest.raises(RootError):
        lab.again(OTHER)
    (lab.path / f"recovery-{OTHER.mark.hex()[:16]}").unlink()
    assert kept(lab) == before


def test_a_principal_without_the_roles_begins_nothing_anew(lab: Lost) -> None:
    token = lab.add_principal(Role.SERVICE)
    lose(lab)
    before = kept(lab)
    for each in (token, "fkt1." + "0" * 16 + "." + "A" * 43):
        with pytest.raises(NotAllowed):
            lab.again(token=each)
    assert kept(lab) == before


def test_while_a_holder_is_there_the_private_key_is_not_used(lab: Lost) -> None:
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[f"file:{lab.base / 'mirror.root'}"])))
    lose(lab)
    before = kept(lab)
    with pytest.raises(UsageError, match="still opens this vault") as caught:
        lab.again()
    assert "without the private key" in caught.value.next
    assert kept(lab) == before
    without(lab, f"file:{lab.root}")
    lab.sound(holders=2)


def test_a_leaving_holder_that_is_there_is_no_lost_one(lab: Lost) -> None:
    lab.crash(lambda vault: vault.keys.move(Holders(root_uri=f"file:{lab.new_root}")), "move.renamed")
    lose_log(lab)
    before = kept(lab)
    with pytest.raises(UsageError, match="still opens this vault"):
        lab.again(uri=f"file:{lab.base / 'third.root'}")
    assert kept(lab) == before
    lab.again(None)
    lab.sound()


def test_a_log_that_is_there_is_not_begun_anew(lab: Lost) -> None:
    lab.root.rename(lab.base / "lost.root")
    before = kept(lab)
    with pytest.raises(UsageError, match=r"log\.db is there"):
        lab.again()
    assert kept(lab) == before


@pytest.mark.parametrize("uri", ["nowhere:x", "the lost one"])
def test_a_new_holder_that_cannot_be_is_refused_before_anything_is_done(lab: Lost, uri: str) -> None:
    lose(lab)
    before = kept(lab)
    with pytest.raises(UsageError):
        lab.again(uri=f"file:{lab.root}" if uri == "the lost one" else uri)
    assert kept(lab) == before


def test_a_file_that_is_there_is_not_overwritten_and_another_place_goes_on(lab: Lost) -> None:
    lose(lab)
    other = Lab(lab.base / "other").create()
    with pytest.raises(FacekeepError):
        lab.again(uri=f"file:{other.root}")
    other.clean()
    lab.again()
    lab.sound()


# -- killed, typed again


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_it_is_gone_on_with(lab: Lost, step: str) -> None:
    lose(lab)
    lab.kill(lab.again, step)
    assert (lab.again() is not None) is (step == "restart.made")
    assert lab.again() is None
    lab.sound()
    assert lab.settings().root_uri == f"file:{lab.new_root}"


@pytest.mark.parametrize("step", STEPS)
def test_the_old_holder_turns_up_after_it_was_killed(lab: Lost, step: str) -> None:
    """It opens the vault only while nothing was given up; afterwards it has an old root at most."""
    old = lose(lab)
    lab.kill(lab.again, step)
    shutil.copy2(old, lab.root)
    with contextlib.suppress(UsageError):  # restart.made: nothing was done, so the holder is not lost
        lab.again()
    if step == "restart.made":
        lab.again(None)
    lab.sound()
    with lab.open() as vault:
        current = core(vault).view().tree.fingerprint
    opens = current in {each.fingerprint for each in lab.holder(f"file:{lab.root}").candidates()}
    assert opens is (lab.settings().root_uri == f"file:{lab.root}")


@pytest.mark.parametrize("step", ["after stage", "after write", "before promote", "after promote"])
def test_a_swap_was_cut_off(lab: Lost, step: str) -> None:
    lab.crash(lambda vault: vault.keys.rotate_root(), step)
    lose(lab)
    lab.again()
    lab.sound()


@pytest.mark.parametrize("step", ["after write", "before promote", "after promote"])
def test_the_swap_of_a_move_was_cut_off_and_the_log_alone_is_lost(lab: Lost, step: str) -> None:
    """The recovery key holds two roots then, and nothing in the new log says why."""
    lab.crash(lambda vault: vault.keys.move(Holders(root_uri=f"file:{lab.new_root}")), step)
    lose_log(lab)
    lab.again(None)
    lab.sound()


@pytest.mark.parametrize("also", ["old", "new", "both"])
@pytest.mark.parametrize("step", MOVES)
def test_a_move_was_under_way(lab: Lost, step: str, also: str) -> None:
    """Whoever of the two has no root in use any more may be there still, the other is lost with the log."""
    moved = lab.base / "moved.root"
    lab.crash(lambda vault: vault.keys.move(Holders(root_uri=f"file:{moved}")), step)
    lose_log(lab)
    lost = [path for path, gone in ((lab.root, also != "new"), (moved, also != "old")) if gone]
    for path in lost:
        if path.exists():
            path.rename(path.with_suffix(".kept"))
    try:
        lab.again()
    except UsageError as error:
        assert "still opens" in str(error)  # noqa: PT017 - the other one has the root in use
        without(lab, f"file:{moved if also == 'new' else lab.root}")
    lab.sound()
    assert lab.again() is None
