"""The vault a service embeds.

A ``Vault`` is thread-safe, may be open in several processes at once, and is a context manager::

    with Vault.open("staff.vault", token=token) as vault:
        vault.enroll("alice", images=["alice.jpg"], consent=consent)
        vault.verify("alice", "probe.jpg").match

Everything that changes the vault holds its writer lock; every answer stands in the log before it is given.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core
from facekeep.access.gate import Ask
from facekeep.access.life import Life, living
from facekeep.access.roles import Action, Role
from facekeep.access.session import Session
from facekeep.access.tokens import find_token
from facekeep.answers import Listing
from facekeep.arguments import LOG, callers, checks_arguments, time_ms
from facekeep.audit.report import Step
from facekeep.auditlog.export import Exported
from facekeep.clock import Clock, SystemClock
from facekeep.consent.consent import Consent, Notice
from facekeep.errors import FacekeepError, SettingsChanged, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import check_subject_id
from facekeep.formats.matching import Matching
from facekeep.formats.note import VerifierKey
from facekeep.formats.opening import Opening
from facekeep.formats.settings import Settings
from facekeep.formats.terms import Scope, check_regions, scopes_of
from facekeep.keys.recovery_key import RecoveryKey
from facekeep.keys.secrets import Secrets
from facekeep.matching.answers import Candidate, Identification, Verification
from facekeep.matching.extractor import Extractor, get_extractor
from facekeep.matching.gallery import Gallery
from facekeep.matching.images import ImageInput, name_of
from facekeep.matching.model import Model
from facekeep.matching.threshold import Threshold, check_pair, default_threshold
from facekeep.operations import (
    auditing,
    backups,
    clockwork,
    decide,
    enrol,
    erase,
    lost,
    opening,
    overview,
    people,
    probing,
    proving,
    recovering,
    rescue,
    reseal,
    status,
    transfer,
)
from facekeep.operations import check as checking
from facekeep.operations import restart as restarting
from facekeep.operations import salvage as salvaging
from facekeep.operations import scrub as scrubbing
from facekeep.operations import settings as configuring
from facekeep.operations.auditing import Filter
from facekeep.operations.backups import BackupCheck, BackupReport
from facekeep.operations.check import CheckReport
from facekeep.operations.enrol import Enrolment, Existing
from facekeep.operations.erase import Erasure
from facekeep.operations.keyops import Holders, Keys, Moved, Planned, Resealed, Rotated, Selection, Why
from facekeep.operations.maintain import Maintained, Maintenance
from facekeep.operations.people import Listed
from facekeep.operations.probing import Probed
from facekeep.operations.proving import Proof, Said
from facekeep.operations.receipts import Receipt
from facekeep.operations.restart import Recovered, Restarted
from facekeep.operations.scrub import ScrubReport
from facekeep.operations.settings import SettingsChange
from facekeep.operations.status import SubjectInfo
from facekeep.operations.transfer import RestoreReport
from facekeep.store import settingsfile

__all__ = [
    "Candidate", "Consent", "Enrolment", "Erasure", "Existing", "Filter", "Gallery", "Holders",
    "Identification", "Keys", "Maintained", "Moved", "Notice", "Opening", "Planned", "Proof",
    "Receipt", "Resealed", "Role", "Rotated", "Said", "Scope", "Secrets", "Selection", "Settings",
    "SettingsChange", "Threshold", "Vault", "Verification", "Why",
]  # fmt: skip

T = TypeVar("T")
Progress = Callable[[int, int], None]
Embedding = npt.NDArray[np.float32]


def _token(path: Path, given: str | None) -> str:
    return find_token(None, settingsfile.read(path).vault_id.hex()) if given is None else given


def _logged(erasure: Erasure) -> Erasure:
    LOG.info("erased %d grants of %d people: log entry %d", erasure.slots, erasure.subjects, erasure.erasure)
    return erasure


@living
@checks_arguments
class Vault:
    """An open vault and the principal who uses it."""

    def __init__(self, core: Core, session: Session, extractor: Extractor | str | None) -> None:
        """Use ``Vault.open`` or ``Vault.create``."""
        self._now = core, session
        self._extractor = extractor
        self._galleries: dict[tuple[Model, str], Gallery] = {}
        self._opening = threading.Lock()
        self._reopening = threading.Lock()
        self._life = Life(self._follow)
        core.reopen = functools.partial(self._follow, 0)
        self.token: str | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        root: str | None = None,
        copies: Sequence[str | Path] = (),
        region: str = "ZZ",
        label: str = "first principal",
        mirrors: Sequence[str] = (),
        recovery: str | None = None,
        thresholds: Sequence[Threshold] = (),
        extractor: Extractor | str | None = None,
        clock: Clock | None = None,
        secrets: Secrets | None = None,
    ) -> Self:
        """Make a vault and open it as its first principal, who has every role; the token is in ``.token``.

        ``root`` is a root holder's URI, by default a file in the user's data directory; ``mirrors`` are those
        of further holders, ``recovery`` that of an offline key. ``copies`` are directories for live second
        copies of keys.db and log.db. ``region`` is where templates are processed. ``thresholds`` are those
        that a service may use beside the calibrated ones. ``secrets`` gives holders their passphrases and
        PINs. Raises VaultExists, UsageError, StoreError; nothing is left behind then.
        """
        clock, secrets = clock or SystemClock(), secrets or Secrets()
        directories = [Path(copy) for copy in copies]
        texts = [each.to_text() for each in thresholds]
        plan = opening.Plan(Path(path), root, directories, region, label, mirrors, recovery, texts)
        token = opening.create(plan, clock, secrets)
        vault = cls.open(path, token=token, extractor=extractor, clock=clock, secrets=secrets)
        vault.token = token
        return vault

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        token: str | None = None,
        extractor: Extractor | str | None = None,
        clock: Clock | None = None,
        secrets: Secrets | None = None,
        lost_data: bool = False,
        to_erase: bool = False,
    ) -> Self:
        """Open a vault as the principal of ``token``; finishes what a dead process left open.

        Without one it is found as the command finds it: FACEKEEP_TOKEN, the file that FACEKEEP_TOKEN_FILE
        names, or the one that ``facekeep init`` wrote.

        Raises VaultNotFound, RootError, IntegrityError, NotAllowed. A missing vault.db is refused, unless
        ``lost_data`` says that it is lost: then an empty one is made, for ``restore``.
        With ``to_erase`` a vault that does not open is opened as far as it goes: ``shred``, ``withdraw`` and
        ``revoke_principal`` deny what they are asked for to everybody, and raise ErasurePending.
        """
        clock, secrets, path = clock or SystemClock(), secrets or Secrets(), Path(path)
        token = _token(path, token)
        if lost_data:
            lost.make_data(path, token, clock, secrets)
        try:
            core = opening.open_core(path, clock, secrets)
        except FacekeepError as error:
            if not to_erase:
                raise
            core = opening.open_to_erase(path, clock, secrets, error)
        try:
            vault = cls(core, Session(core, token), extractor)
        except BaseException:
            core.close()
            raise
        LOG.info("vault %s opened by principal %s", vault.vault_id, vault._session.by)
        if core.finished:
            LOG.info("finished what was pending: log entries %s", [each.first for each in core.finished])
        return vault

    def close(self) -> None:
        """Zero and close every gallery and file, once the calls under way in other threads have ended.

        Calls that come later, and listings that were begun, raise VaultClosed.
        """
        self._life.end()
        self._core.close()
        self._galleries.clear()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def _core(self) -> Core:
        return self._now[0]

    @property
    def _session(self) -> Session:
        return self._now[1]

    @property
    def vault_id(self) -> str:
        """The vault's id, hex."""
        return self._core.vault_id.hex()

    @property
    def region(self) -> str:
        """Where this vault processes templates."""
        return self._core.settings.region

    @property
    def extractor(self) -> Extractor:
        """The extractor in use, loaded on first use; raises MissingDependency."""
        if self._extractor is None or isinstance(self._extractor, str):
            self._extractor = get_extractor(self._extractor)
        return self._extractor

    # Consent

    def enroll(
        self,
        subject: str,
        images: Sequence[ImageInput] = (),
        *,
        consent: Consent,
        embeddings: npt.ArrayLike | None = None,
        model: Model | None = None,
        existing: Existing | str = Existing.REFUSE,
    ) -> Receipt:
        """Seal one subject's templates, once per scope of the consent; returns the subject's receipt.

        Give photographs, or ``embeddings`` (k, d) with their ``model``. Raises UsageError, ImageError,
        NotOnePerson, ConsentError, NotAllowed; nothing is enrolled then.
        """
        check_subject_id(subject)
        enrolment = self.prepare(subject, images, consent=consent, embeddings=embeddings, model=model)
        return self.enroll_many([enrolment], existing=existing)[0]

    def prepare(
        self,
        subject: str,
        images: Sequence[ImageInput] = (),
        *,
        consent: Consent,
        embeddings: npt.ArrayLike | None = None,
        model: Model | None = None,
        names: Sequence[str] = (),
    ) -> Enrolment:
        """Extract (or take) embeddings for ``enroll_many``; nothing is stored.

        ``names`` are what messages call the rows of ``embeddings``, if there is one for each.
        """
        self._session.require(Action.ENROLL)
        if (embeddings is None) == (not images):
            raise UsageError("give either photographs or embeddings")
        if embeddings is None:
            model = self.extractor.model
            embeddings = [self.extractor.extract(image) for image in images]
            names = [name_of(image) for image in images]
        model = model or self.extractor.model
        made = Enrolment(subject, model.check_rows(embeddings), model, consent, tuple(names))
        enrol.reference(self._core, made)
        return made

    def enroll_many(
        self, enrolments: Sequence[Enrolment], *, existing: Existing | str = Existing.REFUSE
    ) -> list[Receipt]:
        """Enrol many subjects in one durable operation: all of them, or none."""
        try:
            wanted = Existing(existing)
        except ValueError:
            raise UsageError("existing takes refuse, skip, replace or add") from None
        return enrol.enroll(self._core, self._session, enrolments, wanted)

    def is_enrolled(self, subject: str, scopes: Sequence[Scope | str]) -> bool:
        """Whether a subject has living grants for all these scopes (for resuming a bulk enrolment)."""
        self._session.require(Action.ENROLL)
        return enrol.has_grants(self._core, subject, scopes_of(scopes))

    def grant(self, subject: str, consent: Consent) -> Receipt:
        """Add scopes: opens a living grant once, under the new consent, and says so in the log."""
        return reseal.grant(self._core, self._session, subject, consent)

    def renew(self, subject: str, consent: Consent) -> Receipt:
        """Give scopes new terms: a new slot each, the old ones shredded."""
        return reseal.renew(self._core, self._session, subject, consent)

    def withdraw(self, subject: str, scopes: Sequence[Scope | str]) -> Erasure:
        """Destroy the keys of a subject's scopes; when it returns nothing opens them.

        Raises ScopeUnknown for a word that is no scope, SubjectUnknown, ErasurePending, NotAllowed.
        """
        return _logged(erase.withdraw(self._core, self._session, subject, scopes_of(scopes)))

    def shred(self, *subjects: str, progress: Progress | None = None, openings: bool = False) -> Erasure:
        """Destroy every key of these subjects in one batch, in every copy and backup.

        With ``openings`` the result has the openings of their tags, to be given to each of them alone.
        """
        return _logged(erase.shred(self._core, self._session, subjects, progress, openings=openings))

    # Matching

    def verify(
        self,
        subject: str,
        probe: ImageInput | Embedding,
        *,
        model: Model | None = None,
        threshold: Threshold | None = None,
        region: str | None = None,
        with_score: bool = False,
    ) -> Verification:
        """Compare a probe (a photograph, or an embedding of shape (d,)) with one subject, 1:1.

        ``threshold`` is by default the one registered for the model, or else the calibrated one. Whoever may
        not change the settings is bound to it, and to the other limits on matching (SPEC §9.3).

        Raises Denied when the gate refuses: one answer for every reason, the reason is in the log.
        """
        raw = check_subject_id(subject)
        vector, model = self._probe(probe, model)
        core, session = self._now  # first: it judges by no settings that are older than its own
        threshold = self._threshold(model, threshold)
        where = self._region(region)
        ask = Ask(Action.VERIFY, Scope.VERIFY, model.id, model.dimension, model.metric, where)
        question = decide.Question(vector, model, threshold, ask, with_score)
        return decide.verify(core, session, raw, question)

    def identify(
        self,
        probe: ImageInput | Embedding,
        top: int | None = None,
        *,
        model: Model | None = None,
        threshold: Threshold | None = None,
        region: str | None = None,
        with_score: bool = False,
        progress: Progress | None = None,
    ) -> Identification:
        """Search everybody who consented to it, 1:N; keeps the opened gallery until ``close``.

        It names at most ``top`` people, by default as many as the settings allow to a service.
        ``progress`` is called with per cent of the opening.
        """
        vector, model = self._probe(probe, model)
        key = (model, self._region(region))
        self._threshold(model, threshold, search=True)  # where there is none, nothing is opened
        with self._opening:
            gallery = self._galleries.get(key)
            if gallery is None or gallery.closed:
                gallery = self._galleries[key] = self.gallery(model=model, region=region, progress=progress)
        return gallery.search(vector, threshold, top, with_score=with_score)

    def gallery(
        self,
        *,
        model: Model | None = None,
        region: str | None = None,
        progress: Progress | None = None,
    ) -> Gallery:
        """Open a gallery for 1:N search; close it, or use it in a ``with`` statement.

        ``region`` is the vault's own or one of ``settings.regions``. ``progress`` is called with per cent.
        """
        model = model or self.extractor.model
        return Gallery(lambda: self._now, self._life, Scope.IDENTIFY, model, self._region(region), progress)

    def _region(self, region: str | None) -> str:
        if region is None:
            return self.region
        with callers():
            check_regions((region,))
        return region

    def _probe(self, probe: ImageInput | Embedding, model: Model | None) -> tuple[Embedding, Model]:
        if isinstance(probe, np.ndarray | list | tuple):
            model = model or self.extractor.model
            return model.check(probe), model
        if model is not None and model != self.extractor.model:
            raise UsageError(
                "a model of one's own goes with an embedding: a list or an array of numbers",
                next="give an embedding, or a photograph without a model: it is matched by the extractor's",
            )
        return self.extractor.extract(probe), self.extractor.model

    def _threshold(self, model: Model, threshold: Threshold | None, *, search: bool = False) -> Threshold:
        if threshold is None:
            return default_threshold(model, self.settings.matching.registered(model.id, search=search))
        check_pair(model, threshold)
        return threshold

    # Operation

    def backup(self, target: str | Path, progress: Progress | None = None) -> BackupReport:
        """Write a data backup (sealed templates and records only) while the vault is in use; read it back."""
        return backups.backup(self._core, self._session, Path(target), progress)

    def check_backup(self, source: str | Path, progress: Progress | None = None) -> BackupCheck:
        """Verify a backup that was made earlier, and say what it is worth now; raises IntegrityError."""
        return backups.check_backup(self._core, self._session, Path(source), progress)

    def restore(
        self, source: str | Path | None, *, progress: Progress | None = None, dry_run: bool = False
    ) -> RestoreReport:
        """Merge a data backup of any age: who was shredded does not return.

        With ``dry_run`` nothing changes, and the report names who would return and who stays erased, and why.
        None says, and logs, that there is no backup of a lost vault.db: the report names what is missing.
        """
        found = None if source is None else Path(source)
        return transfer.restore(self._core, self._session, found, progress, dry_run=dry_run)

    def subjects(
        self,
        *,
        due_within: timedelta | None = None,
        due_within_ms: int | None = None,
        progress: Progress | None = None,
    ) -> Listing[SubjectInfo]:
        """Yield subjects and their grants, or those with a grant that ends within a time.

        ``progress`` is called with (grants read, grants in all).
        """
        due_within_ms = time_ms("due_within", due_within, due_within_ms)
        return self._listing(
            Action.SUBJECTS,
            lambda: status.subjects(*self._now, due_within_ms=due_within_ms, progress=progress),
        )

    def status(self) -> JsonObject:
        """State of the vault, with warnings and their remedies."""
        return overview.status(self._core, self._session)

    def maintain(
        self,
        *,
        confirmed: bool = False,
        checkpoints: str | Path | None = None,
        dry_run: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Maintained:
        """Do what is due by the schedule; as often as you like. Each step stands in the result, errors too.

        With ``confirmed`` a person has looked at what waits for one. ``checkpoints`` is a directory for them,
        if not the one of the settings. ``progress`` is called with (step, done, total).
        """
        return Maintenance(
            lambda: self._now,
            self._reopen,
            confirmed=confirmed,
            checkpoints=None if checkpoints is None else Path(checkpoints),
            dry_run=dry_run,
            progress=progress,
        ).run()

    def decision(self, identity: str) -> JsonObject:
        """Log entry behind a decision id, with its reason."""
        return status.decision(self._core, self._session, identity)

    def check(self, progress: Callable[[str, int, int], None] | None = None) -> CheckReport:
        """Verify everything that can be verified; opens no template."""
        return checking.check(self._core, self._session, progress)

    @classmethod
    def scrub(
        cls,
        path: str | Path,
        *,
        token: str | None = None,
        clock: Clock | None = None,
        secrets: Secrets | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> ScrubReport:
        """Put what is damaged in keys.db, log.db, their copies and root holders right from what is whole.

        Takes a path, since the vault may not open. Raises IntegrityError where no copy will do; NotAllowed.
        """
        clock, secrets, path = clock or SystemClock(), secrets or Secrets(), Path(path)
        token = _token(path, token)
        repairs = salvaging.salvage(path, token, clock, secrets)
        core = opening.open_core(path, clock, secrets, finish=False)
        try:
            report = scrubbing.scrub(core, Session(core, token), progress)
        finally:
            core.close()
        report.repairs[:0] = repairs
        return report

    @classmethod
    def restart_log(
        cls,
        path: str | Path,
        *,
        token: str | None = None,
        checkpoint: bytes | None = None,
        backup: str | Path | None = None,
        recovery: RecoveryKey | None = None,
        root: str | None = None,
        clock: Clock | None = None,
        secrets: Secrets | None = None,
        progress: Progress | None = None,
    ) -> Restarted | None:
        """Begin a new log where log.db and every copy are lost; ``checkpoint`` is the newest published one.

        ``backup`` is a data backup, where vault.db is lost too. ``recovery`` is the private key where every
        root holder is lost too; ``root`` is the URI of the one that the vault gets then.

        What it adopts stands in it, and that it is a restart: no older checkpoint is continued. Then each key
        that was not adopted is ended. Interrupted after the log was made it goes on, and returns None.
        Raises UsageError where log.db is there, or a root holder beside ``recovery``; IntegrityError,
        RootError, NotAllowed: nothing is done then.
        """
        clock, secrets, path = clock or SystemClock(), secrets or Secrets(), Path(path)
        token = _token(path, token)
        done = None
        if not (path / restarting.LOG_FILE).exists():
            source = None if backup is None else Path(backup)
            recovered = None
            if recovery is not None:
                recovered = Recovered(recovering.stand_in(path, recovery, secrets), root)
            done = restarting.restart(
                path, token, clock, secrets, checkpoint, progress, backup=source, recovered=recovered
            )
        if recovery is not None:
            rescue.go_on(path, recovery, token, clock, secrets, root)
        with cls.open(path, token=token, clock=clock, secrets=secrets) as vault:
            core, session = vault._core, vault._session  # noqa: SLF001 - its own
            restarting.check_restarted(core, session)
            restarting.end_the_rest(core, session, progress)
        return done

    def repair_index(self) -> int:
        """Rebuild the subject index from the sealed records; returns its rows."""
        return checking.repair_index(self._core, self._session)

    def accept_clock(self) -> tuple[int, int]:
        """Accept the present time though the log has seen a later one; see ``facekeep clock``."""
        return clockwork.accept_clock(self._core, self._session)

    @property
    def settings(self) -> Settings:
        """The settings in force when the vault was opened: region, root holder, copy directories."""
        return self._core.settings

    def change_settings(
        self,
        *,
        region: str | None = None,
        regions: Sequence[str] | None = None,
        copies: Sequence[str | Path] | None = None,
        schedule: Sequence[str] = (),
        matching: Sequence[str] = (),
        thresholds: Sequence[Threshold] = (),
        search_thresholds: Sequence[Threshold] = (),
        no_thresholds: Sequence[str] = (),
    ) -> SettingsChange:
        """Change the regions, the directories for live copies, the schedule, the limits on matching.

        It is logged. ``regions`` are those that callers may name besides the vault's own, ``copies`` all
        directories there are to be. ``schedule`` has changes such as ``root_days=7`` or
        ``root_days=default``, ``matching`` such as ``top=3`` or ``scores=yes``. ``thresholds`` are
        registered, each in place of its model's, ``search_thresholds`` for searches alone;
        ``no_thresholds`` are models that have none any more.

        A new directory is empty, and gets its copies at once. Every other open ``Vault`` opens itself again
        at its next call. Raises UsageError with nothing changed.
        """
        paths = None if copies is None else [Path(copy) for copy in copies]

        def limits(old: Matching) -> Matching:
            new = functools.reduce(Matching.without_threshold, no_thresholds, old)
            for search, given in ((False, thresholds), (True, search_thresholds)):
                for each in given:
                    new = new.with_threshold(each.to_text(), search=search)
            return new.changed(tuple(matching))

        done = configuring.change(
            self._core,
            self._session,
            region=region,
            regions=regions,
            copies=paths,
            schedule=schedule,
            matching=limits,
        )
        if done.entry is not None:
            LOG.info("settings changed: log entry %d", done.entry)
            self._reopen()
        return done

    def _reopen(self) -> None:
        self._follow(self._life.generation)

    def _follow(self, seen: int) -> None:
        """Go on under the settings that the log names now, unless that was done since generation ``seen``.

        They are authenticated as at every opening, and the log is held to what was seen of it before.
        """
        with self._reopening:
            if self._life.generation != seen:
                return
            old, session = self._now
            try:
                core = opening.open_core(old.path, old.clock, old.secrets)
            except SettingsChanged:
                return  # once more, meanwhile: whoever asks finds that out
            core.reopen = functools.partial(self._follow, seen + 1)
            try:
                core.log.go_on_from(old.log)  # nothing was rolled back meanwhile (SPEC §6.3)
            except BaseException:
                core.close()
                raise
            self._now = core, session.on(core)
            core.watcher.take(old.watcher)
            self._life.leave(old.close)

    def _listing(self, action: Action, begin: Callable[[], Iterator[T]]) -> Listing[T]:
        """Yield what only this action may see, as long as the principal may do it and the vault is open."""

        def seen() -> Iterator[T]:
            self._life.run(lambda: self._session.require(action))
            for item in begin():
                self._life.run(lambda: self._session.require(action))
                yield item

        return Listing(self._life.each(seen()))

    @property
    def keys(self) -> Keys:
        """Rotation of root, tree, templates and signing keys, and who holds the root."""
        return Keys(lambda: self._now, self._reopen, self._life)

    def add_principal(self, label: str, roles: Sequence[Role]) -> tuple[str, str]:
        """(id, token) of a new principal; the token is shown once and kept nowhere."""
        return people.add_principal(self._core, self._session, label, frozenset(roles))

    def principals(self) -> list[Listed]:
        """Every principal."""
        return people.list_principals(self._core, self._session)

    def revoke_principal(self, identity: str) -> int:
        """Shred a principal's record; returns the log index of the intent."""
        return people.revoke_principal(self._core, self._session, identity)

    def whoami(self) -> tuple[str, str, tuple[str, ...]]:
        """(id, label, roles) of the principal in use."""
        self._session.require_active()
        return self._session.by, self._session.label, self._session.roles

    # Audit: needs the role auditor or dpo

    def audit_keys(self, *, every: bool = False, progress: Progress | None = None) -> tuple[VerifierKey, ...]:
        """Return the log's verifier keys in force, or those of every generation."""
        return auditing.keys(self._core, self._session, every=every, progress=progress)

    def audit_checkpoint(self, progress: Progress | None = None) -> bytes:
        """Return a signed checkpoint of the log as it stands: a C2SP note."""
        return auditing.checkpoint(self._core, self._session, progress)

    def audit_consistency(self, old: bytes, progress: Progress | None = None) -> bytes:
        """Prove that the log continues an earlier checkpoint: a C2SP tlog-witness body."""
        return auditing.consistency(self._core, self._session, old, progress)

    def audit_export(self, directory: str | Path, progress: Progress | None = None) -> Exported:
        """Write the log as static C2SP tiles, or what is new since the last time."""
        return auditing.export(self._core, self._session, Path(directory), progress)

    def audit_proof(
        self,
        erased: str | Opening,
        said: Said | None = None,
        progress: Progress | None = None,
        *,
        scopes: Sequence[Scope] = (),
    ) -> Proof:
        """Make a shredding proof for an erasure's log index, a subject tag in hex, or a person's opening.

        With ``scopes`` it is one of their last withdrawal, whatever else the person consents to.
        """
        core, session = self._core, self._session
        tag = erased.tag if isinstance(erased, Opening) else proving.tag_of(core, session, erased)
        return proving.prove(core, session, tag, said, progress, scopes)

    def audit_log(
        self, wanted: Filter | None = None, *, limit: int | None = None, progress: Progress | None = None
    ) -> Listing[tuple[int, JsonObject]]:
        """Yield (index, entry) of the log's entries that pass a filter, the last ``limit`` of them."""
        wanted = (wanted or Filter()).settled(self._core.clock.now_ms())
        return self._listing(
            Action.LOG,
            lambda: auditing.show(*self._now, wanted, limit=limit, progress=progress),
        )

    def probe(
        self,
        backup: str | Path,
        proofs: Sequence[bytes],
        keys: Sequence[VerifierKey] | None = None,
        *,
        old_keys: Sequence[str | Path] = (),
        on_step: Callable[[Step], None] | None = None,
        progress: Progress | None = None,
    ) -> Probed:
        """Try to open an old backup with every key there is; raises where an erased template opens."""
        return probing.probe(
            self._core,
            self._session,
            Path(backup),
            proofs,
            self.audit_keys(every=True) if keys is None else keys,
            old_keys=[Path(each) for each in old_keys],
            on_step=on_step,
            progress=progress,
        )
