"""Rotation of root, tree, templates and signing keys; other holders; erasures that wait for a holder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from facekeep.audit.logs import verify_log
from facekeep.audit.report import Report
from facekeep.errors import (
    Denied,
    ErasurePending,
    NotAllowed,
    RootError,
    SlotDead,
    StoreError,
    UsageError,
    VaultExists,
)
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.provider import placeholder
from facekeep.keys.tree import open_tree
from facekeep.operations.destroy import idle_branches
from facekeep.store.keysdb import KeysStore
from facekeep.vault import Holders, Role, Selection, Vault, Why
from vaultlab import (
    DAY,
    IDENTIFY,
    VERIFY,
    Lab,
    core,
    identify,
    log_entries,
    matches,
    reason,
    row_key,
    slots,
)

PEOPLE = ("ada", "bob", "cy")
FIRST = "slot = (SELECT min(slot) FROM grants)"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path, copies=True).create()
    made.enrol(*PEOPLE)
    return made


def uri(lab: Lab, name: str) -> str:
    return f"file:{lab.base / name}"


def audited(lab: Lab) -> Report:
    """Export the log and replay it as an auditor would."""
    with lab.open() as vault:
        vault.audit_export(lab.base / "export")
        return verify_log(lab.base / "export", vault.audit_keys(every=True))


def everybody_matches(vault: Vault) -> None:
    for name in PEOPLE:
        assert matches(vault, name)
        assert identify(vault, name) == [name]


def roots(lab: Lab, name: str) -> list[bytes]:
    with lab.open() as vault:
        return [each.root for each in FileProvider(lab.base / name, core(vault).vault_id).candidates()]


# -- the root


def test_the_root_is_replaced_and_the_log_says_why(lab: Lab) -> None:
    old = lab.root.read_bytes()
    with lab.open() as vault:
        done = vault.keys.rotate_root(Why.COMPROMISE)
        assert (done.what, done.epoch) == ("root", 2)
        entry = core(vault).log.entry(done.entry)
        assert (entry["what"], entry["reason"], entry["by"]) == ("root", "compromise", vault.whoami()[0])
        everybody_matches(vault)
    assert old != lab.root.read_bytes()
    lab.clean()
    audited(lab)


def test_a_service_rotates_nothing(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    with lab.open(token) as vault:
        for act in (
            vault.keys.rotate_root,
            vault.keys.rotate_tree,
            vault.keys.rotate_templates,
            vault.keys.rotate_signing,
            vault.keys.estimate,
            lambda: vault.keys.extent("tree"),
            vault.keys.resume,
            lambda: vault.keys.move(Holders(root_uri=uri(lab, "mine.root"))),
        ):
            with pytest.raises(NotAllowed):
                act()
    assert not (lab.base / "mine.root").exists()


# -- the tree


def test_every_node_and_the_index_get_fresh_keys(lab: Lab) -> None:
    lab.do(lambda vault: vault.shred("cy"))
    rows = dict(lab.sql("keys.db", "SELECT hash, sealed FROM subject_index"))
    nodes = dict(lab.sql("keys.db", "SELECT id, blob FROM node"))
    with lab.open() as vault:
        extent = vault.keys.extent("tree")
        assert (extent.nodes, extent.subjects) == (1 + len(nodes), 2)  # the root node, too
        assert extent.seconds > 0
        before = slots(vault, "ada")
        done = vault.keys.rotate_tree()
        assert slots(vault, "ada") == before  # slot keys stay
        assert done.nodes >= len(nodes)
        assert matches(vault, "ada")
        assert reason(vault, "cy") == "subject_unknown"
    after = dict(lab.sql("keys.db", "SELECT hash, sealed FROM subject_index"))
    assert len(after) == 2
    assert not set(after) & set(rows)
    assert not set(nodes.values()) & {blob for (blob,) in lab.sql("keys.db", "SELECT blob FROM node")}
    assert {epoch for (epoch,) in lab.sql("keys.db", "SELECT epoch FROM node")} == {done.epoch}
    lab.clean()
    audited(lab)


def test_another_process_follows_a_new_index_key(lab: Lab) -> None:
    with lab.open() as one, lab.open() as other:
        assert matches(other, "ada")
        one.keys.rotate_tree()
        assert matches(other, "ada")
        other.enroll_many([lab.enrolment("dora")])
        assert matches(one, "dora")
        one.shred("ada")
        assert reason(other, "ada") == "subject_unknown"
    lab.clean()


@pytest.mark.parametrize(
    "change",
    [
        f"DELETE FROM grants WHERE {FIRST}",
        f"UPDATE grants SET model = char(233) WHERE {FIRST}",
        f"UPDATE grants SET record = x'' WHERE {FIRST}",
        f"UPDATE grants SET commitment = zeroblob(32) WHERE {FIRST}",
    ],
)
def test_the_tree_is_rekeyed_whatever_became_of_a_row(lab: Lab, change: str) -> None:
    """The new subject index is made from the log: a backup brings the row back."""
    lab.do(lambda vault: vault.backup(lab.base / "backup"))
    lab.sql("vault.db", change)
    with lab.open() as vault:
        vault.keys.rotate_tree()
        vault.restore(lab.base / "backup")
        everybody_matches(vault)
    lab.clean()


def test_a_guessed_id_cannot_be_tested_in_an_old_index_after_the_tree_was_rekeyed(lab: Lab) -> None:
    """DESIGN, what an attacker gets: until the next re-key. Old keys.db, and every key there is now."""
    saved = lab.save("before")
    with lab.open() as vault:
        own = core(vault).vault_id
        old = KeysStore.open(saved / "vault" / "keys.db", own)
        rows = dict(old.index_rows())
        assert row_key(vault, "ada") in rows
        vault.keys.rotate_tree()
        assert row_key(vault, "ada") not in rows
        with pytest.raises(RootError):
            open_tree(old, own, core(vault).providers[0].candidates())


# -- templates


def test_every_template_moves_to_a_new_slot_under_the_same_terms(lab: Lab) -> None:
    with lab.open() as vault:
        before = {name: slots(vault, name) for name in PEOPLE}
        terms = {row.tag: row.terms for row in core(vault).data.rows()}
        estimate = vault.keys.estimate()
        assert estimate.grants == 6
        assert estimate.written > 6 * 128
        seen: list[tuple[int, int]] = []
        done = vault.keys.rotate_templates(progress=lambda *at: seen.append(at))
        assert (done.resealed, done.left, done.resumed) == (6, 0, False)
        assert seen[-1] == (6, 6)
        for name in PEOPLE:
            assert not set(slots(vault, name).values()) & set(before[name].values())
        assert {row.tag: row.terms for row in core(vault).data.rows()}.keys() == terms.keys()
        assert core(vault).data.count() == 6
        everybody_matches(vault)
    lab.clean()
    audited(lab)


def test_nothing_new_opens_under_the_keys_before(lab: Lab) -> None:
    """The old root and the old keys.db, kept by somebody, open no row that is written afterwards."""
    saved = lab.save("before")
    with lab.open() as vault:
        vault.keys.rotate_templates(Why.COMPROMISE)
        own = core(vault)
        kept = FileProvider(saved / "root.key", own.vault_id).candidates()
        store = KeysStore.open(saved / "vault" / "keys.db", own.vault_id)
        old, _ = open_tree(store, own.vault_id, kept)
        rows = list(own.data.rows())
        assert len(rows) == 6
        for row in rows:
            with pytest.raises(SlotDead):  # not even an unstored node leads to what was given out since
                old.slot_key(row.slot)
        vault.enroll_many([lab.enrolment("dora")])
        for slot in slots(vault, "dora").values():
            with pytest.raises(SlotDead):
                old.slot_key(slot)


def test_branches_in_which_nobody_lives_are_given_back(lab: Lab) -> None:
    with lab.open() as vault:
        before = len(core(vault).view().kinds)
        for _ in range(3):  # each takes two of 120 positions
            vault.keys.rotate_templates()
        assert len(core(vault).view().kinds) == before
        everybody_matches(vault)
    lab.clean()


def test_an_extension_that_was_cut_off_is_done_again(lab: Lab) -> None:
    """Recovery finishes the swap without taking a branch: re-sealing must not go on in the old one."""
    with lab.open() as vault:
        old = set(core(vault).view().kinds)
    lab.crash(lambda vault: vault.keys.rotate_templates(), "destroy.announced")
    with lab.open() as vault:
        vault.keys.rotate_templates()
        assert not old & {slot >> 21 for name in PEOPLE for slot in slots(vault, name).values()}
    audited(lab)


@pytest.mark.parametrize("step", ["rotate.announced", "before write", "after promote"])
def test_a_root_rotation_that_dies_inside_a_rotation_of_templates_ends_no_branch(lab: Lab, step: str) -> None:
    """Nobody lives in the old branches any more; ending them is for the rotation of templates to do."""
    before = lab.save("before")
    steps = lab.steps_of(lambda vault: vault.keys.rotate_templates())
    lab.put_back(before)
    last = max(at for at, (name, _) in enumerate(steps) if name == "destroy.announced")  # ends the branches
    lab.crash(lambda vault: vault.keys.rotate_templates(), *steps[last - 1])
    with lab.open() as vault:
        kinds = dict(core(vault).view().kinds)
        assert [each.op for each in core(vault).view().head.rotations] == ["templates"]
        assert idle_branches(core(vault), core(vault).view())
    lab.crash(lambda vault: vault.keys.rotate_root(), step)
    with lab.open() as vault:
        assert not core(vault).view().head.operations
        assert dict(core(vault).view().kinds) == kinds
        assert vault.keys.rotate_templates().resumed
        assert set(core(vault).view().kinds) < set(kinds)
        everybody_matches(vault)
    audited(lab)


def test_a_selection_by_model_and_by_epoch(lab: Lab) -> None:
    with lab.open() as vault:
        assert vault.keys.rotate_templates(selection=Selection(model="raw:other")).resealed == 0
        vault.keys.rotate_root()
        vault.enroll_many([lab.enrolment("dora")])
        epoch = core(vault).log.head().epoch
        assert vault.keys.estimate(Selection(before_epoch=epoch)).grants == 6
        done = vault.keys.rotate_templates(selection=Selection(before_epoch=epoch))
        assert (done.resealed, done.left) == (6, 0)
        with pytest.raises(UsageError, match="has not come to epoch"):
            vault.keys.rotate_templates(selection=Selection(before_epoch=99))
        assert vault.keys.rotate_templates(selection=Selection()).resealed == 8
    audited(lab)


def test_a_lapsed_grant_and_an_altered_row_are_left_and_counted(lab: Lab) -> None:
    lab.enrol("dora", scopes=[VERIFY], days=1)
    lab.clock.ms += 2 * DAY
    lab.sql("vault.db", f"UPDATE grants SET templates = zeroblob(600) WHERE {FIRST}")
    with lab.open() as vault:
        done = vault.keys.rotate_templates()
        assert (done.resealed, done.left) == (5, 2)
    audited(lab)


def test_a_forged_row_is_not_resealed(lab: Lab) -> None:
    """A row that authenticates under its key and is not the log's would get a life in the log by this."""
    lab.sql("vault.db", f"UPDATE grants SET tag = zeroblob(32) WHERE {FIRST}")
    with lab.open() as vault:
        assert vault.keys.rotate_templates().left == 1
    audited(lab)


