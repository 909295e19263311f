"""Exports and older checkpoints as an auditor is given them, attacked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from audit_help import NOW, OPERATOR, SERVICE, SIGNER, VAULT, Book, founded, story, v, write_export
from facekeep.audit import replay as replay_module
from facekeep.audit.consistency import CONSISTENCY_STEPS, verify_consistency
from facekeep.audit.logs import verify_log
from facekeep.audit.opening import open_trusted
from facekeep.audit.report import LOG_STEPS, Report, RuleBroken, Verdict
from facekeep.auditlog.exported import ExportDirectory
from facekeep.auditlog.merkle import Frontier, leaf_hash
from facekeep.auditlog.proofs import consistency_proof
from facekeep.auditlog.rotation import signing_entry
from facekeep.auditlog.signed import LogSigner
from facekeep.errors import IntegrityError, StoreError, UsageError
from facekeep.formats.checkpoint import Checkpoint, origin_of
from facekeep.formats.note import Note
from facekeep.formats.tlogproof import ConsistencyProof

KEYS = SIGNER.keys
SECOND_SIGNER = LogSigner(b"k" * 32, VAULT, 2)
STRANGER = LogSigner(b"x" * 32, VAULT)


def long_story(denials: int = 600) -> list[bytes]:
    book = story().book
    for _ in range(denials):
        book.verify(v(0), None, reason="scope", by=OPERATOR)
    return book.bodies()


BODIES = long_story()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_export(tmp_path / "export", BODIES)
    return tmp_path / "export"


def failing(step: str, index: int | None, verify: Callable[[], object]) -> RuleBroken:
    with pytest.raises(RuleBroken) as caught:
        verify()
    error = caught.value
    assert (error.rule, error.index) == (step, index), str(error)
    report = error.report
    assert report is not None
    texts = [*LOG_STEPS] if step[0] in "LR" else [*CONSISTENCY_STEPS]
    verdicts = {each.id: each.verdict for each in report.steps}
    assert [*verdicts] == texts
    assert verdicts[step] is Verdict.BROKEN
    if step[0] in "LC":
        before = texts[: texts.index(step)]
        assert all(verdicts[each] is Verdict.HOLDS for each in before)
    return error


def all_hold(report: Report) -> None:
    assert {step.verdict for step in report.steps} == {Verdict.HOLDS}


def test_an_honest_export_with_one_key_or_both(directory: Path) -> None:
    told: list[tuple[int, int]] = []
    for keys in (KEYS, KEYS[:1], KEYS[1:]):
        report = verify_log(directory, keys, progress=lambda done, total: told.append((done, total)))
        all_hold(report)
        assert (report.origin, report.size) == (origin_of(VAULT), len(BODIES))
    assert told[-1] == (len(BODIES), len(BODIES))


def test_entries_done_are_told_of_how_many_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "_STEP", 2)
    told: list[tuple[int, int]] = []
    frontier = Frontier()
    for body in BODIES[:5]:
        frontier.append(leaf_hash(body))
    for checkpoint in (None, Checkpoint(SIGNER.origin, 5, frontier.root())):
        replay_module.replay(
            BODIES[:5], checkpoint=checkpoint, progress=lambda done, total: told.append((done, total))
        )
        replay_module.replay(BODIES[:5], checkpoint=checkpoint)
    assert told == [(2, 2), (4, 4), (5, 5), (2, 5), (4, 5), (5, 5)]


def test_no_export(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        verify_log(tmp_path, KEYS)
    with pytest.raises(StoreError):
        verify_consistency(SIGNER.sign(Checkpoint(SIGNER.origin, 1, bytes(32)), NOW), tmp_path, KEYS)


def test_a_checkpoint_under_other_keys(directory: Path) -> None:
    failing("L1", None, lambda: verify_log(directory, STRANGER.keys))
    other = LogSigner(b"k" * 32, b"w" * 16)
    failing("L1", None, lambda: verify_log(directory, other.keys))
    with pytest.raises((RuleBroken, UsageError)):
        verify_log(directory, ())


def test_a_checkpoint_under_keys_that_do_not_open_it_with_and_without_an_export(directory: Path) -> None:
    export = ExportDirectory(directory)
    data = export.checkpoint()
    for source in (None, export):
        assert open_trusted(data, KEYS, source).size == len(BODIES)
        for wrong in (STRANGER.keys, LogSigner(b"k" * 32, b"w" * 16).keys):
            with pytest.raises(IntegrityError):
                open_trusted(data, wrong, source)


@pytest.mark.parametrize("cut", [-1, -2, -100, -3_000])
def test_a_checkpoint_that_was_altered(directory: Path, cut: int) -> None:
    file = directory / "checkpoint"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) + cut])
    failing("L1", None, lambda: verify_log(directory, KEYS))


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "at", "step", "index"),
    [
        ("tile/1/000.p/2", 3, "L2", None),
        (f"tile/0/002.p/{len(BODIES) - 512}", 40, "L2", None),
        ("tile/0/000", 33, "L3", 1),
        ("tile/0/001", 0, "L3", 256),
        ("tile/entries/000", 20, "L3", 0),
        ("tile/entries/001", 500, "L3", 258),
        ("tile/entries/000", 0, "L3", None),
    ],
)
def test_one_byte_of_a_tile_or_bundle(
    directory: Path, name: str, at: int, step: str, index: int | None
) -> None:
    flip(directory / name, at)
    error = failing(step, index, lambda: verify_log(directory, KEYS))
    assert error.next


def test_rules_of_entries_that_are_not_believed_are_not_judged(directory: Path) -> None:
    for file, at in (("tile/entries/000", 20), ("tile/entries/001", 500)):
        whole = (directory / file).read_bytes()
        flip(directory / file, at)
        error = failing("L3", 258 if at == 500 else 0, lambda: verify_log(directory, KEYS))
        assert error.report is not None
        rules = [step for step in error.report.steps if step.id[0] == "R" or step.id == "L4"]
        assert {(step.verdict, step.detail) for step in rules} == {(Verdict.NOT_JUDGED, "")}
        assert '"holds: for the first 0' not in json.dumps(error.report.to_json())
        (directory / file).write_bytes(whole)


def test_rules_hold_for_the_entries_before_the_one_that_breaks_one(tmp_path: Path) -> None:
    made = story()
    at = made.at["shred"]
    write_export(tmp_path / "late", made.doctored(lambda log: log[at].update(slots=[])))
    report = failing("R18", at, lambda: verify_log(tmp_path / "late", KEYS)).report
    assert report is not None
    assert report.steps[4].detail == f"for the first {at} entries"
    write_export(tmp_path / "first", made.doctored(lambda log: log[0].update(epoch=2)))
    report = failing("R1", 0, lambda: verify_log(tmp_path / "first", KEYS)).report
    assert report is not None
    assert {step.verdict for step in report.steps[5:]} == {Verdict.NOT_JUDGED}


def test_a_broken_rule_in_an_export(tmp_path: Path) -> None:
    made = story()
    at = made.at["shred"]
    write_export(tmp_path, made.doctored(lambda log: log[at].update(slots=[])))
    error = failing("R18", at, lambda: verify_log(tmp_path, KEYS))
    assert error.report is not None
    assert error.report.size == len(made.book.entries)


def test_the_log_of_another_vault_under_this_ones_origin(tmp_path: Path) -> None:
    book = founded()
    book.entries[0]["vault"] = (b"w" * 16).hex()
    write_export(tmp_path, book.bodies())
    failing("R1", 0, lambda: verify_log(tmp_path, KEYS))


# rotations


def rotated(by: str = OPERATOR, signer: LogSigner = SIGNER) -> Book:
    book = founded()
    book.rotation("signing", by=by)
    book.add(signing_entry(signer, SECOND_SIGNER, by=by, time_ms=NOW))
    return book


def test_keys_of_an_earlier_generation_lead_to_the_present_ones(tmp_path: Path) -> None:
    write_export(tmp_path, rotated().bodies(), SECOND_SIGNER)
    for keys in (KEYS, KEYS[:1], SECOND_SIGNER.keys, (*KEYS, *SECOND_SIGNER.keys)):
        all_hold(verify_log(tmp_path, keys))
    failing("L1", None, lambda: verify_log(tmp_path, STRANGER.keys))


def test_a_checkpoint_under_keys_that_were_rotated_away(tmp_path: Path) -> None:
    write_export(tmp_path, rotated().bodies(), SIGNER)
    failing("R10", None, lambda: verify_log(tmp_path, KEYS))


def test_a_rotation_that_no_key_before_it_signed(tmp_path: Path) -> None:
    write_export(tmp_path, rotated(signer=STRANGER).bodies(), SECOND_SIGNER)
    failing("L1", None, lambda: verify_log(tmp_path, KEYS))
    failing("R10", 6, lambda: verify_log_with_all(tmp_path))


def verify_log_with_all(directory: Path) -> Report:
    """Somebody was talked into trusting the new keys, too, and one more generation follows."""
    third = LogSigner(b"k" * 32, VAULT, 3)
    book = rotated()
    book.rotation("signing")
    book.add(signing_entry(STRANGER, third, by=OPERATOR, time_ms=NOW))
    book.entries[6], book.entries[8] = book.entries[8], book.entries[6]
    write_export(directory, book.bodies(), SECOND_SIGNER)
    return verify_log(directory, (*KEYS, *SECOND_SIGNER.keys))


# consistency


def older(size: int, bodies: Sequence[bytes] = BODIES, signer: LogSigner = SIGNER) -> bytes:
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    with TemporaryDirectory() as place:
        write_export(Path(place), bodies[:size], signer)
        return (Path(place) / "checkpoint").read_bytes()


def proof(directory: Path, old: int) -> bytes:
    export = ExportDirectory(directory)
    note = Note.parse(export.checkpoint())
    size = Checkpoint.parse(note.text).size
    return ConsistencyProof(old, consistency_proof(export.hashes(size), old, size), note).encode()


@pytest.mark.parametrize("size", [1, 2, 43, 255, 256, 257, 512, 513, len(BODIES)])
def test_a_log_continues_its_older_checkpoints(directory: Path, size: int) -> None:
    for new in (directory, proof(directory, size)):
        report = verify_consistency(older(size), new, KEYS)
        last = Verdict.HOLDS if new is directory else Verdict.NOT_JUDGED  # C5 takes the entries
        assert [step.verdict for step in report.steps] == [*[Verdict.HOLDS] * 4, last]
        assert report.counts == {"entries": len(BODIES), "entries before": size}


def test_a_log_truncated_and_regrown(directory: Path) -> None:
    fork = [*BODIES[:100], *founded_denials(300)]
    for new in (directory, proof(directory, 300)):
        failing("C4", None, lambda new=new: verify_consistency(older(300, fork), new, KEYS))  # type: ignore[misc]


def founded_denials(count: int) -> list[bytes]:
    book = founded()
    for _ in range(count):
        book.verify(None, None, reason="role", by=SERVICE)
    return book.bodies()[-count:]


def test_a_log_that_was_truncated(directory: Path, tmp_path: Path) -> None:
    write_export(tmp_path / "short", BODIES[:300])
    old = (directory / "checkpoint").read_bytes()
    failing("C3", None, lambda: verify_consistency(old, tmp_path / "short", KEYS))
    short = proof(tmp_path / "short", 300)
    failing("C3", None, lambda: verify_consistency(old, short, KEYS))


def test_a_proof_from_another_size(directory: Path) -> None:
    failing("C3", None, lambda: verify_consistency(older(300), proof(directory, 301), KEYS))


def test_a_proof_whose_hashes_were_altered(directory: Path) -> None:
    made = ConsistencyProof.parse(proof(directory, 300))
    for hashes in (made.hashes[:-1], (*made.hashes, bytes(32)), (bytes(32), *made.hashes[1:])):
        data = ConsistencyProof(300, hashes, made.note).encode()
        failing("C4", None, lambda data=data: verify_consistency(older(300), data, KEYS))  # type: ignore[misc]


def test_a_tile_of_the_export_was_altered(directory: Path) -> None:
    flip(directory / "tile/0/001", 32 * 44)
    failing("C4", None, lambda: verify_consistency(older(300), directory, KEYS))


def test_checkpoints_of_other_logs_and_keys(directory: Path) -> None:
    failing("C1", None, lambda: verify_consistency(older(300, signer=STRANGER), directory, KEYS))
    failing("C1", None, lambda: verify_consistency(b"", directory, KEYS))
    failing("C2", None, lambda: verify_consistency(older(300), b"old 300\n\n", KEYS))
    other = LogSigner(b"k" * 32, b"w" * 16)
    foreign = other.sign(Checkpoint(other.origin, 300, bytes(32)), NOW)
    failing("C2", None, lambda: verify_consistency(foreign, directory, (*KEYS, *other.keys)))


def test_consistency_across_a_rotation(tmp_path: Path) -> None:
    bodies = rotated().bodies()
    write_export(tmp_path, bodies, SECOND_SIGNER)
    old = older(4, bodies)
    all_hold(verify_consistency(old, tmp_path, KEYS))
    all_hold(verify_consistency(old, tmp_path, SECOND_SIGNER.keys))
    data = proof(tmp_path, 4)
    failing("C2", None, lambda: verify_consistency(old, data, KEYS))  # a proof alone leads to no later keys
    failing("C1", None, lambda: verify_consistency(old, data, SECOND_SIGNER.keys))
    report = verify_consistency(old, data, (*KEYS, *SECOND_SIGNER.keys))
    assert [step.verdict for step in report.steps][3:] == [Verdict.HOLDS, Verdict.NOT_JUDGED]
