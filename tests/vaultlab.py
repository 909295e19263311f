"""A small laboratory: a vault in a directory, a clock to set, people, copies of files, processes to kill."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import shutil
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pytest

from facekeep.access.core import Core
from facekeep.clock import MS_PER_DAY
from facekeep.errors import Denied, Unavailable
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import from_ranges
from facekeep.matching.gallery import Gallery
from facekeep.matching.model import Model
from facekeep.operations import steps
from facekeep.operations.check import CheckReport
from facekeep.vault import Consent, Enrolment, Notice, Role, Scope, Threshold, Vault

NOW = 1_800_000_000_000
YEAR_2036 = 2_090_000_000_000
DAY = MS_PER_DAY
DIMENSION = 32
MODEL = Model("raw:lab", "1", DIMENSION, "l2")
NOTICE = Notice(hashlib.sha256(b"we compare your face").digest(), "en")
PURPOSE = "door of the laboratory"
VERIFY, IDENTIFY = Scope.VERIFY, Scope.IDENTIFY
Embedding = npt.NDArray[np.float32]
T = TypeVar("T")


def threshold(model: Model = MODEL, value: float = 0.5) -> Threshold:
    """A threshold for embeddings of the laboratory, where strangers are about 1.4 apart.

    That of the laboratory's model is registered in its vaults: services may use it.
    """
    return Threshold(
        model_id=model.id,
        metric=model.metric,
        value=value,
        target_fmr=0.001,
        fmr=0.001,
        fmr_low=0.0005,
        fmr_high=0.002,
        fnmr=0.01,
        dataset="unit vectors of the laboratory",
        identities=100,
        impostor_pairs=1_000,
        genuine_pairs=1_000,
    )


THRESHOLD = threshold()


def face(name: str, dimension: int = DIMENSION) -> Embedding:
    """The embedding of a person: a unit vector that belongs to the name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=dimension).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class FakeClock:
    """A clock that stands still until it is set."""

    def __init__(self, ms: int = NOW) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms


class Process(Generic[T]):
    """A forked process of ours."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe
        self.done = False

    def wait(self) -> T:
        """Return what the function returned."""
        signal_number, raw = self._end()
        assert signal_number is None, f"the process was killed by signal {signal_number}"
        outcome, value = pickle.loads(raw)  # noqa: S301 - our own child wrote it
        assert outcome == "ok", f"the process failed:\n{value}"
        return cast("T", value)

    def wait_killed(self) -> None:
        """Return when the process has been killed; it must not have come to its end."""
        signal_number, raw = self._end()
        assert signal_number == signal.SIGKILL, f"the process was not killed: {raw!r}"

    def _end(self) -> tuple[int | None, bytes]:
        with os.fdopen(self._pipe, "rb") as pipe:
            raw = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        self.done = True
        return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else None), raw

    def wait_stopped(self) -> None:
        """Return once the process has stopped itself."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "the process ended before it stopped"

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it, whatever it is doing."""
        if not self.done:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._pipe)
            self.done = True


def at_step(step: str, signal_number: int, occurrence: int = 1) -> None:
    """Have this process send itself a signal when it comes to a step."""
    seen = 0

    def observer(name: str) -> None:
        nonlocal seen
        seen += name == step
        if name == step and seen == occurrence:
            os.kill(os.getpid(), signal_number)

    steps.observe(observer)


@contextlib.contextmanager
def calling(step: str, function: Callable[[], object]) -> Iterator[None]:
    """Have ``function`` called once, when this process first comes to a step."""
    waiting = [function]

    def observer(name: str) -> None:
        if name == step and waiting:
            waiting.pop()()

    steps.observe(observer)
    try:
        yield
    finally:
        waiting.clear()
        steps._observers.remove(observer)


@dataclass
class Lab:
    """One vault under ``base``: ``base/vault``, ``base/root.key``, ``base/copy`` where there are copies."""

    base: Path
    copies: bool = False
    recovery: str | None = None
    region: str = "DE"
    clock: FakeClock = field(default_factory=FakeClock)
    token: str = ""
    opened: list[Vault] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.base / "vault"

    @property
    def root(self) -> Path:
        return self.base / "root.key"

    @property
    def copy_dir(self) -> Path:
        return self.base / "copy"

    # -- vaults

    def create(self) -> Lab:
        vault = Vault.create(
            self.path,
            root=f"file:{self.root}",
            copies=[self.copy_dir] if self.copies else (),
            region=self.region,
            recovery=self.recovery,
            thresholds=[THRESHOLD],
            clock=self.clock,
        )
        assert vault.token is not None
        self.token = vault.token
        vault.close()
        return self

    @contextlib.contextmanager
    def open(self, token: str | None = None) -> Iterator[Vault]:
        vault = Vault.open(self.path, token=token or self.token, clock=self.clock)
        self.opened.append(vault)
        try:
            yield vault
        finally:
            self.opened.remove(vault)
            vault.close()

    def do(self, action: Callable[[Vault], T], token: str | None = None) -> T:
        """Open, act, close."""
        with self.open(token) as vault:
            return action(vault)

    def add_principal(self, *roles: Role) -> str:
        """Token of a new principal."""
        return self.do(lambda vault: vault.add_principal("another", roles))[1]

    def check(self) -> CheckReport:
        with self.open() as vault:
            return vault.check()

    def clean(self) -> None:
        """Assert that everything verifies and that the log keeps its promises."""
        with self.open() as vault:
            report = vault.check()
            assert not report.findings, report.findings
            assert not report.missing
            prove(vault)

    # -- people

    def consent(
        self,
        *scopes: Scope,
        days: float = 30,
        regions: tuple[str, ...] | None = None,
        not_before_ms: int | None = None,
    ) -> Consent:
        return Consent(
            scopes=scopes,
            notice=NOTICE,
            expires_at_ms=self.clock.ms + round(days * DAY),
            purpose=PURPOSE,
            regions=regions,
            not_before_ms=not_before_ms,
        )

    def enrolment(self, name: str, *scopes: Scope, consent: Consent | None = None) -> Enrolment:
        consent = consent or self.consent(*(scopes or (VERIFY, IDENTIFY)))
        return Enrolment(name, face(name)[None], MODEL, consent)

    def enrol(
        self,
        *names: str,
        scopes: Sequence[Scope] = (VERIFY, IDENTIFY),
        days: float = 30,
        regions: tuple[str, ...] | None = None,
        not_before_ms: int | None = None,
    ) -> None:
        """Open, enrol these people, close."""
        consent = self.consent(*scopes, days=days, regions=regions, not_before_ms=not_before_ms)
        with self.open() as vault:
            vault.enroll_many([self.enrolment(name, consent=consent) for name in names])

    # -- files, as somebody who may write them all

    def save(self, name: str) -> Path:
        """Copy everything as it stands, sidecars too."""
        target = self.base / "saved" / name
        target.mkdir(parents=True)
        for part in ("vault", "copy"):
            if (self.base / part).exists():
                shutil.copytree(self.base / part, target / part)
        shutil.copy2(self.root, target / "root.key")
        return target

    def put_back(self, saved: Path, *names: str) -> None:
        """Put saved files of the vault's directory back, their sidecars too; by default the whole vault."""
        if not names:
            for part in ("vault", "copy"):
                shutil.rmtree(self.base / part, ignore_errors=True)
                if (saved / part).exists():
                    shutil.copytree(saved / part, self.base / part)
            shutil.copy2(saved / "root.key", self.root)
            return
        for name in names:
            for suffix in ("", "-wal", "-shm"):
                (self.path / (name + suffix)).unlink(missing_ok=True)
                if (saved / "vault" / (name + suffix)).exists():
                    shutil.copy2(saved / "vault" / (name + suffix), self.path / (name + suffix))

    def sql(self, name: str, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a statement on a file of the vault."""
        return sql(self.path / name, statement, values)

    def files(self) -> list[Path]:
        """Every file there is, the root's too."""
        return sorted(path for path in self.base.rglob("*") if path.is_file())

    # -- processes

    def fork(self, function: Callable[[], T]) -> Process[T]:
        """Run a function in a process of its own; no vault may be open here at that moment."""
        assert not self.opened, "a vault is open: SQLite does not survive a fork"
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            _in_child(function, read, write)
        os.close(write)
        return Process(pid, read)

    def crash(self, action: Callable[[Vault], object], step: str, occurrence: int = 1) -> None:
        """Do an action in a process that is killed at a step."""

        def run() -> None:
            at_step(step, signal.SIGKILL, occurrence)
            self.do(action)

        self.fork(run).wait_killed()

    def kill(self, function: Callable[[], object], step: str) -> None:
        """Call a function in a process that is killed at a step."""

        def run() -> None:
            at_step(step, signal.SIGKILL)
            function()

        self.fork(run).wait_killed()

    def steps_of(self, action: Callable[[Vault], object]) -> list[tuple[str, int]]:
        """(step, occurrence) for everything an action announces, in order; found out in another process."""

        def run() -> list[str]:
            names: list[str] = []
            with self.open() as vault:
                steps.observe(names.append)
                action(vault)
            return names

        names = self.fork(run).wait()
        return [(name, names[: at + 1].count(name)) for at, name in enumerate(names)]


def _in_child(function: Callable[[], object], read: int, write: int) -> NoReturn:
    try:
        os.close(read)
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        try:
            outcome: tuple[str, object] = ("ok", function())
        except BaseException:  # noqa: BLE001 - whatever it is, the parent says it
            outcome = ("error", traceback.format_exc())
        with os.fdopen(write, "wb") as pipe:
            pipe.write(pickle.dumps(outcome))
    finally:
        os._exit(0)


def sql(path: Path, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Run a statement on a SQLite file as somebody who may write it would."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def core(vault: Vault) -> Core:
    """What is under the facade."""
    return vault._core


def held(gallery: Gallery) -> int:
    """How many grants a gallery holds opened: it tells nobody before a decision does."""
    return gallery._rows.count


def row_key(vault: Vault, name: str) -> bytes:
    """Return the key of somebody's row in the subject index."""
    return core(vault).index.hash(core(vault).handles.of(name.encode()))


def slots(vault: Vault, name: str) -> dict[Scope, int]:
    """Living slots of a subject as the records say."""
    for info in vault.subjects():
        if info.subject == name:
            return {Scope.from_word(grant.scope): grant.slot for grant in info.grants}
    return {}


def matches(vault: Vault, name: str, probe: str | None = None) -> bool:
    """Verify a person with their own face, or with another's."""
    return vault.verify(name, face(probe or name), model=MODEL, threshold=THRESHOLD).match


def reason(vault: Vault, name: str, *, region: str | None = None) -> str:
    """Why verifying a person is refused, from the log; ``ok`` where it is not."""
    return _reason_of(
        vault,
        lambda: vault.verify(name, face(name), model=MODEL, threshold=THRESHOLD, region=region).decision,
    )


def identify(vault: Vault, name: str) -> list[str]:
    """Whom a search with a person's face finds."""
    found = vault.identify(face(name), model=MODEL, threshold=THRESHOLD)
    return [candidate.subject for candidate in found.candidates]


def identify_reason(vault: Vault, name: str) -> str:
    """Why a search is refused, from the log; ``ok`` where it is not."""
    return _reason_of(vault, lambda: vault.identify(face(name), model=MODEL, threshold=THRESHOLD).decision)


def _reason_of(vault: Vault, ask: Callable[[], str]) -> str:
    said = "denied"
    try:
        decision = ask()
    except (Denied, Unavailable) as error:
        decision = error.decision or pytest.fail("a denial without a record")
        said = str(error) if isinstance(error, Denied) else said
    assert said == "denied"
    return str(core(vault).log.entry(int(decision.split("-")[0]))["reason"])


def log_entries(vault: Vault) -> list[JsonObject]:
    """Every entry of the log, authenticated."""
    log = core(vault).log
    return [entry for _, entry in log.entries(0, log.head().size)]


def prove(vault: Vault) -> None:
    """Replay the log: nothing is decided outside a grant's life, and no slot is given twice."""
    log: list[Any] = log_entries(vault)
    granted: set[int] = set()
    announced: dict[int, list[int]] = {}
    gone: set[int] = set()
    epoch = 0
    for index, entry in enumerate(log):
        match entry["type"]:
            case "genesis":
                epoch = entry["epoch"]
            case "grant":
                new = [each["slot"] for each in entry["grants"]]
                first = index - entry["part"] + 1
                announced.setdefault(first, []).extend(new)
                assert not granted & set(new)
                assert not gone & set(new)
            case "granted":
                granted |= set(announced.get(entry["of"], ()))
            case "destroy":
                gone |= set(from_ranges(entry["slots"]))
            case "destroyed":
                assert entry["epoch"] > epoch
                epoch = entry["epoch"]
            case "decision" if entry["allow"]:
                used = {entry["slot"]} if entry["op"] == "verify" else set(entry["candidates"])
                assert used <= granted, f"entry {index} uses what was not granted"
                assert not used & gone, f"entry {index} uses what was withdrawn before it"
            case _:
                pass
