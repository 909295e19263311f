"""The story, step by step; every step says what came of it and whether that is what was told."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from facekeep.clock import MS_PER_DAY, Clock, SystemClock
from facekeep.consent.consent import Consent, Notice
from facekeep.demo.photos import Person, changed, pixels
from facekeep.demo.search import Needles, needles, search
from facekeep.errors import Denied, StoreError, VaultExists
from facekeep.files import PRIVATE, create
from facekeep.formats.terms import Scope
from facekeep.matching.extractor import Extractor
from facekeep.matching.model import reference_stack
from facekeep.vault import Vault

NOTICE: Final = "We compare your face at the door of the demonstration, and forget it when you ask.\n"
UNKNOWN: Final = "unknown"
_PIECE: Final = 65_536  # bytes of a photograph that are planted
PURPOSE: Final = "opening the door of the demonstration"


Probe: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what was done, what came of it, whether it came as told."""

    number: int
    what: str
    came: str
    ok: bool

    def to_json(self) -> dict[str, object]:
        """Return it as JSON."""
        return {"step": self.number, "what": self.what, "came": self.came, "ok": self.ok}


class Story:
    """Two people, a directory of its own for everything that is made, one vault."""

    def __init__(
        self,
        people: list[Person],
        home: Path,
        extractor: Extractor | str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Keep the cast; ``home`` must not exist or be empty, and is made."""
        self.gone, self.stays = people
        self.home = home.absolute()
        self.path = self.home / "demo.vault"
        self.token_file = self.home / "demo.token"
        self.backup = self.home / "yesterday.fkb"
        self._extractor = extractor
        self._clock = clock or SystemClock()
        self._embeddings: list[Probe] = []
        self._done = 0

    def run(self) -> Iterator[Step]:
        """Go through the story; raises what nobody told."""
        _make(self.home)
        with contextlib.ExitStack() as cleanup:
            scratch = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="facekeep-")))
            vault = cleanup.enter_context(self._vault())
            yield self._made()
            yield self._enrol(vault)
            gone, stays = (self._probe(vault, person, scratch) for person in (self.gone, self.stays))
            yield from self._match(vault, gone, stays)
            yield self._back_up(vault)
            yield from self._withdraw_and_shred(vault, gone)
            yield from self._lose_and_restore(vault, gone, stays)
            yield from self._look(vault, scratch)

    def _step(self, what: str, came: str, *, ok: bool) -> Step:
        self._done += 1
        return Step(self._done, what, came, ok)

    def _vault(self) -> Vault:
        vault = Vault.create(
            self.path,
            root=f"file:{self.home / 'demo.root'}",
            copies=[self.home / "copies"],
            label="demo",
            extractor=self._extractor,
            clock=self._clock,
        )
        _private(self.token_file, f"{vault.token}\n")
        return vault

    def _made(self) -> Step:
        return self._step(
            "make a vault, with its root key and live copies outside it",
            f"{len(list(self.path.glob('*.db')))} databases, a root file, a token for every role",
            ok=True,
        )

    def _enrol(self, vault: Vault) -> Step:
        notice = self.home / "notice.txt"
        _private(notice, NOTICE)
        expires = self._clock.now_ms() + 365 * MS_PER_DAY
        made = []
        for person, scopes in (
            (self.gone, (Scope.VERIFY, Scope.IDENTIFY)),
            (self.stays, (Scope.VERIFY,)),
        ):
            consent = Consent(scopes, Notice.from_file(notice), expires, purpose=PURPOSE)
            enrolment = vault.prepare(person.subject, list(person.photos), consent=consent)
            self._embeddings.append(reference_stack(enrolment.model, enrolment.embeddings))
            made.append(enrolment)
        receipts = vault.enroll_many(made)
        grants = sum(len(receipt.grants) for receipt in receipts)
        return self._step(
            f"enrol {self.gone.subject} for verify and identify, {self.stays.subject} for verify alone",
            f"{grants} grants, each a key of its own, for 365 days",
            ok=grants == 3,  # noqa: PLR2004 - two scopes and one
        )

    def _probe(self, vault: Vault, person: Person, scratch: Path) -> Probe:
        """Return the embedding of a changed photograph, made once: extraction takes longest."""
        photo = scratch / "changed.jpg"
        changed(person.photos[0], photo)
        self._embeddings.append(vault.extractor.extract(photo))
        return self._embeddings[-1]

    def _match(self, vault: Vault, gone: Probe, stays: Probe) -> Iterator[Step]:
        same = vault.verify(self.gone.subject, gone, with_score=True)
        limit = same.threshold.limit(len(self.gone.photos))
        yield self._step(
            f"verify {self.gone.subject} by a changed photograph (cropped, mirrored, brighter)",
            f"{_word(match=same.match)}, distance {same.score or 0:.3f}, at most {limit:.3f}",
            ok=same.match,
        )
        other = vault.verify(self.gone.subject, stays, with_score=True)
        yield self._step(
            f"verify {self.gone.subject} by a photograph of {self.stays.subject}",
            f"{_word(match=other.match)}, distance {other.score or 0:.3f}",
            ok=not other.match,
        )
        found = self._searched(vault, gone)
        yield self._step("identify the changed photograph", found, ok=found == self.gone.subject)
        found = self._searched(vault, stays)
        yield self._step(
            f"identify {self.stays.subject}, who did not agree to be searched for", found, ok=found == UNKNOWN
        )

    def _back_up(self, vault: Vault) -> Step:
        made = vault.backup(self.backup)
        return self._step(
            "take a backup, to be yesterday's",
            f"{made.rows} sealed grants",
            ok=made.rows == 3,  # noqa: PLR2004 - the story's own rows
        )

    def _withdraw_and_shred(self, vault: Vault, gone: Probe) -> Iterator[Step]:
        vault.withdraw(self.gone.subject, [Scope.VERIFY])
        came, ok = self._asked(vault, self.gone, gone)
        yield self._step(f"{self.gone.subject} withdraws verify; ask again", came, ok=ok is None)
        erasure = vault.shred(self.gone.subject)
        came, ok = self._asked(vault, self.gone, gone)
        found = self._searched(vault, gone)
        yield self._step(
            f"shred {self.gone.subject}; verify and identify again",
            f"root key replaced (epoch {erasure.epoch}); {came}; {found}",
            ok=ok is None and found == UNKNOWN,
        )

    def _lose_and_restore(self, vault: Vault, gone: Probe, stays: Probe) -> Iterator[Step]:
        _lose_rows(self.path / "vault.db")
        came, ok = self._asked(vault, self.stays, stays)
        yield self._step(
            f"lose every row of vault.db, as a bad disk does; ask for {self.stays.subject}",
            came,
            ok=ok is None,
        )
        report = vault.restore(self.backup)
        yield self._step(
            "restore yesterday's backup",
            f"of {report.rows} grants {report.merged} returned, {report.dead} stay erased",
            ok=(report.merged, report.dead, report.refused) == (1, 2, 0),
        )
        came, ok = self._asked(vault, self.gone, gone)
        found = self._searched(vault, gone)
        yield self._step(
            f"is {self.gone.subject} still gone?",
            f"verify {came}; identify {found}",
            ok=ok is None and found == UNKNOWN,
        )
        came, ok = self._asked(vault, self.stays, stays)
        yield self._step(f"does {self.stays.subject} match again?", came, ok=ok is True)

    def _look(self, vault: Vault, scratch: Path) -> Iterator[Step]:
        report = vault.check()
        yield self._step(
            "check the vault",
            f"{report.rows} row and {report.entries} log entries verified, {len(report.findings)} findings",
            ok=report.ok,
        )
        what = self._needles()
        with _planted(scratch / "control.db", self._embeddings[0], self.gone) as files:
            planted = search(files, what)
        yield self._step(
            "try the search on a file with a name, two floats and a piece of a photograph planted in it",
            "found all three" if planted.everything else "did not find all three",
            ok=planted.everything,
        )
        found = search(self._files(), what)
        yield self._step(
            "search every file of the vault, its copies, its root and the backup for the names, the notice,"
            " the embeddings and the photographs",
            f"{found.files} files, {found.size / 1e6:.1f} MB: "
            + (
                "nothing"
                if found.nothing
                else f"found in {found.texts + found.embeddings + found.photographs}"
            ),
            ok=found.nothing and found.files > 0,
        )

    def _needles(self) -> Needles:
        photos = [photo for person in (self.gone, self.stays) for photo in person.photos]
        raw = [photo.read_bytes() for photo in photos]
        raw.extend(pixels(person.photos[0]) for person in (self.gone, self.stays))
        texts = [self.gone.subject, self.stays.subject, PURPOSE, NOTICE.strip()]
        return needles(texts, self._embeddings, raw)

    def _files(self) -> list[Path]:
        """Every file that the vault wrote, -wal and -shm included."""
        return sorted(
            path
            for path in self.home.rglob("*")
            if path.is_file() and path.name not in {"notice.txt", self.token_file.name}
        )

    def _asked(self, vault: Vault, person: Person, photo: Probe) -> tuple[str, bool | None]:
        """Return what came of a verification: words, and the match or None for a denial."""
        try:
            found = vault.verify(person.subject, photo)
        except Denied as denied:
            reason = vault.decision(denied.decision)["reason"] if denied.decision else "not recorded"
            return f"denied (the log alone says why: {reason})", None
        return _word(match=found.match), found.match

    @staticmethod
    def _searched(vault: Vault, photo: Probe) -> str:
        """Return who was identified: their ids, or the word unknown."""
        found = vault.identify(photo)
        return ", ".join(each.subject for each in found.candidates) or UNKNOWN


def _word(*, match: bool) -> str:
    return "match" if match else "no match"


def _make(home: Path) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(home.iterdir()):
            raise VaultExists(
                f"{home.name} is not empty", next="name a new directory; nothing there was touched"
            )
    except OSError as error:
        raise StoreError(f"{home.name}: {error.strerror}") from error


def _private(path: Path, text: str) -> None:
    create(path, text.encode(), PRIVATE)


def _lose_rows(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM grants")


@contextlib.contextmanager
def _planted(path: Path, embedding: Probe, person: Person) -> Iterator[list[Path]]:
    """Write a database as careless software would; its files, with most of it in the write-ahead log."""
    photo = person.photos[0].read_bytes()
    middle = len(photo) // 2
    row = (f"id={person.subject}", b"?" + embedding.ravel()[:2].tobytes(), photo[middle : middle + _PIECE])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE careless (name TEXT, template BLOB, photograph BLOB)")
        with connection:
            connection.execute("INSERT INTO careless VALUES (?, ?, ?)", row)
        yield [path, path.with_name(path.name + "-wal")]
