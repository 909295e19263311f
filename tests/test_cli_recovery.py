"""The recovery key from the shell: made, split, joined, named at init, and used when the root is lost."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from cli_help import Cli, snapshot
from facekeep.formats.recoverykey import recovery_uri
from facekeep.formats.settings import Settings
from facekeep.keys.recovery_key import WEAKENING, RecoveryKey
from guide_help import Typist, commands, types

NEW = ("keys", "recovery", "new", "--private", "r.private", "--public", "r.public")
SPLIT = ("keys", "recovery", "split", "r.private", "--shares", "5", "--threshold", "3", "--out", "shares")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A home with a recovery key, and no vault."""
    found = Cli(tmp_path, monkeypatch, made=False)
    found.ok(*NEW)
    return found


@pytest.fixture
def vault(cli: Cli) -> Cli:
    """A vault with it, and ada in the vault."""
    cli.init("--recovery", "r.public")
    cli.enroll("ada", "ada")
    return cli


def shares(*numbers: int) -> list[str]:
    return [f"shares/share-{at}-of-5.txt" for at in numbers]


# -- offline


def test_new_makes_a_pair_and_says_what_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path, monkeypatch, made=False)
    ran = cli.run(*NEW)
    assert ran.code == 0
    assert WEAKENING in ran.err
    key = RecoveryKey.decode(Path("r.private").read_bytes())
    assert ran.out.startswith(f"key id\t{key.mark.hex()}\n")
    assert key.public_text() == Path("r.public").read_text()
    assert stat.S_IMODE(Path("r.private").stat().st_mode) == 0o600
    assert "seed" not in ran.out + ran.err


def test_new_overwrites_nothing_and_leaves_nothing_half(cli: Cli) -> None:
    before = snapshot(cli.home)
    cli.fails("vault_exists", 14, *NEW)
    cli.fails("vault_exists", 14, *NEW[:4], "s.private", "--public", "r.public")
    cli.fails("usage", 10, *NEW[:4], "x", "--public", "./x")
    cli.fails("store", 32, *NEW[:4], "nowhere/r", "--public", "s.public")
    assert snapshot(cli.home) == before


def test_a_key_is_split_and_joined(cli: Cli) -> None:
    pytest.importorskip("shamir_mnemonic")
    made = cli.ok(*SPLIT)
    assert made == {"shares": shares(1, 2, 3, 4, 5), "threshold": 3}
    assert all(stat.S_IMODE(Path(each).stat().st_mode) == 0o600 for each in made["shares"])
    cli.ok("keys", "recovery", "join", *shares(5, 1, 3), "--out", "joined")
    assert Path("joined").read_bytes() == Path("r.private").read_bytes()
    words = Path(shares(2)[0]).read_text().splitlines()[-1]
    Path("typed").write_text(words.upper().replace(" ", "\n"))
    Path("typed").chmod(0o600)
    ran = cli.run("keys", "recovery", "join", "typed", *shares(3, 4), "--out", "again")
    assert ran.code == 0
    assert Path("again").read_bytes() == Path("r.private").read_bytes()
    spoken = cli.run(*SPLIT[:-1], "others")
    assert "any 3 of the 5" in spoken.err
    assert not set(words.split()) & set(spoken.out.split())


def other(than: str, *words: str) -> str:
    return next(word for word in words if word != than)


def test_what_cannot_be_split_or_joined_leaves_nothing(cli: Cli) -> None:
    pytest.importorskip("shamir_mnemonic")
    cli.ok(*SPLIT)
    cli.ok("keys", "recovery", "new", "--private", "o.private", "--public", "o.public")
    cli.ok("keys", "recovery", "split", "o.private", "--shares", "5", "--threshold", "3", "--out", "other")
    share = Path(shares(1)[0]).read_text()
    wrong = {
        "flipped": re.sub(r"\w+$", lambda at: other(at[0], "academic", "acid"), share.rstrip()),
        "relabelled": re.sub(r"key id: (..)", lambda at: f"key id: {other(at[1], '00', '01')}", share),
        "image": "\xff",
    }
    for name, text in wrong.items():
        Path(name).write_text(text)
        Path(name).chmod(0o600)
    Path("open").write_text(share)
    Path("open").chmod(0o644)
    before = snapshot(cli.home)
    join = ("keys", "recovery", "join")
    out = ("--out", "joined")
    assert "2 of the 3" in cli.fails("usage", 10, *join, *shares(1, 2), *out)["message"]
    assert (
        "another set"
        in cli.fails("usage", 10, *join, *shares(1, 2), "other/share-3-of-5.txt", *out)["message"]
    )
    assert "flipped is no share" in cli.fails("usage", 10, *join, "flipped", *shares(2, 3), *out)["message"]
    assert "and it is not" in cli.fails("usage", 10, *join, "relabelled", *shares(2, 3), *out)["message"]
    assert "named twice" in cli.fails("usage", 10, *join, *shares(1, 1, 2), *out)["message"]
    assert "chmod 600" in cli.fails("usage", 10, *join, "open", *shares(2, 3), *out)["next"]
    cli.fails("format", 35, *join, "image", *shares(2, 3), *out)
    cli.fails("store", 32, *join, "missing", *shares(2, 3), *out)
    cli.fails("vault_exists", 14, *join, *shares(1, 2, 3), "--out", "r.private")
    cli.fails("vault_exists", 14, *SPLIT)
    cli.fails("usage", 10, *SPLIT[:4], "--shares", "3", "--threshold", "1", "--out", "s")
    cli.fails("format", 35, "keys", "recovery", "split", "r.public", *SPLIT[4:])
    assert snapshot(cli.home) == before


