"""The operator guide's section on the TPM, typed on an emulated one; each of its messages, met and mended."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_help import Cli
from facekeep.store import settingsfile
from guide_help import Row, Typist, commands, mends, row, text_of, types
from tpm2_help import Tpm, running

REFUSES = "When it refuses"
LOOK = "facekeep status"


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    with running(tmp_path / "tpm") as found:
        yield found


@pytest.fixture
def typist(tpm: Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typist:
    """Where the guide's device is the emulated TPM, for the TPM's own tools too."""
    found = Typist(Cli(tmp_path, monkeypatch, made=False), monkeypatch)
    found.instead = {"tpm2:?": f"tpm2:tcti={tpm.tcti}?", "device:/dev/tpmrm0": tpm.tcti}
    monkeypatch.setenv("FACEKEEP_VAULT", "srv/staff.vault")
    monkeypatch.setenv("TPM2TOOLS_TCTI", tpm.tcti)
    monkeypatch.delenv("FACEKEEP_TPM2_TCTI", raising=False)
    return found


def init(uri: str = "") -> str:
    """The guide's init, with this URI instead of its own."""
    (line,) = [each for each in commands("Once") if each.startswith("facekeep init ")]
    assert "'tpm2:?file=/mnt/keys/staff.tpm2'" in line
    return re.sub(r"'tpm2:.*?'", f"'{uri}'", line) if uri else line


def holder(typist: Typist) -> Path:
    return typist.home / "mnt/keys/staff.tpm2"


def counter(tpm: Tpm) -> str:
    """NV index of the one counter."""
    found = re.search(r"0x[0-9A-Fa-f]+", tpm.run("tpm2_getcap", "handles-nv-index").decode())
    assert found
    return found[0]


def refused(typist: Typist, start: str, line: str = LOOK, code: int = 31) -> tuple[Row, str]:
    """Type what is refused with a message of the guide: its row, and what was printed."""
    found = row(REFUSES, start)
    said = typist.fails(line, code=code)
    found.check(said)
    return found, said


