"""Attacks on a move that was cut off: a holder dies, comes back as it was before, or the log is lost."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from facekeep.audit.logs import verify_log
from facekeep.errors import ErasurePending, FacekeepError, RootError, UsageError
from facekeep.formats.recoverykey import recovery_uri
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.recovery_key import RecoveryKey
from facekeep.keys.secrets import Secrets
from facekeep.operations.rescue import rescue
from facekeep.vault import Holders, Vault
from recovery_help import KEY
from vaultlab import Lab, core, identify, matches, reason

STEPS = (
    "move.announced", "move.renamed", "move.intended", "after stage", "after write", "after promote",
    "destroy.completed", "move.cleared", "move.forgetting",
)  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A vault with a mirror, so that it opens whichever holder of the move dies."""
    lab = Lab(tmp_path).create()
    lab.enrol("ada", "bob")
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")])))
    return lab


def uri(lab: Lab, name: str) -> str:
    return f"file:{lab.base / name}"


def move(lab: Lab, vault: Vault) -> object:
    return vault.keys.move(Holders(root_uri=uri(lab, "new.root"), mirrors=[uri(lab, "mirror.root")]))


def sound(lab: Lab) -> None:
    """Everybody matches, an auditor finds nothing, and each holder has the present root alone."""
    lab.clean()
    with lab.open() as vault:
        assert matches(vault, "ada")
        assert identify(vault, "bob") == ["bob"]
        shutil.rmtree(lab.base / "export", ignore_errors=True)
        vault.audit_export(lab.base / "export")
        verify_log(lab.base / "export", vault.audit_keys(every=True))
        current = core(vault).view().tree.fingerprint
        for each in vault.settings.holders:
            path = Path(each.removeprefix("file:"))
            assert {c.fingerprint for c in FileProvider(path, core(vault).vault_id).candidates()} == {current}
        assert vault.settings.leaving == ()


# -- a holder of the move is gone for good


def give_up(lab: Lab, name: str) -> None:
    """Do as the guide says: give the dead holder up, another one that a message names, and go on."""
    new = uri(lab, "newer.root") if name == "new.root" else None
    with contextlib.suppress(ErasurePending):
        lab.do(lambda vault: vault.keys.move(Holders(root_uri=new, lost=[uri(lab, name)])))
    try:
        lab.do(lambda vault: vault.keys.resume())
    except ErasurePending as error:
        if "keys move --lost" not in error.next.command:
            raise
        lab.do(lambda vault: vault.keys.move(Holders(lost=[uri(lab, "root.key")])))


@pytest.mark.parametrize("name", ["root.key", "new.root"])
@pytest.mark.parametrize("step", STEPS)
def test_a_holder_dies_in_the_middle_of_a_move(lab: Lab, step: str, name: str) -> None:
    lab.crash(lambda vault: move(lab, vault), step)
    (lab.base / name).unlink(missing_ok=True)
    with contextlib.suppress(ErasurePending):
        lab.do(lambda vault: vault.keys.resume())
    if lab.do(lambda vault: vault.settings.leaving) or name == "new.root":
        give_up(lab, name)
    sound(lab)
    lab.do(lambda vault: vault.shred("bob"))
    assert lab.do(lambda vault: reason(vault, "bob")) == "subject_unknown"
    lab.enrol("bob")
    sound(lab)


@pytest.mark.parametrize("name", ["root.key", "new.root"])
@pytest.mark.parametrize("step", ["move.renamed", "after write", "destroy.completed"])
def test_giving_it_up_is_killed_at_any_step_too(lab: Lab, step: str, name: str) -> None:
    lab.crash(lambda vault: move(lab, vault), step)
    (lab.base / name).unlink()
    with contextlib.suppress(ErasurePending):
        lab.do(lambda vault: vault.keys.resume())
    new = uri(lab, "newer.root") if name == "new.root" else None
    holders = Holders(root_uri=new, lost=[uri(lab, name)])
    if not (lab.do(lambda vault: vault.settings.leaving) or new):
        return sound(lab)
    start = {path: path.read_bytes() for path in lab.files()}
    for at, occurrence in lab.steps_of(lambda vault: vault.keys.move(holders)):
        back(lab, start)
        lab.crash(lambda vault: vault.keys.move(holders), at, occurrence)
        with contextlib.suppress(UsageError):  # it was named already
            lab.do(lambda vault: vault.keys.move(holders))
        lab.do(lambda vault: vault.keys.resume())
        sound(lab)
    return None