def test_a_private_file_that_others_can_read_is_refused(cli: Cli) -> None:
    Path("r.private").chmod(0o640)
    assert "chmod 600" in cli.fails("usage", 10, *SPLIT)["next"]


# -- the vault


def test_init_names_the_key_and_says_what_it_costs(cli: Cli) -> None:
    key = RecoveryKey.decode(Path("r.private").read_bytes())
    ran = cli.run("init", "--root", "file:staff.root", "--no-copy", "--recovery", "r.public")
    assert ran.code == 0
    assert f"recovery key\t{key.mark.hex()}\n" in ran.out
    assert f"facekeep: with the recovery key, {WEAKENING}\n" in ran.err
    settings = Settings.decode((cli.vault / "vault.toml").read_text())
    assert [each.partition(":")[0] for each in settings.holders] == ["file", "recovery"]
    out = " ".join(cli.run("status").out.split())
    assert f"recovery key {key.mark.hex()[:16]}: {WEAKENING} " in out
    assert " recovery (recovery), current " in out
    assert cli.ok("status")["recovery"] == {"key": key.mark.hex(), "weakening": WEAKENING}
    assert "recovery" not in str(cli.ok("status")["warnings"])


def test_init_says_it_in_json_and_says_null_without_one(cli: Cli) -> None:
    assert cli.init("--recovery", "r.public")["recovery"]["weakening"] == WEAKENING
    cli.vault.rename(cli.home / "gone.vault")
    cli.root.unlink()
    assert cli.init()["recovery"] is None


@pytest.mark.parametrize("file", ["r.private", "notice.txt", "missing"])
def test_init_takes_no_other_file_for_a_public_key(cli: Cli, file: str) -> None:
    ran = cli.run("init", "--root", "file:staff.root", "--no-copy", "--recovery", file, "--json")
    assert ran.error["code"] in {"format", "store"}
    assert not cli.vault.exists()
    assert not cli.root.exists()


def test_a_lost_root_is_recovered(vault: Cli) -> None:
    vault.root.unlink()
    vault.fails("root", 31, "status")
    ran = vault.run("keys", "recover", "--private", "r.private", "--root", "file:new.root")
    assert ran.code == 0, ran.err
    assert ran.out == "root key\tfile:new.root\nepoch\t2\ngiven up\tfile:staff.root\n"
    assert vault.verify("ada", "ada-again").code == 0
    assert vault.ok("check")["findings"] == []
    Path("new.root").unlink()
    done = vault.ok("keys", "recover", "--private", "r.private")
    assert done["root"].startswith("file:")
    assert done["lost"] == ["file:new.root"]
    assert done["epoch"] == 3
    assert vault.verify("ada", "eve").code == 1


def test_what_recovers_nothing_changes_nothing(vault: Cli) -> None:
    vault.ok("keys", "recovery", "new", "--private", "o.private", "--public", "o.public")
    before = snapshot(vault.home)
    recover = ("keys", "recover", "--private")
    assert "still opens" in vault.fails("usage", 10, *recover, "r.private")["message"]
    vault.fails("format", 35, *recover, "r.public")
    assert snapshot(vault.home) == before
    vault.root.unlink()
    before = snapshot(vault.home)
    assert "not the vault's recovery key" in vault.fails("root", 31, *recover, "o.private")["message"]
    assert (
        "one of those that are lost"
        in vault.fails("usage", 10, *recover, "r.private", "--root", "file:staff.root")["message"]
    )
    assert snapshot(vault.home) == before


