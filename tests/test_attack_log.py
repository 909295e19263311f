"""Attacks on log.db, principals and vault.toml."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.access.session import Session
from facekeep.auditlog.ledger import Ledger
from facekeep.auditlog.reader import Reader
from facekeep.errors import FacekeepError, IntegrityError, NotAllowed, RootError
from facekeep.vault import Role, Vault
from vaultlab import DAY, VERIFY, Lab, core, identify, matches, reason, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        matches(vault, "alice")
        vault.withdraw("bob", [VERIFY])
        matches(vault, "alice")
        matches(vault, "alice")
    return lab


LOG_ATTACKS = {
    "delete the last entry": ["DELETE FROM entry WHERE idx = (SELECT max(idx) FROM entry)"],
    "delete a decision": ["DELETE FROM entry WHERE idx = (SELECT max(idx) FROM entry WHERE control = 0)"],
    "delete the first entry": ["DELETE FROM entry WHERE idx = 0"],
    "delete a grant": ["DELETE FROM entry WHERE idx = 3"],
    "swap two entries": [
        "UPDATE entry SET idx = -1 WHERE idx = 3",
        "UPDATE entry SET idx = 3 WHERE idx = 4",
        "UPDATE entry SET idx = 4 WHERE idx = -1",
    ],
    "swap two bodies": [
        "UPDATE entry SET sealed = (SELECT sealed FROM entry WHERE idx = 5) WHERE idx = 4",
    ],
    "flip a control mark": ["UPDATE entry SET control = 1 - control WHERE idx = 5"],
    "flip another control mark": ["UPDATE entry SET control = 1 - control WHERE idx = 3"],
    "empty a body": ["UPDATE entry SET sealed = x'' WHERE idx = 3"],
    "renumber": ["UPDATE entry SET idx = idx + 1000 WHERE idx >= 5"],
    "add an entry": [
        "INSERT INTO entry SELECT max(idx) + 1, control, sealed, leaf, chain FROM entry",
    ],
    "empty the head": ["DELETE FROM head"],
    "damage the head": ["UPDATE head SET sealed = zeroblob(length(sealed))"],
    "shorten the head": ["UPDATE head SET sealed = substr(sealed, 1, 20)"],
    "drop everything": ["DELETE FROM entry", "DELETE FROM grant_entry"],
    "another projection": ["UPDATE grant_entry SET idx = 1 WHERE slot = (SELECT max(slot) FROM grant_entry)"],
    "a smaller projection": ["DELETE FROM grant_entry WHERE slot = (SELECT max(slot) FROM grant_entry)"],
    "a larger projection": ["INSERT INTO grant_entry VALUES (123456789, 3)"],
}


@pytest.mark.parametrize("attack", LOG_ATTACKS)
def test_an_edited_log_is_noticed(lab: Lab, attack: str) -> None:
    for statement in LOG_ATTACKS[attack]:
        lab.sql("log.db", statement)
    try:
        report = lab.check()
    except IntegrityError as error:
        assert error.next  # noqa: PT017 - either way is a refusal
        return
    assert any(finding.file == "log.db" for finding in report.findings)


def test_an_intent_is_cut_off_with_the_head_of_that_time(lab: Lab) -> None:
    """The head of before a withdrawal authenticates, and the pin of its swap gives it away."""
    before = lab.sql("log.db", "SELECT sealed FROM head")[0]
    size = lab.sql("log.db", "SELECT max(idx) FROM entry")[0][0]
    lab.do(lambda vault: vault.withdraw("alice", [VERIFY]))
    lab.sql("log.db", "UPDATE head SET sealed = ?", before)
    lab.sql("log.db", "DELETE FROM entry WHERE idx > ?", (size,))
    with pytest.raises(IntegrityError):
        lab.check()


# -- principals


def principal(lab: Lab, token: str) -> tuple[object, ...]:
    return lab.sql("keys.db", "SELECT * FROM principal WHERE principal = ?", (identity(token),))[0]


def identity(token: str) -> bytes:
    return bytes.fromhex(token.split(".")[1])


def set_principal(lab: Lab, token: str, column: str, value: object) -> None:
    lab.sql("keys.db", f"UPDATE principal SET {column} = ? WHERE principal = ?", (value, identity(token)))


@pytest.mark.parametrize("column", ["slot", "grant_id", "commitment", "sealed"])
def test_a_principal_gets_a_column_of_anothers_row(lab: Lab, column: str) -> None:
    service, operator = lab.add_principal(Role.SERVICE), lab.add_principal(Role.OPERATOR)
    names = ["slot", "principal", "grant_id", "commitment", "sealed"]
    values = principal(lab, operator)
    lab.sql("keys.db", "DELETE FROM principal WHERE principal = ?", (identity(operator),))
    set_principal(lab, service, column, values[names.index(column)])
    with pytest.raises(NotAllowed):
        lab.do(lambda vault: vault.status(), service)
    assert not lab.check().ok


def test_a_principal_takes_anothers_row_for_its_own(lab: Lab) -> None:
    """The role of the row's true owner is not given to who put it under another id."""
    service, operator = lab.add_principal(Role.SERVICE), lab.add_principal(Role.OPERATOR)
    lab.sql("keys.db", "DELETE FROM principal WHERE principal = ?", (identity(service),))
    set_principal(lab, operator, "principal", identity(service))
    with pytest.raises(NotAllowed):
        lab.do(lambda vault: vault.status(), service)
    lab.do(lambda vault: vault.status(), operator)  # the log knows the token
    assert not lab.check().ok


