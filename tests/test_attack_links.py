"""Attacks by what stands at a name that is about to be written: links, pipes, directories."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from facekeep import files
from facekeep.audit import inputs, watch, witness
from facekeep.cli import receipts, status, tokens
from facekeep.cli.status import _publish
from facekeep.errors import FacekeepError
from facekeep.store import logdb, offlinefile, settingsfile
from facekeep.store.holderfile import HolderFile
from facekeep.store.lock import WriterLock
from facekeep.vault import Vault
from vaultlab import MODEL, THRESHOLD, Lab, face

SOURCE = Path(files.__file__).parent
PRECIOUS = b"precious"
VAULT = bytes(range(16))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "victim"
    path.parent.mkdir()
    path.write_bytes(PRECIOUS)
    return path


def plant(kind: str, path: Path, victim: Path) -> None:
    path.unlink(missing_ok=True)
    if kind == "symbolic link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(victim.with_name("made"))
    elif kind == "hard link":
        path.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


KINDS = ["symbolic link", "dangling link", "hard link", "pipe", "directory"]


def untouched(victim: Path) -> bool:
    return victim.read_bytes() == PRECIOUS and [each.name for each in victim.parent.iterdir()] == ["victim"]


def _receipts(path: Path) -> None:
    receipts.Receipts(path)


def _token(path: Path) -> None:
    with tokens.reserved(path) as place:
        place.keep("token", VAULT.hex())


def _settings(path: Path) -> None:
    settings = settingsfile.read(path.parent / "vault")
    settingsfile.stage(path.parent, settings)
    settingsfile.promote(path.parent)


def _locked(path: Path) -> None:
    with WriterLock(path).held(0):
        pass


def _watched(path: Path) -> None:
    with watch._locked(path):
        watch._keep(path, b"state")


#: writer -> (what it does with a path of its name, names that it uses or could be thought to use)
WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "create": (lambda path: files.create(path, b"x", 0o600), "{0}"),
    "replace": (lambda path: files.replace(path, b"x", 0o666), "{0} .{0}.{1} {0}.new"),
    "stage": (lambda path: files.stage(path, b"x", 0o600), "{0}"),
    "begin": (lambda path: os.close(files.begin(path, 0o600)), "{0}"),
    "private key": (lambda path: offlinefile.write_new(path, "x", 0o600), "{0}"),
    "bundle": (lambda path: inputs.write_new(path, b"x"), "{0}"),
    "witness": (lambda path: witness.make_key("w.example", path), "{0}"),
    "watcher": (_watched, "{0} {0}.new {0}.lock"),
    "holder": (lambda path: HolderFile(path, VAULT, "pkcs11").write(()), "{0} {0}.new"),
    "metrics": (lambda path: _publish({}, str(path)), "{0} .{0}.{1}"),
    "receipts": (_receipts, "{0}"),
    "token": (_token, "{0}"),
    "lock": (_locked, "{0}"),
    "database": (lambda path: logdb.create_log(path, VAULT).close(), "{0}"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_is_written_through_what_stands_at_a_name(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, writer: str, kind: str
) -> None:
    act, names = WRITERS[writer]
    monkeypatch.setattr(status, "render", lambda _found: "x")
    for at, name in enumerate(names.format("name", os.getpid()).split()):
        folder = tmp_path / str(at)
        folder.mkdir()
        plant(kind, folder / name, victim)
        with suppress(FacekeepError, OSError):
            act(folder / "name")
        assert untouched(victim), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writer", ["replace", "watcher", "holder", "metrics"])
def test_a_random_name_that_is_guessed_is_of_no_use(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, writer: str, kind: str
) -> None:
    monkeypatch.setattr(status, "render", lambda _found: "x")
    monkeypatch.setattr(files, "temporary", lambda name: f".{name}.guessed")
    plant(kind, tmp_path / ".name.guessed", victim)
    with pytest.raises((FacekeepError, OSError)):
        WRITERS[writer][0](tmp_path / "name")
    assert untouched(victim)
    assert not (tmp_path / "name").exists()


def test_a_directory_that_is_exchanged_while_a_file_is_written_gets_nothing(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = tmp_path / "folder", files._write
    folder.mkdir()

    def exchanged(parent: int, name: str, data: bytes, mode: int) -> None:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(victim.parent)
        write(parent, name, data, mode)

    monkeypatch.setattr(files, "_write", exchanged)
    files.replace(folder / "victim", b"x", 0o600)
    assert untouched(victim)
    assert (tmp_path / "moved" / "victim").read_bytes() == b"x"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    return lab


@pytest.mark.parametrize("kind", KINDS)
def test_new_settings_are_staged_through_nothing(lab: Lab, victim: Path, kind: str) -> None:
    plant(kind, lab.path / "vault.toml.new", victim)
    with suppress(FacekeepError):
        lab.do(lambda vault: vault.change_settings(region="FR"))
    assert untouched(victim)
    assert not (lab.path / "vault.toml").is_symlink()


@pytest.mark.parametrize("kind", KINDS)
def test_a_live_copy_is_made_through_nothing(lab: Lab, victim: Path, kind: str) -> None:
    for name in ("keys.db", "log.db"):
        (lab.copy_dir / name).unlink()
    plant(kind, lab.copy_dir / "keys.db.new", victim)
    with suppress(FacekeepError):
        Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert untouched(victim)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["keys.db", "log.db"])
def test_a_live_copy_that_became_something_else_is_not_written_through(
    lab: Lab, victim: Path, name: str, kind: str
) -> None:
    plant(kind, lab.copy_dir / name, victim)
    with suppress(FacekeepError):
        lab.enrol("bob")
    with suppress(FacekeepError):
        Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert untouched(victim)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["backup", "backup.partial"])
def test_a_backup_is_written_through_nothing(lab: Lab, victim: Path, name: str, kind: str) -> None:
    plant(kind, lab.base / name, victim)
    with suppress(FacekeepError):
        lab.do(lambda vault: vault.backup(lab.base / "backup"))
    assert untouched(victim)


@pytest.mark.parametrize("kind", KINDS)
def test_the_writer_lock_is_taken_through_nothing(lab: Lab, victim: Path, kind: str) -> None:
    plant(kind, lab.path / "vault.lock", victim)
    with suppress(FacekeepError):
        lab.enrol("bob")
    assert untouched(victim)


@pytest.mark.parametrize("name", ["keys.db.new", "log.db.new"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_salvaged_is_written_through_nothing(lab: Lab, victim: Path, name: str, kind: str) -> None:
    (lab.path / name.removesuffix(".new")).unlink()
    plant(kind, lab.path / name, victim)
    with suppress(FacekeepError):
        Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert untouched(victim)


@pytest.mark.parametrize("below", ["tile", "tile/0", "tile/entries"])
def test_an_export_is_not_written_into_another_directory(lab: Lab, victim: Path, below: str) -> None:
    out = lab.base / "out"
    (out / below).parent.mkdir(parents=True)
    (out / below).symlink_to(victim.parent)
    with lab.open() as vault:
        vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        with pytest.raises(FacekeepError):
            vault.audit_export(out)
    assert untouched(victim)


def test_files_that_are_private_are_so_from_the_beginning(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.create(tmp_path / "a", b"x", files.PRIVATE)
        files.replace(tmp_path / "b", b"x", files.PRIVATE)
        os.close(files.begin(tmp_path / "c", files.PRIVATE))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


#: module -> what it may write by itself, in a private directory of its own where nothing else is said
ELSEWHERE = {
    "operations/probing.py": "shutil.copyfile",
    "keys/tpm2_tools.py": "write_bytes",
    "cli/app.py": 'open(own, "w',  # a descriptor that is open already: standard error
    "keys/file_provider.py": "O_CREAT",  # O_EXCL and O_NOFOLLOW, and each slot is written by itself
}


def test_files_are_written_in_one_place_only() -> None:
    writing = re.compile(r"O_CREAT|O_TRUNC|write_bytes|write_text|shutil\.copy\w*|open\([^)]*\"[wax]")
    found = {
        str(path.relative_to(SOURCE)): hit[0]
        for path in sorted(SOURCE.rglob("*.py"))
        if (hit := writing.search(path.read_text()))
    }
    assert found.pop("files.py") == "O_CREAT"
    assert found == ELSEWHERE
