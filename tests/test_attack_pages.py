"""Attacks on the pages of the ledger: what they say is used only where it is the log's, and all of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekeep.auditlog import ledger
from facekeep.auditlog.pages import FIRST_MARK, Page
from facekeep.auditlog.reader import Mark, Reader
from facekeep.errors import ErasurePending, FormatError, SubjectUnknown
from facekeep.vault import Role, Vault
from vaultlab import VERIFY, Lab, core, log_entries, matches, reason, slots

Row = tuple[Any, ...]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A vault of some history, whose pages hold an entry or two each."""
    monkeypatch.setattr(ledger, "_LEAST", 1)
    monkeypatch.setattr(ledger, "_PAGE", 2)
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    lab.add_principal(Role.AUDITOR)
    lab.do(lambda vault: vault.backup(tmp_path / "first.backup"))
    lab.do(lambda vault: vault.withdraw("bob", [VERIFY]))
    lab.enrol("carol")
    return lab


def told(vault: Vault) -> tuple[Any, ...]:
    """All that a ledger says."""
    found = core(vault).ledger
    every = found.all_slots()
    owners = [found.owners(lambda each, slot=slot: each == slot) for slot in every.tolist()]  # type: ignore[misc] # bound at once
    ends, history = [each.tolist() for each in found.expiries()], found.history()
    dates = (
        history.began_ms,
        history.seen_ms,
        history.rotated,
        history.newest("backup"),
        len(history.expiries),
    )
    return every.tolist(), found.prints(every).tolist(), ends, owners, found.principals(), dates


def pages_of(lab: Lab) -> list[Row]:
    return lab.sql("log.db", "SELECT first, sealed FROM page ORDER BY first")


def put_pages(lab: Lab, rows: list[Row]) -> None:
    lab.sql("log.db", "DELETE FROM page")
    for row in rows:
        lab.sql("log.db", "INSERT INTO page VALUES (?, ?)", row)


def without_pages(lab: Lab) -> tuple[Any, ...]:
    put_pages(lab, [])
    return lab.do(told)


def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the ledger begins to read entries, from now on."""
    begun: list[int] = []
    real = Reader.control_after

    def noted(self: Reader, idx: int, mark: Mark) -> Iterator[tuple[int, bytes, bytes]]:
        begun.append(idx)
        return real(self, idx, mark)

    monkeypatch.setattr(Reader, "control_after", noted)
    return begun


def test_a_later_process_goes_on_where_the_pages_end(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = without_pages(lab)
    assert truth[4] is not None
    kept = pages_of(lab)
    assert len(kept) > 1
    stop = stop_of(lab, kept[-1])
    begun = starts(monkeypatch)
    assert lab.do(told) == truth
    assert begun[0] == min(begun) == stop
    assert begun[0] > kept[-1][0] > 0
    assert pages_of(lab) == kept
    lab.enrol("dave")
    assert set(lab.do(told)[0]) > set(truth[0])
    assert pages_of(lab)[: len(kept)] == kept
    assert len(pages_of(lab)) > len(kept)
    assert lab.do(told) == without_pages(lab)
    lab.clean()


def test_small_logs_have_no_pages(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    lab.do(told)
    assert pages_of(lab) == []


def altered(row: Row, at: int) -> Row:
    sealed = bytearray(row[1])
    sealed[at] ^= 1
    return row[0], bytes(sealed)


def stop_of(lab: Lab, row: Row) -> int:
    """Where a page ends."""
    return lab.do(lambda vault: Page.decode(core(vault).log._key.pages.open(row[1])).stop)


@pytest.mark.parametrize(
    "attack",
    ["header", "tag", "end", "another's", "entry", "first gone", "last gone", "moved", "all swapped"],
)
def test_altered_pages_are_not_believed(lab: Lab, attack: str) -> None:
    truth = without_pages(lab)
    kept = pages_of(lab)
    first, *rest = kept
    put_pages(
        lab,
        {
            "header": [altered(first, 3), *rest],
            "tag": [altered(first, 100), *rest],
            "end": [*kept[:-1], altered(kept[-1], -1)],
            "another's": [(first[0], rest[0][1]), *rest],
            "entry": [(first[0], lab.sql("log.db", "SELECT sealed FROM entry WHERE idx = 3")[0][0]), *rest],
            "first gone": rest,
            "last gone": kept[:-1],
            "moved": [*kept[:-1], (kept[-1][0] + 1, *kept[-1][1:])],
            "all swapped": [(one[0], *other[1:]) for one, other in zip(kept, reversed(kept), strict=True)],
        }[attack],
    )
    assert lab.do(told) == truth
    with lab.open() as vault:
        held = list(slots(vault, "alice").values())
        vault.shred("alice")
        assert not core(vault).view().tree.alive(held).any()
    assert lab.do(told) == without_pages(lab)
    lab.clean()


def test_pages_of_a_fork_are_dropped(lab: Lab) -> None:
    """The vault itself made them, in a history that was then taken back: slots and tags are others'."""
    put_pages(lab, [])
    base = lab.save("base")
    lab.enrol("eve")
    lab.do(told)
    fork = pages_of(lab)
    lab.put_back(base)
    lab.enrol("dave")
    put_pages(lab, fork)
    with lab.open() as vault:
        held = list(slots(vault, "dave").values())
        vault.shred("dave")
        assert not core(vault).view().tree.alive(held).any()
        assert matches(vault, "carol")
    assert not set(fork) <= set(pages_of(lab))
    assert lab.do(told) == without_pages(lab)
    lab.clean()


