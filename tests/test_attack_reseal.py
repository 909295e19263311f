"""Grants sealed again, batch after batch: whatever fails or is altered, nobody is lost or opened."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from facekeep.crypto.memory import LockedBuffer
from facekeep.errors import FacekeepError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.terms import Terms
from facekeep.operations import resealing
from facekeep.operations.steps import reached
from facekeep.sealing import again
from facekeep.store.vaultdb import GrantRow
from facekeep.vault import Vault
from vaultlab import IDENTIFY, VERIFY, Lab, at_step, core, identify, log_entries

PEOPLE = tuple(f"person{number}" for number in range(100))
BATCH = 40  # so that it takes three


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(resealing, "BATCH", BATCH)
    monkeypatch.setattr(resealing, "_CHUNK", 16)
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol(*PEOPLE, scopes=[IDENTIFY])
    return lab


def kept(vault: Vault) -> dict[bytes, tuple[bytes, str]]:
    return {row.tag: (row.terms, row.model) for row in core(vault).data.rows()}


def none_dead(vault: Vault) -> None:
    """Every row that is left lives."""
    slots = np.array(core(vault).data.slots())
    assert core(vault).view().tree.alive(slots).all()


def test_every_grant_moves_to_a_new_slot_after_its_intent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.open() as vault:
        before, old, seen = kept(vault), core(vault).data.slots(), 0
        seal = again.seal_again

        def watched(*given: object) -> object:
            nonlocal seen
            seen += 1
            opened = core(vault).log.head().open
            assert [(each.type, each.op) for each in opened] == [
                ("rotation", "templates"),
                ("grant", "reseal"),
            ]
            return seal(*given)  # type: ignore[arg-type] # as they were given

        monkeypatch.setattr(resealing, "seal_again", watched)
        done: list[int] = []
        rotated = vault.keys.rotate_templates(progress=lambda now, _: done.append(now))
        assert (rotated.resealed, rotated.left, done, seen) == (100, 0, [40, 80, 100], 8)
        assert kept(vault) == before
        assert not set(core(vault).data.slots()) & set(old)
        assert not core(vault).view().tree.alive(np.array(old)).any()
        none_dead(vault)
        assert identify(vault, "person42") == ["person42"]
        rows = list(core(vault).data.rows())
        assert len({row.grant_id for row in rows}) == len({row.templates[2:14] for row in rows}) == len(rows)
        made = [each for each in log_entries(vault) if each["type"] == "grant" and each["op"] == "reseal"]
        items = [item for entry in made for item in cast("list[JsonObject]", entry["grants"])]
        assert [item["from"] for item in items] == old
    lab.clean()


def test_who_withdraws_between_two_batches_is_not_opened(lab: Lab) -> None:
    """The next batch is prepared by then: it is looked at again."""
    with lab.open() as vault:

        def between(done: int, _: int) -> None:
            if done == BATCH:
                vault.withdraw("person45", [IDENTIFY])
                vault.shred("person50")

        rotated = vault.keys.rotate_templates(progress=between)
        assert (rotated.resealed, rotated.left) == (98, 0)
        assert identify(vault, "person45") == identify(vault, "person50") == []
        assert identify(vault, "person46") == ["person46"]
        none_dead(vault)
    lab.clean()


def test_what_is_enrolled_between_two_batches_stays(lab: Lab) -> None:
    with lab.open() as vault:
        extra = lab.enrolment("late", IDENTIFY)

        def between(done: int, _: int) -> None:
            if done == BATCH:
                vault.enroll_many([extra])

        rotated = vault.keys.rotate_templates(progress=between)
        assert (rotated.resealed, rotated.left) == (100, 0)
        assert identify(vault, "late") == ["late"]
    lab.clean()


ALTERED = {
    "templates": "UPDATE grants SET templates = zeroblob(length(templates))",
    "shorter templates": "UPDATE grants SET templates = substr(templates, 1, 31)",
    "no templates": "UPDATE grants SET templates = x''",
    "record": "UPDATE grants SET record = zeroblob(200)",
    "no record": "UPDATE grants SET record = x''",
    "terms": "UPDATE grants SET terms = zeroblob(88)",
    "short terms": "UPDATE grants SET terms = zeroblob(8)",
    "model": "UPDATE grants SET model = 'raw:other'",
    "model of two lines": "UPDATE grants SET model = model || char(10)",
    "model of no letters": "UPDATE grants SET model = char(233)",
    "commitment": "UPDATE grants SET commitment = zeroblob(32)",
    "grant id": "UPDATE grants SET grant_id = zeroblob(16)",
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_row_is_left_and_stops_nobody(lab: Lab, what: str) -> None:
    some = f"slot = (SELECT slot FROM grants ORDER BY slot LIMIT 1 OFFSET {BATCH + 3})"
    lab.sql("vault.db", f"{ALTERED[what]} WHERE {some}")
    with lab.open() as vault:
        rotated = vault.keys.rotate_templates()
        assert (rotated.resealed, rotated.left) == (99, 1)
        assert core(vault).data.count() == 100  # the altered row stands as it is
        assert identify(vault, "person0") == ["person0"]
        assert identify(vault, "person99") == ["person99"]


def test_two_blobs_swapped(lab: Lab) -> None:
    rows = lab.sql("vault.db", "SELECT slot, templates, record FROM grants ORDER BY slot LIMIT 2")
    for (slot, *_), (_, templates, record) in zip(rows, rows[::-1], strict=True):
        lab.sql(
            "vault.db",
            "UPDATE grants SET templates = ?, record = ? WHERE slot = ?",
            (templates, record, slot),
        )
    with lab.open() as vault:
        rotated = vault.keys.rotate_templates()
        assert (rotated.resealed, rotated.left) == (98, 2)


def broken(*_: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("where", ["seal", "append", "rows", "reading"])
def test_a_failure_of_any_thread_loses_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    with lab.open() as vault:
        before = kept(vault)
        with monkeypatch.context() as patched:
            if where == "seal":
                patched.setattr(resealing, "seal_again", broken)
            elif where == "append":
                patched.setattr(core(vault).log, "append_parts", broken)
            elif where == "rows":
                patched.setattr("facekeep.store.vaultdb.insert_columns", broken)
            else:
                patched.setattr("facekeep.store.vaultdb.whole_windows", broken)
            with pytest.raises((FacekeepError, sqlite3.OperationalError)):
                vault.keys.rotate_templates()
        assert identify(vault, "person7") == ["person7"]
        assert kept(vault) == before
        assert vault.keys.rotate_templates().resealed == 100
        assert kept(vault) == before
        none_dead(vault)
    lab.clean()


@pytest.mark.parametrize("occurrence", [1, 5])
def test_killed_while_sealing(lab: Lab, monkeypatch: pytest.MonkeyPatch, occurrence: int) -> None:
    """Announced, some of it sealed and inserted: nothing of it is in vault.db, and the intent is voided."""
    seal = again.seal_again

    def killed(*given: object) -> object:
        pairs = seal(*given)  # type: ignore[arg-type] # as they were given
        reached("sealed")
        return pairs

    monkeypatch.setattr(resealing, "seal_again", killed)

    def run() -> None:
        at_step("sealed", signal.SIGKILL, occurrence)
        lab.do(lambda vault: vault.keys.rotate_templates())

    lab.fork(run).wait_killed()
    with lab.open() as vault:
        rotated = vault.keys.rotate_templates()
        assert (rotated.resumed, rotated.left) == (True, 0)
        assert rotated.resealed == (100 if occurrence == 1 else 60)
        none_dead(vault)
        assert core(vault).data.count() == 100
    lab.clean()


def test_rows_that_a_killed_rotation_left_go_in_the_end(lab: Lab) -> None:
    lab.crash(lambda vault: vault.keys.rotate_templates(), "destroy.rows-deleted", 2)
    with lab.open() as vault:
        assert core(vault).data.count() == 100 + BATCH
        assert identify(vault, "person3") == ["person3"]
        rotated = vault.keys.rotate_templates()
        assert (rotated.resealed, rotated.left, core(vault).data.count()) == (60, 0, 100)
        none_dead(vault)
    lab.clean()


def test_templates_are_in_the_clear_in_one_locked_buffer_only(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers: list[LockedBuffer] = []

    def made(size: int) -> LockedBuffer:
        buffers.append(LockedBuffer(size))
        return buffers[-1]

    monkeypatch.setattr(resealing, "LockedBuffer", made)
    with lab.open() as vault:
        longest = max(len(row.templates) for row in core(vault).data.rows())
        vault.keys.rotate_templates()
    assert [each.closed for each in buffers] == [True] * 3
    assert {len(each._map) if not each._map.closed else longest for each in buffers} == {longest}


def test_many_models_and_photographs_in_one_batch(lab: Lab) -> None:
    with lab.open() as vault:
        consent = lab.consent(VERIFY, IDENTIFY)
        vault.enroll_many([lab.enrolment(name, consent=consent) for name in PEOPLE[:50]], existing="add")
        before = kept(vault)
        shapes = {Terms.unpack(row.terms).count for row in core(vault).data.rows()}
        assert shapes == {1, 3}
        rotated = vault.keys.rotate_templates()
        assert rotated.left == 0
        assert kept(vault) == before
        assert identify(vault, "person3") == ["person3"]
        found: list[GrantRow] = list(core(vault).data.rows())
        assert rotated.resealed == len(found)
    lab.clean()
