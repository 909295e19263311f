"""Erasures that failed half-way, came twice, or of which nobody can tell whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facekeep.access.core import Core, Finished
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.errors import ErasurePending, NotAllowed, StoreError, SubjectUnknown, Unavailable, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.operations import erase as module
from facekeep.operations.destroy import Destruction
from facekeep.operations.erase import Asked, Erasure, announced, carry_out, shred, withdraw
from facekeep.operations.whose import Held
from facekeep.vault import Role, Vault
from vaultlab import IDENTIFY, VERIFY, Lab, core, log_entries, matches, reason, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


@pytest.fixture
def vault(lab: Lab) -> Iterator[Vault]:
    with lab.open() as vault:
        yield vault


def destroys(vault: Vault) -> list[JsonObject]:
    return [each for each in log_entries(vault) if each["type"] == "destroy"]


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have what finishes an erasure fail."""

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, "finish", fails)


def shred_alice(vault: Vault) -> Erasure:
    return shred(core(vault), vault._session, ["alice"])


def withdraw_verify(vault: Vault) -> Erasure:
    return withdraw(core(vault), vault._session, "alice", [VERIFY])


@pytest.mark.parametrize("erase", [shred_alice, withdraw_verify])
def test_what_failed_half_way_is_finished_by_asking_again_and_said_so(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, erase: Callable[[Vault], Erasure]
) -> None:
    slot = slots(vault, "alice")[VERIFY]
    with monkeypatch.context() as broken:
        failing(broken, StoreError("disk full"))
        with pytest.raises(StoreError):
            erase(vault)
    assert reason(vault, "alice") == "withdrawn"
    again = erase(vault)
    assert again.begun_before
    assert again.subjects == 1
    assert again.slots == (2 if erase is shred_alice else 1)
    assert len(destroys(vault)) == 1
    assert log_entries(vault)[again.erasure]["type"] == "destroy"
    assert again.epoch == core(vault).view().tree.epoch
    assert not core(vault).view().tree.alive([slot]).any()
    with pytest.raises(SubjectUnknown):
        erase(vault)
    assert matches(vault, "bob")