def test_matches_go_on_while_templates_are_rotated(lab: Lab) -> None:
    stop = threading.Event()
    wrong: list[str] = []

    def ask(vault: Vault) -> None:
        while not stop.is_set():
            for name in PEOPLE:
                try:
                    if not matches(vault, name):
                        wrong.append(name)
                except Denied as error:
                    wrong.append(
                        str(log_entries(vault)[int((error.decision or "0").split("-")[0])]["reason"])
                    )

    with lab.open() as vault, lab.open() as service:
        thread = threading.Thread(target=ask, args=(service,))
        thread.start()
        for _ in range(5):
            vault.keys.rotate_templates()
            vault.keys.rotate_root()
            vault.keys.rotate_tree()
        stop.set()
        thread.join()
    assert not wrong
    audited(lab)


def test_a_rotation_that_another_operator_began_is_gone_on_with(lab: Lab) -> None:
    lab.crash(lambda vault: vault.keys.rotate_templates(Why.COMPROMISE), "rotate.begun")
    with lab.open() as vault:
        assert [each.op for each in core(vault).log.head().rotations] == ["templates"]
        vault.withdraw("bob", [IDENTIFY])
        done = vault.keys.rotate_templates()
        assert (done.resumed, done.resealed, done.left) == (True, 5, 0)
        assert core(vault).log.entry(done.entry)["reason"] == "compromise"
    audited(lab)


