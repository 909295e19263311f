"""The operator guide's section on PKCS#11, typed with SoftHSM; each of its messages, met and mended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pkcs11_help
from cli_help import Cli
from guide_help import GUIDE, Row, Typist, commands, mends, need, row, types

AMISS = "When it does not open"
LOOK = "facekeep status"
PIN, NEW_PIN, SO_PIN = "471100", "815200", "99999999"
URI = re.compile(r"'pkcs11:.*?'")


@pytest.fixture
def typist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typist:
    """Where SoftHSM keeps its tokens in the user's home, and nothing is set up yet."""
    pkcs11_help.require()
    need("pkcs11-tool")
    (tmp_path / "tokens").mkdir(mode=0o700)
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    for name in ("FACEKEEP_PIN_FILE", "FACEKEEP_PKCS11_MODULE"):
        monkeypatch.delenv(name, raising=False)
    found = Typist(Cli(tmp_path, monkeypatch, made=False), monkeypatch, processes=True)
    monkeypatch.setenv("FACEKEEP_VAULT", "srv/staff.vault")
    return found


def set_up(typist: Typist) -> None:
    """Type the section up to a vault."""
    apt, group, token, slots, looked, folder, file, edit, export, init = commands("Set up")
    typist.type(apt)
    typist.type(group)
    said = typist.type(token, answers=[SO_PIN, SO_PIN, PIN, PIN])
    assert "initialized" in said
    number = re.search(
        r"^ +Serial number: +(\w+)\n(?:.*\n)*? +Label: +staff\b", typist.type(slots), re.MULTILINE
    )
    assert number
    shown = typist.type(looked, fill={"LIBRARY": library()})
    assert re.search(rf"token label +: staff\n(?:.*\n)*? +serial num +: {number[1]}", shown), shown
    typist.type(folder)
    typist.type(file)
    typist.edit(edit, PIN)
    typist.type(export)
    typist.type(init, fill={"SERIAL": number[1]})


def library() -> str:
    from facekeep.keys.pkcs11_module import module_path  # noqa: PLC0415 - an extra

    return module_path(None)


def refused(typist: Typist, start: str, line: str = LOOK, code: int = 31) -> tuple[Row, str]:
    """Type what is refused with a message of the guide: its row, and what was printed."""
    found = row(AMISS, start)
    said = typist.fails(line, code=code)
    found.check(said)
    return found, said


def works(typist: Typist) -> None:
    assert "pkcs11 (erasing), current" in typist.type(LOOK)


def init(uri: str) -> str:
    """The guide's init, with this URI instead of its own."""
    return URI.sub(f"'{uri}'", commands("Set up")[-1])


def holder(typist: Typist) -> Path:
    (found,) = (typist.home / "data/facekeep").glob("*.pkcs11")
    return found


@types("Set up")
@mends(
    AMISS,
    "the token ... is not there",
    "the PIN ... is wrong",
    "one more wrong PIN locks the token",
    "the token ... is locked after wrong PINs",
    "its key is no longer in the token",
    "the token ... already has keys labelled",
    "2 tokens are ...",
    "its key is in the token of serial",
)
def test_a_vault_on_a_token_and_what_befalls_it(typist: Typist) -> None:
    set_up(typist)
    works(typist)
    (mechanisms,) = re.findall(r"`(pkcs11-tool [^`]+ -M)` lists them", GUIDE)
    shown = typist.type(mechanisms, fill={"LIBRARY": library()})
    assert "AES-GCM" in shown
    assert "AES-KEY-GEN" in shown
    a_token_that_is_away(typist)
    a_wrong_pin(typist)
    wrong_pins_are_counted(typist)
    an_old_holder_file(typist)
    a_second_holder_on_the_token(typist)
    two_tokens_of_one_label(typist)


def a_token_that_is_away(vault: Typist) -> None:
    tokens = vault.home / "tokens"
    tokens.rename(vault.home / "drawer")
    tokens.mkdir()
    found, said = refused(vault, "the token ... is not there")
    (look,) = found.commands()
    assert look.replace("LIBRARY", library()) in said
    tokens.rmdir()
    (vault.home / "drawer").rename(tokens)
    assert "staff" in vault.type(look, fill={"LIBRARY": library()})
    works(vault)


