"""Who is in a gallery after whatever happened: those whom a gallery opened anew would have, and no other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facekeep.access.core import Core
from facekeep.errors import StoreError
from facekeep.keys.tree import KeyTree, TreeStale
from facekeep.matching import members as module
from facekeep.matching.members import Members
from facekeep.matching.model import Model
from facekeep.vault import Existing, Vault
from vaultlab import DAY, IDENTIFY, MODEL, NOW, VERIFY, Lab, calling, core, face, slots

OTHER = Model("raw:other", "1", MODEL.dimension, MODEL.metric)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


@pytest.fixture
def vault(lab: Lab) -> Iterator[Vault]:
    with lab.open() as vault:
        yield vault


def members(vault: Vault, model: Model = MODEL, region: str = "DE") -> Members:
    found = Members(core(vault), IDENTIFY, model, region)
    found.follow()
    return found


def state(found: Members) -> tuple[object, ...]:
    order = np.argsort(found.rows.slots)
    return (
        found.rows.slots[order].tolist(),
        found.rows.matrix[order].tolist(),
        found.rows.digest.digest(),
        found.excluded,
        found.omitted,
        found.misfits,
    )


def followed(vault: Vault, found: Members) -> Members:
    """Follow; whoever opens the same anew has the same, and nothing is left behind the rows."""
    found.follow()
    assert state(found) == state(members(vault))
    assert not found.rows._whole()[found.rows.count :].any()
    return found


def slot(vault: Vault, name: str) -> int:
    return slots(vault, name)[IDENTIFY]


def row_of(lab: Lab, at: int) -> tuple[object, ...]:
    return lab.sql("vault.db", "SELECT * FROM grants WHERE slot = ?", (at,))[0]


def put(lab: Lab, row: tuple[object, ...]) -> None:
    lab.sql("vault.db", "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def test_those_of_the_scope_are_opened_as_they_were_enrolled(lab: Lab, vault: Vault) -> None:
    vault.enroll_many([lab.enrolment("carol", VERIFY)])
    found = members(vault)
    by_slot = dict(zip(found.rows.slots.tolist(), found.rows.matrix, strict=True))
    assert set(by_slot) == {slot(vault, "alice"), slot(vault, "bob")}
    assert (by_slot[slot(vault, "alice")] == face("alice")).all()
    assert (found.excluded, found.omitted, found.misfits) == (set(), set(), set())


def test_a_restore_and_a_shred_that_are_seen_in_one_follow(lab: Lab, vault: Vault) -> None:
    vault.backup(lab.base / "one.fkb")
    found, gone = members(vault), slot(vault, "alice")
    vault.restore(lab.base / "one.fkb")
    vault.shred("alice")
    assert gone not in followed(vault, found).rows
    assert found.rows.count == 1


def test_a_shred_and_then_a_restore_in_one_follow(lab: Lab, vault: Vault) -> None:
    vault.backup(lab.base / "one.fkb")
    found, gone = members(vault), slot(vault, "alice")
    vault.shred("alice")
    vault.restore(lab.base / "one.fkb")
    vault.enroll_many([lab.enrolment("carol")])
    assert gone not in followed(vault, found).rows
    assert slot(vault, "carol") in found.rows


def test_a_row_that_was_lost_is_omitted_and_a_restore_brings_it_back(lab: Lab, vault: Vault) -> None:
    vault.backup(lab.base / "one.fkb")
    at = slot(vault, "alice")
    lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (at,))
    found = members(vault)
    assert (found.omitted, found.excluded) == ({at}, set())
    vault.restore(lab.base / "one.fkb")
    assert at in followed(vault, found).rows
    assert not found.omitted


def test_another_model_of_the_same_dimension_is_excluded(lab: Lab, vault: Vault) -> None:
    for name in ("carol", "dave"):
        found = members(vault)
        array = face(name)
        vault.enroll(name, embeddings=array, model=OTHER, consent=lab.consent(IDENTIFY))
        followed(vault, found)
        assert slot(vault, name) in found.excluded
        assert slot(vault, name) not in found.rows
        assert not found.misfits
        assert not found.omitted
    other = members(vault, OTHER)
    assert set(other.rows.known()) == {slot(vault, "carol"), slot(vault, "dave")}
    assert other.excluded == {slot(vault, "alice"), slot(vault, "bob")}


@pytest.mark.parametrize(
    "model", [replace(MODEL, dimension=MODEL.dimension // 2), replace(MODEL, metric="cosine")]
)
def test_a_model_that_is_not_what_the_caller_says_opens_nobody(vault: Vault, model: Model) -> None:
    found = members(vault, model)
    everybody = {slot(vault, "alice"), slot(vault, "bob")}
    assert (found.rows.count, found.misfits, found.excluded) == (0, everybody, everybody)
    vault.shred("alice")
    found.follow()
    assert found.misfits == found.excluded == {slot(vault, "bob")}


def test_what_is_emptied_is_forgotten_whole(vault: Vault) -> None:
    found = members(vault, replace(MODEL, metric="cosine"))
    found.empty()
    assert (found.misfits, found.excluded, found.omitted, found.rows.count) == (set(), set(), set(), 0)
    found.follow()
    assert len(found.misfits) == 2


def test_a_region_that_the_consent_does_not_name_is_excluded(lab: Lab, vault: Vault) -> None:
    vault.enroll_many([lab.enrolment("carol", consent=lab.consent(IDENTIFY, regions=("CH",)))])
    vault.enroll_many([lab.enrolment("dave", consent=lab.consent(IDENTIFY, regions=("EU",)))])
    assert members(vault).excluded == {slot(vault, "carol")}
    assert members(vault, region="CH").rows.known() == [slot(vault, "carol")]


def test_whose_term_begins_is_taken_up_at_that_moment(lab: Lab, vault: Vault) -> None:
    for name, days in (("carol", 2), ("dave", 1)):
        consent = lab.consent(IDENTIFY, not_before_ms=NOW + days * DAY)
        vault.enroll_many([lab.enrolment(name, consent=consent)])
    found = members(vault)
    carol, dave = slot(vault, "carol"), slot(vault, "dave")
    assert (found.excluded, found.until_ms) == ({carol, dave}, NOW + DAY)
    for ms, left in ((DAY - 1, {carol, dave}), (DAY, {carol}), (2 * DAY - 1, {carol}), (2 * DAY, set())):
        lab.clock.ms = NOW + ms
        assert followed(vault, found).excluded == left
    assert found.until_ms == NOW + 30 * DAY


def test_whose_term_ends_is_dropped_at_that_moment_and_counted(lab: Lab, vault: Vault) -> None:
    vault.enroll_many([lab.enrolment("carol", consent=lab.consent(IDENTIFY, days=1))])
    found, carol = members(vault), slot(vault, "carol")
    assert found.until_ms == NOW + DAY
    found.drop_expired(NOW + DAY - 1)
    assert carol in found.rows
    lab.clock.ms = NOW + DAY
    found.drop_expired(found.now())
    assert carol not in found.rows
    assert found.excluded == {carol}
    assert state(found) == state(members(vault))


def test_the_time_never_goes_back_for_the_same_rows(lab: Lab, vault: Vault) -> None:
    found = members(vault)
    lab.clock.ms = NOW + DAY
    assert found.now() == NOW + DAY
    lab.clock.ms = NOW
    assert found.now() == NOW + DAY
    found.empty()
    found.follow()
    assert found.now() == NOW


def test_an_accepted_clock_opens_whom_the_time_lets_in_again(lab: Lab, vault: Vault) -> None:
    vault.enroll_many([lab.enrolment("carol", consent=lab.consent(IDENTIFY, days=1))])
    found, carol = members(vault), slot(vault, "carol")
    lab.clock.ms = NOW + 2 * DAY
    vault.withdraw("bob", [VERIFY])  # the log's time
    found.follow()
    found.drop_expired(found.now())
    assert carol in found.excluded
    lab.clock.ms = NOW
    vault.accept_clock()
    assert carol in followed(vault, found).rows
    assert carol not in found.excluded


def test_what_is_to_be_destroyed_is_dropped_when_it_is_announced(vault: Vault) -> None:
    found, gone = members(vault), slot(vault, "alice")
    seen: list[bool] = []

    def look() -> None:
        mine = members(vault)
        assert core(vault).view().pending.destroying(gone)
        found.follow()
        seen.extend((gone in found.rows, gone in mine.rows, gone in mine.omitted | mine.excluded))

    with calling("destroy.announced", look):
        vault.shred("alice")
    assert seen == [False, False, False]
    followed(vault, found)


def test_a_row_that_is_not_the_logs_is_omitted_whenever_it_comes(lab: Lab, vault: Vault) -> None:
    at = slot(vault, "alice")
    lab.sql("vault.db", "UPDATE grants SET tag = ? WHERE slot = ?", (bytes(32), at))
    found = members(vault)
    assert (found.omitted, found.excluded) == ({at}, set())
    vault.enroll_many([lab.enrolment("carol")])
    assert followed(vault, found).omitted == {at}


def test_templates_that_do_not_open_are_omitted(lab: Lab, vault: Vault) -> None:
    at = slot(vault, "alice")
    blob = bytearray(lab.sql("vault.db", "SELECT templates FROM grants WHERE slot = ?", (at,))[0][0])
    blob[-1] ^= 1
    lab.sql("vault.db", "UPDATE grants SET templates = ? WHERE slot = ?", (bytes(blob), at))
    found = members(vault)
    assert (found.omitted, found.rows.known()) == ({at}, [slot(vault, "bob")])


def test_a_row_in_a_slot_that_was_never_given_out_is_nobody(lab: Lab, vault: Vault) -> None:
    vault.enroll_many([lab.enrolment("carol")])
    at = slot(vault, "carol")
    row = row_of(lab, at)
    put(lab, (at + 1, *row[1:]))
    found = members(vault)
    assert found.rows.count == 3
    assert at + 1 not in found.rows
    assert (found.excluded, found.omitted) == (set(), set())


def test_a_tree_that_was_swapped_meanwhile_is_followed(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    real, times = KeyTree.slot_keys, [2]

    def stale(tree: KeyTree, slots: list[int]) -> object:
        if times[0]:
            times[0] -= 1
            raise TreeStale("swapped")
        return real(tree, slots)

    monkeypatch.setattr(KeyTree, "slot_keys", stale)
    assert members(vault).rows.count == 2
    times[0] = module.ATTEMPTS
    with pytest.raises(StoreError, match="changed too often"):
        members(vault)


def test_half_of_a_change_is_applied_again_whole(
    lab: Lab, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows dropped before the tree turned out to be a past one are no longer in the log's tail alone."""
    found = members(vault)
    vault.enroll_many([lab.enrolment("carol")])
    vault.shred("alice")
    real, times = KeyTree.slot_keys, [1]

    def stale(tree: KeyTree, slots: list[int]) -> object:
        if times[0]:
            times[0] -= 1
            raise TreeStale("swapped")
        return real(tree, slots)

    monkeypatch.setattr(KeyTree, "slot_keys", stale)
    followed(vault, found)


