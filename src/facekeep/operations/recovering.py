"""The recovery key in use: made and split offline, stated, used to get a root back (SPEC §4.7)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from facekeep.access.core import Core
from facekeep.crypto.shares import join_secret, split_secret
from facekeep.errors import FacekeepError, FormatError, RootError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.recoverykey import (
    MAX_FILE_BYTES,
    PublicFile,
    key_id,
    parse_recovery_rest,
    recovery_uri,
)
from facekeep.formats.settings import Settings
from facekeep.keys.holders import held, provider_from_uri
from facekeep.keys.memory_holder import MemoryHolder
from facekeep.keys.provider import Candidate, RootProvider
from facekeep.keys.recovery_holder import RecoveryHolder
from facekeep.keys.recovery_key import WEAKENING, RecoveryKey
from facekeep.keys.secrets import Secrets
from facekeep.keys.tree import open_tree
from facekeep.operations.opening import holders_of, leaving_of, place_of
from facekeep.store import settingsfile
from facekeep.store.keysdb import KeysStore
from facekeep.store.offlinefile import read_whole, write_new
from facekeep.store.sqlite import translated

__all__ = ["WEAKENING"]

_SWAPS_FOLLOWED: Final = 3  # times that a record is looked at again while another process swaps
_SHARE_HEAD: Final = (
    "# facekeep recovery key, share {at} of {shares}: any {threshold} of them give the private key\n"
    "# key id: {mark}\n"
    "# the words are a SLIP-39 share; a copy by hand needs only them\n"
)


# -- offline


def new_pair(private: Path, public: Path) -> RecoveryKey:
    """Make a recovery key and write its two files, the private one with mode 0600; never over another."""
    if os.path.realpath(private) == os.path.realpath(public):
        raise UsageError("the private and the public file are one", next="name two files")
    key = RecoveryKey.new()
    write_new(private, key.private_text(), 0o600)
    try:
        write_new(public, key.public_text(), 0o644)
    except BaseException:
        private.unlink(missing_ok=True)
        raise
    return key


def load_private(path: Path) -> RecoveryKey:
    """Read a private key's file; raises FormatError for another file, UsageError where others can read it."""
    RecoveryKey.decode(read_whole(path, MAX_FILE_BYTES, private=False))
    return RecoveryKey.decode(read_whole(path, MAX_FILE_BYTES, private=True))


def uri_of(public: Path, path: str = "") -> str:
    """Return the holder's URI for a public key's file; raises FormatError."""
    return recovery_uri(PublicFile.decode(read_whole(public, MAX_FILE_BYTES, private=False)).public, path)


def key_of(uri: str) -> str:
    """Return the key id, in hex, of a recovery holder's URI."""
    return key_id(parse_recovery_rest(uri.partition(":")[2])[1]).hex()


def shown(uri: str) -> str:
    """Return a holder's URI as people read it: a public key by the beginning of its key id."""
    head, mark, _ = uri.rpartition("?key=")
    if not mark or not head.removeprefix("lost:").startswith("recovery:"):
        return uri
    return f"{head}?key={key_of(uri.removeprefix('lost:'))[:16]}..."


def split(private: Path, shares: int, threshold: int, directory: Path) -> tuple[Path, ...]:
    """Write ``shares`` files into a directory, any ``threshold`` of which give the private key back.

    They are joined again before this returns. Raises UsageError, VaultExists, MissingDependency.
    """
    key = load_private(private)
    texts = split_secret(key.seed, shares, threshold)
    names = [f"share-{at}-of-{shares}.txt" for at in range(1, shares + 1)]
    if join_secret(texts, names) != key.seed:
        raise UsageError("the shares do not give the private key back; none was written")
    with translated(str(directory)):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as undo:
        for at, (name, words) in enumerate(zip(names, texts, strict=True), 1):
            head = _SHARE_HEAD.format(at=at, shares=shares, threshold=threshold, mark=key.mark.hex())
            write_new(directory / name, f"{head}{words}\n", 0o600)
            undo.callback((directory / name).unlink, missing_ok=True)
        undo.pop_all()
    return tuple(directory / name for name in names)


def join(shares: Sequence[Path], out: Path) -> RecoveryKey:
    """Write the private key that shares were split from to a new file of mode 0600.

    Lines of a share that begin with ``#`` are left out, but a key id among them must be that of the key.
    """
    texts = [_words(path) for path in shares]
    if len({os.path.realpath(path) for path in shares}) != len(shares):
        raise UsageError("a share's file is named twice", next="name each share once")
    key = RecoveryKey.of(join_secret([words for words, _ in texts], [path.name for path in shares]))
    for path, (_, mark) in zip(shares, texts, strict=True):
        if mark not in (None, key.mark.hex()):
            raise UsageError(
                f"{path.name} says that it is of the key {mark[:16] if mark else ''}, and it is not",
                next="use the share as it was written",
            )
    write_new(out, key.private_text(), 0o600)
    return key