def test_older_pages_are_put_back(lab: Lab) -> None:
    lab.do(told)
    old = pages_of(lab)
    lab.enrol("dave")
    lab.do(told)
    put_pages(lab, old)
    with lab.open() as vault:
        held = list(slots(vault, "dave").values())
        vault.shred("dave")
        assert not core(vault).view().tree.alive(held).any()
    lab.clean()


def test_an_entry_after_the_pages_is_hidden(lab: Lab) -> None:
    """Whoever has read it in time goes by it; whoever has not denies, and says that it waits."""
    lab.do(told)
    kept = pages_of(lab)
    lab.enrol("dave")
    with lab.open() as vault:
        hidden = max(at for at, entry in enumerate(log_entries(vault)) if entry["type"] == "grant")
        held = list(slots(vault, "dave").values())
    assert hidden >= stop_of(lab, kept[-1])
    lab.sql("log.db", "UPDATE entry SET control = 0 WHERE idx = ?", (hidden,))
    with lab.open() as vault:
        with contextlib.suppress(ErasurePending):
            vault.shred("dave")
        assert reason(vault, "dave") != "ok"
    lab.sql("log.db", "UPDATE entry SET control = 1 WHERE idx = ?", (hidden,))
    with lab.open() as vault:
        with contextlib.suppress(SubjectUnknown):
            vault.shred("dave")
        assert not core(vault).view().tree.alive(held).any()
    lab.clean()


def test_entries_of_the_pages_are_altered_and_the_shred_goes_by_the_truth(lab: Lab) -> None:
    lab.do(told)
    last = stop_of(lab, pages_of(lab)[-1])
    with lab.open() as vault:
        held = list(slots(vault, "carol").values())
        at = lab.sql("log.db", "SELECT idx FROM grant_entry WHERE slot = ?", (held[0],))[0][0]
        assert at < last
        lab.sql("log.db", "UPDATE entry SET control = 0 WHERE idx = ?", (at,))
        vault.shred("carol")
        assert not core(vault).view().tree.alive(held).any()
    assert [each.file for each in lab.check().findings if each.file == "log.db"]


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_page_is_exactly_its_bytes(cut: int) -> None:
    tags, prints = np.arange(64, dtype=np.uint8).reshape(2, 32), np.ones((2, 16), np.uint8)
    ends = np.array([5, 6])
    marks = Mark(2, b"a" * 32), Mark(5, b"b" * 32)
    ids = np.arange(32, dtype=np.uint8).reshape(2, 16)
    page = Page(3, marks[0], 9, marks[1], tags, np.array([7, 8]), ids, prints, ends, [b"xy", b"z"])
    data = page.encode()
    again = Page.decode(data)
    assert again.encode() == data
    assert (again.first, again.before, again.stop, again.after) == (3, page.before, 9, page.after)
    assert (again.slots.tolist(), list(again.bodies)) == ([7, 8], [b"xy", b"z"])
    assert again.expires.tolist() == [5, 6]
    assert (again.grant_ids == ids).all()
    with pytest.raises(FormatError):
        Page.decode(data[:cut])
    with pytest.raises(FormatError):
        Page.decode(Page(3, page.before, 3, page.after, tags, page.slots, ids, prints, ends, []).encode())
    assert (0, bytes(32)) == FIRST_MARK