def test_progress_is_told_up_to_a_hundred_and_files_are_looked_at(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    found = Members(core(vault), IDENTIFY, MODEL, "DE")
    found.follow(lambda done, total: told.append((done, total)))
    assert told[-1] == (100, 100)
    assert all(0 <= done <= 100 for done, _ in told)
    told.clear()
    found.follow(lambda done, total: told.append((done, total)))
    assert told == []  # nothing has changed
    looked: list[bool] = []
    monkeypatch.setattr(Core, "check_files", lambda _: looked.append(True))
    found.follow()
    assert looked == [True]


def test_nothing_is_read_again_while_nothing_changes(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    found = members(vault)
    monkeypatch.setattr(Members, "_open", lambda *_: pytest.fail("rows were opened again"))
    found.follow()


@pytest.mark.parametrize("seed", range(6))
def test_what_was_followed_is_what_is_opened_anew(lab: Lab, vault: Vault, seed: int) -> None:
    dice, people = random.Random(seed), [f"person {number}" for number in range(6)]
    found = members(vault)
    vault.backup(lab.base / "one.fkb")

    def enrol() -> None:
        begins = dice.choice([None, lab.clock.ms + DAY])
        consent = lab.consent(IDENTIFY, VERIFY, days=dice.choice([2, 30]), not_before_ms=begins)
        model = dice.choice([MODEL, OTHER])
        name = dice.choice(people)
        vault.enroll(name, embeddings=face(name), model=model, consent=consent, existing=Existing.REPLACE)

    def lose() -> None:
        if (known := found.rows.known()) and dice.random() < 0.5:
            lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (dice.choice(known),))
            found.empty()  # who follows the log keeps what it has opened

    def wait() -> None:
        lab.clock.ms += dice.choice([1, DAY // 2, DAY])

    def erase() -> None:
        living = [each.subject for each in vault.subjects()]
        if living:
            vault.shred(dice.choice(living))

    def restore() -> None:
        vault.restore(lab.base / "one.fkb")
        found.follow()

    acts: list[Callable[[], None]] = [enrol, enrol, erase, wait, lose, restore]
    for _ in range(12):
        for act in dice.sample(acts, dice.choice([1, 2])):
            act()
        found.follow()
        found.drop_expired(found.now())
        followed(vault, found)


def test_who_was_opened_stays_so_when_others_come_whatever_stands_in_the_file(lab: Lab, vault: Vault) -> None:
    found, at = members(vault), slot(vault, "alice")
    lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (at,))
    vault.enroll_many([lab.enrolment("carol")])
    found.follow()
    assert at in found.rows
    assert slot(vault, "carol") in found.rows
    assert not found.omitted


def test_whose_row_was_lost_is_forgotten_with_the_others(lab: Lab, vault: Vault) -> None:
    at = slot(vault, "alice")
    row = row_of(lab, at)
    lab.sql("vault.db", "DELETE FROM grants WHERE slot = ?", (at,))
    found = members(vault)
    assert found.omitted == {at}
    found.empty()
    assert found.omitted == set()
    put(lab, row)
    assert at in followed(vault, found).rows


def test_means_are_those_of_several_photographs(lab: Lab, vault: Vault) -> None:
    """A search holds the mean of several photographs to a limit of its own."""
    many = np.array([face("carol"), face("carol") + 0.01, face("carol") - 0.01], np.float32)
    vault.enroll("carol", embeddings=many, model=MODEL, consent=lab.consent(IDENTIFY))
    found = members(vault)
    flags = dict(zip(found.rows.slots.tolist(), found.rows.means.tolist(), strict=True))
    assert flags == {
        slot(vault, "alice"): False,
        slot(vault, "bob"): False,
        slot(vault, "carol"): True,
    }


@pytest.mark.parametrize("people", [[], ["alice"]])
def test_progress_ends_at_a_hundred_however_few_there_are(tmp_path: Path, people: list[str]) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol(*people)
    told: list[tuple[int, int]] = []
    with lab.open() as vault:
        found = Members(core(vault), IDENTIFY, MODEL, "DE")
        found.follow(lambda done, total: told.append((done, total)))
    assert told == [(100, 100)] * len(people)
