"""The root is swapped while a question is answered: nobody is refused for it, and no reason is false."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facekeep.access.gate import reason_of, refusal
from facekeep.errors import Denied, FacekeepError, FormatError, IntegrityError, StoreError, Unavailable
from facekeep.formats.entryrules import Reason
from facekeep.keys.tree import TreeStale
from facekeep.vault import Vault
from vaultlab import (
    IDENTIFY,
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    core,
    face,
    identify,
    identify_reason,
    log_entries,
    matches,
    reason,
)

PEOPLE = tuple(f"person{number}" for number in range(8))
OF_THE_VAULT = {"terms", "clock", "integrity", "unavailable"}
ROOT = Path(__file__).parents[1]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol(*PEOPLE, "gone")
    lab.do(lambda vault: vault.shred("gone"))
    return lab


# -- in the midst of a question


def search_anew(vault: Vault, name: str) -> str:
    with vault.gallery(model=MODEL) as gallery:
        return "ok" if gallery.search(face(name), THRESHOLD, 1).candidates else "nobody"


class Interrupted:
    """Calls ``act`` at the reads of an open vault from number ``first`` on, ``times`` times in all."""

    def __init__(self, vault: Vault, act: Callable[[], object], first: int, times: int) -> None:
        self._log, self._act = core(vault).log, act
        self._before, self.left, self._busy = first, times, False
        parts: tuple[tuple[Any, tuple[str, ...]], ...] = (
            (core(vault).keys, ("read_top", "read_fingerprints", "read_node", "index_get", "principal_get")),
            (core(vault).log, ("head",)),
            (core(vault).data, ("by_slots", "slots_of")),
        )
        for part, names in parts:
            for name in names:
                setattr(part, name, self._around(getattr(part, name)))

    def _around(self, read: Callable[..., object]) -> Callable[..., object]:
        def reads(*arguments: object, **named: object) -> object:
            self._come()
            found = read(*arguments, **named)
            self._come()
            return found

        return reads

    def _come(self) -> None:
        if self._busy or not self.left or self._log._writer.exclusive.locked():
            return  # inside its own transaction nobody else writes
        self._before -= 1
        if self._before < 0 and self._before % 3 == 2:
            self._busy, self.left = True, self.left - 1
            self._act()
            self._busy = False


@pytest.mark.parametrize("ask", [reason, identify_reason, search_anew])
@pytest.mark.parametrize("times", [1, 3])
def test_the_tree_is_rotated_at_any_read_of_a_question(
    lab: Lab, ask: Callable[[Vault, str], str], times: int
) -> None:
    with lab.open() as operator:
        for first in range(0, 100, 2):
            with lab.open() as vault:
                core(vault).watcher.close()
                between = Interrupted(vault, operator.keys.rotate_tree, first, times)
                assert ask(vault, "person3") == "ok"
            if between.left == times:
                break
        else:
            pytest.fail("a question has more reads than were tried")


def test_questions_go_on_through_everything_that_is_done_to_a_vault(lab: Lab) -> None:
    """One process does it, another has threads that ask; each answer is right, and so is each reason."""
    done = lab.base / "done"
    process = lab.fork(lambda: do_everything(lab, done))
    wrong: list[object] = []

    def ask(vault: Vault, question: Callable[[Vault, str], object], answer: Callable[[str], object]) -> None:
        number = 0
        while not done.exists():
            name = PEOPLE[number := (number + 1) % len(PEOPLE)]
            try:
                found = question(vault, name)
            except Exception as error:  # noqa: BLE001 - told at the end
                wrong.append(error)
            else:
                if found != answer(name):
                    wrong.append((question, name, found))

    with lab.open() as vault:
        questions: list[tuple[Callable[[Vault, str], object], Callable[[str], object]]] = [
            (matches, lambda _: True),
            (identify, lambda name: [name]),
            (identify, lambda name: [name]),
            (search_anew, lambda _: "ok"),
        ]
        threads = [threading.Thread(target=ask, args=(vault, *each)) for each in questions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert process.wait() == "done"
        reasons = Counter(str(each["reason"]) for each in log_entries(vault) if each["type"] == "decision")
    assert not wrong
    assert set(reasons) == {"ok"}
    lab.clean()


def do_everything(lab: Lab, done: Path) -> str:
    try:
        with lab.open() as vault:
            for turn in range(2):
                vault.keys.rotate_tree()
                vault.keys.rotate_root()
                vault.keys.rotate_templates()
                vault.renew(PEOPLE[turn], lab.consent(VERIFY, IDENTIFY))
                vault.backup(lab.base / f"backup{turn}")
                vault.restore(lab.base / f"backup{turn}")
                vault.enroll_many([lab.enrolment("passing")])
                vault.shred("passing")
                vault.check()
        Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    finally:
        done.touch()
    return "done"


# -- which refusal it is


def test_no_refusal_is_of_the_other_class() -> None:
    assert not issubclass(Denied, Unavailable)
    assert not issubclass(Unavailable, Denied)
    assert (Denied.exit_code, Unavailable.exit_code) == (20, 23)


@pytest.mark.parametrize("word", [each for each in Reason if each is not Reason.OK])
def test_each_reason_is_the_questions_or_the_vaults(word: Reason) -> None:
    assert type(refusal(word)) is (Unavailable if word.value in OF_THE_VAULT else Denied)
    assert str(refusal(word)) in {"denied", "unavailable"}


@pytest.mark.parametrize("page", ["docs/spec/vault.md", "docs/integrator.md"])
def test_the_pages_have_every_reason_in_its_class(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for head, wanted in (
        (r"(?:\*denied\*|`Denied`)", {*Reason} - OF_THE_VAULT - {"ok"}),
        (r"(?:\*unavailable\*|`Unavailable`)", OF_THE_VAULT),
    ):
        row = re.search(rf"^\| {head} \|.*\|(.*)\|$", text, re.MULTILINE)
        assert row is not None
        assert set(re.findall(r"`([a-z_]+)`", row[1])) == wanted


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (IntegrityError("altered"), "integrity"),
        (FormatError("altered"), "integrity"),
        (TreeStale("swapped"), "unavailable"),
        (StoreError("too many open files"), "unavailable"),
        (MemoryError(), "unavailable"),
        (OSError(24, "Too many open files"), "unavailable"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else each,
)
def test_what_fails_is_logged_as_what_it_is(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, error: Exception, word: str
) -> None:
    """Nobody's principal is damaged because a descriptor was wanting, nor is a row."""

    def fails(*_: object, **__: object) -> None:
        raise error

    assert reason_of(error).value == word
    for place in ("keys.principal_get", "keys.index_get", "keys.read_fingerprints"):
        with lab.open() as vault, monkeypatch.context() as broken:
            assert matches(vault, "person1")
            core(vault)._state = None
            vault._session._checked = (-1, None, Reason.PRINCIPAL_UNKNOWN)
            part, name = place.split(".")
            broken.setattr(getattr(core(vault), part), name, fails)
            with pytest.raises(Unavailable) as caught:
                matches(vault, "person2")
            assert not isinstance(caught.value, Denied)
            assert caught.value.decision is not None
            entry = core(vault).log.entry(int(caught.value.decision.split("-")[0]))
            assert entry["reason"] in ({word, "unavailable"} if name == "read_fingerprints" else {word})