def test_a_principals_record_is_altered(lab: Lab) -> None:
    token = lab.add_principal(Role.AUDITOR)
    sealed = principal(lab, token)[4]
    assert isinstance(sealed, bytes)
    for damaged in (b"", sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:], sealed[:-1] + b"\0"):
        set_principal(lab, token, "sealed", damaged)
        lab.do(lambda vault: vault.status(), token)  # the log knows the token
        report = lab.check()
        assert [finding.file for finding in report.findings] == ["keys.db"]
    with lab.open() as vault:
        listed = {each.id: each for each in vault.principals()}
        assert listed[identity(token).hex()].state == "missing_row"
        vault.revoke_principal(identity(token).hex())
    lab.clean()


@pytest.mark.parametrize(("row", "said"), [("whole", IntegrityError), ("gone", NotAllowed)])
def test_a_token_whose_entry_cannot_be_read_is_told_what_was_altered(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, row: str, said: type[FacekeepError]
) -> None:
    """Nobody is called unknown where it is the log that was altered; without a row nobody can be told."""

    def altered(*_: object) -> None:
        raise IntegrityError("log entry 3 was altered")

    token = lab.add_principal(Role.SERVICE)
    if row == "gone":
        lab.sql("keys.db", "DELETE FROM principal WHERE principal = ?", (identity(token),))
    with lab.open() as vault:
        for reader, name in ((Ledger, "principals"), (Ledger, "print_of"), (Reader, "entry_of_slot")):
            monkeypatch.setattr(reader, name, altered)
        with pytest.raises(said):
            Session(core(vault), token)


def test_a_revoked_principals_row_is_replayed(lab: Lab) -> None:
    token = lab.add_principal(Role.OPERATOR)
    values = principal(lab, token)
    lab.do(lambda vault: vault.revoke_principal(identity(token).hex()))
    with pytest.raises(NotAllowed):
        lab.do(lambda vault: vault.status(), token)
    lab.sql("keys.db", "INSERT INTO principal VALUES (?, ?, ?, ?, ?)", values)
    with pytest.raises(NotAllowed):
        lab.do(lambda vault: vault.status(), token)
    with lab.open() as vault:
        listed = {each.id: each.state for each in vault.principals()}
        assert listed[identity(token).hex()] == "principal_revoked"


