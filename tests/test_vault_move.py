"""Moves of the root that are interrupted: what is left of the old holder, who is away, who has which root."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.errors import ErasurePending, RootError
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.provider import Candidate
from facekeep.store import settingsfile
from facekeep.vault import Holders, Vault
from vaultlab import Lab, core, matches, reason


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path).create()
    made.enrol("ada", "bob")
    return made


def uri(lab: Lab, name: str) -> str:
    return f"file:{lab.base / name}"


def move(lab: Lab, *mirrors: str) -> Callable[[Vault], object]:
    """An operator's move of the root to new.root, with these mirrors."""

    def act(vault: Vault) -> object:
        holders = Holders(root_uri=uri(lab, "new.root"), mirrors=[uri(lab, each) for each in mirrors])
        return vault.keys.move(holders)

    return act


# -- what is left of the old holder


def test_a_move_killed_at_any_step_leaves_nothing_of_the_old_holder_once_it_is_finished(lab: Lab) -> None:
    start = lab.save("start")
    found = lab.steps_of(move(lab))
    assert [each for each, _ in found].index("move.cleared") < [each for each, _ in found].index("move.ended")
    for step, occurrence in found:
        (lab.base / "new.root").unlink(missing_ok=True)
        lab.put_back(start)
        lab.crash(move(lab), step, occurrence)
        lab.do(lambda vault: vault.keys.resume())
        moved = (lab.base / "new.root").exists() and not lab.root.exists()
        begun = lab.do(lambda vault: vault.settings.root_uri) == uri(lab, "new.root")
        assert moved == begun, step
        if begun:
            assert lab.do(lambda vault: vault.settings.leaving) == ()
        lab.clean()


def test_a_vault_that_is_opened_while_its_root_is_moved_is_opened(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings are read before the move, the holder that they name is asked after it."""
    read, before = settingsfile.read, settingsfile.read(lab.path)
    reads = [before]
    lab.do(move(lab))
    monkeypatch.setattr(settingsfile, "read", lambda path: reads.pop() if reads else read(path))
    assert lab.do(lambda vault: vault.settings.root_uri) == uri(lab, "new.root")
    assert not reads


def test_a_vault_that_was_open_while_its_root_was_moved_follows_it(lab: Lab) -> None:
    with lab.open() as vault:
        lab.do(move(lab))
        core(vault).forget_tree()  # as before a swap
        vault.keys.rotate_root()
        vault.shred("ada")
        assert vault.settings.root_uri == uri(lab, "new.root")
    lab.clean()


def test_an_erasure_does_not_wait_for_a_holder_that_was_removed(lab: Lab) -> None:
    """Killed after the old holder was removed, before the settings forget it."""
    lab.crash(move(lab), "move.cleared")
    assert not lab.root.exists()
    with lab.open() as vault:
        states = {each.role: (each.state, each.trouble) for each in vault.keys.holders()}
        assert states == {"first": ("current", ()), "leaving": ("stale", ())}
        vault.shred("ada")
        assert reason(vault, "ada") in {"subject_unknown", "destroyed"}
        assert matches(vault, "bob")
        vault.keys.resume()
    lab.clean()


# -- the present root stays where it is


def held_by(path: Path, vault: Vault) -> tuple[Candidate, ...]:
    return FileProvider(path, core(vault).vault_id).candidates()


@pytest.mark.parametrize("then", ["resume", "enrol", "scrub"])
def test_a_new_holder_never_has_the_root_from_before(
    lab: Lab, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from the move, nor from who recovers or scrubs a vault in which one was begun."""
    new, given = lab.base / "new.root", set[bytes]()
    stage = FileProvider.stage

    def spied(self: FileProvider, root: bytes) -> None:
        if self.path == new:
            given.add(root)
        stage(self, root)

    with lab.open() as vault:
        before = {each.root for each in held_by(lab.root, vault)}
    lab.crash(move(lab), "move.renamed")
    monkeypatch.setattr(FileProvider, "stage", spied)
    if then == "enrol":
        lab.enrol("cy")
    elif then == "scrub":
        Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert not given
    lab.do(lambda vault: vault.keys.resume())
    assert given
    assert not given & before
    lab.clean()


# -- nobody there who has the root


@pytest.mark.parametrize("mirrors", [(), ("mirror.root",)], ids=["alone", "mirror"])
def test_the_holders_that_are_away_are_named_and_the_one_that_answers(
    lab: Lab, mirrors: tuple[str, ...]
) -> None:
    """The swap stands in keys.db, the new holders are away, and the leaving one has the root before."""
    lab.crash(move(lab, *mirrors), "after write")
    away = ["new.root", *mirrors]
    for name in away:
        (lab.base / name).rename(lab.base / f"{name}.away")
    with pytest.raises(RootError, match=r"no root opens keys\.db") as caught:
        lab.check()
    for name in away:
        assert f"file: holder {lab.base / name} is away" in str(caught.value)
        assert str(lab.base / name) in caught.value.next
    assert f"file: holder {lab.root} answers with another root, an old one" in str(caught.value)
    assert caught.value.next.startswith("bring the file: holder ")
    assert caught.value.next.command.endswith("then: facekeep keys resume")
    (lab.base / f"{away[-1]}.away").rename(lab.base / away[-1])  # one of them is enough to open
    with lab.open() as vault:
        assert matches(vault, "ada")
        if mirrors:
            with pytest.raises(ErasurePending, match=r"cannot be reached: the root file .*new\.root"):
                vault.keys.resume()
    for name in away[:-1]:
        (lab.base / f"{name}.away").rename(lab.base / name)
    lab.do(lambda vault: vault.keys.resume())
    lab.clean()


def test_an_emptied_holder_that_answers_is_named_beside_those_that_are_away(lab: Lab) -> None:
    lab.crash(move(lab, "mirror.root"), "after promote")
    for name in ("new.root", "mirror.root"):
        (lab.base / name).rename(lab.base / f"{name}.away")
    with pytest.raises(RootError, match="no holder that answers has a root") as caught:
        lab.check()
    assert f"file: holder {lab.base / 'new.root'} is away" in str(caught.value)
    assert f"file: holder {lab.base / 'mirror.root'} is away" in str(caught.value)
    assert f"file: holder {lab.root} answers and has no root" in str(caught.value)


def test_an_open_vault_names_the_holder_that_is_away_too(lab: Lab) -> None:
    lab.do(lambda vault: vault.keys.move(Holders(mirrors=[uri(lab, "mirror.root")])))
    old = lab.root.read_bytes()
    with lab.open() as vault:
        vault.shred("ada")
    lab.root.write_bytes(old)
    (lab.base / "mirror.root").rename(lab.base / "away")
    with pytest.raises(RootError, match=r"mirror\.root is away") as caught:
        lab.check()
    assert f"{lab.root} answers with another root" in str(caught.value)
