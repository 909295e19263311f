"""Checkpoints opened under trusted keys, or those that rotations lead to (SPEC.md §10.5, §10.8)."""

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

_SIGNING: Final = b'"type":"signing"'  # no string of an entry holds a quotation mark (§6.1)
_ENTRY: Final = re.compile(r"log entry (\d+): ")


def open_trusted(
    data: bytes, keys: Sequence[VerifierKey], export: ExportDirectory | None, *, origin: str | None = None
) -> Checkpoint:
    """Open a checkpoint; with an export of its log, trusted keys of an earlier generation do, too.

    Raises FormatError or IntegrityError.
    """
    try:
        return open_checkpoint(data, keys, origin=origin).checkpoint
    except IntegrityError:
        claimed = Checkpoint.parse(Note.parse(data).text)
        if export is None or not any(key.name == claimed.origin for key in keys):
            raise
        later = _later_keys(export, claimed, keys)
        if not later:
            raise
        return open_checkpoint(data, later, origin=origin).checkpoint


def _later_keys(
    export: ExportDirectory, claimed: Checkpoint, keys: Iterable[VerifierKey]
) -> tuple[VerifierKey, ...]:
    """Keys of the last rotation below the claimed size; () where there was none.

    The entries are not authenticated yet: a rotation is, by the signatures of the keys before it.
    """
    keyring = Keyring(claimed.origin, keys)
    rotated = False
    for index, body in enumerate(export.entries(0, claimed.size)):
        if _SIGNING in body:
            keyring.follow(index, parse(body))
            rotated = True
    return keyring.keys_at(claimed.size) if rotated else ()


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
        further = None if error.next == error.default_next else error.next  # the default is the operator's
        raise RuleBroken(key, index, str(error)[found.end() if found else 0 :], next=further) from error