# -- signing keys


def test_signing_keys_are_cross_signed(lab: Lab) -> None:
    with lab.open() as vault:
        before = vault.audit_keys()
        vault.audit_export(lab.base / "export")
        index, keys = vault.keys.rotate_signing(Why.DEPARTURE)
        assert keys == vault.audit_keys() != before
        assert core(vault).log.entry(index - 1)["reason"] == "departure"
        vault.audit_export(lab.base / "export")
    verify_log(lab.base / "export", before)
    verify_log(lab.base / "export", keys)


# -- other holders


def test_a_move_gives_the_new_holder_a_fresh_root_and_empties_the_old_one(lab: Lab) -> None:
    kept = lab.root.read_bytes()
    old = roots(lab, lab.root.name)
    with lab.open() as vault:
        done = vault.keys.move(Holders(root_uri=uri(lab, "new.root")))
        assert done.holders == (uri(lab, "new.root"),)
        everybody_matches(vault)
        assert vault.settings.root_uri == uri(lab, "new.root")
        assert vault.settings.leaving == ()
    assert not lab.root.exists()
    assert not set(old) & set(roots(lab, "new.root"))
    lab.root.write_bytes(kept)  # a copy of the old root that somebody kept opens nothing now
    (lab.base / "new.root").rename(lab.base / "away")
    with pytest.raises(RootError):
        lab.check()
    (lab.base / "away").rename(lab.base / "new.root")
    lab.clean()
    audited(lab)


