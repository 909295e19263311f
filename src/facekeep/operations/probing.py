"""The probe: an old backup against every key there is now (SPEC §12.7).

"Opens" means that the slot's key gives the row's commitment and opens its record, whose associated data
covers the sealed templates: so no template of anybody is opened, living or erased.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Ambiguous
from facekeep.audit.bundle import verify
from facekeep.audit.proven import Proven
from facekeep.audit.report import Report
from facekeep.audit.steps import OnStep, Steps
from facekeep.errors import FacekeepError, IntegrityError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.note import VerifierKey
from facekeep.keys.holders import held
from facekeep.keys.tree import KeyTree, open_tree
from facekeep.store import vaultdb
from facekeep.store.keysdb import KeysStore
from facekeep.store.sqlite import Database, translated
from facekeep.store.vaultdb import GrantRow, VaultStore

Progress = Callable[[int, int], None]
_OFTEN = 1_000

#: The steps of SPEC §12.7, in its words.
PROBE_STEPS: Final = MappingProxyType(
    {
        "B1": "every proof is verified, and is of this vault",
        "B2": "the backup holds templates that the proofs call erased",
        "B3": "it holds none of those people's that the proofs do not name",
        "B4": "no erased template opens under any key there is",
        "B5": "every living template opens",
    }
)


@dataclass
class Tally:
    """Rows of the backup of one kind: how many there are, how many open."""

    rows: int = 0
    opened: int = 0

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {"opened": self.opened, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class Probed(Ambiguous):
    """What opened: of the erased, of the living, and of others destroyed without a proof given.

    ``named`` counts the slots in the proofs; a backup holds those that lived when it was written.
    ``trees`` says of each keys.db whether a root of the vault opens it.
    """

    erased: Tally
    living: Tally
    other: Tally
    named: int
    trees: tuple[tuple[str, bool], ...]
    report: Report

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {
            "erased": self.erased.to_json(),
            "keys": [{"file": name, "root_opens_it": opens} for name, opens in self.trees],
            "living": self.living.to_json(),
            "named": self.named,
            "other_destroyed": self.other.to_json(),
            "steps": self.report.to_json()["steps"],
        }


def probe(
    core: Core,
    session: Session,
    backup: Path,
    proofs: Sequence[bytes],
    keys: Sequence[VerifierKey],
    *,
    old_keys: Sequence[Path] = (),
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Probed:
    """Try to open every row of a backup with the vault's root, keys.db, its copies and ``old_keys``.

    Raises RuleBroken naming the step, UsageError for a backup that is not there.
    """
    session.require(Action.CHECK)
    if not proofs:
        raise UsageError("a probe needs a shredding proof at least")
    if not backup.is_file():
        raise UsageError(f"there is no backup at {backup.name}")
    steps = Steps(PROBE_STEPS, on_step)
    with steps.step("B1") as said:  # SPEC §12.7 step 1
        proven = [_of_this_vault(core, verify(data, keys)) for data in proofs]
        said.append("1 proof" if len(proven) == 1 else f"{len(proven)} proofs")
    slots = {grant.slot for each in proven for grant in each.grants}
    tags = {each.tag for each in proven}
    with _trees(core, old_keys) as (trees, opened):
        work = _Work(core, trees, slots, tags)
        work.run(backup, progress)
    with steps.step("B2") as said:  # SPEC §12.7 step 2
        if not work.erased.rows:
            raise IntegrityError("it holds none of them: a probe with this backup shows nothing")
        said.append(f"{work.erased.rows} of the {len(slots)} in the proofs")
    with steps.step("B3"):  # SPEC §12.7 step 3
        if work.unnamed:
            raise IntegrityError(f"it holds {work.unnamed} of them")
    with steps.step("B4") as said:  # SPEC §12.7 step 4
        if work.erased.opened or work.other.opened:
            raise IntegrityError(f"{work.erased.opened + work.other.opened} open")
        said.append(f"0 of {work.erased.rows}")
    with steps.step("B5") as said:  # SPEC §12.7 step 5
        if work.living.opened != work.living.rows:
            raise IntegrityError(f"only {work.living.opened} of {work.living.rows} open")
        said.append(f"{work.living.opened} of {work.living.rows}")
    return Probed(work.erased, work.living, work.other, len(slots), opened, steps.report())


def _of_this_vault(core: Core, proven: Proven) -> Proven:
    if proven.vault != core.vault_id:
        raise IntegrityError("a proof is of another vault")
    return proven


class _Work:
    """One pass over a backup."""

    def __init__(self, core: Core, trees: Sequence[KeyTree], slots: set[int], tags: set[bytes]) -> None:
        self.erased, self.living, self.other = Tally(), Tally(), Tally()
        self.unnamed = 0
        self._core = core
        self._view = core.view()
        self._trees = trees
        self._slots = slots
        self._tags = tags

    def run(self, backup: Path, progress: Progress | None) -> None:
        core = self._core
        with contextlib.closing(
            Database(backup, "backup", core.vault_id, vaultdb.MIGRATIONS, use="keep")
        ) as database:
            stored = VaultStore(database, core.data.mask)
            total = stored.count()
            for done, row in enumerate(stored.rows()):
                self._row(row)
                if progress is not None and done % _OFTEN == 0:
                    progress(done, total)

    def _row(self, row: GrantRow) -> None:
        tally = self._tally(row)
        tally.rows += 1
        self.unnamed += row.tag in self._tags and row.slot not in self._slots
        tally.opened += any(self._opens(tree, row) for tree in self._trees)

    def _tally(self, row: GrantRow) -> Tally:
        if row.slot in self._slots:
            return self.erased
        try:
            lives = bool(self._view.tree.alive([row.slot])[0])
        except FacekeepError:
            lives = False
        return self.living if lives and not self._view.pending.destroying(row.slot) else self.other

    def _opens(self, tree: KeyTree, row: GrantRow) -> bool:
        try:
            self._core.sealer.open_record(tree.slot_key(row.slot), row)
        except FacekeepError:
            return False
        return True


@contextlib.contextmanager
def _trees(
    core: Core, old_keys: Sequence[Path]
) -> Iterator[tuple[list[KeyTree], tuple[tuple[str, bool], ...]]]:
    """Every key tree that a root of the vault opens: of keys.db, its live copies, and the files given.

    Files that are given are copied first: SQLite may write to what it opens.
    """
    candidates = held(core.readers)
    places = [("keys.db", core.path / "keys.db")]
    places += [(f"live copy {at}", Path(copy) / "keys.db") for at, copy in enumerate(core.settings.copies, 1)]
    trees: list[KeyTree] = []
    told: list[tuple[str, bool]] = []
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="facekeep-probe-")))
        for at, path in enumerate(old_keys):
            if not path.is_file():
                raise UsageError(f"there is no file {path.name}")
            places.append((path.name, _copied(path, folder / str(at))))
        for name, path in places:
            try:
                store = cleanup.enter_context(KeysStore.open(path, core.vault_id))
                trees.append(open_tree(store, core.vault_id, candidates)[0])
                told.append((name, True))
            except FacekeepError:
                told.append((name, False))
        yield trees, tuple(told)


def _copied(path: Path, folder: Path) -> Path:
    with translated(path.name):
        folder.mkdir(mode=0o700)
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.is_file():
                shutil.copyfile(source, folder / ("keys.db" + suffix))
    return folder / "keys.db"
