"""Attacks on what operators do to keys: rotations, moves of the root, its holders, what vault.toml names.

The attacker writes every file but has neither the root nor a token of the vault; he stops and kills
processes, and runs others in between.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import openbao_help
import pkcs11_help
import tpm2_help
from facekeep.audit.logs import verify_log
from facekeep.errors import (
    ErasurePending,
    FacekeepError,
    IntegrityError,
    RootError,
    UsageError,
    VaultExists,
)
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.rootfile import RootSlot, SlotState, encode_slot
from facekeep.formats.settings import Settings
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.provider import Place, placeholder
from facekeep.keys.secrets import Secrets
from facekeep.keys.tree import open_tree
from facekeep.store import settingsfile
from facekeep.store.holderfile import HolderFile
from facekeep.store.keysdb import KeysStore
from facekeep.vault import Holders, Vault, Why
from vaultlab import IDENTIFY, VERIFY, Lab, calling, core, identify, matches, reason, row_key, slots

PEOPLE = ("ada", "bob")
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    made = Lab(tmp_path).create()
    made.enrol(*PEOPLE)
    return made


def uri(lab: Lab, name: str) -> str:
    return f"file:{lab.base / name}"


def own_id(lab: Lab) -> bytes:
    """The vault's id, which vault.toml has in clear."""
    return settingsfile.read(lab.path).vault_id


def root_file(lab: Lab, name: str, root: bytes | None = None) -> Path:
    """Make a root file of this vault that holds no root, or one that anybody knows."""
    state = SlotState.EMPTY if root is None else SlotState.CURRENT
    slots = RootSlot(own_id(lab), state, root or bytes(32)), RootSlot(own_id(lab), SlotState.EMPTY, bytes(32))
    path = lab.base / name
    path.write_bytes(b"".join(encode_slot(each) for each in slots))
    path.chmod(0o600)
    return path


def exchange(path: Path, other: Path) -> None:
    """Take a file away, unread, and put another in its place; a second time the first one comes back."""
    between = path.with_name("between")
    path.rename(between)
    other.rename(path)
    between.rename(other)


def sound(lab: Lab, *people: str) -> None:
    """Everybody matches, all verifies, and an auditor finds no rule broken."""
    with lab.open() as vault:
        for name in people or PEOPLE:
            assert matches(vault, name)
            assert identify(vault, name) == [name]
    lab.clean()
    with lab.open() as vault:
        vault.audit_export(lab.base / "export")
        verify_log(lab.base / "export", vault.audit_keys(every=True))


def opened_by(lab: Lab, saved: Path) -> list[int]:
    """Slots of rows there are now that an old root and the old keys.db open."""
    with lab.open() as vault:
        own = core(vault)
        kept = FileProvider(saved / "root.key", own.vault_id).candidates()
        old, _ = open_tree(KeysStore.open(saved / "vault" / "keys.db", own.vault_id), own.vault_id, kept)
        found = []
        for row in own.data.rows():
            with contextlib.suppress(FacekeepError):
                own.sealer.open_record(old.slot_key(row.slot), row)
                found.append(row.slot)
        return found


class Hidden:
    """Rows of vault.db that were taken away for a while."""

    def __init__(self, lab: Lab, where: str, *values: object) -> None:
        self._lab, self._where, self._values = lab, where, values
        self._rows: list[tuple[Any, ...]] = []

    def hide(self) -> None:
        self._rows = self._lab.sql("vault.db", f"SELECT * FROM grants WHERE {self._where}", self._values)
        assert self._rows
        self._lab.sql("vault.db", f"DELETE FROM grants WHERE {self._where}", self._values)

    def put_back(self) -> None:
        marks = ",".join("?" * len(self._rows[0]))
        for row in self._rows:
            self._lab.sql("vault.db", f"INSERT INTO grants VALUES ({marks})", row)


# -- templates that stay readable under the keys before


def test_rows_hidden_while_branches_are_taken_are_not_sealed_under_known_keys(lab: Lab) -> None:
    """Without rows of a scope there would be no new branch for it, and its rows come back a moment later."""
    saved = lab.save("before")
    rows = Hidden(lab, "slot >= ?", 2 << 21)
    with lab.open() as vault:
        rows.hide()
        with calling("rotate.extended", rows.put_back):
            done = vault.keys.rotate_templates(Why.COMPROMISE)
        assert (done.resealed, done.left) == (4, 0)
    assert opened_by(lab, saved) == []
    sound(lab)


