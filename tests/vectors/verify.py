"""facekeep as a verifier in the sense of README.md: exit 0 accepts, 1 refuses."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from facekeep.audit.opening import keyring_of
from facekeep.audit.opening import step as named
from facekeep.audit.replay import replay
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.proofs import verify_consistency, verify_inclusion
from facekeep.auditlog.rotation import Keyring
from facekeep.auditlog.signed import open_checkpoint, open_note
from facekeep.errors import IntegrityError
from facekeep.formats.note import VerifierKey
from facekeep.formats.tlogproof import ConsistencyProof, InclusionProof


def verify(
    kind: str,
    data: bytes,
    keys: list[VerifierKey],
    origin: str,
    *,
    entry: bytes = b"",
    old: bytes = b"",
    checkpoint: bytes = b"",
) -> None:
    """Raise IntegrityError unless the case is good."""
    if kind in ("note", "checkpoint"):  # every note here is a checkpoint, or no good
        open_checkpoint(data, keys, origin=origin)
    elif kind == "log":
        bodies = data.splitlines()
        keyring = Keyring(origin, keys)
        with named("L1"):
            try:
                opened = open_checkpoint(checkpoint, keys, origin=origin)
            except IntegrityError:
                led = keyring_of(origin, keys, bodies).keys_at(len(bodies))
                opened = open_checkpoint(checkpoint, led, origin=origin)
        replay(bodies, checkpoint=opened.checkpoint, keyring=keyring)
        with named("R10"):
            open_checkpoint(checkpoint, keyring.keys_at(len(bodies)), origin=origin)
    elif kind == "inclusion":
        proof = InclusionProof.parse(data)
        tree = open_note(proof.note, keys, origin=origin).checkpoint
        verify_inclusion(leaf_hash(entry), proof.index, tree.size, proof.hashes, tree.root)
    else:
        step = ConsistencyProof.parse(data)
        new = open_note(step.note, keys, origin=origin).checkpoint
        before = open_checkpoint(old, keys, origin=origin).checkpoint
        if before.size != step.old:
            raise IntegrityError("the proof is for another older size")
        verify_consistency(before.size, before.root, new.size, new.root, step.hashes)


def main(arguments: list[str]) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("note", "checkpoint", "inclusion", "consistency", "log"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--origin", required=True)
    parser.add_argument("--entry", type=Path)
    parser.add_argument("--old", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    given = parser.parse_args(arguments)
    keys = [VerifierKey.parse(line) for line in given.keys.read_text("utf-8").split("\n") if line]
    more = {
        name: path.read_bytes() if path else b""
        for name, path in (("entry", given.entry), ("old", given.old), ("checkpoint", given.checkpoint))
    }
    try:
        verify(given.kind, given.file.read_bytes(), keys, given.origin, **more)
    except IntegrityError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
