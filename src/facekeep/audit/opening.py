"""Checkpoints opened under trusted keys, or those that rotations lead to (SPEC §10.5, §10.8)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from facekeep.audit.report import RuleBroken
from facekeep.auditlog.exported import ExportDirectory
from facekeep.auditlog.rotation import Keyring
from facekeep.auditlog.signed import open_checkpoint
from facekeep.errors import IntegrityError
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.entries import parse
from facekeep.formats.note import Note, VerifierKey

_OF_KEYS: Final = re.compile(rb'"type":"(?:signing|restart|restarted)"')  # no string holds a quotation mark
_ENTRY: Final = re.compile(r"log entry (\d+): ")


def open_trusted(
    data: bytes,
    keys: Sequence[VerifierKey],
    export: ExportDirectory | None,
    *,
    origin: str | None = None,
    earlier: bool = False,
) -> Checkpoint:
    """Open a checkpoint; with an export of its log, trusted keys of an earlier generation do, too.

    With ``earlier`` those of a later one as well. What the export says of keys is not authenticated yet:
    ``check_in_force`` does that. Raises FormatError or IntegrityError.
    """
    try:
        return open_checkpoint(data, keys, origin=origin).checkpoint
    except IntegrityError:
        claimed = Checkpoint.parse(Note.parse(data).text)
        if export is None or not any(key.name == claimed.origin for key in keys):
            raise
        size = Checkpoint.parse(Note.parse(export.checkpoint()).text).size
        keyring = keyring_of(claimed.origin, keys, export.entries(0, size))
        named = keyring.named_at(claimed.size)
        if not named:
            raise
        return open_checkpoint(
            data, named if earlier else keyring.keys_at(claimed.size), origin=origin
        ).checkpoint


def is_restart(first: bytes) -> bool:
    """Whether a log with that first entry was begun anew in the place of one that was lost (SPEC §6.6)."""
    return b'"type":"restart"' in first


def keyring_of(origin: str, keys: Iterable[VerifierKey], bodies: Iterable[bytes]) -> Keyring:
    """Follow a log's keys through its entries; raises IntegrityError."""
    keyring = Keyring(origin, keys)
    for index, body in enumerate(bodies):
        follow(keyring, index, body)
    return keyring


def follow(keyring: Keyring, index: int, body: bytes) -> None:
    """Take up an entry if it says something of keys."""
    if _OF_KEYS.search(body):
        keyring.follow(index, parse(body))


def check_in_force(keyring: Keyring, newer: bytes, older: bytes | None = None) -> None:
    """Hold checkpoints to the keys in force at their sizes, by the authentic entries of the newer one.

    The older one may be of keys before those that are trusted: what it says must be proved besides. Where no
    entry names keys, those of one generation are in force throughout. Raises IntegrityError.
    """
    signers: list[frozenset[VerifierKey]] = []
    for data, keys_at in ((newer, keyring.keys_at), (older, keyring.named_at)):
        if data is not None:
            size = Checkpoint.parse(Note.parse(data).text).size
            opened = open_checkpoint(data, keys_at(size) or keyring.keys_at(size), origin=keyring.origin)
            signers.append(frozenset(each.key for each in opened.signatures))
    both = frozenset.intersection(*signers)
    if {key.type for key in both} != {key.type for key in signers[0]} and not keyring.named_at(0):
        raise IntegrityError("the two checkpoints are under different keys, which no entry replaced")


@contextlib.contextmanager
def step(key: str) -> Iterator[None]:
    """Name the step in which something does not hold."""
    try:
        yield
    except RuleBroken:
        raise
    except IntegrityError as error:
        found = _ENTRY.match(str(error))
        index = int(found[1]) if found else None
        own = error.next.command != error.default_next  # the default is the operator's
        raise RuleBroken(
            key, index, str(error)[found.end() if found else 0 :], next=error.next if own else None
        ) from error