def test_a_mirror_opens_the_vault_alone(lab: Lab) -> None:
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
        vault.shred("cy")
        receipts = [entry["receipts"] for entry in log_entries(vault) if entry["type"] == "destroyed"][-1]
        assert [each["action"] for each in cast("list[Any]", receipts)] == ["promoted", "destroyed"] * 2
    assert roots(lab, "mirror.root") == roots(lab, lab.root.name)
    lab.root.rename(lab.base / "away")
    with lab.open() as vault:
        assert matches(vault, "ada")
    (lab.base / "away").rename(lab.root)
    lab.clean()


def test_an_erasure_waits_for_a_mirror_and_is_denied_meanwhile(lab: Lab) -> None:
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")]))
    (lab.base / "mirror.root").rename(lab.base / "away")
    with lab.open() as vault:
        with pytest.raises(ErasurePending):
            vault.shred("cy")
        assert reason(vault, "cy") in {"destroyed", "withdrawn"}
        assert vault.status()["pending"] == 1
        assert matches(vault, "ada")
        vault.keys.resume()
        assert vault.status()["pending"] == 1
        (lab.base / "away").rename(lab.base / "mirror.root")
        vault.keys.resume()
        assert vault.status()["pending"] == 0
        assert reason(vault, "cy") == "subject_unknown"
    lab.clean()
    audited(lab)


def test_a_mirror_that_is_gone_for_good_is_given_up_and_the_receipt_says_so(lab: Lab) -> None:
    mirror = uri(lab, "mirror.root")
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[mirror]))
    (lab.base / "mirror.root").unlink()
    with lab.open() as vault:
        with pytest.raises(ErasurePending):
            vault.shred("cy")
        done = vault.keys.move(Holders(mirrors=[], lost=[mirror]))
        assert done.left == (f"lost:{mirror}",)
        assert reason(vault, "cy") == "subject_unknown"
        said = [
            receipt
            for entry in log_entries(vault)
            if entry["type"] == "destroyed"
            for receipt in cast("list[Any]", entry["receipts"])
        ]
        lost = {"action": "lost", "class": "erasing", "limits": ["holder_lost"], "scheme": "lost"}
        assert lost in said
        assert vault.settings.leaving == ()
    lab.clean()
    audited(lab)


def test_a_holder_that_leaves_must_be_reached(lab: Lab) -> None:
    mirror = uri(lab, "mirror.root")
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[mirror]))
    (lab.base / "mirror.root").rename(lab.base / "away")
    with lab.open() as vault:
        with pytest.raises(ErasurePending):
            vault.keys.move(Holders(mirrors=[]))
        everybody_matches(vault)
        with pytest.raises(UsageError, match="not finished") as caught:
            vault.keys.move(Holders(root_uri=uri(lab, "third.root")))
        assert "keys resume" in caught.value.next.command
    (lab.base / "away").rename(lab.base / "mirror.root")
    with lab.open() as vault:
        assert vault.keys.resume().left == (mirror,)
    assert not (lab.base / "mirror.root").exists()
    lab.clean()
    audited(lab)


