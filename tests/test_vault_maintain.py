"""maintain: what is due is done once, a step that fails stops no other, and nothing else happens."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from facekeep.auditlog.signed import open_checkpoint
from facekeep.errors import ErasurePending, NotAllowed
from facekeep.vault import Holders, Role, Vault
from maintain_help import audited, days, maintain, states
from vaultlab import DAY, IDENTIFY, VERIFY, Lab, at_step, calling, core, log_entries, matches, reason

HOUR = 3_600_000


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, copies=True).create()
    lab.enrol("ada", "bob", days=900)
    return lab


def everything_due(lab: Lab) -> None:
    """Have every step find something to do but a move."""
    (lab.base / "public").mkdir()
    wanted = ("grace_days=0", "tree_days=3", "signing_days=3", f"checkpoints={lab.base / 'public'}")
    lab.do(lambda vault: vault.change_settings(schedule=[*wanted, "backup_days=1", "templates_days=2"]))
    lab.enrol("cy", days=2)
    lab.clock.ms += 2 * DAY
    lab.enrol("dee", days=2, scopes=[VERIFY])
    lab.clock.ms += 2 * DAY
    lab.crash(lambda vault: vault.withdraw("bob", [IDENTIFY]), "destroy.completed")  # its row stays


ALL_DONE = {
    "expired": "done",
    "tree": "done",
    "signing": "done",
    "rows": "done",
    "checkpoint": "done",
    "backup": "due",
    "templates": "due",
}


def test_everything_that_is_due_is_done_once(lab: Lab) -> None:
    everything_due(lab)
    planned = maintain(lab, dry_run=True)
    size = lab.do(lambda vault: len(log_entries(vault)))
    assert set(states(planned)) == set(ALL_DONE)
    assert set(states(planned).values()) == {"due"}
    assert lab.do(lambda vault: len(log_entries(vault))) == size
    done = maintain(lab)
    assert states(done) == ALL_DONE
    assert done.exit_code == 0
    before = lab.do(lambda vault: (len(log_entries(vault)), core(vault).view().tree.epoch))
    assert states(maintain(lab)) == {"backup": "due", "templates": "due"}
    assert lab.do(lambda vault: (len(log_entries(vault)), core(vault).view().tree.epoch)) == before
    with lab.open() as vault:
        assert reason(vault, "cy") == "subject_unknown"
        assert matches(vault, "ada")
        reasons = [
            (each["what"], each["reason"]) for each in log_entries(vault) if each["type"] == "rotation"
        ]
        assert reasons == [("tree", "scheduled"), ("signing", "scheduled")]
        by = {each["by"] for each in log_entries(vault)[-8:]}
        assert by == {vault.whoami()[0]}
    audited(lab)


def test_the_root_is_replaced_daily(lab: Lab) -> None:
    with lab.open() as vault:
        epoch = core(vault).view().tree.epoch
        for hours, grows in ((1, 0), (21, 0), (1, 1), (1, 0), (22, 1)):
            lab.clock.ms += hours * HOUR
            assert states(vault.maintain()) == ({"root": "done"} if grows else {})
            epoch += grows
            assert core(vault).view().tree.epoch == epoch
        assert core(vault).view().tree.pin.size > 0
    audited(lab)


def test_a_checkpoint_is_published_and_logged(lab: Lab) -> None:
    public = lab.base / "public"
    public.mkdir()
    assert states(maintain(lab)) == {}  # nobody said where to
    assert states(maintain(lab, checkpoints=public)) == {"checkpoint": "done"}
    latest = (public / "latest.checkpoint").read_bytes()
    with lab.open() as vault:
        entry = log_entries(vault)[-1]
        assert entry["type"] == "checkpoint"
        assert entry["sha256"] == hashlib.sha256(latest).hexdigest()
        assert (public / f"{entry['size']:012d}.checkpoint").read_bytes() == latest
        opened = open_checkpoint(latest, vault.audit_keys())
        assert opened.checkpoint.size == entry["size"]
        vault.audit_consistency(latest)
    assert states(maintain(lab, checkpoints=public)) == {}
    assert sorted(each.name for each in public.iterdir())[1] == "latest.checkpoint"
    audited(lab)


def test_a_step_that_fails_stops_no_other(lab: Lab) -> None:
    everything_due(lab)
    shutil.rmtree(lab.base / "public")
    done = maintain(lab)
    found = states(done)
    assert found["checkpoint"] == "failed"
    assert {found[each] for each in ("signing", "rows", "expired", "tree")} == {"done"}
    assert done.exit_code != 0
    assert "root" not in found  # the expiry replaced it
    by_name = {each.name: each for each in done.steps}
    assert "mount its disk" in by_name["checkpoint"].next


def test_nothing_is_announced_while_a_copy_is_away(lab: Lab) -> None:
    everything_due(lab)
    lab.copy_dir.rename(lab.base / "gone")
    size = lab.do(lambda vault: len(log_entries(vault)))
    done = maintain(lab)
    assert {name for name, state in states(done).items() if state == "failed"} == {
        "pending",
        "expired",
        "tree",
        "root",
    } & states(done).keys()
    assert done.exit_code == ErasurePending.exit_code
    with lab.open() as vault:
        fresh = [each["type"] for each in log_entries(vault)[size:]]
    assert "destroy" not in fresh
    (lab.base / "gone").rename(lab.copy_dir)
    found = states(maintain(lab))
    assert (found["expired"], found["tree"]) == ("done", "done")
    audited(lab)


def test_a_pending_erasure_is_finished_and_a_mirror_that_is_away_named(lab: Lab) -> None:
    with lab.open() as vault:
        vault.keys.move(Holders(mirrors=[f"file:{lab.base / 'mirror.root'}"]))
    (lab.base / "mirror.root").rename(lab.base / "away")
    with lab.open() as vault:
        with pytest.raises(ErasurePending):
            vault.shred("bob")
        done = vault.maintain()
        step = done.steps[0]
        assert (step.name, step.state) == ("pending", "failed")
        assert "mirror.root" in step.message
        assert reason(vault, "bob") != "ok"
        size = len(log_entries(vault))
        vault.maintain()
        assert len(log_entries(vault)) == size  # no intent is heaped upon another
        (lab.base / "away").rename(lab.base / "mirror.root")
        assert vault.maintain().steps[0].state == "done"
        assert reason(vault, "bob") == "subject_unknown"
    audited(lab)


def test_a_move_that_was_cut_off_is_finished(lab: Lab) -> None:
    new = f"file:{lab.base / 'new.root'}"
    lab.crash(lambda vault: vault.keys.move(Holders(root_uri=new)), "move.renamed")
    assert states(maintain(lab, dry_run=True)) == {"move": "due"}
    assert states(maintain(lab)) == {"move": "done"}
    with lab.open() as vault:
        assert vault.settings.root_uri == new
        assert vault.settings.leaving == ()
        assert states(vault.maintain()) == {}
    audited(lab)


def test_one_who_may_not_maintain_is_refused(lab: Lab) -> None:
    everything_due(lab)
    for role in (Role.SERVICE, Role.AUDITOR, Role.DPO):
        token = lab.add_principal(role)
        with pytest.raises(NotAllowed):
            lab.do(lambda vault: vault.maintain(), token)
    token = lab.add_principal(Role.OPERATOR)
    assert states(lab.do(lambda vault: vault.maintain(), token)) == ALL_DONE
    audited(lab)


def test_two_at_once_do_it_once(lab: Lab) -> None:
    everything_due(lab)

    def other() -> dict[str, str]:
        return states(maintain(lab))

    def stopped() -> dict[str, str]:
        at_step("expire.found", 19)  # SIGSTOP
        return states(maintain(lab))

    first = lab.fork(stopped)
    first.wait_stopped()
    second = lab.fork(other)
    first.resume()
    found = [first.wait(), second.wait()]
    assert [each.get("expired") for each in found].count("done") == 1
    assert [each.get("tree") for each in found].count("done") == 1
    with lab.open() as vault:
        assert [each["what"] for each in log_entries(vault) if each["type"] == "rotation"] == [
            "tree",
            "signing",
        ]
    audited(lab)


def test_a_busy_vault_is_left_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    days(lab, 1)
    lab.clock.ms += DAY
    from facekeep.store.lock import WriterLock  # noqa: PLC0415 - the lock alone is shortened

    held = WriterLock.held
    monkeypatch.setattr(WriterLock, "held", lambda self, _=0.05: held(self, 0.05))
    with lab.open() as vault, WriterLock(lab.path / "vault.lock").held():
        done = vault.maintain()
    assert done.exit_code == 36
    assert done.steps[0].state == "failed"
    assert {each.message for each in done.steps[1:]} == {"not tried"}


def test_matches_go_on_meanwhile(lab: Lab) -> None:
    everything_due(lab)
    with lab.open() as vault, lab.open() as other:
        with calling("maintain.expired", lambda: matches(other, "ada") or pytest.fail("no match")):
            assert states(vault.maintain()) == ALL_DONE
        assert matches(other, "ada")


def test_settings_that_change_meanwhile_stop_it(lab: Lab) -> None:
    everything_due(lab)
    with lab.open() as vault, lab.open() as other:
        with calling("maintain.expired", lambda: other.change_settings(region="FR")):
            done = vault.maintain()
        assert done.exit_code == 40
        assert states(done) == {"expired": "done"} | dict.fromkeys(
            ("tree", "root", "signing", "rows", "checkpoint", "backup", "templates"), "failed"
        )
        assert next(each.name for each in done.steps if each.message == "not tried") == "root"
    del (left := dict(ALL_DONE))["expired"]
    assert states(maintain(lab)) == left


def test_it_runs_in_the_middle_of_a_rotation_of_templates(lab: Lab) -> None:
    everything_due(lab)
    lab.crash(lambda vault: vault.keys.rotate_templates(), "rotate.begun")
    done = maintain(lab)
    assert states(done)["expired"] == "done"
    with lab.open() as vault:
        assert [each.op for each in core(vault).log.head().rotations] == ["templates"]
        assert vault.keys.rotate_templates().left == 0
    assert "templates" not in states(maintain(lab))
    audited(lab)


@pytest.mark.parametrize("copies", [False, True], ids=["alone", "with copies"])
def test_kill_at_every_step(tmp_path: Path, copies: bool) -> None:
    lab = Lab(tmp_path, copies=copies).create()
    lab.enrol("ada", "bob", days=900)
    everything_due(lab)
    lab.put_back(start := lab.save("start"))
    found = lab.steps_of(lambda vault: vault.maintain())
    names = [step for step, _ in found]
    assert {"maintain.expired", "checkpoint.written", "rotate.signed", "destroy.completed"} <= set(names)
    assert len(found) > 30
    for step, occurrence in found:
        lab.put_back(start)
        shutil.rmtree(lab.base / "export", ignore_errors=True)
        for each in (lab.base / "public").iterdir():
            each.unlink()
        lab.crash(lambda vault: vault.maintain(), step, occurrence)
        sound(lab)
        assert maintain(lab).exit_code == 0
        sound(lab)
        assert states(maintain(lab)) == {"backup": "due", "templates": "due"}
        with lab.open() as vault:
            kinds = [(each["type"], each.get("op") or each.get("what")) for each in log_entries(vault)]
            assert kinds.count(("destroy", "expire")) == 1
            assert kinds.count(("rotation", "tree")) == 1
            assert kinds.count(("rotation", "signing")) == 1
            assert kinds.count(("checkpoint", None)) == 1
            assert core(vault).data.count() == 3
        assert (lab.base / "public" / "latest.checkpoint").is_file()


def sound(lab: Lab) -> None:
    with lab.open() as vault:
        assert matches(vault, "ada")
        assert matches(vault, "bob")
        assert not _answers(vault, "cy")
        assert vault.check().missing == []
    audited(lab)


def _answers(vault: Vault, name: str) -> bool:
    return reason(vault, name) == "ok"
