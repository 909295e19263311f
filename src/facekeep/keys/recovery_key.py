"""The recovery key: a pair, what is sealed to it, and opening that again (SPEC §4.7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from facekeep.crypto import primitives as p
from facekeep.crypto.hpke import SEED_LEN, hpke_open, hpke_public, hpke_seal
from facekeep.errors import FormatError, IntegrityError, RootError
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.recoverykey import PrivateFile, PublicFile, SealedRoot, key_id

WEAKENING: Final = (
    "whoever holds the private recovery key and an old copy of the vault's files "
    "can open what was erased since that copy"
)
"""What a recovery key costs, in the words that init, status and the guides use."""

_DOMAIN: Final = p.domain("recovery")
_CHECK: Final = p.domain("recovery-check")
_SUITE: Final = p.SUITE.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """The private half: a seed of 32 bytes, and the key id (32 bytes) of the public one."""

    seed: bytes = field(repr=False)
    public: bytes = field(repr=False)
    mark: bytes

    @classmethod
    def new(cls) -> RecoveryKey:
        """Make one from the operating system's generator."""
        return cls.of(p.random_bytes(SEED_LEN))

    @classmethod
    def of(cls, seed: bytes) -> RecoveryKey:
        """Return the key of a seed."""
        public = hpke_public(seed)
        return cls(seed, public, key_id(public))

    @classmethod
    def decode(cls, data: bytes) -> RecoveryKey:
        """Parse a private key's file; raises FormatError, also where its seed is another key's."""
        read = PrivateFile.decode(data)
        found = cls.of(read.seed)
        if not p.compare(found.mark, read.mark):
            raise FormatError(
                "the private key is damaged: its seed is not the one its key id names",
                next="use another copy of the file, or the shares it was split into",
            )
        return found

    def private_text(self) -> str:
        """Return the text of the private file."""
        return PrivateFile(self.mark, self.seed).encode()

    def public_text(self) -> str:
        """Return the text of the public file."""
        return PublicFile(self.public).encode()

    def open(self, sealed: SealedRoot, vault_id: bytes, fingerprint: bytes) -> bytes:
        """Open a sealed root; raises RootError for one of another key, vault or root."""
        if sealed.mark != self.mark:
            raise RootError("the root is sealed to another recovery key", next=_other(sealed.mark))
        try:
            root = hpke_open(self.seed, sealed.box, _info(vault_id, fingerprint))
        except IntegrityError as error:
            raise RootError(
                "what is sealed to the recovery key was altered, or belongs to another vault or root"
            ) from error
        if not p.compare(root_fingerprint(vault_id, root), fingerprint):
            raise RootError("what is sealed to the recovery key is another root than the record names")
        return root


def seal_root(public: bytes, vault_id: bytes, root: bytes) -> SealedRoot:
    """Seal a root (32 bytes) to a public key (1,216 bytes)."""
    mark = key_id(public)
    box = hpke_seal(public, root, _info(vault_id, root_fingerprint(vault_id, root)))
    return SealedRoot(mark, box, _check(vault_id, root, mark, box))


def check_sealed(sealed: SealedRoot, vault_id: bytes, root: bytes) -> bool:
    """Whether whoever had this root made the record and nobody altered it since. Needs no private key."""
    return p.compare(sealed.check, _check(vault_id, root, sealed.mark, sealed.box))


def _info(vault_id: bytes, fingerprint: bytes) -> bytes:
    return _DOMAIN + _SUITE + vault_id + fingerprint


def _check(vault_id: bytes, root: bytes, mark: bytes, box: bytes) -> bytes:
    return p.mac(p.sha256(_CHECK, vault_id, root), mark, box)


def _other(mark: bytes) -> str:
    return f"use the private key whose key id begins with {mark.hex()[:16]}"
