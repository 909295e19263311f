"""The receipts of a bulk enrolment, in the one file of names that facekeep makes: because it was asked to."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from facekeep.cli import output
from facekeep.errors import NextStep, StoreError, UsageError
from facekeep.files import PRIVATE, begin
from facekeep.vault import Receipt


class Receipts:
    """A new file, readable by its owner only, with a JSON line a person; durable batch by batch."""

    def __init__(self, path: Path) -> None:
        """Make it before anybody is enrolled; raises UsageError for a file that exists, StoreError."""
        self._path = path
        self._count = 0
        try:
            self._file = os.fdopen(begin(path, PRIVATE), "wb")
        except FileExistsError:
            raise UsageError(
                f"{path.name} already exists", next="choose another name; nothing was overwritten"
            ) from None
        except OSError as error:
            raise StoreError(f"{path.name}: {error.strerror}") from error

    def add(self, receipts: Sequence[Receipt]) -> None:
        """Append those of people who were enrolled just now, and wait for the disk."""
        lines = [json.dumps(each.to_json(), sort_keys=True) + "\n" for each in receipts if each.grants]
        try:
            self._file.write("".join(lines).encode("ascii"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"{self._path.name}: {error.strerror}; {output.counted(len(lines), 'person', 'people')} "
                "just enrolled may have no receipt in it",
                next="free space; enrol those who lack one again with --existing replace",
            ) from error
        self._count += len(lines)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, and remove it when it is empty."""
        try:
            self._file.close()
        except OSError as failure:
            if kind is None:
                raise StoreError(f"{self._path.name}: {failure.strerror}") from failure
        with contextlib.suppress(OSError):
            if not self._path.stat().st_size:
                self._path.unlink()

    def go_on(self, error: BaseException) -> None:
        """Say with an error how the same people are gone on with: this file is there already."""
        if self._count and not isinstance(error, StoreError):
            again = f"type the command again with another file after --receipts; {self._path.name} is kept"
            error.next = NextStep(again)  # type: ignore[attr-defined] # of whatever stops it (cli.problems)

    def warn(self) -> None:
        """Say whose it is."""
        if self._count:
            output.warn(
                f"{self._path.name} names {output.counted(self._count, 'person', 'people')}, with the salts "
                "that show which log entries are theirs; it belongs to them",
                "give each person their line, and remove the file",
            )
