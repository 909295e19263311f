"""Galleries follow what changes, in their own process and in others."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from facekeep.errors import FacekeepError, UsageError
from facekeep.matching.gallery import Gallery
from facekeep.vault import Scope
from vaultlab import DAY, IDENTIFY, MODEL, NOW, THRESHOLD, VERIFY, Lab, core, face, held, identify


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def found(gallery: Gallery, name: str) -> list[str]:
    return [hit.subject for hit in gallery.search(face(name), THRESHOLD, 5).candidates]


def eventually_empty(gallery: Gallery, size: int) -> None:
    """Wait until the watcher has brought a gallery to a size; it looks several times a second."""
    for _ in range(500):
        if held(gallery) == size:
            return
        time.sleep(0.01)
    pytest.fail("the watcher did not follow")


def test_a_gallery_follows_grants_and_withdrawals(lab: Lab) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        assert held(gallery) == 2
        vault.enroll_many([lab.enrolment("carol", IDENTIFY), lab.enrolment("dave", VERIFY)])
        assert found(gallery, "carol") == ["carol"]
        assert found(gallery, "dave") == []
        vault.withdraw("carol", [IDENTIFY])
        assert found(gallery, "carol") == []
        vault.renew("alice", lab.consent(IDENTIFY, days=90))
        assert found(gallery, "alice") == ["alice"]
        vault.shred("alice")
        assert found(gallery, "alice") == []
        assert held(gallery) == 1
        vault.grant("dave", lab.consent(IDENTIFY, Scope.SHARE))
        assert found(gallery, "dave") == ["dave"]


def test_candidates_come_in_rank_order_and_no_more_than_asked_for(lab: Lab) -> None:
    with lab.open() as vault:
        near = face("alice") + 0.01
        vault.enroll("twin", embeddings=near, model=MODEL, consent=lab.consent(IDENTIFY))
        result = vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD, with_score=True)
        assert [(each.subject, each.rank) for each in result.candidates] == [("alice", 1), ("twin", 2)]
        assert result.compared == 3
        top = vault.identify(face("alice"), top=1, model=MODEL, threshold=THRESHOLD)
        assert [each.subject for each in top.candidates] == ["alice"]
        for wrong in (0, -1, 1_001):
            with pytest.raises(UsageError):
                vault.identify(face("alice"), top=wrong, model=MODEL, threshold=THRESHOLD)
        entry = vault.decision(result.decision)
        assert entry["count"] == 3
        assert len(entry["candidates"]) == 2  # type: ignore[arg-type]


def test_an_expiry_passes_while_a_gallery_is_open(lab: Lab) -> None:
    lab.enrol("carol", days=1)
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        assert found(gallery, "carol") == ["carol"]
        lab.clock.ms += DAY
        assert found(gallery, "carol") == []
        assert gallery.search(face("carol"), THRESHOLD, 5).excluded == 1
        assert found(gallery, "alice") == ["alice"]
        assert held(gallery) == 2


def test_a_consent_begins_while_a_gallery_is_open(lab: Lab) -> None:
    lab.enrol("carol", not_before_ms=NOW + DAY)
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        assert found(gallery, "carol") == []
        lab.clock.ms += DAY
        assert found(gallery, "carol") == ["carol"]
        assert gallery.search(face("carol"), THRESHOLD, 5).excluded == 0


def test_the_watcher_drops_what_is_withdrawn_though_nobody_asks(lab: Lab) -> None:
    with lab.open() as one, lab.open() as two, one.gallery(model=MODEL) as gallery:
        two.withdraw("alice", [IDENTIFY])
        eventually_empty(gallery, 1)
        lab.clock.ms += 60 * DAY
        eventually_empty(gallery, 0)


def test_the_watcher_drops_what_another_process_withdraws(lab: Lab) -> None:
    ready = lab.base / "ready"

    def withdraw() -> None:
        while not ready.exists():
            time.sleep(0.005)
        lab.do(lambda vault: vault.withdraw("alice", [IDENTIFY]))

    process = lab.fork(withdraw)
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        assert held(gallery) == 2
        ready.touch()
        process.wait()
        eventually_empty(gallery, 1)
        assert found(gallery, "alice") == []


def test_dropped_templates_are_zeroed(lab: Lab) -> None:
    with lab.open() as vault:
        gallery = vault.gallery(model=MODEL)
        rows = gallery._rows
        whole = rows._buffer.view
        assert any(whole)
        vault.shred("alice")
        found(gallery, "bob")
        assert face("alice").tobytes() not in bytes(whole)
        assert face("bob").tobytes() in bytes(whole)
        gallery.close()
        assert not any(bytes(whole))


def test_a_closed_gallery_answers_nothing(lab: Lab) -> None:
    with lab.open() as vault:
        gallery = vault.gallery(model=MODEL)
        gallery.close()
        gallery.close()
        with pytest.raises(UsageError):
            found(gallery, "alice")
        assert held(gallery) == 0
        assert identify(vault, "alice") == ["alice"]


def test_a_gallery_ends_when_the_log_is_taken_away(lab: Lab) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        (lab.path / "log.db").rename(lab.base / "log.db")
        with pytest.raises(FacekeepError):
            found(gallery, "alice")
        eventually_empty(gallery, 0)
        (lab.base / "log.db").rename(lab.path / "log.db")
        with pytest.raises(FacekeepError):
            found(gallery, "alice")


def test_a_gallery_survives_the_shreds_of_others(lab: Lab) -> None:
    """Each swap makes another key tree; a gallery that refreshes meanwhile must not give up."""
    lab.enrol(*(f"p{number}" for number in range(12)))
    stop = threading.Event()
    answers: list[list[str]] = []
    with lab.open() as one, lab.open() as two, one.gallery(model=MODEL) as gallery:

        def search() -> None:
            while not stop.is_set():
                answers.append(found(gallery, "alice"))

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(12):
            two.shred(f"p{number}")
            two.enroll_many([lab.enrolment(f"q{number}")])
        stop.set()
        for thread in threads:
            thread.join()
        assert answers
        assert all(each == ["alice"] for each in answers)
        assert found(gallery, "q11") == ["q11"]
        assert held(gallery) == 14
        assert core(one).log.verify().size > 0
    lab.clean()


def test_the_set_of_a_search_is_the_set_that_was_compared(lab: Lab) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        first = vault.decision(gallery.search(face("x"), THRESHOLD, 1).decision)
        vault.enroll_many([lab.enrolment("carol")])
        second = vault.decision(gallery.search(face("x"), THRESHOLD, 1).decision)
        vault.shred("carol")
        third = vault.decision(gallery.search(face("x"), THRESHOLD, 1).decision)
        assert first["set"] == third["set"] != second["set"]
        assert (first["count"], second["count"], third["count"]) == (2, 3, 2)
        with vault.gallery(model=MODEL) as fresh:
            assert vault.decision(fresh.search(face("x"), THRESHOLD, 1).decision)["set"] == third["set"]