def test_rows_that_stay_hidden_are_counted_as_left(lab: Lab) -> None:
    rows = Hidden(lab, "slot >= ?", 2 << 21)
    with lab.open() as vault:
        rows.hide()
        assert vault.keys.rotate_templates(Why.COMPROMISE).left == 2
        rows.put_back()
    sound(lab)


@pytest.mark.parametrize("step", ["before stage", "after write", "rotate.extended", "rotate.begun"])
def test_who_is_enrolled_after_a_rotation_was_cut_off_is_not_known_to_an_old_root(
    lab: Lab, step: str
) -> None:
    """Between the selection and the new branches nobody may be granted anything in an old branch."""
    saved = lab.save("before")
    lab.crash(lambda vault: vault.keys.rotate_templates(Why.COMPROMISE), step)
    lab.enrol("dora")
    with lab.open() as vault:
        assert vault.keys.rotate_templates(Why.COMPROMISE).left == 0
    assert opened_by(lab, saved) == []
    sound(lab, *PEOPLE, "dora")


def test_a_root_stolen_while_a_rotation_was_cut_off_opens_nothing_sealed_afterwards(lab: Lab) -> None:
    """The rotation goes on under branches of its own, not under those that the thief has seen."""
    lab.crash(lambda vault: vault.keys.rotate_templates(), "rotate.begun")
    saved = lab.save("stolen")
    with lab.open() as vault:
        done = vault.keys.rotate_templates(Why.COMPROMISE)
        assert (done.resumed, done.resealed) == (True, 4)
    assert opened_by(lab, saved) == []
    sound(lab)