def test_a_vault_gets_changes_and_loses_a_recovery_key(cli: Cli) -> None:
    cli.init()
    cli.enroll("ada", "ada")
    cli.ok("keys", "recovery", "new", "--private", "o.private", "--public", "o.public")
    first, other = (RecoveryKey.decode(Path(f"{each}.private").read_bytes()).mark.hex() for each in "ro")
    ran = cli.run("keys", "move", "--recovery", "r.public")
    assert f"holder\trecovery:?key={first[:16]}...\n" in ran.out
    assert WEAKENING in ran.err
    (file,) = cli.vault.glob("recovery-*")
    file.unlink()
    out = cli.run("keys", "show").out
    assert f"recovery\taway\trecovery:?key={first[:16]}...\toffline_key\n" in out
    cli.fails("erasure_pending", 38, "shred", "ada", "--yes")
    ran = cli.run("keys", "move", "--recovery", "o.public", "--lost", "recovery:")
    assert ran.code == 0, ran.err
    assert f"left\tlost:recovery:?key={first[:16]}...\n" in ran.out
    assert cli.ok("status")["recovery"]["key"] == other
    assert cli.subjects() == {}
    assert cli.run("keys", "move", "--no-recovery").code == 0
    assert cli.ok("status")["recovery"] is None
    cli.fails("usage", 10, "keys", "move", "--no-recovery", "--recovery", "r.public")
    assert cli.ok("check")["findings"] == []


def test_a_vault_without_a_recovery_key_is_told_so(cli: Cli) -> None:
    cli.init()
    assert "no recovery key" in cli.fails("usage", 10, "keys", "recover", "--private", "r.private")["message"]


@types("Making one", "Splitting it", "When every holder of the root is lost")
def test_the_operators_guide_is_followed_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("shamir_mnemonic")
    cli = Cli(tmp_path, monkeypatch, made=False)
    typist = Typist(cli, monkeypatch)
    monkeypatch.setenv("FACEKEEP_VAULT", str(tmp_path / "srv" / "staff.vault"))
    cli.ok("keys", "recovery", "new", "--private", "new.private", "--public", "new.public")
    typist.follow("Making one")
    kept = Path("recovery.private").read_bytes()
    typist.follow("Splitting it")
    assert not Path("recovery.private").exists()
    assert not Path("joined.private").exists()
    assert "keys recovery join" in commands("Splitting it")[2]
    cli.ok("keys", "recovery", "join", *shares(1, 2, 5), "--out", "recovery.private")
    assert Path("recovery.private").read_bytes() == kept
    (tmp_path / "mnt/keys/staff.root").unlink()
    typist.follow("When every holder of the root is lost")
    assert cli.ok("check")["findings"] == []
    assert (
        cli.ok("status")["recovery"]["key"] == RecoveryKey.decode(Path("new.private").read_bytes()).mark.hex()
    )


# -- the log is lost too

LOST = ("restore", "--lost-log", "--no-checkpoint", "--private", "r.private", "--root", "file:new.root")


def lose_both(cli: Cli) -> None:
    for path in (*cli.home.glob("staff.vault/log.db*"), *cli.home.glob("**/*.root")):
        path.unlink()


def test_log_and_root_are_lost_together(vault: Cli) -> None:
    lose_both(vault)
    for words in ((*LOST[:3], "--yes"), ("keys", "recover", "--private", "r.private")):
        ran = vault.run(*words)
        assert ran.code in {31, 33}
        assert "facekeep restore --lost-log --private FILE --root URI" in ran.err
    asked = vault.run(*LOST)
    assert asked.code == 10
    key = RecoveryKey.decode(Path("r.private").read_bytes())
    assert f"key id of the recovery key: {key.mark.hex()}" in asked.err
    assert not Path("staff.vault/log.db").exists()
    done = vault.ok(*LOST, "--yes")
    assert (done["grants"], done["resumed"], done["root"]) == (1, False, "file:new.root")
    again = vault.run(*LOST, "--yes")
    assert again.code == 0
    assert "root key\tfile:new.root" in again.out
    assert "has seen the private key" in again.err
    assert vault.verify("ada", "ada-again").code == 0
    assert vault.ok("check")["ok"]


def test_a_recovery_key_is_slipped_into_vault_toml_once_both_are_lost(vault: Cli) -> None:
    """Whoever says --yes was shown another key id, and theirs seals nothing that opens keys.db."""
    vault.ok("keys", "recovery", "new", "--private", "o.private", "--public", "o.public")
    lose_both(vault)
    toml = Path("staff.vault/vault.toml")
    mine, theirs = (RecoveryKey.decode(Path(each).read_bytes()) for each in ("r.private", "o.private"))
    toml.write_text(toml.read_text().replace(recovery_uri(mine.public), recovery_uri(theirs.public)))
    shown = vault.run(*LOST).err
    assert theirs.mark.hex() in shown
    assert mine.mark.hex() not in shown
    before = snapshot(vault.home)
    vault.fails("root", 31, *LOST, "--yes")
    vault.fails("root", 31, *LOST[:4], "o.private", *LOST[5:], "--yes")
    assert snapshot(vault.home) == before


def test_a_private_key_that_others_can_read_begins_nothing_anew(vault: Cli) -> None:
    lose_both(vault)
    Path("r.private").chmod(0o640)
    before = snapshot(vault.home)
    vault.fails("usage", 10, *LOST, "--yes")
    assert snapshot(vault.home) == before
