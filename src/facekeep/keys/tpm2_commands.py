"""What the ``tpm2:`` provider asks of a TPM, over ``tpm2_tools`` (SPEC §4.4)."""

from __future__ import annotations

import contextlib
import re
from typing import Final

from facekeep.errors import RootError
from facekeep.formats.nodes import KEY_LEN
from facekeep.formats.tpm2 import (
    SealedRoot,
    bound_bytes,
    counter_mark,
    counter_name,
    counter_policy,
    public_name,
)
from facekeep.keys.sealed_holder import KeyGone
from facekeep.keys.tpm2_tools import NO_HANDLE, NOT_WRITTEN, POLICY, POLICY_FAIL, Sitting, TpmError

# The template of the parent key. The owner's seed makes the same key of it, until the TPM is cleared.
_PARENT: Final = (
    "-C", "o", "-g", "sha256", "-G", "ecc256:null:aes128cfb",
    "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt|noda",
)  # fmt: skip
_COUNTER: Final = ("-C", "o", "-g", "sha256", "-s", "8", "-a", "nt=counter|authread|authwrite|no_da")
_OBJECT: Final = ("-g", "sha256", "-a", "fixedtpm|fixedparent|noda")
_PARENT_FILE: Final = "parent.ctx"
_NAME: Final = re.compile(rb"^ +name: ([0-9a-f]{68})$", re.MULTILINE)
_COUNTER_LEN: Final = 8


class CounterAhead(KeyGone):
    """The counter has passed the bound of the root: it was destroyed."""


class Counter:
    """The NV counter of one vault in one TPM, during a sitting."""

    def __init__(self, bench: Sitting, index: int, vault_id: bytes) -> None:
        """Ask nothing yet. ``index``: NV index; ``vault_id`` (16 bytes)."""
        self._bench, self._vault_id = bench, vault_id
        self.index = index
        self.name = counter_name(index, vault_id)

    @property
    def handle(self) -> str:
        """The index as tools take it."""
        return f"{self.index:#010x}"

    def exists(self) -> bool:
        """Whether it is there, counting or not yet; raises KeyGone where something else has its index."""
        return self._look() is not None

    def read(self) -> int:
        """Return what it stands at; raises KeyGone where it is missing or another's."""
        if self._look() != self.name:
            raise KeyGone(f"the TPM has no counter at NV index {self.handle}: it was removed, or never made")
        raw = self._bench.run("tpm2_nvread", "-C", self.handle, "-s", str(_COUNTER_LEN), self.handle)
        if len(raw) != _COUNTER_LEN:
            raise RootError(
                f"the TPM's counter at {self.handle} has {len(raw)} bytes instead of {_COUNTER_LEN}"
            )
        return int.from_bytes(raw, "big")

    def begin(self) -> int:
        """Make it if it is missing, and have it count; returns what it stands at.

        It begins above every counter this TPM ever had.
        """
        found = self._look()
        if found is None:
            mark = self._bench.write("mark", counter_mark(self._vault_id))
            self._bench.run_as_owner("tpm2_nvdefine", "-Q", *_COUNTER, "-L", mark, self.handle)
        if found != self.name:
            self.increment()
        return self.read()

    def increment(self) -> None:
        """Add one."""
        self._bench.run("tpm2_nvincrement", "-Q", "-C", self.handle, self.handle)

    def undefine(self) -> None:
        """Remove it. One that is made again begins above."""
        self._bench.run_as_owner("tpm2_nvundefine", "-Q", "-C", "o", self.handle)

    def _look(self) -> bytes | None:
        """Name of what has its index; raises KeyGone where that is not this vault's counter."""
        try:
            said = self._bench.run("tpm2_nvreadpublic", self.handle)
        except TpmError as error:
            if error.answer == NO_HANDLE:
                return None
            raise
        found = _NAME.search(said)
        name = bytes.fromhex(found[1].decode()) if found else b""
        if name not in (self.name, counter_name(self.index, self._vault_id, written=False)):
            raise KeyGone(f"what the TPM has at NV index {self.handle} is not this vault's counter")
        return name


