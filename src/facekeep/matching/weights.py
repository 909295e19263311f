"""Model files, read only when they are the very bytes the thresholds were measured with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from facekeep.errors import IntegrityError, MissingDependency


@dataclass(frozen=True, slots=True)
class Weights:
    """A model file: its name and the SHA-256 of its bytes, in hexadecimal."""

    name: str
    sha256: str

    def check(self, path: Path, *, missing: str) -> Path:
        """Return ``path``; ``missing`` says how to come by the file.

        Raises MissingDependency where there is no such file, IntegrityError where it is another one.
        """
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise MissingDependency(f"the model file {self.name} cannot be read", next=missing) from error
        if found != self.sha256:
            raise IntegrityError(
                f"the model file {self.name} is not the expected one: its SHA-256 should be {self.sha256}",
                next=missing,
            )
        return path