def test_no_memory_for_a_gallery(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def wanting(*_: object) -> None:
        raise MemoryError

    with lab.open() as vault, monkeypatch.context() as broken:
        broken.setattr("facekeep.matching.matrix.LockedBuffer", wanting)
        with pytest.raises(Unavailable):
            vault.identify(face("person1"), model=MODEL, threshold=THRESHOLD)
        broken.undo()
        assert identify(vault, "person1") == ["person1"]


def test_who_may_administer_is_not_said_to_be_unknown_where_nobody_can_tell(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise StoreError("keys.db: disk I/O error")

    with lab.open() as vault, monkeypatch.context() as broken:
        vault._session._checked = (-1, None, Reason.PRINCIPAL_UNKNOWN)
        broken.setattr("facekeep.access.core.Core.slot_key", fails)
        with pytest.raises(StoreError, match="cannot be told now"):
            vault.whoami()


def test_a_tree_that_was_forgotten_destroyed_nobody(lab: Lab) -> None:
    """What a vault cannot follow it forgets. With the holder away it cannot tell, and says no more."""
    with lab.open() as vault:
        core(vault).watcher.close()
        assert matches(vault, "person1")
        inside = core(vault)
        inside._state, inside._tree_is_doubted, inside._tree = None, True, inside._tree.forgotten()
        kept = lab.root.read_bytes()
        lab.root.unlink()
        with pytest.raises(Unavailable) as caught:
            matches(vault, "person1")
        assert caught.value.decision is not None
        entry = inside.log.entry(int(caught.value.decision.split("-")[0]))
        assert entry["reason"] == "unavailable"
        lab.root.write_bytes(kept)
        lab.root.chmod(0o600)
        assert matches(vault, "person1")


def test_edited_terms_are_no_answer_about_the_person(lab: Lab) -> None:
    lab.sql("vault.db", "UPDATE grants SET terms = zeroblob(88)")
    with lab.open() as vault:
        assert reason(vault, "person1") in OF_THE_VAULT
        with pytest.raises(Unavailable) as caught:
            matches(vault, "person1")
        assert isinstance(caught.value, FacekeepError)
