"""What an error says of the vault is true: each case brings its situation about, and looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cli_help import Cli
from facekeep.errors import ClockError, ErasurePending, SubjectUnknown, UsageError
from facekeep.operations.move import Holders
from facekeep.vault import Existing, Role, Vault
from vaultlab import DAY, IDENTIFY, VERIFY, Lab, calling, matches, reason, slots

BOTH = (VERIFY, IDENTIFY)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True)
    lab.copy_dir.mkdir()
    lab.create()
    lab.enrol("alice", "bob", "carol")
    return lab


def away(lab: Lab) -> Path:
    """Unplug the disk of the live copies."""
    return lab.copy_dir.rename(lab.base / "unplugged")


def back(lab: Lab) -> None:
    (lab.base / "unplugged").rename(lab.copy_dir)


def pending(lab: Lab, action: Callable[[Vault], object]) -> str:
    """Message of an action that waits for the live copy."""
    away(lab)
    with lab.open() as vault, pytest.raises(ErasurePending) as caught:
        action(vault)
    assert "nothing was" not in str(caught.value)
    assert "keys.db" in str(caught.value)
    return str(caught.value)


ERASURES: list[Callable[[Vault], object]] = [
    lambda vault: vault.shred("alice"),
    lambda vault: vault.shred("alice", "bob"),
    lambda vault: vault.withdraw("alice", BOTH),
    lambda vault: vault.withdraw("alice", [VERIFY]),
]


@pytest.mark.parametrize("erase", ERASURES)
def test_an_erasure_that_waits_says_that_it_denies(lab: Lab, erase: Callable[[Vault], object]) -> None:
    said = pending(lab, erase)
    assert said.startswith(
        "what was asked for is denied to everybody from now on, but not known to be destroy"
    )
    with lab.open() as vault:
        assert reason(vault, "alice") == "withdrawn"
        assert matches(vault, "carol")


def test_a_renewal_that_waits_says_that_the_new_terms_stand(lab: Lab) -> None:
    said = pending(lab, lambda vault: vault.renew("alice", lab.consent(VERIFY, days=90)))
    assert said.startswith("the new grants stand, and the old ones are denied, but not known to be destroyed")
    with lab.open() as vault:
        assert matches(vault, "alice")
        (grant,) = [each for each in next(s for s in vault.subjects() if s.subject == "alice").grants
                    if each.scope == "verify"]  # fmt: skip
        assert grant.expires_at_ms == lab.clock.ms + 90 * DAY


def test_photographs_in_place_of_others_that_wait_say_that_the_new_ones_stand(lab: Lab) -> None:
    said = pending(lab, lambda vault: vault.enroll_many([lab.enrolment("alice")], existing=Existing.REPLACE))
    assert said.startswith("the new grants stand")
    with lab.open() as vault:
        assert matches(vault, "alice")


@pytest.mark.parametrize("what", ["root", "tree", "templates"])
def test_a_rotation_that_waits_says_that_it_is_announced(lab: Lab, what: str) -> None:
    said = pending(lab, lambda vault: getattr(vault.keys, f"rotate_{what}")())
    assert "announced" in said
    with lab.open() as vault:
        assert vault.keys.pending()
        assert matches(vault, "alice")
    back(lab)
    with lab.open() as vault:
        assert vault.keys.pending() == ()


def test_a_move_that_waits_says_that_it_was_begun(lab: Lab) -> None:
    new = f"file:{lab.base / 'new.key'}"
    with lab.open() as vault, calling("move.renamed", lambda: away(lab)):
        with pytest.raises(ErasurePending) as caught:
            vault.keys.move(Holders(new))
        assert str(caught.value).startswith("the move was begun and is not finished: ")
        assert vault.settings.root_uri == new
        assert "nothing was" not in str(caught.value)
    back(lab)
    with lab.open() as vault:
        assert vault.keys.resume().entry is not None


def test_a_revocation_that_waited_is_told_when_it_is_asked_for_again(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    identity = token.split(".")[1]
    said = pending(lab, lambda vault: vault.revoke_principal(identity))
    assert said.startswith("what was asked for is denied to everybody")
    back(lab)
    with lab.open() as vault:
        index = vault.revoke_principal(identity)
        entries = dict(vault.audit_log())
        assert (entries[index]["type"], entries[index]["op"]) == ("destroy", "revoke")
    with lab.open() as vault, pytest.raises(UsageError):
        vault.revoke_principal(identity)


@pytest.mark.parametrize("scopes", [BOTH, (VERIFY,), (IDENTIFY, VERIFY)])
@pytest.mark.parametrize("still_open", [True, False], ids=["same process", "another"])
def test_a_withdrawal_that_waited_is_told_when_it_is_asked_for_again(
    lab: Lab, scopes: tuple[int, ...], *, still_open: bool
) -> None:
    asked = [each for each in BOTH if each in scopes]
    if not still_open:
        pending(lab, lambda vault: vault.withdraw("alice", asked))
        back(lab)
    with lab.open() as vault:
        if still_open:
            away(lab)
            with pytest.raises(ErasurePending):
                vault.withdraw("alice", asked)
            back(lab)
        again = vault.withdraw("alice", asked)
        assert again.begun_before
        assert (again.subjects, again.slots) == (1, len(asked))
        assert set(slots(vault, "alice")) == set(BOTH) - set(asked)
        with pytest.raises(SubjectUnknown) as caught:
            vault.withdraw("alice", asked)
        assert "nothing was" not in str(caught.value)


def test_a_withdrawal_of_more_than_waited_does_the_rest(lab: Lab) -> None:
    pending(lab, lambda vault: vault.withdraw("alice", [VERIFY]))
    back(lab)
    with lab.open() as vault:
        again = vault.withdraw("alice", BOTH)
        assert (again.begun_before, again.slots) == (True, 1)
        assert not slots(vault, "alice")


def test_the_withdrawal_of_another_is_not_taken_for_theirs(lab: Lab) -> None:
    pending(lab, lambda vault: vault.withdraw("alice", BOTH))
    back(lab)
    with lab.open() as vault:
        with pytest.raises(SubjectUnknown):
            vault.withdraw("mallory", BOTH)
        assert not vault.withdraw("bob", [VERIFY]).begun_before


def test_a_withdrawal_of_everything_that_waited_answers_a_shredding(lab: Lab) -> None:
    pending(lab, lambda vault: vault.withdraw("alice", BOTH))
    back(lab)
    with lab.open() as vault:
        assert vault.shred("alice").begun_before


def test_an_unknown_id_is_not_told_of_what_was_no_erasure(lab: Lab) -> None:
    pending(lab, lambda vault: vault.keys.rotate_root())
    back(lab)
    with lab.open() as vault, pytest.raises(SubjectUnknown, match=r"nothing was shredded$"):
        vault.shred("mallory")


def test_resume_tells_what_the_opening_has_finished(lab: Lab) -> None:
    away(lab)
    with lab.open() as vault:
        for name in ("alice", "bob"):
            with pytest.raises(ErasurePending):
                vault.shred(name)
        waiting = vault.keys.pending()
        assert len(waiting) == 2
    back(lab)
    with lab.open() as vault:
        assert sorted(vault.keys.resume().finished) == sorted(waiting)
        assert vault.keys.resume().finished == ()
        assert vault.keys.pending() == ()


def test_keys_resume_says_what_it_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path, monkeypatch)
    Path("copies").mkdir()
    cli.ok("settings", "--copy", "copies")
    for name in ("ada", "bob"):
        cli.enroll(name, name)
    Path("copies").rename("unplugged")
    for name in ("ada", "bob"):
        failed = cli.run("shred", name, "--yes", "--json")
        assert failed.error["code"] == "erasure_pending"
        assert "nothing was" not in str(failed.error["message"])
    Path("unplugged").rename("copies")
    spoken = cli.run("keys", "resume")
    assert "2 operations of log entry" in spoken.err
    assert "nothing is pending any more" in spoken.err
    assert "any more" not in cli.run("keys", "resume").err


def test_a_clock_that_is_behind_stops_a_rotation_that_has_done_something(lab: Lab) -> None:
    with lab.open() as vault:
        lab.clock.ms -= DAY
        with pytest.raises(ClockError, match="only erasures go on") as caught:
            vault.keys.rotate_templates()
        assert "nothing was" not in str(caught.value)


def test_settings_that_are_refused_are_as_they_were(lab: Lab) -> None:
    with lab.open() as vault:
        before = vault.settings
        with pytest.raises(UsageError) as caught:
            vault.change_settings(region="FR", copies=[lab.copy_dir, lab.base / "nowhere"])
        assert "nothing was changed" in caught.value.next
        assert vault.settings == before