def back(lab: Lab, start: dict[Path, bytes]) -> None:
    """Put every file back as it was, and no other."""
    for path in lab.files():
        path.unlink()
    for path, content in start.items():
        path.touch(mode=0o600)
        path.write_bytes(content)


def test_nobody_else_leaves_while_a_move_is_under_way(lab: Lab) -> None:
    """A holder that leaves must be asked in a swap; this move's may be over."""
    lab.crash(lambda vault: move(lab, vault), "destroy.completed")
    lost = Holders(mirrors=[], lost=[uri(lab, "root.key")])
    with lab.open() as vault, pytest.raises(UsageError, match="only as lost"):
        vault.keys.move(lost)
    with lab.open() as vault, pytest.raises(UsageError, match="not finished"):
        vault.keys.move(Holders(mirrors=[]))
    with lab.open() as vault, pytest.raises(UsageError, match="no holder of this vault"):
        vault.keys.move(Holders(lost=[uri(lab, "stranger.root")]))
    lab.do(lambda vault: vault.keys.resume())
    sound(lab)


@pytest.mark.parametrize("step", ["move.renamed", "after write", "destroy.completed"])
def test_who_takes_the_place_of_a_dead_holder_never_has_the_root_from_before(
    lab: Lab, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.crash(lambda vault: move(lab, vault), step)
    (lab.base / "new.root").unlink()
    given, stage = set[bytes](), FileProvider.stage

    def spied(self: FileProvider, root: bytes) -> None:
        if self.path.name == "newer.root":
            given.add(root)
        stage(self, root)

    with lab.open() as vault:
        before = {
            each.root
            for name in ("root.key", "mirror.root")
            for each in FileProvider(lab.base / name, core(vault).vault_id).candidates()
        }
    monkeypatch.setattr(FileProvider, "stage", spied)
    give_up(lab, "new.root")
    assert given
    assert not given & before
    sound(lab)


def test_a_rescue_in_the_middle_of_a_move_gives_the_new_holder_a_fresh_root_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move had made its swap; then its holders were lost, and the recovery key has the root in use."""
    lab = Lab(tmp_path, recovery=recovery_uri(KEY.public)).create()
    lab.enrol("ada")
    lab.crash(lambda vault: vault.keys.move(Holders(root_uri=uri(lab, "new.root"))), "move.cleared")
    given, stage = list[bytes](), FileProvider.stage
    with lab.open() as vault:
        present = FileProvider(lab.base / "new.root", core(vault).vault_id).candidates()[0].root
    (lab.base / "new.root").unlink()

    def spied(self: FileProvider, root: bytes) -> None:
        given.append(root)
        stage(self, root)

    monkeypatch.setattr(FileProvider, "stage", spied)
    private = RecoveryKey.of(KEY.seed)
    rescue(lab.path, private, lab.token, lab.clock, Secrets(), root_uri=uri(lab, "third.root"))
    assert given
    assert present not in given
    lab.clean()


# -- a holder comes back as it was


@pytest.mark.parametrize("name", ["new.root", "mirror.root"])
def test_a_placeholder_stands_in_for_a_holder_that_has_the_root(lab: Lab, name: str) -> None:
    """An old copy of a new holder, from before the swap: the file with the root may be anywhere."""
    lab.crash(lambda vault: move(lab, vault), "move.renamed")
    empty = (lab.base / "new.root").read_bytes()
    lab.crash(lambda vault: vault.keys.resume(), "destroy.completed")
    (lab.base / name).rename(lab.base / "elsewhere")
    (lab.base / name).touch(mode=0o600)
    (lab.base / name).write_bytes(empty)
    with lab.open() as vault, pytest.raises(ErasurePending, match="does not have the root in use"):
        vault.shred("bob")
    (lab.base / "elsewhere").replace(lab.base / name)
    with lab.open() as vault:
        vault.keys.resume()
        assert reason(vault, "bob") == "subject_unknown"
        assert matches(vault, "ada")
    lab.clean()


# -- the log is lost in the middle of it


@pytest.mark.parametrize("step", STEPS)
def test_the_log_is_lost_in_the_middle_of_a_move(lab: Lab, step: str) -> None:
    """The log that knew of the move is gone; vault.toml still names who leaves."""
    lab.crash(lambda vault: move(lab, vault), step)
    for path in lab.path.glob("log.db*"):
        path.unlink()
    try:
        restart(lab)
    except ErasurePending as error:
        if lab.root.exists() or "keys move --lost" not in error.next.command:
            raise
        lab.do(lambda vault: vault.keys.move(Holders(lost=[uri(lab, "root.key")])))
        restart(lab)
    sound(lab)
    lab.do(lambda vault: vault.shred("bob"))
    if lab.root.exists() and step != "move.announced":  # where vault.toml did not name the new holder yet
        with lab.open() as vault:
            assert FileProvider(lab.root, core(vault).vault_id).candidates() == ()


def restart(lab: Lab) -> None:
    Vault.restart_log(lab.path, token=lab.token, clock=lab.clock)


def test_a_restarted_log_takes_the_move_up_only_once(lab: Lab) -> None:
    lab.crash(lambda vault: move(lab, vault), "move.intended")
    for path in lab.path.glob("log.db*"):
        path.unlink()
    lab.kill(lambda: restart(lab), "restart.named")
    moved = lab.do(lambda vault: vault.keys.resume())
    assert moved.entry is not None
    assert moved.left == (uri(lab, "root.key"),)
    assert lab.do(lambda vault: vault.keys.resume()).entry is None
    restart(lab)
    sound(lab)


# -- links


@pytest.mark.parametrize("how", ["hard link", "linked directory"])
def test_a_mirror_is_a_link_to_the_other_holder(tmp_path: Path, how: str) -> None:
    """What the one destroys would be the root of the other; and where is the root that the mirror had?"""
    lab = Lab(tmp_path).create()
    lab.enrol("ada", "bob")
    (tmp_path / "safe").mkdir()
    mirror = tmp_path / "safe" / "root.key"
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[f"file:{mirror}"])))
    if how == "hard link":
        kept = mirror.rename(tmp_path / "kept")
        mirror.hardlink_to(lab.root)
    else:
        kept = (tmp_path / "safe").rename(tmp_path / "aside") / "root.key"
        (tmp_path / "safe").symlink_to(tmp_path)
    with lab.open() as vault, pytest.raises(ErasurePending, match="two of the root holders are one"):
        vault.shred("bob")
    with lab.open() as vault:
        assert reason(vault, "bob") == "subject_unknown"
        assert matches(vault, "ada")
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    with lab.open() as vault, pytest.raises(FacekeepError):
        vault.keys.rotate_root()
    if how == "hard link":
        kept.replace(mirror)
    else:
        (tmp_path / "safe").unlink()
        (tmp_path / "aside").rename(tmp_path / "safe")
    lab.do(lambda vault: vault.keys.resume())
    lab.clean()
    with lab.open() as vault:
        current = core(vault).view().tree.fingerprint
        for path in (lab.root, mirror):
            found = FileProvider(path, core(vault).vault_id).candidates()
            assert {each.fingerprint for each in found} == {current}


def test_a_lost_mirror_behind_a_link_is_given_up(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("ada", "bob")
    mirror = tmp_path / "mirror.root"
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[f"file:{mirror}"])))
    mirror.unlink()
    mirror.hardlink_to(lab.root)
    with lab.open() as vault, pytest.raises(ErasurePending):
        vault.shred("bob")
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[], lost=[f"file:{mirror}"])))
    lab.clean()
    with pytest.raises(RootError):
        FileProvider(mirror, bytes(16)).candidates()
