"""[schedule] of vault.toml: only what differs is written, and only whole numbers in their bounds are read."""

from __future__ import annotations

import dataclasses

import pytest

from facekeep.errors import FormatError
from facekeep.formats.schedule import BOUNDS, Schedule
from facekeep.formats.settings import Settings

PLAIN = Settings(bytes(range(16)), "file:x", ("/a",), "DE")


def with_schedule(schedule: Schedule) -> Settings:
    return dataclasses.replace(PLAIN, schedule=schedule)


def test_a_vault_with_the_defaults_has_the_digest_it_always_had() -> None:
    assert "schedule" not in PLAIN.encode()
    assert with_schedule(Schedule()).digest() == PLAIN.digest()
    assert PLAIN.document().keys() == {"copies", "format", "root", "settings", "vault"}


def test_written_and_read_back() -> None:
    settings = with_schedule(Schedule(root_days=7, tree_days=0, checkpoints="/srv/a b"))
    assert Settings.decode(settings.encode()) == settings
    assert settings.encode().endswith(
        '\n[schedule]\nroot_days = 7\ntree_days = 0\ncheckpoints = "/srv/a b"\n'
    )
    assert settings.digest() != PLAIN.digest()


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "root_days = 30",
        'root_days = "7"',
        "root_days = 7.0",
        "root_days = true",
        "root_days = 0",
        "swap_hours = 25",
        "shred_percent = 50",
        "checkpoints = 1",
        'checkpoints = "a\\u0007"',
        "[schedule.more]",
    ],
)
def test_anything_else_is_refused(lines: str) -> None:
    with pytest.raises(FormatError):
        Settings.decode(PLAIN.encode() + f"\n[schedule]\n{lines}\n")


def test_every_number_has_bounds_and_a_default_inside_them() -> None:
    numbers = {each.name for each in dataclasses.fields(Schedule)} - {"checkpoints"}
    assert numbers == set(BOUNDS)
    Schedule().check()
    for key, bounds in BOUNDS.items():
        for value in (bounds.low, bounds.high):
            dataclasses.replace(Schedule(), **{key: value}).check()  # type: ignore[arg-type] # int
        for value in (bounds.low - 1, bounds.high + 1):
            if value or not bounds.never:
                with pytest.raises(FormatError, match=key):
                    dataclasses.replace(Schedule(), **{key: value}).check()  # type: ignore[arg-type] # int


def test_changes_in_words() -> None:
    changed = Schedule().changed(("root_days=7", "tree_days=0", "checkpoints=/a=b"))
    assert (changed.root_days, changed.tree_days, changed.checkpoints) == (7, 0, "/a=b")
    assert changed.changed(("root_days=default", "tree_days=default", "checkpoints=default")) == Schedule()


@pytest.mark.parametrize(
    "word",
    ["", "root_days", "root_days=", "root_days=-1", "root_days=1e3", "root_days=07", "x=1", "root_days=9999"],
)
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(FormatError):
        Schedule().changed((word,))