def make_parent(bench: Sitting) -> bytes:
    """Have the parent key in the TPM; returns its name (34 bytes), which tells one TPM from another."""
    bench.run_as_owner(
        "tpm2_createprimary", "-Q", *_PARENT, "-c", bench.path(_PARENT_FILE), "-o", bench.path("parent.pub")
    )
    return public_name(_sized(bench.read("parent.pub")))


def seal(bench: Sitting, counter: Counter, parent: bytes, bound: int, root: bytes) -> SealedRoot:
    """Seal ``root`` (32 bytes) so that it opens while the counter stands at ``bound`` or below.

    The session is salted with the parent key and encrypts what goes to the TPM. The policy is computed here,
    so that no answer of the TPM can weaken it.
    """
    policy = bench.write("policy", counter_policy(counter.name, bound))
    with _salted(bench, "--hmac-session") as session:
        bench.run("tpm2_sessionconfig", "--enable-decrypt", "--enable-encrypt", session)
        bench.run(
            "tpm2_create", "-Q", "-C", bench.path(_PARENT_FILE), *_OBJECT, "-L", policy, "-i", "-",
            "-u", bench.path("object.pub"), "-r", bench.path("object.priv"), "-S", session,
            secret=root,
        )  # fmt: skip
    return SealedRoot(bound, parent, bench.read("object.pub"), bench.read("object.priv"))


def unseal(bench: Sitting, counter: Counter, parent: bytes, sealed: SealedRoot) -> bytes:
    """Open what ``seal`` made: 32 bytes; raises KeyGone where this TPM cannot open it any more."""
    if parent != sealed.parent:
        raise KeyGone("it was sealed by another TPM, or this TPM was cleared since")
    _load(bench, sealed)
    with _salted(bench, "--policy-session") as session:
        bench.run("tpm2_sessionconfig", "--enable-encrypt", session)
        _satisfy(bench, counter, sealed.bound, session)
        try:
            root = bench.run("tpm2_unseal", "-c", bench.path("object.ctx"), "-p", f"session:{session}")
        except TpmError as error:
            if error.answer == POLICY_FAIL:
                raise KeyGone("the record was altered: it is not what its bound opens") from error
            raise
    if len(root) != KEY_LEN:
        raise KeyGone(f"the sealed root has {len(root)} bytes instead of {KEY_LEN}")
    return root


def _salted(bench: Sitting, kind: str) -> contextlib.AbstractContextManager[str]:
    return bench.session(kind, "--tpmkey-context", bench.path(_PARENT_FILE))


def _satisfy(bench: Sitting, counter: Counter, bound: int, session: str) -> None:
    """Have the TPM compare its counter with the bound; KeyGone says why it refuses."""
    operand = bench.write("bound", bound_bytes(bound))
    try:
        bench.run(
            "tpm2_policynv", "-Q", "-S", session, "-i", operand, "-C", counter.handle, counter.handle, "ule"
        )
    except TpmError as error:
        if error.answer not in (NO_HANDLE, NOT_WRITTEN, POLICY):
            raise
        stands = counter.read()
        if stands <= bound:
            raise
        raise CounterAhead(
            f"the TPM's counter is ahead: it stands at {stands}, this root opened up to {bound}"
        ) from error


def _load(bench: Sitting, sealed: SealedRoot) -> None:
    public, private = bench.write("object.pub", sealed.public), bench.write("object.priv", sealed.private)
    try:
        bench.run(
            "tpm2_load", "-Q", "-C", bench.path(_PARENT_FILE), "-u", public, "-r", private,
            "-c", bench.path("object.ctx"),
        )  # fmt: skip
    except TpmError as error:
        raise KeyGone(f"the sealed root is damaged: {error}") from error


def _sized(raw: bytes) -> bytes:
    """Contents of a TPM2B: what follows its length."""
    if len(raw) < 2 or int.from_bytes(raw[:2], "big") != len(raw) - 2:  # noqa: PLR2004 - a u16
        raise RootError("tpm2_createprimary gave no public area")
    return raw[2:]