def two_tokens_of_one_label(vault: Typist) -> None:
    """The URI names no serial number: a second token of that label is in the way, or in its place."""
    vault.patch.setenv("FACEKEEP_VAULT", "srv/other.vault")
    line = init("pkcs11:token=staff;object=other?x-file=/mnt/other/holder").replace(
        "staff.vault", "other.vault"
    )
    line = line.replace("/mnt/second", "/mnt/third")
    (first,) = (vault.home / "tokens").iterdir()
    pkcs11_help.make_token("staff", NEW_PIN)
    (second,) = set((vault.home / "tokens").iterdir()) - {first}
    found, said = refused(vault, "2 tokens are ...", line)
    assert "`serial=`" in found.remedy
    assert "serial=SERIAL" in said
    serials = re.findall(r"[0-9a-f]{16}", said)
    named = line.replace("token=staff;", f"token=staff;serial={serials[0]};")
    vault.type(named)
    works(vault)

    vault.patch.setenv("FACEKEEP_VAULT", "srv/third.vault")
    second.rename(vault.home / "second")
    line = line.replace("other", "third").replace("/mnt/third", "/mnt/safe")
    vault.type(line)
    first.rename(vault.home / "first")
    (vault.home / "second").rename(second)
    refused(vault, "its key is in the token of serial")
    (vault.home / "first").rename(first)
    found, _ = refused(vault, "2 tokens are ...")
    assert found.remedy.startswith("take the other one out.")
    second.rename(vault.home / "second")
    works(vault)


def a_wrong_pin(vault: Typist) -> None:
    edit = commands("Set up")[7]
    vault.edit(edit, "000000")
    found, said = refused(vault, "the PIN ... is wrong")
    assert "FACEKEEP_PIN_FILE" in said
    assert found.remedy.startswith("correct the file")
    vault.edit(edit, PIN)
    works(vault)
    pin = vault.home / "etc/facekeep/pin"
    assert (pin.stat().st_mode & 0o777, pin.read_text()) == (0o600, f"{PIN}\n")


def wrong_pins_are_counted(vault: Typist) -> None:
    """SoftHSM counts none: the flags are added to what the token says, in this process."""
    found, said = flagged(vault, "USER_PIN_FINAL_TRY", "one more wrong PIN locks the token")
    (login,) = found.commands()
    assert login.replace("LIBRARY", library()) in said
    assert "facekeep/" in vault.type(login, fill={"LIBRARY": library()}, answers=[PIN])
    works(vault)

    found, said = flagged(vault, "USER_PIN_LOCKED", "the token ... is locked after wrong PINs")
    (unlock,) = found.commands()
    assert unlock.replace("LIBRARY", library()) in said
    vault.type(unlock, fill={"LIBRARY": library()}, answers=[SO_PIN, NEW_PIN, NEW_PIN])
    refused(vault, "the PIN ... is wrong")
    vault.edit(commands("Set up")[7], NEW_PIN)
    works(vault)


def flagged(vault: Typist, flag: str, start: str) -> tuple[Row, str]:
    """What is refused where the token has this flag."""
    import pkcs11  # noqa: PLC0415 - an extra

    from facekeep.keys import pkcs11_token  # noqa: PLC0415 - an extra

    pkcs11_help.forget()
    vault.processes = False
    with vault.patch.context() as patch:
        patch.setattr(pkcs11_token, "flags_of", lambda token: token.flags | pkcs11.TokenFlag[flag])
        found = refused(vault, start)
    vault.processes = True
    return found


def an_old_holder_file(vault: Typist) -> None:
    old = holder(vault).read_bytes()
    vault.type("facekeep keys rotate root --reason drill")
    newest = holder(vault).read_bytes()
    holder(vault).write_bytes(old)
    refused(vault, "its key is no longer in the token")
    holder(vault).write_bytes(newest)
    works(vault)

    vault.type(commands("Mirrors and copies")[0])
    newest = holder(vault).read_bytes()
    holder(vault).write_bytes(old)
    assert "file (erasing), mirror, current" in vault.type(LOOK)
    holder(vault).write_bytes(newest)


def a_second_holder_on_the_token(vault: Typist) -> None:
    uri = f"pkcs11:token=staff?x-file={vault.home}/mnt/safe/second"
    line = f"facekeep keys move --mirror '{uri}'"
    found, said = refused(vault, "the token ... already has keys labelled", line)
    assert "`object=NAME`" in found.remedy
    assert "object=NAME" in said
    vault.type(line.replace("token=staff", "token=staff;object=second"))
    assert "pkcs11 (erasing), mirror, current" in vault.type(LOOK)