def _words(path: Path) -> tuple[str, str | None]:
    """(words, key id or None) of a share's file."""
    try:
        text = read_whole(path, MAX_FILE_BYTES, private=True).decode("ascii")
    except UnicodeDecodeError:
        raise FormatError(f"{path.name} is no share: it has other characters than a to z") from None
    lines = text.splitlines()
    marks = [line.removeprefix("# key id: ") for line in lines if line.startswith("# key id: ")]
    return " ".join(line for line in lines if not line.startswith("#")), marks[0] if marks else None


# -- what an open vault says of it


def holder_of(core: Core) -> RecoveryHolder | None:
    """Return the vault's recovery holder, if it has one."""
    return next((each for each in core.providers if isinstance(each, RecoveryHolder)), None)


def stated(core: Core) -> JsonObject | None:
    """Key id and weakening, for ``status``; None where the vault has no recovery key."""
    holder = holder_of(core)
    return None if holder is None else {"key": holder.mark.hex(), "weakening": WEAKENING}


def problems(core: Core) -> tuple[FacekeepError, ...]:
    """Return what would keep the private key from opening this vault, as far as is seen without it."""
    holder = holder_of(core)
    if holder is None:
        return ()
    for _ in range(_SWAPS_FOLLOWED):
        current = core.view().tree.fingerprint
        try:
            for each in held(core.providers):
                if each.fingerprint == current and each.root:
                    holder.check(each.root)
        except FacekeepError as error:
            if core.view().tree.fingerprint == current:
                return (error,)
        else:
            break
    return ()


# -- without any root holder


def recover_root(path: Path, key: RecoveryKey, secrets: Secrets) -> bytes:
    """Return the root (32 bytes) that opens keys.db now, from what is sealed to the recovery key.

    Opens no vault and asks no other holder. Raises UsageError where the vault has no recovery key, RootError.
    """
    settings = settingsfile.read(path)
    holder = _recovery_of(settings, path, secrets)
    roots = holder.recover(key)
    with contextlib.closing(KeysStore.open(path / "keys.db", settings.vault_id, ())) as keys:
        try:
            return open_tree(keys, settings.vault_id, roots)[1].root
        except RootError as error:
            raise RootError(
                "no root that is sealed to the recovery key opens keys.db: the two are of different times",
                next=f"put back {holder.file.path.name} and keys.db as they were together",
            ) from error


def stand_in(path: Path, key: RecoveryKey, secrets: Secrets) -> MemoryHolder:
    """Return a holder of that root, for ``open_core`` to read."""
    root = recover_root(path, key, secrets)
    return MemoryHolder(settingsfile.read(path).vault_id, root)


def opens(candidates: Sequence[Candidate], fingerprint: bytes) -> bool:
    """Whether a holder gives the root of this fingerprint."""
    return any(each.fingerprint == fingerprint and each.root for each in candidates)


def alive(settings: Settings, path: Path, secrets: Secrets, current: bytes) -> list[RootProvider]:
    """Root holders that give the root of this fingerprint; leaving ones open a vault, too."""
    found = []
    for provider in (*holders_of(settings, path, secrets), *leaving_of(settings, path, secrets)):
        with contextlib.suppress(FacekeepError):
            if opens(provider.candidates(), current):
                found.append(provider)
    return found


def refuse_alive(found: Sequence[RootProvider]) -> None:
    """Raise UsageError where a holder is there that opens the vault."""
    if found:
        raise UsageError(
            f"the {found[0].scheme}: holder still opens this vault, so nothing was recovered",
            next="use the vault without the private key; 'facekeep keys move' changes who holds the root",
        )


def check_other(uri: str, gone: Sequence[str]) -> None:
    """Raise UsageError where the new holder's URI is that of a lost one."""
    if uri in gone:
        raise UsageError(
            "the new root holder is one of those that are lost", next="name another place with --root"
        )


def check_lost(settings: Settings, path: Path, secrets: Secrets, current: bytes, uri: str | None) -> None:
    """Raise UsageError unless every holder is lost, and ``uri`` could be the new one's."""
    refuse_alive(alive(settings, path, secrets, current))
    if uri is not None:
        provider_from_uri(uri, place_of(settings, path, secrets))
        if not settings.leaving:  # in the middle of a move one of them may stay
            check_other(uri, settings.holders)


def _recovery_of(settings: Settings, path: Path, secrets: Secrets) -> RecoveryHolder:
    for uri in settings.recovery:
        holder = provider_from_uri(uri, place_of(settings, path, secrets))
        if isinstance(holder, RecoveryHolder):
            return holder
    raise UsageError(
        "this vault has no recovery key",
        next="bring a root holder or a mirror back: nothing else opens it",
    )
