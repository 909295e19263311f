"""Changing vault.toml: a logged command in two durable steps, repaired at the next opening (SPEC §9).

vault.toml.new, the log's entry, the new name. In between, the log knows which of the two files counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Ambiguous
from facekeep.errors import FacekeepError, FormatError, UsageError
from facekeep.formats import entries
from facekeep.formats.matching import Matching
from facekeep.formats.settings import Settings
from facekeep.operations.steps import reached
from facekeep.operations.writing import writing
from facekeep.store import settingsfile
from facekeep.store.sqlite import translated

_FILES = ("keys.db", "log.db")
_OF_COPIES = frozenset(
    {"lost+found"} | {name + end for name in _FILES for end in ("", "-wal", "-shm", "-journal", ".new")}
)


@dataclass(frozen=True, slots=True)
class SettingsChange(Ambiguous):
    """What was changed: index of the log entry (None: nothing was), directories added and removed."""

    settings: Settings
    entry: int | None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def change(
    core: Core,
    session: Session,
    *,
    region: str | None = None,
    regions: Sequence[str] | None = None,
    copies: Sequence[Path] | None = None,
    schedule: Sequence[str] = (),
    matching: Callable[[Matching], Matching] | None = None,
) -> SettingsChange:
    """Change the region, the list of further ones, that of copy directories, the schedule (``root_days=7``).

    ``matching`` changes the limits on matching; it raises FormatError for what they cannot be.

    New copy directories get their live copies at once.

    Raises UsageError with nothing changed. Afterwards ``core`` answers nothing more: open the vault again.
    """
    with writing(core, session, Action.SETTINGS):
        old = core.settings
        new = _scheduled(_stored(core, _placed(core.settings, region, regions), copies), schedule)
        new = _limited(new, matching)
        if new == old:
            return SettingsChange(old, None)
        added = tuple(each for each in new.copies if each not in old.copies)
        removed = tuple(each for each in old.copies if each not in new.copies)
        for each in added:
            _check_directory(core, Path(each))
        with contextlib.ExitStack() as undo:
            for each in added:
                undo.callback(_unmake(Path(each)))
            _make(core, added)
            reached("settings.copied")
            settingsfile.stage(core.path, new)
            reached("settings.staged")
            undo.pop_all()  # from here on nobody knows whether the entry is on disk
        entry = entries.settings(
            new.digest(),
            old.digest(),
            by=session.by,
            time_ms=core.clock.now_ms(),
            matching=new.matching.logged(),
            regions=new.all_regions,
        )
        index = core.log.append([entry])[0]
        reached("settings.announced")
        settingsfile.promote(core.path)
        reached("settings.renamed")
        with contextlib.suppress(FacekeepError):  # it is behind then: status says so, a writer mends it
            _make(core, added)
        reached("settings.current")
        return SettingsChange(new, index, added, removed)


def _placed(old: Settings, region: str | None, regions: Sequence[str] | None) -> Settings:
    further = old.regions if regions is None else tuple(sorted(set(regions)))
    new = replace(old, region=old.region if region is None else region, regions=further)
    try:
        new.check()
    except FormatError as error:
        raise UsageError(str(error), next="correct the regions; nothing was changed") from None
    return new


def _stored(core: Core, new: Settings, copies: Sequence[Path] | None) -> Settings:
    if copies is not None:
        paths = tuple(str(each.absolute()) for each in copies)
        if not all(path.isprintable() for path in paths):
            raise UsageError("a copy directory's name has unprintable characters")
        if len({Path(path).resolve() for path in paths}) != len(paths):
            raise UsageError("a copy directory was named twice")
        if any(Path(path).resolve() == core.path.resolve() for path in paths):
            raise UsageError("the copy directory is the vault itself", next="name another, on another disk")
        new = replace(new, copies=paths)
    return new


def _scheduled(settings: Settings, words: Sequence[str]) -> Settings:
    try:
        schedule = settings.schedule.changed(tuple(words))
    except FormatError as error:
        raise UsageError(str(error), next="correct the schedule; nothing was changed") from None
    if schedule.checkpoints and not Path(schedule.checkpoints).is_absolute():
        raise UsageError("checkpoints is not an absolute path", next="name the directory from / on")
    return replace(settings, schedule=schedule)


def _limited(settings: Settings, changed: Callable[[Matching], Matching] | None) -> Settings:
    try:
        limits = settings.matching if changed is None else changed(settings.matching)
        limits.check()
    except FormatError as error:
        raise UsageError(str(error), next="correct the limits on matching; nothing was changed") from None
    return replace(settings, matching=limits)


def _check_directory(core: Core, directory: Path) -> None:
    """Refuse what cannot be reached, and what has anything in it but copies of this vault that may follow."""
    try:
        names = sorted(each.name for each in directory.iterdir())
    except OSError as error:
        raise UsageError(
            f"the copy directory {directory} cannot be reached: {error.strerror}",
            next="make it, or mount its disk, then try again; nothing was changed",
        ) from error
    if not _OF_COPIES.issuperset(names):
        raise UsageError(
            f"the copy directory {directory} is not empty",
            next="name an empty directory; nothing was changed",
        )
    with core.log.other_copies([directory / "log.db"]) as logs:
        found = [(each.path, each.state) for each in logs.states()]
    found += [(each.path, each.state) for each in core.keys.other_copies([directory / "keys.db"]).state()]
    for path, state in found:
        if state not in {"missing", "behind", "current"}:
            raise UsageError(
                f"{path} is there already, and is {state}",
                next="name an empty directory; nothing was changed",
            )


def _make(core: Core, directories: Sequence[str]) -> None:
    core.keys.other_copies([Path(each) / "keys.db" for each in directories]).resync(create=True)
    with core.log.other_copies([Path(each) / "log.db" for each in directories]) as logs:
        logs.resync(create=True)


def _unmake(directory: Path) -> Callable[[], None]:
    """Return what removes the copies again; files that were there before stay."""
    with translated(str(directory)):
        before = {each.name for each in directory.iterdir()}

    def undo() -> None:
        with contextlib.suppress(OSError):
            for each in directory.iterdir():
                if each.name in _OF_COPIES - before - {"lost+found"}:
                    each.unlink()

    return undo