def test_an_extension_by_somebody_else_is_not_taken_for_that_of_the_rotation(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = lab.save("before")
    lab.crash(lambda vault: vault.keys.rotate_templates(), "rotate.begun")
    monkeypatch.setattr("facekeep.operations.allocation.BRANCH_SLOTS", 2)  # the branch of verify is full
    lab.enrol("dora", scopes=[VERIFY])
    monkeypatch.undo()
    lab.do(lambda vault: vault.keys.rotate_templates())
    assert opened_by(lab, saved) == []
    lab.clean()


def test_a_row_of_an_older_grant_is_not_resealed(lab: Lab) -> None:
    """Somebody renewed with a shorter consent; the older row is put back in the place of the newer."""
    old = Hidden(lab, "slot < ?", 2 << 21)
    old.hide()
    old.put_back()
    with lab.open() as vault:
        vault.renew("ada", lab.consent(VERIFY, days=2))
    lab.sql("vault.db", "DELETE FROM grants WHERE slot < ?", [2 << 21])
    old.put_back()
    with lab.open() as vault:
        done = vault.keys.rotate_templates()
        assert done.left == 1  # of the renewed grant there is no row
        assert reason(vault, "ada") != "ok"
    for _, terms in lab.sql("vault.db", "SELECT slot, terms FROM grants WHERE slot >= ?", [5 << 21]):
        assert len(terms) == 88


@pytest.mark.parametrize("field", ["terms", "tag", "model"])
def test_consent_is_not_widened_by_sealing_again(lab: Lab, field: str) -> None:
    """Another's row field in ada's row: wider terms, another subject, another model."""
    with lab.open() as vault:
        vault.renew("bob", lab.consent(VERIFY, days=300))
    rows = lab.sql("vault.db", f"SELECT slot, {field} FROM grants WHERE slot < ? ORDER BY slot", [2 << 21])
    (ada, _), (_, theirs) = rows[0], rows[-1]
    theirs = "raw:other" if field == "model" else theirs
    lab.sql("vault.db", f"UPDATE grants SET {field} = ? WHERE slot = ?", [theirs, ada])
    with lab.open() as vault:
        assert vault.keys.rotate_templates().left == 1
        assert reason(vault, "ada") != "ok"
        vault.audit_export(lab.base / "export")
        verify_log(lab.base / "export", vault.audit_keys(every=True))


def test_a_shred_between_two_batches_is_not_undone_by_the_rest(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facekeep.operations.resealing.BATCH", 1)
    saved = lab.save("before")
    with lab.open() as vault, lab.open() as other:
        done: list[object] = []

        def shred(at: int, _: int) -> None:
            if at == 1:
                done.append(other.shred("ada"))

        vault.keys.rotate_templates(progress=shred)
        assert done
        assert reason(vault, "ada") == "subject_unknown"
    lab.put_back(saved, "vault.db")
    with lab.open() as vault:
        assert reason(vault, "ada") == "subject_unknown"
        assert core(vault).data.count()


# -- the subject index, made anew


def test_nobody_falls_out_of_the_index_whose_rows_are_hidden_while_it_is_made(lab: Lab) -> None:
    """It is made from the log: whatever stands in vault.db."""
    with lab.open() as vault:
        tag = core(vault).index.lookup(core(vault).handles.of(b"ada"))
        rows = Hidden(lab, "tag = ?", tag)
        with calling("rotate.announced", rows.hide):
            vault.keys.rotate_tree()
        with pytest.raises(UsageError):
            vault.enroll_many([lab.enrolment("ada")])
        rows.put_back()
        assert matches(vault, "ada")
        vault.shred("ada")
        assert not lab.sql("vault.db", "SELECT slot FROM grants WHERE tag = ?", [tag])
    sound(lab, "bob")


def test_a_row_of_the_new_index_is_taken_away(lab: Lab) -> None:
    """The index is made in recovery; a row goes then."""
    with lab.open() as vault:
        vault.withdraw("bob", [IDENTIFY])
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
        (lab.base / "mirror.root").rename(lab.base / "away")
        with pytest.raises(ErasurePending):
            vault.keys.rotate_tree()
        (lab.base / "away").rename(lab.base / "mirror.root")
        vault.keys.resume()
        held = [*slots(vault, "ada").values()]
        lab.sql("keys.db", "DELETE FROM subject_index WHERE hash = ?", [row_key(vault, "ada")])
        vault.shred("ada")
        assert not core(vault).view().tree.alive(held).any()


# -- the only root, destroyed by a move


@pytest.fixture
def passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "phrase").write_text(PASSPHRASE)
    (tmp_path / "phrase").chmod(0o600)
    monkeypatch.setenv("FACEKEEP_PASSPHRASE_FILE", str(tmp_path / "phrase"))


def empty_holder(lab: Lab, scheme: str, name: str) -> Path:
    """Make a holder file of this vault without a record, as a move leaves it that is killed early."""
    HolderFile(lab.base / name, own_id(lab), scheme).create()
    return lab.base / name


@pytest.mark.parametrize("link", [False, True], ids=["named", "linked"])
@pytest.mark.usefixtures("passphrase")
def test_an_empty_layer_file_before_the_present_root_file_does_not_have_it_cleared_away(
    lab: Lab, link: bool
) -> None:
    """What a cut-off move left is cleared away: here that would be the only root, behind the layer."""
    empty_holder(lab, "passphrase-file", "layer")
    if link:
        os.link(lab.root, lab.base / "other name")
    inner = uri(lab, "other name" if link else "root.key")
    with lab.open() as vault:
        with pytest.raises(UsageError, match="two of the root holders are one"):
            vault.keys.move(Holders(root_uri=f"passphrase:?memory=64&file={lab.base / 'layer'}|{inner}"))
        with pytest.raises(UsageError, match="two of the root holders are one"):
            vault.keys.move(Holders(mirrors=[f"passphrase:?memory=64&file={lab.base / 'layer'}|{inner}"]))
    sound(lab)


def test_an_empty_holder_file_does_not_have_the_tokens_keys_cleared_away(lab: Lab) -> None:
    """The holder file is to be elsewhere; the token and the keys' label are those of the present holder."""
    pkcs11_help.set_up(lab.base)
    with lab.open() as vault:
        vault.keys.move(Holders(root_uri=pkcs11_help.uri(lab.base)))
        other = empty_holder(lab, "pkcs11", "other")
        with pytest.raises(VaultExists, match="could reach the keys of another pkcs11: holder"):
            vault.keys.move(Holders(root_uri=pkcs11_help.uri(lab.base, x_file=str(other))))
        other.unlink()
        with pytest.raises((RootError, VaultExists)):
            vault.keys.move(Holders(root_uri=pkcs11_help.uri(lab.base, x_file=str(other))))
    sound(lab)


def test_an_empty_holder_file_does_not_have_the_tpms_counter_removed(lab: Lab) -> None:
    with tpm2_help.running(lab.base / "tpm") as tpm:
        first, second = (tpm.uri(file=str(lab.base / name)) for name in ("one", "two"))
        with lab.open() as vault:
            vault.keys.move(Holders(root_uri=first))
            empty_holder(lab, "tpm2", "two")
            with pytest.raises(VaultExists, match="could reach the keys of another tpm2: holder"):
                vault.keys.move(Holders(root_uri=second))
        sound(lab)


def test_a_leaving_file_that_has_become_a_link_to_the_new_one_does_not_take_its_root_along(lab: Lab) -> None:
    """At the step before the old holder destroys what it has, it is the new holder under its old name."""

    def link() -> None:
        lab.root.unlink()
        os.link(lab.base / "new.root", lab.root)

    with (
        lab.open() as vault,
        calling("before promote", link),
        pytest.raises(ErasurePending, match="two of the root holders are one"),
    ):
        vault.keys.move(Holders(root_uri=uri(lab, "new.root")))
    exchange(lab.root, root_file(lab, "empty"))
    lab.do(lambda vault: vault.keys.resume())
    assert (lab.base / "new.root").exists()
    sound(lab)


@pytest.mark.parametrize("step", ["after promote", "move.forgotten", "move.ended"])
def test_a_link_made_after_the_old_holder_was_emptied_is_not_cleared_away(lab: Lab, step: str) -> None:
    def link() -> None:
        lab.root.unlink(missing_ok=True)
        os.link(lab.base / "new.root", lab.root)

    with lab.open() as vault, calling(step, link), contextlib.suppress(FacekeepError):
        vault.keys.move(Holders(root_uri=uri(lab, "new.root")))
    lab.do(lambda vault: vault.keys.resume())
    sound(lab)


def test_the_only_holder_with_the_root_cannot_be_given_up_as_lost(lab: Lab) -> None:
    """The vault would never open again: the new holder has nothing but the placeholder yet."""
    with lab.open() as vault:
        for act in (vault.keys.move, vault.keys.plan_move):
            with pytest.raises(UsageError, match="nothing would open the vault"):
                act(Holders(root_uri=uri(lab, "new.root"), lost=[uri(lab, "root.key")]))
    assert not (lab.base / "new.root").exists()
    sound(lab)


def test_a_holder_that_is_away_does_not_count_as_having_the_root(lab: Lab) -> None:
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
    lab.root.rename(lab.base / "away")
    with lab.open() as vault:
        with pytest.raises(UsageError, match="nothing would open the vault"):
            vault.keys.move(
                Holders(root_uri=uri(lab, "new.root"), mirrors=[], lost=[uri(lab, "mirror.root")])
            )
        vault.keys.move(Holders(root_uri=uri(lab, "mirror.root"), mirrors=[], lost=[uri(lab, "root.key")]))
    sound(lab)


# -- receipts for what nobody destroyed


def test_an_empty_file_in_the_place_of_a_leaving_holder_destroys_nothing(lab: Lab) -> None:
    """The true one was taken away with its root; the receipt would have called that destroyed."""
    other = root_file(lab, "empty")
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
        with (
            calling("move.renamed", lambda: exchange(lab.root, other)),
            pytest.raises(ErasurePending, match="does not have the root that it is to destroy"),
        ):
            vault.keys.move(Holders(root_uri=uri(lab, "mirror.root"), mirrors=[]))
    exchange(lab.root, other)
    with lab.open() as vault:
        assert vault.keys.resume().left == (uri(lab, "root.key"),)
    sound(lab)


@pytest.mark.parametrize("what", ["empty", "placeholder", "an older root"])
def test_another_file_in_the_place_of_a_mirror_has_an_erasure_wait(lab: Lab, what: str) -> None:
    """Its true medium keeps the root of today, and with today's keys.db whoever is erased now."""
    mirror = lab.base / "mirror.root"
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
        older = mirror.read_bytes()
        vault.keys.rotate_root()
    other = root_file(lab, "other", placeholder(own_id(lab)) if what == "placeholder" else None)
    if what == "an older root":
        other.write_bytes(older)
    exchange(mirror, other)
    with lab.open() as vault:
        with pytest.raises(ErasurePending, match="does not have the root in use"):
            vault.shred("bob")
        assert reason(vault, "bob") in {"withdrawn", "destroyed"}
        vault.keys.resume()
        assert vault.status()["pending"] == 1
        exchange(mirror, other)
        vault.keys.resume()
        assert vault.status()["pending"] == 0
    sound(lab, "ada")


def test_a_mirror_that_has_become_a_link_to_the_first_holder_has_an_erasure_wait(lab: Lab) -> None:
    mirror = lab.base / "mirror.root"
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
        mirror.rename(lab.base / "kept")
        os.link(lab.root, mirror)
        with pytest.raises(ErasurePending, match="two of the root holders are one"):
            vault.shred("bob")
        mirror.unlink()
        (lab.base / "kept").rename(mirror)
        vault.keys.resume()
    sound(lab, "ada")


def test_a_servers_holder_file_without_its_record_has_an_erasure_wait(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the record nothing is trimmed on the server, where the old version opens a kept record."""
    server = openbao_help.server()
    token = lab.base / "token"
    token.write_text(server.token_for("attacked"))
    token.chmod(0o600)
    monkeypatch.setenv("FACEKEEP_OPENBAO_TOKEN_FILE", str(token))
    monkeypatch.setenv("FACEKEEP_OPENBAO_SERVER", server.base)
    file = lab.base / "bao"
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[openbao_help.uri("attacked", file=file)]))
        kept = file.read_bytes()
        HolderFile(file, own_id(lab), "openbao").write(())
        with pytest.raises(ErasurePending, match="does not have the root in use"):
            vault.shred("bob")
        file.write_bytes(kept)
        vault.keys.resume()
        assert vault.status()["pending"] == 0
    sound(lab, "ada")


# -- the log, and other files


def test_a_log_rolled_back_behind_the_beginning_of_a_move_is_noticed(lab: Lab) -> None:
    """Nothing was moved then, and the operator would be told so as if there had been nothing to move."""
    saved = lab.save("before")

    def roll_back() -> None:
        for name in ("log.db", "vault.toml"):
            for end in ("", "-wal", "-shm"):
                there, here = saved / "vault" / (name + end), lab.path / (name + end)
                if there.exists():
                    here.write_bytes(there.read_bytes())
                else:
                    here.unlink(missing_ok=True)

    move = Holders(root_uri=uri(lab, "new.root"))
    stops = pytest.raises((FacekeepError, sqlite3.Error))
    with lab.open() as vault, calling("move.renamed", roll_back), stops:
        vault.keys.move(move)


@pytest.mark.parametrize("what", ["link", "fifo"])
def test_what_stands_at_the_name_of_new_settings_is_not_written_to(lab: Lab, what: str) -> None:
    staged, victim = lab.path / "vault.toml.new", lab.base / "victim"
    victim.write_text("precious")
    if what == "link":
        staged.symlink_to(victim)
    else:
        os.mkfifo(staged)
    with lab.open() as vault:
        vault.change_settings(region="FR")
    assert victim.read_text() == "precious"
    assert not (lab.path / "vault.toml").is_symlink()
    lab.clean()


def test_other_settings_put_in_the_place_of_the_staged_ones_are_not_taken(lab: Lab) -> None:
    """The log has the digest of what was staged: whatever else gets the name is refused."""
    settings = settingsfile.read(lab.path)
    evil = Settings(settings.vault_id, uri(lab, "evil.root"), (), "DE", (settings.root_uri,))

    def put() -> None:
        (lab.path / "vault.toml.new").write_text(evil.encode())

    with lab.open() as vault, calling("move.announced", put), pytest.raises(IntegrityError):
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
    with pytest.raises(IntegrityError, match="edited by hand"):
        lab.check()


@pytest.mark.parametrize("leaving", [(), ("lost:file:/nowhere",)])
def test_a_vault_toml_with_another_holder_opens_nothing_and_gives_it_no_root(
    lab: Lab, leaving: tuple[str, ...]
) -> None:
    settings = settingsfile.read(lab.path)
    evil = root_file(lab, "evil.root", placeholder(settings.vault_id))
    before = evil.read_bytes()
    edited = Settings(settings.vault_id, settings.root_uri, (), "DE", (f"file:{evil}",), leaving)
    (lab.path / "vault.toml").write_text(edited.encode())
    with pytest.raises(IntegrityError, match="edited by hand"):
        lab.do(lambda vault: vault.shred("bob"))
    assert evil.read_bytes() == before


def test_the_placeholder_opens_no_key_tree_of_the_vault(lab: Lab) -> None:
    """Killed at every step of a move: never is keys.db sealed under what everybody can compute."""

    def act(vault: Vault) -> object:
        return vault.keys.move(Holders(root_uri=uri(lab, "new.root")))

    start = lab.save("start")
    root = placeholder(own_id(lab))
    mark = root_fingerprint(own_id(lab), root)
    for step, occurrence in lab.steps_of(act):
        (lab.base / "new.root").unlink(missing_ok=True)
        lab.put_back(start)
        lab.crash(act, step, occurrence)
        marks = {each for (each,) in lab.sql("keys.db", "SELECT fingerprint FROM top")}
        assert mark not in marks


# -- secrets that vault.toml would have sent elsewhere


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """(port, what was received): whoever runs a server on this machine."""
    heard: list[bytes] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.05)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    peer, _ = listener.accept()
                    with peer:
                        peer.settimeout(0.5)
                        heard.append(peer.recv(65_536))
                        peer.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1]), heard
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize("source", ["file", "credential"])
@pytest.mark.parametrize("named", [None, "https://bao.example.org:8200"])
@pytest.mark.parametrize("query", ["", "&role=r"])
def test_an_edited_vault_toml_does_not_have_a_servers_token_sent_elsewhere(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, source: str, named: str | None, query: str
) -> None:
    """Holders are asked before the log can say whether vault.toml is true."""
    pytest.importorskip("urllib3")
    for name in ("openbao-token", "openbao-secret-id"):
        file = lab.base / f"facekeep-{name}"
        file.write_text("s.the-true-token")
        file.chmod(0o600)
        if source == "file":
            monkeypatch.setenv(f"FACEKEEP_{name.upper().replace('-', '_')}_FILE", str(file))
    if source == "credential":
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(lab.base))
    if named is not None:
        monkeypatch.setenv("FACEKEEP_OPENBAO_SERVER", named)
    sealed = {"ciphertext": "vault:v1:AAAA", "version": 1}
    HolderFile(lab.base / "bait", own_id(lab), "openbao").write(
        [HolderRecord(b"f" * 32, "current", cast("Any", sealed))]
    )
    settings = settingsfile.read(lab.path)
    with listening() as (port, heard):
        evil = f"openbao:http://127.0.0.1:{port}/transit/key?file={lab.base / 'bait'}{query}"
        for holders in ((evil, (settings.root_uri,)), (settings.root_uri, (evil,))):
            edited = Settings(settings.vault_id, holders[0], (), "DE", holders[1])
            (lab.path / "vault.toml").write_text(edited.encode())
            with pytest.raises(FacekeepError):
                lab.check()
    assert not any(b"the-true-token" in each for each in heard)


def test_what_was_typed_for_one_server_is_not_sent_to_another() -> None:
    asked: list[str] = []

    def ask(name: str, purpose: str) -> bytes:
        asked.append(purpose)
        return name.encode()

    secrets = Secrets(ask)
    for purpose in ("the server one", "the server two", "the server one"):
        secrets.get("openbao-token", purpose)
    assert asked == ["the server one", "the server two"]


def test_the_tpm_owners_authorization_does_not_go_to_a_tpm_that_vault_toml_feigns(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TPM of the attacker's says that its owner has an authorization, and waits for it."""
    secret = lab.base / "owner"
    secret.write_text("of the true TPM")
    secret.chmod(0o600)
    monkeypatch.setenv("FACEKEEP_TPM_OWNER_FILE", str(secret))
    with tpm2_help.running(lab.base / "tpm") as tpm:
        provider = provider_from_uri(tpm.uri(file=str(lab.base / "bait")), Place(own_id(lab), lab.base))
        provider.provision(b"r" * 32)
        tpm.run("tpm2_changeauth", "-c", "owner", "something")
        settings = settingsfile.read(lab.path)
        edited = Settings(
            settings.vault_id, settings.root_uri, (), "DE", (tpm.uri(file=str(lab.base / "bait")),)
        )
        (lab.path / "vault.toml").write_text(edited.encode())
        with pytest.raises(IntegrityError, match="edited by hand"):
            lab.check()
        with pytest.raises(RootError, match="FACEKEEP_TPM2_TCTI does not name"):
            provider_from_uri(edited.mirrors[0], Place(own_id(lab), lab.base)).candidates()
        monkeypatch.setenv("FACEKEEP_TPM2_TCTI", tpm.tcti)
        with pytest.raises(RootError, match="the TPM refuses"):
            provider_from_uri(edited.mirrors[0], Place(own_id(lab), lab.base)).candidates()
