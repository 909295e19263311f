"""The procedures of docs/operator.md for the day when something is lost, typed as they stand there."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from cli_help import Cli
from facekeep.access.core import LOG_KEY_SLOT
from facekeep.audit.logs import verify_log
from facekeep.errors import FacekeepError
from facekeep.formats.note import VerifierKey
from facekeep.keys.holders import held, provider_from_uri
from facekeep.keys.provider import Place
from facekeep.keys.recovery_key import RecoveryKey
from facekeep.keys.tree import KeyTree, open_tree
from facekeep.sealing.sealer import Sealer
from facekeep.store import settingsfile, vaultdb
from facekeep.store.keysdb import KeysStore
from facekeep.store.maskedterms import TermsMask
from facekeep.store.sqlite import Database
from facekeep.store.vaultdb import GrantRow, VaultStore
from guide_help import Typist, commands, text_of, types
from test_operator_guide import entries

INIT = "facekeep init --vault staff.vault --root file:/mnt/keys/staff.root --copy /mnt/second --region DE"


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typist:
    """A vault as the guide makes it, with two people, one erased, a backup of before, a checkpoint."""
    found = Typist(Cli(tmp_path, monkeypatch, made=False), monkeypatch)
    cli = found.cli
    found.type(INIT)
    cli.enroll("ada", "ada", "verify", "identify")
    cli.enroll("bob", "bob")
    cli.enroll("eve", "eve")
    found.follow("Backups")
    cli.ok("shred", "eve", "--yes")
    return found


@pytest.fixture
def cli(operator: Typist) -> Cli:
    return operator.cli


def lose(cli: Cli, *names: str, copies: bool = False) -> None:
    for name in names:
        for path in cli.home.glob(f"staff.vault/{name}*"):
            path.unlink()
        for path in cli.home.glob(f"mnt/second/{name}*") if copies else ():
            path.unlink()


def whole(cli: Cli) -> None:
    """Everything verifies; the living match, the erased do not."""
    assert cli.ok("check")["findings"] == []
    assert cli.verify("ada", "ada-again").code == 0
    assert cli.verify("bob", "bob-again").code == 0
    assert cli.verify("eve", "eve").code == 20


@types("Backups")
def test_backups(cli: Cli) -> None:
    verified = cli.ok("backup", f"{cli.home}/mnt/second/monday.backup", "--verify")
    assert (verified["rows"], verified["living"], verified["dead"]) == (4, 3, 1)
    assert (verified["covered"], verified["grants"]) == (3, 3)
    dry = cli.ok("restore", f"{cli.home}/mnt/second/monday.backup", "--dry-run")
    assert [each["reason"] for each in dry["staying"]] == ["shredded"]
    whole(cli)


@types("A file is damaged")
def test_a_file_is_damaged(operator: Typist, cli: Cli) -> None:
    path = cli.home / "staff.vault/keys.db"
    path.write_bytes(path.read_bytes()[:9000])
    assert "keys.db.damaged" in operator.follow("A file is damaged")[0]
    whole(cli)


@types("vault.db is lost")
def test_vault_db_is_lost(operator: Typist, cli: Cli) -> None:
    cli.enroll("late", "ada")
    (cli.home / "staff.vault/vault.db").write_bytes(b"what is left")
    said = operator.follow("vault.db is lost")
    assert "returned\t3" in said[2]
    assert "erased, and stay so\t1" in said[2]
    assert "still missing\t1" in said[2]
    assert (cli.home / "aside/vault.db").exists()
    whole(cli)


@types("keys.db is lost")
def test_keys_db_is_lost(operator: Typist) -> None:
    a_file_is_lost_and_has_a_copy(operator, "keys.db")


@types("log.db is lost")
def test_log_db_is_lost(operator: Typist) -> None:
    a_file_is_lost_and_has_a_copy(operator, "log.db")


def a_file_is_lost_and_has_a_copy(operator: Typist, name: str) -> None:
    cli = operator.cli
    lose(cli, name)
    assert cli.run("status").code == 33
    said = operator.follow(f"{name} is lost")
    assert "a live copy was put in its place" in said[0]
    whole(cli)


def test_keys_db_is_lost_with_its_copy(operator: Typist, cli: Cli) -> None:
    lose(cli, "keys.db", copies=True)
    (line,) = commands("keys.db is lost")
    assert "nothing can be had without it" in operator.type(line, code=33)


@types("log.db is lost with every copy")
def test_log_db_is_lost_with_every_copy(operator: Typist, cli: Cli) -> None:
    lose(cli, "log.db", copies=True)
    (line,) = commands("log.db is lost")
    assert "facekeep restore --lost-log" in operator.type(line, code=33)
    said = operator.follow("log.db is lost with every copy", codes={0: 10})
    assert f"root holder: file:{cli.home}/mnt/keys/staff.root" in said[0]
    assert "adopted grants\t3" in said[1]
    whole(cli)
    late = cli.ok("restore", f"{cli.home}/mnt/second/monday.backup", "--dry-run")
    assert (late["merged"], late["dead"]) == (0, 4)
    cli.ok("audit", "export", "export")
    keys = [VerifierKey.parse(line) for line in cli.run("audit", "key").out.splitlines()]
    assert "THE LOG WAS RESTARTED" in verify_log(cli.home / "export", keys).notes[0]


@types("vault.db and log.db are lost with every copy of the log")
def test_vault_db_and_log_db_are_lost(operator: Typist, cli: Cli) -> None:
    lose(cli, "log.db", "vault.db", copies=True)
    (line,) = commands("log.db is lost")
    assert "facekeep restore --lost-log" in operator.type(line, code=33)
    said = operator.follow("vault.db and log.db are lost with every copy of the log", codes={0: 10})
    assert f"root holder: file:{cli.home}/mnt/keys/staff.root" in said[0]
    assert "adopted grants\t3" in said[1]
    whole(cli)


@types("The root is lost and a mirror has it")
def test_the_root_is_lost_and_a_mirror_has_it(operator: Typist, cli: Cli) -> None:
    operator.type("facekeep keys move --mirror file:/mnt/safe/staff.root")
    (cli.home / "mnt/keys/staff.root").unlink()
    said = operator.follow("The root is lost and a mirror has it")
    assert said[-1].count("current") == 2
    assert {each["action"] for each in entries(cli, "destroyed")[-1]["receipts"]} >= {"lost"}
    whole(cli)


@types("The root is lost and there is a recovery key")
def test_the_root_is_lost_and_there_is_a_recovery_key(operator: Typist, cli: Cli) -> None:
    operator.type("facekeep keys recovery new --private recovery.private --public recovery.public")
    operator.type("facekeep keys move --recovery recovery.public")
    (cli.home / "mnt/keys/staff.root").unlink()
    assert cli.run("status").code == 31
    operator.follow("The root is lost and there is a recovery key")
    whole(cli)


@types("The log and the root are lost, and there is a recovery key")
def test_the_log_and_the_root_are_lost(operator: Typist, cli: Cli) -> None:
    operator.type("facekeep keys recovery new --private recovery.private --public recovery.public")
    operator.type("facekeep keys move --recovery recovery.public")
    lose(cli, "log.db", copies=True)
    (cli.home / "mnt/keys/staff.root").unlink()
    for title, code in (
        ("log.db is lost with every copy", 31),
        ("The root is lost and there is a recovery key", 33),
    ):
        alone = [each for each in commands(title) if "--yes" in each or "recover " in each]
        assert "facekeep restore --lost-log --private FILE --root URI" in operator.type(alone[0], code=code)
    said = operator.follow("The log and the root are lost, and there is a recovery key", codes={0: 10})
    assert f"root holder: file:{cli.home}/mnt/keys/staff.root" in said[0]
    mark = RecoveryKey.decode((cli.home / "recovery.private").read_bytes()).mark.hex()
    assert f"key id of the recovery key: {mark}" in said[0]
    assert "adopted grants\t3" in said[1]
    assert f"file:{cli.home}/mnt/other/staff.root" in said[2]
    assert {each["action"] for each in entries(cli, "destroyed")[0]["receipts"]} >= {"lost"}
    whole(cli)


def test_the_root_is_lost_and_nothing_else_has_it(cli: Cli) -> None:
    (cli.home / "mnt/keys/staff.root").unlink()
    for command in (("status",), ("check", "--scrub"), ("restore", "--no-backup")):
        assert cli.run(*command).code == 31


@types("Everything is lost but a data backup")
def test_everything_is_lost_but_a_data_backup(operator: Typist, cli: Cli) -> None:
    shutil.rmtree(cli.home / "staff.vault")
    (cli.home / "mnt/keys/staff.root").unlink()
    lose(cli, "keys.db", "log.db", copies=True)
    title = "Everything is lost but a data backup"
    said = operator.follow(title, codes={1: 34})
    assert "belongs to another vault" in said[1]
    assert cli.ok("subjects", "--vault", f"{cli.home}/mnt/other/new.vault")["subjects"] == []
    assert "Nothing can be had." in text_of(title)


@types("A laptop with the vault's files was stolen")
def test_a_stolen_laptop_opens_nothing_though_a_later_root_leaks(operator: Typist, cli: Cli) -> None:
    stolen = shutil.copytree(cli.home / "staff.vault", cli.home / "stolen.vault")
    operator.follow("A laptop with the vault's files was stolen")
    assert entries(cli, "rotation")[-1]["reason"] == "compromise"
    assert cli.run("status", "--vault", str(stolen)).code == 31  # with the root of today beside it
    whole(cli)


@types("The root may have leaked")
def test_the_root_may_have_leaked(operator: Typist, cli: Cli) -> None:
    """Whoever has the files and the root of before opens nothing that is written afterwards."""
    stolen = shutil.copytree(cli.home / "staff.vault", cli.home / "stolen.vault")
    shutil.copy2(cli.home / "mnt/keys/staff.root", cli.home / "stolen.root")
    assert opened_by_thief(cli, stolen / "vault.db") == 3
    said = operator.follow("The root may have leaked")
    assert '"ada"' in said[1]
    assert "shred" in said[2]
    reasons = [each["reason"] for each in entries(cli, "rotation")]
    assert reasons.count("compromise") == 5
    whole(cli)
    assert opened_by_thief(cli, stolen / "vault.db") == 3  # what was taken stays taken
    assert opened_by_thief(cli, cli.home / "staff.vault/vault.db") == 0


def opened_by_thief(cli: Cli, data: Path) -> int:
    """Count the rows of a vault.db that open with stolen.vault/keys.db under stolen.root."""
    stolen = cli.home / "stolen.vault"
    vault_id = settingsfile.read(stolen).vault_id
    roots = held([provider_from_uri("file:stolen.root", Place(vault_id, cli.home))])
    database = Database(data, "vault", vault_id, vaultdb.MIGRATIONS)
    with KeysStore.open(stolen / "keys.db", vault_id) as store, contextlib.closing(database):
        tree, _ = open_tree(store, vault_id, roots)
        mask = TermsMask(tree.slot_key(LOG_KEY_SLOT), vault_id)
        return sum(opens(tree, row) for row in VaultStore(database, mask).rows())


def opens(tree: KeyTree, row: GrantRow) -> bool:
    try:
        Sealer.of(tree.vault_id).open_record(tree.slot_key(row.slot), row)
    except FacekeepError:
        return False
    return True


@types("An operator leaves")
def test_an_operator_leaves(operator: Typist, cli: Cli) -> None:
    leaver = cli.ok("principal", "add", "leaver", "--role", "operator")
    operator.follow("An operator leaves", fill={"ID": leaver["principal"]})
    token = cli.home / "leaver.token"
    token.write_text(leaver["token"])
    token.chmod(0o600)
    assert cli.run("status", "--token-file", str(token)).code == 21
    successor = cli.home / "mnt/safe/successor.token"
    assert cli.run("status", "--token-file", str(successor)).code == 0
    assert entries(cli, "rotation")[-1]["reason"] == "departure"
    whole(cli)
