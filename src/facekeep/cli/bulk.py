"""Enrolling many people: batches that are durable, failures that stop nobody else, and no file of names.

Resuming needs none: whoever is enrolled already is skipped, by the vault itself. Receipts are kept only
where a file for them was asked for.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facekeep.cli.manifest import Item, Source
from facekeep.cli.opened import now_ms
from facekeep.cli.probes import read_model
from facekeep.cli.progress import Progress
from facekeep.cli.receipts import Receipts
from facekeep.cli.terms import Statement
from facekeep.consent.consent import Consent
from facekeep.errors import FacekeepError, ImageError, UsageError
from facekeep.formats.ids import check_subject_id
from facekeep.matching.images import name_of
from facekeep.matching.model import Floats, Model
from facekeep.matching.raw import load_embeddings
from facekeep.vault import Enrolment, Existing, Vault

BATCH_PEOPLE = 2_000
BATCH_FLOATS = 8_000_000  # 32 MB
BATCH_S = 5.0  # at the most this much work is lost when the machine stops


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with an item: its number, the person's id (for a terminal only), the error."""

    number: int
    subject: str
    error: FacekeepError

    def to_json(self) -> dict[str, object]:
        """Return number and code, and a photograph's reason; no name."""
        found: dict[str, object] = {"item": self.number, "code": self.error.code}
        return {**found, "reason": self.error.reason} if isinstance(self.error, ImageError) else found


@dataclass(slots=True)
class Tally:
    """What came of it. ``left_out`` are photographs of people who were enrolled by their others."""

    enrolled: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    left_out: list[Failure] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return counts and the items' numbers; no names, since standard output may be a file."""
        return {
            "enrolled": self.enrolled,
            "skipped": self.skipped,
            "failed": len(self.failures),
            "photos_left_out": len(self.left_out),
            "failures": [each.to_json() for each in self.failures],
        }


class Bulk:
    """One run over a source."""

    def __init__(self, vault: Vault, existing: Existing, model_text: str | None) -> None:
        """Keep the vault and what to do with people who are enrolled already."""
        self.tally = Tally()
        self._vault = vault
        self._existing = existing
        self._model_text = model_text
        self.receipts: Receipts | None = None  # where a file for them was asked for
        self._now_ms = now_ms()
        self._seen: set[str] = set()
        self._batch: list[tuple[Item, Enrolment]] = []
        self._floats = 0
        self._flushed = time.monotonic()
        self._consent = functools.lru_cache(maxsize=256)(self._read_consent)
        self._model = functools.lru_cache(maxsize=16)(read_model)

    def run(self, source: Source, progress: Progress) -> Tally:
        """Enrol everybody who can be; raises what concerns the vault and not one person."""
        for done, item in enumerate(source.items, 1):
            try:
                self._take(item)
            except UsageError as error:
                self._fail(item, error)
            if self._is_full():
                self._flush()
            progress(done, source.total)
        self._flush()
        return self.tally

    def check(self, statement: Statement) -> None:
        """Raise ConsentError for terms that would fail everybody."""
        self._consent(statement)

    def _read_consent(self, statement: Statement) -> Consent:
        consent = statement.consent(self._now_ms)
        consent.settled(self._now_ms, self._vault.region)
        return consent

    def _take(self, item: Item) -> None:
        if item.error is not None:
            self._fail(item, item.error)
            return
        check_subject_id(item.subject)
        if item.subject in self._seen:
            raise UsageError("the person stands twice in the source")
        self._seen.add(item.subject)
        consent = self._consent(item.statement)
        if self._existing is Existing.SKIP and self._vault.is_enrolled(item.subject, consent.scopes):
            self.tally.skipped += 1
            return
        floats, model, names = self._templates(item)
        made = self._vault.prepare(item.subject, embeddings=floats, model=model, consent=consent, names=names)
        self._batch.append((item, made))
        self._floats += floats.size

    def _templates(self, item: Item) -> tuple[Floats, Model, list[str]]:
        """Return (k, d) templates, their model, and what messages call them."""
        if (item.embedding is None) == (not item.images):
            raise UsageError("give either photographs or an embedding")
        if item.embedding is not None:
            model = self._model(item.model_text or self._model_text)
            return _floats(item.embedding, model), model, []
        extractor = self._vault.extractor
        made, names, wrong = [], [], []
        for image in item.images:
            try:
                made.append(extractor.extract(image))
                names.append(name_of(image))
            except UsageError as error:
                wrong.append(Failure(item.number, item.subject, error))
        if not made:
            raise wrong[0].error
        self.tally.left_out.extend(wrong)
        return np.stack(made), extractor.model, names

    def _is_full(self) -> bool:
        if not self._batch:
            self._flushed = time.monotonic()
            return False
        many = len(self._batch) >= BATCH_PEOPLE or self._floats >= BATCH_FLOATS
        return many or time.monotonic() - self._flushed >= BATCH_S

    def _flush(self) -> None:
        batch, self._batch, self._floats = self._batch, [], 0
        if batch:
            try:
                self._enrol(batch)
            except UsageError:
                self._enrol_singly(batch)
        self._flushed = time.monotonic()

    def _enrol_singly(self, batch: list[tuple[Item, Enrolment]]) -> None:
        """Find out whom of a refused batch the refusal concerns; nobody of it was enrolled."""
        for item, enrolment in batch:
            try:
                self._enrol([(item, enrolment)])
            except UsageError as error:
                self._fail(item, error)

    def _enrol(self, batch: list[tuple[Item, Enrolment]]) -> None:
        receipts = self._vault.enroll_many([each for _, each in batch], existing=self._existing)
        fresh = sum(1 for receipt in receipts if receipt.grants)
        self.tally.enrolled += fresh
        self.tally.skipped += len(receipts) - fresh
        if self.receipts is not None:
            self.receipts.add(receipts)

    def _fail(self, item: Item, error: FacekeepError) -> None:
        self.tally.failures.append(Failure(item.number, item.subject, error))


def _floats(given: Path | list[Any], model: Model) -> Floats:
    return load_embeddings(given, model) if isinstance(given, Path) else model.check_rows(given)