def test_an_erasure_that_cannot_be_begun_now_is_pending_and_stays_denied(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise ErasurePending("another operation is finished first")

    with monkeypatch.context() as broken:
        broken.setattr(module, "recover", busy)
        with pytest.raises(ErasurePending, match=r"^another operation is finished first$"):
            vault.shred("alice")
    assert reason(vault, "alice") == "withdrawn"
    assert len(core(vault).view().head.operations) == 1


def test_an_error_before_the_swap_says_that_it_is_denied(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wanting(*_: object) -> None:
        raise StoreError("disk full", next="make room")

    monkeypatch.setattr(module, "recover", wanting)
    with pytest.raises(ErasurePending, match=r"denied to everybody.*: disk full") as caught:
        vault.shred("alice")
    assert caught.value.next == "make room"


def test_whose_erasure_was_finished_meanwhile_is_not_somebody_elses(vault: Vault) -> None:
    inside = core(vault)
    gone = slots(vault, "alice")
    hashed = inside.index.hash(inside.handles.of(b"alice"))
    vault.shred("alice")
    ended = Finished(7, "shred", frozenset(gone.values()), frozenset(), frozenset((hashed,)))
    inside.finished = [ended]
    assert not withdraw(inside, vault._session, "bob", [VERIFY]).begun_before
    inside.finished = [ended]
    with pytest.raises(SubjectUnknown, match=r"1 of the 1 .* is unknown.*a pending erasure was finished"):
        shred(inside, vault._session, ["carol"])
    inside.finished = [ended]
    erased = shred(inside, vault._session, ["alice"])
    assert (erased.erasure, erased.subjects, erased.slots, erased.begun_before) == (7, 1, 2, True)
    inside.finished = [ended]
    erased = shred(inside, vault._session, ["alice", "bob"])
    assert (erased.subjects, erased.slots, erased.begun_before) == (1, 1, True)
    inside.finished = [ended]
    with pytest.raises(SubjectUnknown, match=r"^2 of the 2 subject ids are unknown; nothing was shredded"):
        shred(inside, vault._session, ["carol", "dave"])


def test_a_second_shred_of_another_is_not_said_to_be_begun_before(vault: Vault) -> None:
    inside = core(vault)
    hashed = inside.index.hash(inside.handles.of(b"alice"))
    inside.finished = [Finished(7, "shred", frozenset((5,)), frozenset(), frozenset((hashed,)))]
    assert not shred(inside, vault._session, ["bob"]).begun_before
    with pytest.raises(SubjectUnknown, match=r"nothing was shredded$"):
        shred(inside, vault._session, ["bob"])


@pytest.mark.parametrize("op", ["shred", "withdraw", "expire"])
def test_of_what_was_finished_erasures_are_told_once_and_the_rest_is_kept(vault: Vault, op: str) -> None:
    inside = core(vault)
    grant, erasure = Finished(3, "grant", frozenset((5,))), Finished(7, op, frozenset((6,)))
    inside.finished = [grant, erasure]
    assert module._just_finished(inside) == [erasure]
    assert inside.finished == [grant]
    assert module._just_finished(inside) == []


def test_what_is_open_is_finished_first_only_where_all_of_theirs_is_denied(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = core(vault)
    tried: list[object] = []
    with monkeypatch.context() as broken:
        failing(broken, StoreError("disk full"))
        broken.setattr(module, "recover", lambda *given: tried.append(given[0]))
        module._found(inside, inside.view(), [b"alice"])
        assert tried == []  # nothing is open
        with pytest.raises(StoreError):
            vault.withdraw("alice", [VERIFY])
        tried.clear()
        module._found(inside, inside.view(), [b"bob"])
        module._found(inside, inside.view(), [b"alice"])
        assert tried == []  # somebody of them lives: it is denied before anything else
        module._found(inside, inside.view(), [b"alice"], None, [VERIFY])
        assert tried == [inside]
        inside.impaired = Unavailable("keys.db is away")
        module._found(inside, inside.view(), [b"alice"], None, [VERIFY])
        assert tried == [inside]
        inside.impaired = None


def test_nobody_and_no_scope_is_a_mistake_and_changes_nothing(vault: Vault) -> None:
    with pytest.raises(UsageError, match="no subject"):
        shred(core(vault), vault._session, [])
    with pytest.raises(UsageError, match="no scope"):
        withdraw(core(vault), vault._session, "alice", [])
    assert destroys(vault) == []


def test_openings_are_given_where_they_are_asked_for(vault: Vault) -> None:
    erased = shred(core(vault), vault._session, ["alice"], openings=True)
    assert [each.subject for each in erased.openings] == ["alice"]
    assert shred(core(vault), vault._session, ["bob"]).openings == ()
    assert erased.to_json() == {
        "begun_before": False,
        "epoch": erased.epoch,
        "erasure": erased.erasure,
        "slots": 2,
        "subjects": 1,
    }


def test_who_lost_their_role_meanwhile_announces_nothing(lab: Lab, vault: Vault) -> None:
    session = Session(core(vault), lab.add_principal(Role.SERVICE))
    with pytest.raises(NotAllowed):
        announced(core(vault), session, Action.SHRED, lambda _: pytest.fail("it was looked for"))
    with pytest.raises(NotAllowed):
        shred(core(vault), session, ["alice"])
    with pytest.raises(NotAllowed):
        withdraw(core(vault), session, "alice", [VERIFY])
    assert destroys(vault) == []


def seek(vault: Vault, handle: bytes) -> None:
    """Announce the erasure of somebody whom nobody can find."""
    what = Destruction("shred", (), sought=handle)
    asked, indices = announced(
        core(vault), vault._session, Action.SHRED, lambda view: Asked(view, [], [what])
    )
    carry_out(core(vault), vault._session.by, asked.whats, indices)


def test_who_cannot_be_found_is_sought_until_all_of_theirs_is_known(vault: Vault) -> None:
    inside = core(vault)
    handles = [inside.handles.of(name) for name in (b"carol", b"dave")]
    seek(vault, handles[0])
    assert len(inside.view().pending.sought) == 1
    assert reason(vault, "bob") == "unavailable"
    module._end_sought(inside, [Held(handles[1])])
    assert len(inside.view().pending.sought) == 1
    inside.impaired = Unavailable("keys.db is away")
    module._end_sought(inside, [Held(handles[0])])
    assert len(inside.view().pending.sought) == 1
    inside.impaired = None
    module._end_sought(inside, [Held(handles[1]), Held(handles[0])])
    assert not inside.view().pending.sought
    assert reason(vault, "bob") == "ok"


def test_ids_of_which_nobody_can_tell_are_not_counted_as_unknown(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubtful(inside: Core, *_: object) -> list[Held]:
        first, second = (inside.handles.of(name) for name in (b"carol", b"dave"))
        return [Held(first), Held(second, doubt=StoreError("x"))]

    monkeypatch.setattr(module, "for_erasure", doubtful)
    with pytest.raises(SubjectUnknown, match=r"^1 of the 2 subject ids is unknown; nothing was shredded$"):
        shred(core(vault), vault._session, ["carol", "dave"])


def test_a_scope_that_is_withdrawn_leaves_the_others(vault: Vault) -> None:
    held = slots(vault, "alice")
    erased = vault.withdraw("alice", [VERIFY])
    assert (erased.subjects, erased.slots, erased.begun_before) == (1, 1, False)
    alive = core(vault).view().tree.alive([held[VERIFY], held[IDENTIFY]]).tolist()
    assert alive == [False, True]
    with pytest.raises(SubjectUnknown, match="no living grant of that scope"):
        vault.withdraw("alice", [VERIFY])