@types("TPM 2.0", "Once")
@mends(
    REFUSES,
    "the TPM at ... cannot be reached",
    "the TPM's tools are not installed",
    "the TPM's counter is ahead",
    "the TPM refuses",
    "it was sealed by another TPM",
)
def test_a_vault_on_a_tpm_and_what_befalls_it(
    typist: Typist, tpm: Tpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(typist, "the TPM at ... cannot be reached", init("tpm2:tcti=device:/dev/tpmrm999?file=h"))
    typist.follow("TPM 2.0", "Once")
    assert "tpm2 (erasing), current" in typist.type(LOOK)
    assert "NV_COUNTERS_AVAIL" in typist.type("tpm2_getcap properties-variable")
    cannot_be_reached(typist, tpm)
    tools_are_not_installed(typist, monkeypatch)
    an_old_holder_file(typist)
    writes_are_limited(typist)
    another_tpm(typist, tpm)
    typist.type("tpm2_clear -c platform")
    refused(typist, "it was sealed by another TPM")


def cannot_be_reached(vault: Typist, tpm: Tpm) -> None:
    tpm.off()
    found, said = refused(vault, "the TPM at ... cannot be reached")
    assert "group tss" in said
    assert "`tcti=`" in found.remedy
    (look,) = found.commands()
    vault.type(look, code=0 if list(Path("/dev").glob("tpm*")) else 2)
    tpm.on()
    works(vault)


def tools_are_not_installed(vault: Typist, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        (vault.home / "few").mkdir()
        (vault.home / "few/facekeep").symlink_to(str(shutil.which("facekeep")))
        patch.setenv("PATH", str(vault.home / "few"))
        found, said = refused(vault, "the TPM's tools are not installed")
    assert found.commands() == commands("TPM 2.0")
    assert f"next: install them: {found.commands()[0]}" in said
    vault.type(found.commands()[0])
    works(vault)


def an_old_holder_file(vault: Typist) -> None:
    old = holder(vault).read_bytes()
    vault.type("facekeep keys rotate root --reason drill")
    newest = holder(vault).read_bytes()
    holder(vault).write_bytes(old)
    _, said = refused(vault, "the TPM's counter is ahead")
    assert "next: put back the newest copy" in said
    holder(vault).write_bytes(newest)
    works(vault)


def writes_are_limited(vault: Typist) -> None:
    """An emulated TPM does not limit them: one tool gives the answer of a chip that does."""
    tool = vault.home / "stand-ins/tpm2_nvincrement"
    said = "ERROR: Esys_NV_Increment(0x920) - tpm:warn(2.0): the TPM is rate-limiting accesses"
    tool.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    tool.chmod(0o755)
    refused(vault, "the TPM refuses", "facekeep keys rotate root --reason drill", code=38)
    tool.unlink()
    assert "nothing is pending" in vault.type("facekeep keys resume")
    works(vault)


def another_tpm(vault: Typist, tpm: Tpm) -> None:
    tpm.off()
    tpm.state.rename(vault.home / "machine")
    tpm.state.mkdir()
    tpm.on()
    refused(vault, "it was sealed by another TPM")
    tpm.off()
    shutil.rmtree(tpm.state)
    (vault.home / "machine").rename(tpm.state)
    tpm.on()
    works(vault)


def works(vault: Typist) -> None:
    assert "tpm2 (erasing), current" in vault.type(LOOK)


@types("The owner's authorization")
@mends(REFUSES, "there is no tpm-owner")
def test_the_owners_authorization_is_set(typist: Typist) -> None:
    typist.type("tpm2_changeauth -c owner 'the owner'")
    found, _ = refused(typist, "there is no tpm-owner", init())
    made, secret, edit, export = commands("The owner's authorization")
    typist.type(made)
    typist.type(secret)
    typist.edit(edit, "the owner")
    typist.type(export)
    assert found.remedy.strip("`") == export.split("=")[0].removeprefix("export ")
    said = typist.fails(init())
    named = re.search(r"FACEKEEP_TPM2_TCTI=(swtpm:\S+);", said)  # not the system's TPM: it is to be named
    assert named, said
    typist.type(f"export FACEKEEP_TPM2_TCTI={named[1]}")
    typist.type(init())
    works(typist)


@mends(REFUSES, "the TPM has no counter at NV index")
def test_a_counter_that_was_removed(typist: Typist, tpm: Tpm) -> None:
    typist.type(init())
    typist.type("facekeep keys recovery new --private recovery.private --public recovery.public")
    typist.type("facekeep keys move --recovery recovery.public")
    typist.type(f"tpm2_nvundefine -C o {counter(tpm)}")
    refused(typist, "the TPM has no counter at NV index")
    typist.type(commands("The root is lost and there is a recovery key")[0])
    assert "file (erasing), current" in typist.type(LOOK)


@mends(REFUSES, "what the TPM has at NV index")
def test_the_uris_of_the_table_and_an_index_of_another_use(typist: Typist, tpm: Tpm) -> None:
    plain, file, named = re.findall(r"^\| `(tpm2:.*?)` \|", text_of("Once"), re.MULTILINE)
    assert file.replace("PATH", "/mnt/keys/staff.tpm2") in init()
    typist.instead["'tpm2:'"] = f"'tpm2:tcti={tpm.tcti}'"
    typist.type(init(plain))
    works(typist)
    assert list((typist.home / "data/facekeep").glob("*.tpm2"))

    index = re.search(r"nv=(\w+);", named)
    assert index
    typist.patch.setenv("FACEKEEP_VAULT", "srv/other.vault")
    line = init(named.replace("PATH", "/mnt/keys/staff.tpm2")).replace("staff.vault", "other.vault")
    line = line.replace("/mnt/second", "/mnt/third")
    typist.type(f"tpm2_nvdefine -C o -s 8 {index[1]}")
    found, _ = refused(typist, "what the TPM has at NV index", line)
    assert found.remedy.startswith("`nv=` with another index")
    typist.type(line.replace(index[1], "0x01812abd"))
    works(typist)
    assert "size: 8" in typist.type("tpm2_nvreadpublic 0x01812abd")


@mends(REFUSES, "the TPM has this vault's counter already")
def test_the_vaults_counter_is_there_already(typist: Typist, tpm: Tpm) -> None:
    typist.type("facekeep init --vault srv/staff.vault --root file:/mnt/keys/staff.root --no-copy")
    left = tpm.provider(typist.home, settingsfile.read(typist.home / "srv/staff.vault").vault_id)
    left.file.create()
    left._begin()
    left.file.remove()  # a creation was interrupted: nobody has the counter
    line = f"facekeep keys move --root '{tpm.uri(file='/mnt/other/staff.tpm2')}'"
    _, said = refused(typist, "the TPM has this vault's counter already", line)
    named = re.search(r"tpm2_nvundefine -C o 0x[0-9a-f]+", said)
    assert named, said
    typist.type(named[0])
    typist.type(line)
    works(typist)
    line = f"facekeep keys move --mirror '{tpm.uri(file='/mnt/safe/staff.tpm2')}'"
    refused(typist, "the TPM has this vault's counter already", line)
    typist.type(line.replace("tpm2:", "tpm2:nv=0x01812abc;"))
    assert "tpm2 (erasing), mirror, current" in typist.type(LOOK)