@pytest.mark.parametrize("spelling", ["file:{base}/./root.key", "file://{base}/root.key", "file:{base}/link"])
def test_the_same_holder_under_another_name_is_refused(lab: Lab, spelling: str) -> None:
    """Letting the old name go would destroy the root of the new one: the vault would be lost."""
    (lab.base / "link").symlink_to(lab.root)
    named = spelling.format(base=lab.base).replace("root.key", lab.root.name)
    with lab.open() as vault:
        for holders in (Holders(root_uri=named), Holders(mirrors=[named])):
            with pytest.raises((UsageError, RootError)):
                vault.keys.move(holders)
        everybody_matches(vault)
    lab.clean()


def test_a_place_that_is_taken_is_refused_and_nothing_changes(lab: Lab) -> None:
    other = Lab(lab.base / "other")
    other.base.mkdir()
    other.create()
    (lab.base / "junk").write_bytes(b"junk")
    with lab.open() as vault:
        before = core(vault).log.head().size
        for taken in (other.root, lab.base / "junk", lab.base / "no" / "where"):
            with pytest.raises((VaultExists, RootError, StoreError)):
                vault.keys.move(Holders(root_uri=f"file:{taken}"))
        assert core(vault).log.head().size == before
    assert other.check().ok
    lab.clean()


def test_a_second_failing_mirror_leaves_no_first_one_behind(lab: Lab) -> None:
    with lab.open() as vault, pytest.raises(StoreError):
        vault.keys.move(Holders(mirrors=[uri(lab, "good.root"), f"file:{lab.base}/no/where"]))
    assert not (lab.base / "good.root").exists()
    lab.clean()


@pytest.mark.parametrize(
    "holders",
    [
        Holders(mirrors=["file:a", "file:b", "file:c", "file:d"]),
        Holders(root_uri="lost:file:x"),
        Holders(root_uri="ftp:x"),
        Holders(lost=["file:unknown"]),
        Holders(root_uri="file:a\nb"),
        Holders(mirrors=["file:m", "file:m"]),
    ],
)
def test_impossible_holders_are_refused(lab: Lab, holders: Holders) -> None:
    with lab.open() as vault:
        before = core(vault).log.head().size
        with pytest.raises(UsageError):
            vault.keys.move(holders)
        assert core(vault).log.head().size == before


def test_moving_nothing_logs_nothing(lab: Lab) -> None:
    with lab.open() as vault:
        before = core(vault).log.head().size
        assert vault.keys.move(Holders()).entry is None
        assert core(vault).log.head().size == before


def test_the_placeholder_opens_nothing_and_is_taken_over(lab: Lab) -> None:
    lab.crash(lambda vault: vault.keys.move(Holders(root_uri=uri(lab, "new.root"))), "move.provisioned")
    with lab.open() as vault:
        own = core(vault).vault_id
        left = FileProvider(lab.base / "new.root", own).candidates()
        assert [each.fingerprint for each in left] == [root_fingerprint(own, placeholder(own))]
        with pytest.raises(RootError):
            open_tree(core(vault).keys, own, left)
        vault.keys.move(Holders(root_uri=uri(lab, "new.root")))
        everybody_matches(vault)
    lab.clean()


def test_a_holder_that_was_cut_off_before_it_held_anything_is_made_anew(lab: Lab) -> None:
    with lab.open() as vault:
        empty = FileProvider(lab.base / "new.root", core(vault).vault_id)
        empty.provision(b"r" * 32)
        empty.drop(root_fingerprint(core(vault).vault_id, b"r" * 32))
        assert empty.candidates() == ()
        vault.keys.move(Holders(root_uri=uri(lab, "new.root")))
        everybody_matches(vault)
    lab.clean()


def test_the_only_holder_is_away_and_the_erasure_waits_denied(lab: Lab) -> None:
    with lab.open() as vault:
        lab.root.rename(lab.base / "away")
        with pytest.raises(ErasurePending):
            vault.shred("cy")
        assert reason(vault, "cy") == "withdrawn"
        assert matches(vault, "ada")  # who is open goes on
        vault.enroll_many([lab.enrolment("dora")])
        assert vault.status()["pending"] == 1
        with pytest.raises(RootError):
            lab.do(lambda other: other.status())
        (lab.base / "away").rename(lab.root)
        vault.keys.resume()
        assert reason(vault, "cy") == "subject_unknown"
        assert matches(vault, "dora")
    lab.clean()
    audited(lab)
