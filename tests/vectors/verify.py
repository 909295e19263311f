"""facekeep as a verifier in the sense of README.md: exit 0 accepts, 1 refuses."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facekeep.audit import bundle
from facekeep.audit.consistency import verify_consistency
from facekeep.audit.logs import verify_log
from facekeep.audit.opening import keyring_of, open_trusted
from facekeep.audit.opening import step as named
from facekeep.audit.replay import replay
from facekeep.audit.report import Report
from facekeep.audit.watch import watch
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.auditlog.rotation import Keyring
from facekeep.auditlog.signed import open_checkpoint
from facekeep.errors import IntegrityError
from facekeep.formats.checkpoint import Checkpoint, origin_of
from facekeep.formats.note import Note, VerifierKey
from facekeep.formats.opening import Opening


@dataclass(frozen=True)
class Given:
    """What a case gives to a verifier; None where it does not."""

    kind: str
    keys: Sequence[VerifierKey]
    origin: str
    data: bytes = b""
    old: bytes = b""
    checkpoint: bytes = b""
    opening: bytes | None = None
    state: bytes | None = None
    export: Path | None = None
    restarted: bool = False


def _note(case: Given) -> None:
    open_checkpoint(case.data, case.keys, origin=case.origin)


def _log(case: Given) -> Report:
    bodies = case.data.splitlines()
    keyring = Keyring(case.origin, case.keys)
    with named("L1"):
        try:
            opened = open_checkpoint(case.checkpoint, case.keys, origin=case.origin)
        except IntegrityError:
            led = keyring_of(case.origin, case.keys, bodies).keys_at(len(bodies))
            opened = open_checkpoint(case.checkpoint, led, origin=case.origin)
    report = replay(bodies, checkpoint=opened.checkpoint, keyring=keyring, judged=["L1"])
    with named("R10"):
        open_checkpoint(case.checkpoint, keyring.keys_at(len(bodies)), origin=case.origin)
    return report


def _export(case: Given) -> Report:
    _same(case, _directory(case).checkpoint())
    return verify_log(_directory(case).path, case.keys)


def _consistency(case: Given) -> Report:
    report = verify_consistency(case.old, case.data if case.export is None else case.export, case.keys)
    _same(case, case.old)
    return report


def _watch(case: Given) -> Report:
    with tempfile.TemporaryDirectory() as place:
        state = Path(place) / "state"
        if case.state is not None:
            state.write_bytes(case.state)
        found = watch(_directory(case).path, case.keys, state, time_ms=0, restarted=case.restarted)
    if found.checkpoint.origin != case.origin:
        raise IntegrityError("the export is of another log")
    return found.report


def _proof(case: Given) -> Report:
    opening = None if case.opening is None else Opening.parse(case.opening)
    log = None
    if case.export is not None:
        files = ExportDirectory(case.export)
        log = ExportedTree(files, open_trusted(files.checkpoint(), case.keys, files))
    found = bundle.verify(case.data, case.keys, opening=opening, log=log)
    if origin_of(found.vault) != case.origin:
        raise IntegrityError("the proof is of another log")
    return found.report


def _directory(case: Given) -> ExportDirectory:
    if case.export is None:
        raise IntegrityError("the case has no export")
    return ExportDirectory(case.export)


def _same(case: Given, note: bytes) -> None:
    """Hold a checkpoint that parses to the expected origin."""
    with named("L1"):
        if Checkpoint.parse(Note.parse(note).text).origin != case.origin:
            raise IntegrityError("the checkpoint is of another log")


KINDS: Mapping[str, Callable[[Given], Report | None]] = {
    "note": _note,  # every note here is a checkpoint, or no good
    "checkpoint": _note,
    "consistency": _consistency,
    "log": _log,
    "export": _export,
    "watch": _watch,
    "proof": _proof,
}


def verify(case: Given) -> Report | None:
    """Raise IntegrityError unless the case is good; the report has the steps of SPEC §11 and §12."""
    return KINDS[case.kind](case)


def main(arguments: list[str]) -> int:
    """Run as a command."""
    try:
        verify(read_case(arguments))
    except IntegrityError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def read_case(arguments: list[str]) -> Given:
    """Read what a command line gives."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--origin", required=True)
    for name in ("old", "checkpoint", "opening", "state", "export"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--restarted", action="store_true")
    given = parser.parse_intermixed_args(arguments)
    keys = [VerifierKey.parse(line) for line in given.keys.read_text("utf-8").split("\n") if line]
    names = {"file": "data", **{name: name for name in ("old", "checkpoint", "opening", "state")}}
    files = {key: path.read_bytes() for name, key in names.items() if (path := getattr(given, name))}
    return Given(given.kind, keys, given.origin, **files, export=given.export, restarted=given.restarted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