def test_a_row_is_replayed_under_a_process_of_the_revoked_principal(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    values = principal(lab, token)
    with lab.open(token) as service, lab.open() as operator:
        assert matches(service, "alice")
        operator.revoke_principal(identity(token).hex())
        lab.sql("keys.db", "INSERT INTO principal VALUES (?, ?, ?, ?, ?)", values)
        for ask in (reason, identify):
            with pytest.raises((FacekeepError, AssertionError)):
                assert ask(service, "alice") == "ok"


# -- vault.toml


def edit(old: str, new: str) -> Callable[[str], str]:
    def apply(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return apply


@pytest.mark.parametrize(
    "change",
    [
        edit('region = "DE"', 'region = "US"'),
        edit("paths = []", 'paths = ["/tmp/elsewhere"]'),
        edit("format = 1", "format = 2"),
        edit("format = 1", "format = 1\nextra = 1"),
        edit('region = "DE"', 'region = "DE"\nopen = true'),
        edit('region = "DE"', "region = 1"),
        edit("[settings]", "[settings"),
        edit("root.key", "other.key"),
        edit("file:", "none:"),
        edit("file:", ""),
        lambda _: "",
        lambda text: text + "\0",
        lambda text: text[:40],
    ],
)
def test_an_edited_vault_toml_is_refused(lab: Lab, change: Callable[[str], str]) -> None:
    path = lab.path / "vault.toml"
    text = path.read_text()
    path.write_text(change(text))
    shutil.copy2(lab.root, lab.base / "other.key")
    with pytest.raises(FacekeepError) as caught:
        lab.check()
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/elsewhere/keys.db").exists()  # noqa: S108 - where the attacker wanted a copy
    path.write_text(text)
    lab.clean()


def test_vault_toml_of_another_vault(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other").create()
    shutil.copy2(other.path / "vault.toml", lab.path / "vault.toml")
    with pytest.raises(FacekeepError):
        lab.check()


def test_copies_are_edited_to_take_the_live_copy_away(tmp_path: Path) -> None:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("alice")
    path = lab.path / "vault.toml"
    path.write_text(path.read_text().replace(f'["{lab.copy_dir}"]', "[]"))
    with pytest.raises(IntegrityError) as caught:
        lab.check()
    assert "vault.toml" in str(caught.value)


def test_vault_toml_is_not_text(lab: Lab) -> None:
    (lab.path / "vault.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FacekeepError):
        lab.check()


def test_an_old_root_with_todays_files(lab: Lab) -> None:
    old = lab.root.read_bytes()
    lab.do(lambda vault: vault.shred("alice"))
    new = lab.root.read_bytes()
    lab.root.write_bytes(old)
    with pytest.raises(RootError):
        lab.check()
    lab.root.write_bytes(new)
    lab.clean()


# -- sessions of several kinds


def test_one_edit_of_everything_at_once_changes_no_right(lab: Lab) -> None:
    """Rows, index, projection and principals of before a withdrawal, all put back together."""
    tables = {"vault.db": ["grants"], "keys.db": ["subject_index", "principal"], "log.db": ["grant_entry"]}
    kept = {
        (file, table): lab.sql(file, f"SELECT * FROM {table}")
        for file, names in tables.items()
        for table in names
    }
    lab.do(lambda vault: vault.shred("alice"))
    for (file, table), rows in kept.items():
        lab.sql(file, f"DELETE FROM {table}")
        for row in rows:
            lab.sql(file, f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    def still_dead(vault: Vault) -> None:
        assert reason(vault, "alice") == "destroyed"
        assert identify(vault, "alice") == []
        assert slots(vault, "alice") == {}
        assert identify(vault, "bob") == ["bob"]
        lab.clock.ms += DAY
        assert core(vault).log.verify().size > 0

    lab.do(still_dead)
