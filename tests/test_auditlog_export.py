"""Exports: incremental, append-only, atomic, and believed only under a checkpoint."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from auditlog_help import NOW, VAULT
from facekeep import files as writing
from facekeep.auditlog import export as exporting
from facekeep.auditlog import proofs
from facekeep.auditlog.checkpoints import Checkpoints
from facekeep.auditlog.export import Exported, export, prune
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.signed import open_checkpoint
from facekeep.errors import Busy, FacekeepError, IntegrityError, StoreError, UsageError
from facekeep.formats.checkpoint import Checkpoint, origin_of
from facekeep.formats.tiles import Tile
from tree_help import OTHER_VAULT, SIGNING_KEY, TreeLab, altered, grown, refused, signer


class ExportLab(TreeLab):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.out = directory / "out"

    def export(self, size: int | None = None) -> Exported:
        if size is not None:
            self.fill(size)
        return export(self.out, self.checkpoints, time_ms=NOW)

    def read(self) -> list[bytes]:
        """Read everything back, under the key alone."""
        return read(self.out)


def read(directory: Path) -> list[bytes]:
    found = ExportDirectory(directory)
    opened = open_checkpoint(found.checkpoint(), signer().keys, origin=origin_of(VAULT))
    return list(ExportedTree(found, opened.checkpoint).entries())


@pytest.fixture
def lab(tmp_path: Path) -> ExportLab:
    return ExportLab(tmp_path)


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_an_export_reads_back_as_the_log(lab: ExportLab) -> None:
    lab.export(600)
    bodies = lab.read()
    assert len(bodies) == 600
    assert bodies[0] == lab.log.control_bodies().__iter__().__next__()[1]
    tree = ExportedTree(ExportDirectory(lab.out), lab.export().checkpoint)
    assert list(tree.entries(300)) == bodies[300:]
    assert list(ExportDirectory(lab.out).entries(590, 600)) == bodies[590:]


def test_an_export_is_incremental_and_never_changes_a_file(lab: ExportLab) -> None:
    before: dict[str, bytes] = {}
    done = lab.export()
    shutil.rmtree(lab.out)
    for size in (1, 2, 255, 256, 257, 600, 600, 1300):
        done = lab.export(size)
        now = files(lab.out)
        assert all(now[name] == data for name, data in before.items() if name != "checkpoint")
        assert done.files == len(now) - max(len(before), 1)
        assert len(lab.read()) == done.checkpoint.size == size
        before = now
    assert (done.before, done.files) == (600, 2 * 4 + 1)


def test_the_files_are_c2sp_s(lab: ExportLab) -> None:
    lab.export(600)
    assert sorted(files(lab.out)) == [
        "checkpoint",
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/88",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/88",
    ]


def test_a_full_tile_is_read_where_the_partial_one_is_gone(lab: ExportLab) -> None:
    early = lab.export(300).checkpoint
    bodies = lab.read()
    lab.export(600)
    assert prune(lab.out) == 2
    assert not (lab.out / "tile/0/001.p").exists()
    assert list(ExportedTree(ExportDirectory(lab.out), early).entries()) == bodies
    assert len(lab.read()) == 600
    assert prune(lab.out) == 0


def test_proofs_out_of_an_export(lab: ExportLab) -> None:
    done = lab.export(600)
    directory, bodies = ExportDirectory(lab.out), lab.read()
    hashes = directory.hashes(600)
    for index in (0, 255, 256, 599):
        path = proofs.inclusion_proof(hashes, index, 600)
        proofs.verify_inclusion(leaf_hash(bodies[index]), index, 600, path, done.checkpoint.root)
    old = lab.checkpoints.snapshot().root(300)
    path = proofs.consistency_proof(hashes, 300, 600)
    proofs.verify_consistency(300, old, 600, done.checkpoint.root, path)


# --- attacks on the directory --------------------------------------------------------------------


def test_every_altered_file_is_noticed(lab: ExportLab) -> None:
    lab.export(600)
    for name, good in files(lab.out).items():
        path = lab.out / name
        for data in (*altered(good, 1 + len(good) // 50), good[:-1], good + b"\0", b""):
            path.write_bytes(data)
            assert refused(read, lab.out), name
        path.unlink()
        with pytest.raises(FacekeepError):
            lab.read()
        path.write_bytes(good)
    assert len(lab.read()) == 600


def test_entries_removed_reordered_or_duplicated_are_noticed_by_index(lab: ExportLab) -> None:
    lab.export(600)
    path = lab.out / "tile/entries/001"
    good = path.read_bytes()
    length = 2 + int.from_bytes(good[:2], "big")
    first, second, rest = good[:length], good[length : 2 * length], good[2 * length :]
    for data in (second + first + rest, first + first + rest):
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=r"log entry 25[67]"):
            lab.read()
    for data in (second + rest, first + good):
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match="number of entries"):
            lab.read()


def test_an_entry_changed_together_with_its_tiles_is_noticed(lab: ExportLab) -> None:
    lab.export(600)
    bundle, tile = lab.out / "tile/entries/001", lab.out / "tile/0/001"
    good = bundle.read_bytes()
    changed = good.replace(b"match", b"mitch", 1)
    entry = changed[2 : 2 + int.from_bytes(changed[:2], "big")]
    bundle.write_bytes(changed)
    tile.write_bytes(leaf_hash(entry) + tile.read_bytes()[32:])
    with pytest.raises(IntegrityError, match="tile/0/001"):
        lab.read()


def test_upper_tiles_are_checked_though_no_entry_needs_them(lab: ExportLab) -> None:
    done = lab.export(65_536)
    assert (lab.out / "tile/2/000.p/1").read_bytes() == done.checkpoint.root
    (lab.out / "tile/2/000.p/1").write_bytes(bytes(32))
    with pytest.raises(IntegrityError, match=r"tile/2/000\.p/1"):
        ExportedTree(ExportDirectory(lab.out), done.checkpoint)


def test_an_older_checkpoint_over_newer_tiles_still_reads(lab: ExportLab) -> None:
    lab.export(300)
    old = (lab.out / "checkpoint").read_bytes()
    lab.export(600)
    (lab.out / "checkpoint").write_bytes(old)
    assert len(lab.read()) == 300
    assert lab.export().before == 300
    assert len(lab.read()) == 600


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "huge"])
def test_what_is_no_plain_file_is_not_read(lab: ExportLab, kind: str) -> None:
    lab.export(300)
    path = lab.out / "tile/0/000"
    data = path.read_bytes()
    path.unlink()
    if kind == "link":
        (lab.out / "elsewhere").write_bytes(data)
        path.symlink_to(lab.out / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    with pytest.raises(FacekeepError):
        lab.read()


def test_a_directory_without_checkpoint_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no file 'checkpoint'"):
        ExportDirectory(tmp_path).checkpoint()
    with pytest.raises(IntegrityError, match="missing"):
        ExportedTree(ExportDirectory(tmp_path), grown(300).checkpoint(3))
    assert list(ExportedTree(ExportDirectory(tmp_path), grown(300).checkpoint(0)).entries()) == []


# --- attacks on the writer -----------------------------------------------------------------------


def test_another_vault_s_export_is_not_continued(lab: ExportLab) -> None:
    lab.export(300)
    other = Checkpoints(lab.tree, SIGNING_KEY, OTHER_VAULT)
    before = files(lab.out)
    with pytest.raises(IntegrityError, match="another log"):
        export(lab.out, other, time_ms=NOW)
    assert files(lab.out) == before


def test_a_log_truncated_and_regrown_does_not_continue_its_export(lab: ExportLab, tmp_path: Path) -> None:
    lab.export(600)
    (tmp_path / "again").mkdir()
    fork = ExportLab(tmp_path / "again")  # another genesis entry
    shutil.copytree(lab.out, fork.out)
    before = files(fork.out)
    with pytest.raises(IntegrityError, match="fork"):
        fork.export(900)
    assert files(fork.out) == before


def test_a_rolled_back_log_does_not_continue_its_export(lab: ExportLab, tmp_path: Path) -> None:
    lab.fill(300)
    saved = lab.save(tmp_path / "saved")
    lab.export(600)
    lab.database.close()
    lab.put_back(saved)
    lab.log = lab.open()
    lab.open_tree()
    with pytest.raises(IntegrityError, match="600 entries, the log has 300"):
        lab.export()


def test_a_file_that_differs_is_evidence_and_stays(lab: ExportLab) -> None:
    lab.export(300)
    (lab.out / "tile/0/002.p").mkdir(parents=True)
    wrong = lab.out / "tile/0/002.p/88"
    wrong.write_bytes(b"x")
    old = (lab.out / "checkpoint").read_bytes()
    with pytest.raises(IntegrityError, match="other bytes"):
        lab.export(600)
    assert wrong.read_bytes() == b"x"
    assert (lab.out / "checkpoint").read_bytes() == old


def test_a_directory_with_other_things_is_left_alone(lab: ExportLab) -> None:
    lab.out.mkdir()
    (lab.out / "thesis.tex").write_text("")
    with pytest.raises(UsageError):
        lab.export()
    assert [path.name for path in lab.out.iterdir()] == ["thesis.tex"]


def test_a_forged_checkpoint_in_the_directory_is_not_continued(lab: ExportLab) -> None:
    lab.export(300)
    (lab.out / "checkpoint").write_bytes(
        (lab.out / "checkpoint").read_bytes().replace(b"\n300\n", b"\n200\n")
    )
    with pytest.raises(IntegrityError):
        lab.export(600)


@pytest.mark.parametrize("at", [0, 1, 5, 7])
def test_an_interrupted_export_keeps_its_old_checkpoint_and_goes_on(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    lab.export(300)
    lab.fill(1000)
    put, count = writing.put, [0]

    def failing(parent: int, name: str, data: bytes, mode: int, aside: int) -> None:
        count[0] += 1
        if count[0] > at:
            (lab.out / writing.temporary(name)).write_bytes(data[:1])
            raise OSError(28, "No space left on device")
        put(parent, name, data, mode, aside)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "put", failing)
        with pytest.raises(StoreError, match="No space"):
            lab.export()
    assert len(lab.read()) == 300
    assert lab.export().before == 300
    assert len(lab.read()) == 1000
    assert not list(lab.out.glob(".*.new"))


def test_an_interrupted_first_export_goes_on(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(exporting, "replace", failing)
        with pytest.raises(StoreError):
            lab.export(300)
    assert [path.name for path in lab.out.iterdir()] == ["tile"]
    assert lab.export().files == 0
    assert len(lab.read()) == 300


def test_two_exports_to_one_directory(lab: ExportLab) -> None:
    lab.export(3)
    descriptor = os.open(lab.out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Busy):
        lab.export(5)
    os.close(descriptor)
    assert lab.export(5).before == 3


def test_tiles_that_do_not_lead_to_the_root_get_no_checkpoint(lab: ExportLab) -> None:
    lab.fill(600)
    lab.tree.snapshot()
    lab.break_log("UPDATE tile SET hashes = zeroblob(length(hashes))")
    with pytest.raises(IntegrityError):
        lab.export()
    assert not (lab.out / "checkpoint").exists()


def test_an_entry_altered_after_it_was_tiled_is_not_exported(lab: ExportLab) -> None:
    lab.fill(600)
    lab.tree.snapshot()
    lab.break_log("UPDATE entry SET sealed = (SELECT sealed FROM entry WHERE idx = 4) WHERE idx = 3")
    with pytest.raises(IntegrityError, match="log entry 3"):
        lab.export()
    assert not (lab.out / "checkpoint").exists()


def test_progress_is_told(lab: ExportLab) -> None:
    lab.fill(600)
    told: list[tuple[int, int]] = []
    done = export(lab.out, lab.checkpoints, time_ms=NOW, progress=lambda at, of: told.append((at, of)))
    assert told == [(256, 600), (512, 600), (600, 600)]
    told.clear()
    tree = ExportedTree(ExportDirectory(lab.out), done.checkpoint)
    assert len(list(tree.entries(progress=lambda at, of: told.append((at, of))))) == 600
    assert told[-1] == (600, 600)


def test_the_order_on_disk(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is synced before its name, each name before the checkpoint's file, its name at the end."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        calls.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(source: str, target: str, **directories: int) -> None:
        calls.append(f"{source} -> {target}")
        rename(source, target, **directories)

    lab.fill(3)
    lab.checkpoints.snapshot()
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    lab.export()
    names = [call.split(" -> ")[1] for call in calls if " -> " in call]
    assert names == ["3", "3", "checkpoint"]
    for call in (each for each in calls if " -> " in each):
        assert calls.index("sync " + call.split(" -> ")[0]) < calls.index(call)
    last = next(at for at, call in enumerate(calls) if call.endswith("-> checkpoint"))
    assert {"sync 000.p", "sync 0", "sync entries", "sync tile", "sync out"} <= set(calls[:last])
    assert calls[last + 1 :] == ["sync out"]


def test_a_root_of_another_tree_is_refused(lab: ExportLab) -> None:
    lab.export(300)
    forged = Checkpoint(origin_of(VAULT), 300, bytes(32))
    with pytest.raises(IntegrityError, match="do not lead"):
        ExportedTree(ExportDirectory(lab.out), forged)
    assert ExportDirectory(lab.out).tile(Tile(0, 1, 44))
