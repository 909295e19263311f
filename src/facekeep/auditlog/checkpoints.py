"""Checkpoints and proofs of a vault's log, signed with keys under its own tree (SPEC §10.5, §10.8)."""

from __future__ import annotations

from facekeep.auditlog.rotation import Keyring, signing_entry
from facekeep.auditlog.signed import LogSigner, open_checkpoint
from facekeep.auditlog.tree import LogTree, Progress, Snapshot, signing_entries
from facekeep.crypto.signing import FIRST_GENERATION
from facekeep.errors import IntegrityError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import Note, VerifierKey
from facekeep.formats.tlogproof import ConsistencyProof


class Checkpoints:
    """Signs what the log's authenticated head says, and nothing else."""

    def __init__(self, tree: LogTree, key: bytes, vault_id: bytes) -> None:
        """Take the key of system slot 2; private keys are derived when needed."""
        self.tree = tree
        self._key = key
        self._vault_id = vault_id
        self._first = LogSigner(key, vault_id, FIRST_GENERATION)
        self._signers: dict[int, LogSigner] = {FIRST_GENERATION: self._first}

    @property
    def origin(self) -> str:
        """Return the log's origin and key name."""
        return self._first.origin

    def snapshot(self, progress: Progress | None = None) -> Snapshot:
        """Return the tree as of the present head, every row in it authenticated since the last time."""
        return self.tree.snapshot(progress)

    def keys(self, snapshot: Snapshot) -> tuple[VerifierKey, ...]:
        """Return the verifier keys in force: Ed25519, then ML-DSA-44."""
        return self._signer(snapshot).keys

    def all_keys(self, snapshot: Snapshot) -> tuple[VerifierKey, ...]:
        """Return the verifier keys of every generation, the oldest first."""
        count = self._signer(snapshot).generation
        return tuple(key for generation in range(1, count + 1) for key in self._at(generation).keys)

    def make(self, snapshot: Snapshot, time_ms: int) -> bytes:
        """Sign the snapshot's size and root; raises IntegrityError, and nothing is signed, at any doubt.

        The head was authenticated, and the rows lead to its frontier (``LogTree.snapshot``).
        """
        if snapshot.size == 0:
            raise IntegrityError("a log without entries is not signed: entry 0 is the genesis entry")
        checkpoint = Checkpoint(self.origin, snapshot.size, snapshot.root())
        note = self._signer(snapshot).sign(checkpoint, time_ms)
        open_checkpoint(note, self.keys(snapshot), origin=self.origin)  # a fault while signing leaks a key
        return note

    def consistency(self, snapshot: Snapshot, old: int, checkpoint: bytes) -> ConsistencyProof:
        """Return the proof that a checkpoint of this log continues the tree of ``old`` entries."""
        note = self._own(snapshot, checkpoint)
        return ConsistencyProof(old, snapshot.consistency(old, Checkpoint.parse(note.text).size), note)

    def check_own(self, snapshot: Snapshot, data: bytes) -> Checkpoint:
        """Return an earlier checkpoint of this log, verified against it; IntegrityError if it is a fork."""
        return Checkpoint.parse(self._own(snapshot, data).text)

    def rotation(self, snapshot: Snapshot, *, by: str | None, time_ms: int) -> JsonObject:
        """Make the ``signing`` entry for the next generation; it is in force once appended.

        The caller holds the writer lock, appends it and tells the auditors the new keys.
        """
        old = self._signer(snapshot)
        return signing_entry(old, self._at(old.generation + 1), by=by, time_ms=time_ms)

    def _own(self, snapshot: Snapshot, data: bytes) -> Note:
        opened = open_checkpoint(data, self.all_keys(snapshot), origin=self.origin)
        checkpoint = opened.checkpoint
        if checkpoint.size > snapshot.size:
            raise IntegrityError(
                f"the checkpoint is of {checkpoint.size} entries, the log has {snapshot.size}",
                next="the log was rolled back: put the newest copy of log.db back and run 'facekeep check'",
            )
        if snapshot.root(checkpoint.size) != checkpoint.root:
            raise IntegrityError("the checkpoint is of another history of this log: one of them is a fork")
        return opened.note

    def _signer(self, snapshot: Snapshot) -> LogSigner:
        """Keys of the last ``signing`` entry, which must follow from generation 1 and be our own."""
        keyring = Keyring(self.origin, self._first.keys)
        generation = FIRST_GENERATION
        for index, entry in signing_entries(snapshot):
            keyring.follow(index, entry)
            generation += 1
        signer = self._at(generation)
        if set(keyring.keys_at(snapshot.size)) != set(signer.keys):
            raise IntegrityError("the log names other signing keys than the key tree gives")
        return signer

    def _at(self, generation: int) -> LogSigner:
        if generation < FIRST_GENERATION:
            raise UsageError("generations of signing keys count from 1")
        if generation not in self._signers:
            self._signers[generation] = LogSigner(self._key, self._vault_id, generation)
        return self._signers[generation]
