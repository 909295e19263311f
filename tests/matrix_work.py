"""What the processes of the crash matrix do: make a vault, shred somebody and fail, look at what is left.

Each function runs in a process of its own (``matrix_zygote``) on a ``Site``: a vault and where its roots are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from facekeep.audit.logs import verify_log
from facekeep.errors import FacekeepError, IntegrityError, RootError
from facekeep.formats.ids import from_ranges
from facekeep.formats.recoverykey import SealedRoot
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.provider import Candidate, Place, RootProvider
from facekeep.keys.recovery_holder import RecoveryHolder
from facekeep.keys.secrets import Secrets
from facekeep.keys.tree import open_tree
from facekeep.store.keysdb import KeysStore
from facekeep.vault import Holders, Vault, Why
from matrix_points import Fault, Mode, Point
from recovery_help import KEY
from vaultlab import Lab, core, log_entries, matches, reason, slots

ALWAYS = ("ada", "bob")
ERASED = "cy"
SECRETS = Secrets()  # one for a process: what was derived once is not derived again


@dataclass
class Site(Lab):
    """A vault and the URIs of its holders, whose files are in ``base``.

    ``useless``: holder files, of which no copy opens anything once the root is destroyed. ``revealing``: root
    files, and what is sealed to the recovery key: whoever copied one before keeps that root, and every
    receipt must say so.
    """

    uris: tuple[str, ...] = ()
    useless: tuple[str, ...] = ()
    revealing: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    vault_id: bytes = b""

    @contextlib.contextmanager
    def open(self, token: str | None = None) -> Iterator[Vault]:
        os.environ.update(self.environment)
        with Vault.open(self.path, token=token or self.token, clock=self.clock, secrets=SECRETS) as vault:
            yield vault

    def create(self) -> Site:
        os.environ.update(self.environment)
        if self.copies:
            self.copy_dir.mkdir()
        first, *others = self.uris
        copies = [self.copy_dir] if self.copies else ()
        with Vault.create(
            self.path,
            root=first,
            mirrors=others,
            copies=copies,
            region=self.region,
            clock=self.clock,
            secrets=SECRETS,
            recovery=self.recovery,
        ) as vault:
            assert vault.token is not None
            self.token, self.vault_id = vault.token, core(vault).vault_id
            vault.enroll_many([self.enrolment(name) for name in ALWAYS])
        return self

    def keep(self, folder: Path, *names: str) -> None:
        """Copy what whoever reads the disk could have copied: everything outside device and server."""
        folder.mkdir(parents=True)
        for name in names:
            if (self.base / name).exists():
                shutil.copy2(self.base / name, folder / name)
        for file in self.path.glob("keys.db*"):
            shutil.copy2(file, folder / file.name)

    def kept_roots(self, folder: Path, *names: str) -> list[Candidate]:
        """Roots that the holders give with these files of theirs replaced by copies."""
        found: list[Candidate] = []
        place = Place(self.vault_id, self.base, SECRETS)
        for uri in (*self.uris, *([self.recovery] if self.recovery else [])):
            moved = uri
            for name in names:
                moved = moved.replace(str(self.base / name), str(folder / name))
            if moved != uri:
                with contextlib.suppress(RootError):
                    found += roots_of(provider_from_uri(moved, place))
        return found


def roots_of(provider: RootProvider) -> list[Candidate]:
    """Every root that a holder has, in the hands of somebody who holds the recovery key too."""
    if not isinstance(provider, RecoveryHolder):
        return list(provider.candidates())
    return [
        replace(
            each, root=KEY.open(SealedRoot.from_json(record.sealed), provider._vault_id, each.fingerprint)
        )
        for each, record in zip(provider.candidates(), provider.file.read(), strict=True)
    ]


@dataclass(frozen=True)
class Before:
    """Somebody to be shredded, and copies of the moment before."""

    name: str
    slots: tuple[int, ...]
    folder: Path


@dataclass(frozen=True)
class Found:
    """What was seen after a recovery: people who matched, people refused, roots tried on older copies."""

    opened: int
    refused: int
    roots: int
    next: Before


def make(site: Site) -> tuple[Site, Before]:
    """Make the vault; returns it, with its id and token, and whom to shred first."""
    site.create()
    with site.open() as vault:
        before = prepared(site, vault, 0)
    keep(site, before)
    assert opens(site, before, site.kept_roots(before.folder, *site.useless, *site.revealing))
    return site, before


def prepared(site: Site, vault: Vault, number: int) -> Before:
    """Enrol somebody, which finishes whatever was left open; write a backup."""
    name, folder = f"victim {number}", site.base / "before" / str(number)
    folder.parent.mkdir(exist_ok=True)
    vault.enroll_many([site.enrolment(name)])
    vault.backup(folder.with_suffix(".backup"))
    return Before(name, tuple(sorted(slots(vault, name).values())), folder)


def keep(site: Site, before: Before) -> None:
    """Copy keys and holder files; the vault is closed."""
    site.keep(before.folder, *site.useless, *site.revealing)


def shred(site: Site, before: Before, at: Point | None = None, mode: Mode | None = None) -> list[Point]:
    """Shred, and fail at a point: whoever is announced as erased must not match in this process any more."""
    fault = Fault(at, mode)
    fault.install()
    with site.open() as vault:
        fault.hold(core(vault).providers)
        fault.armed = True
        with contextlib.suppress(FacekeepError) if at else contextlib.nullcontext():
            vault.shred(before.name)
        fault.armed = False
        assert fault.fired is (at is not None), f"{at} was not come to"
        if at is not None:
            serve(vault, before)
    return fault.seen


def move(site: Site, target: str, at: Point | None = None, mode: Mode | None = None) -> list[Point]:
    """Move the root to another holder, and fail at a point."""
    fault = Fault(at, mode)
    fault.install()
    with site.open() as vault:
        fault.armed = True
        vault.keys.move(Holders(root_uri=target), Why.DRILL)
        fault.armed = False
    return fault.seen


def look_after_move(site: Site, before: Before, target: str) -> Found:
    """Go on with a move, or begin it again; then hold the vault to what was promised of both holders."""
    with site.open() as vault:
        if vault.keys.resume().entry is None and vault.settings.root_uri != target:
            vault.keys.move(Holders(root_uri=target), Why.DRILL)
    with site.open() as vault:
        assert (vault.settings.root_uri, vault.settings.leaving) == (target, ())
        following = prepared(site, vault, 1)
        for name in (*ALWAYS, before.name, following.name):
            assert matches(vault, name), f"{name} does not match any more"
        assert reason(vault, ERASED) == "subject_unknown"
        vault.restore(before.folder.with_suffix(".backup"))
        assert reason(vault, ERASED) == "subject_unknown"
        clean(site, vault)
        current = holders(vault)
    place = Place(site.vault_id, site.base, SECRETS)
    for uri in site.uris:
        with contextlib.suppress(RootError):  # it is gone, as a rule
            assert provider_from_uri(uri, place).candidates() == (), "the old holder has roots left"
    roots = old_copies_open_nothing(site, before, before.folder, current)
    return Found(len(ALWAYS) + 2, 1, roots, following)


def make_to_move(site: Site) -> tuple[Site, Before]:
    """Make a vault in which somebody was erased already; copies of the moment before the move."""
    site.create()
    with site.open() as vault:
        vault.enroll_many([site.enrolment(ERASED)])
        before = prepared(site, vault, 0)
        vault.shred(ERASED)
    keep(site, before)
    assert opens(site, before, site.kept_roots(before.folder, *site.useless, *site.revealing))
    return site, before


def serve(vault: Vault, before: Before) -> None:
    """What a process answers in which a shred has failed: the truth, or nothing."""
    announced = any(name_slots(entry) & set(before.slots) for entry in announced_in(vault))
    with contextlib.suppress(FacekeepError):
        assert matches(vault, before.name) is not announced
    with contextlib.suppress(FacekeepError):
        assert matches(vault, ALWAYS[0])


def announced_in(vault: Vault) -> list[dict[str, Any]]:
    with contextlib.suppress(FacekeepError):
        return [entry for entry in cast("list[Any]", log_entries(vault)) if entry["type"] == "destroy"]
    return []


def name_slots(entry: dict[str, Any]) -> set[int]:
    return set(from_ranges(entry["slots"]))


def look(site: Site, before: Before, number: int, living: Sequence[str], *, spared: bool) -> Found:
    """Recover by a writing command, then hold the vault to everything that was promised.

    ``living`` match; ``before`` is erased unless ``spared``. Returns counts, and whom to shred next.
    """
    alive = [*living, *([before.name] if spared else [])]
    left = before.folder.with_name(f"{before.folder.name}-left")
    site.keep(left, *site.useless)
    with site.open() as vault:
        following = prepared(site, vault, number)
        if not spared:
            gone(vault, before)
            vault.restore(before.folder.with_suffix(".backup"))
            gone(vault, before)
            receipts(vault, before)
        for name in (*alive, following.name):
            assert matches(vault, name), f"{name} does not match any more"
        clean(site, vault)
        current = holders(vault)
    roots = 0
    if not spared:
        roots = old_copies_open_nothing(site, before, left, current)
    keep(site, following)
    return Found(len(alive) + 1, int(not spared), roots, following)


def gone(vault: Vault, before: Before) -> None:
    """Refused, and no key is left: the slots are dead in the tree."""
    assert reason(vault, before.name) == "subject_unknown"
    assert not core(vault).view().tree.alive(np.array(before.slots, np.int64)).any()


def receipts(vault: Vault, before: Before) -> None:
    """The log names each holder, what it did, and what that does not cover."""
    entries = cast("list[Any]", log_entries(vault))
    (intent,) = [
        at
        for at, entry in enumerate(entries)
        if entry["type"] == "destroy" and before.slots[0] in name_slots(entry)
    ]
    (ended,) = [entry for entry in entries if entry["type"] == "destroyed" and entry["of"] == intent]
    said = {(each["scheme"], each["action"]): set(each["limits"]) for each in ended["receipts"]}
    for provider in core(vault).providers:
        for action in ("promoted", "destroyed"):
            assert set(provider.limits) <= said[provider.scheme, action], (provider.scheme, action)


def clean(site: Site, vault: Vault) -> None:
    """Nothing is open, damaged or missing; an auditor finds no rule broken."""
    assert core(vault).log.head().operations == ()
    report = vault.check()
    assert report.findings == [], report.findings
    assert report.missing == []
    vault.audit_export(site.base / "export")
    verify_log(site.base / "export", vault.audit_keys(every=True))


def holders(vault: Vault) -> list[Candidate]:
    """Every root that any holder gives now: one each, the current one."""
    own, found = core(vault), list[Candidate]()
    for provider in own.providers:
        candidates = provider.candidates()
        assert provider.damage == ()
        assert [(each.state, each.fingerprint) for each in candidates] == [
            ("current", own.view().tree.fingerprint)
        ]
        found += roots_of(provider)
    return found


def old_copies_open_nothing(site: Site, before: Before, left: Path, current: Sequence[Candidate]) -> int:
    """Try every surviving root on the keys.db of before; returns how many roots and copies of them."""
    assert not opens(site, before, current), "a root that a holder still gives opens an older keys.db"
    for copies in (before.folder, left):
        found = site.kept_roots(copies, *site.useless)
        assert not opens(site, before, found), "a copy of a holder file opens an older keys.db"
    for name in site.revealing:  # the limits that every receipt names
        assert opens(site, before, site.kept_roots(before.folder, *site.useless, name)), name
    return len(current) + 2 * len(site.useless)


def opens(site: Site, before: Before, roots: Sequence[Candidate]) -> bool:
    """Whether a root leads to the keys of whoever was shredded, through the keys.db of before."""
    return any(_opens(site, before, root) for root in roots)


def _opens(site: Site, before: Before, root: Candidate) -> bool:
    with KeysStore.open(before.folder / "keys.db", site.vault_id) as store:
        try:
            tree, _ = open_tree(store, site.vault_id, [root])
        except (RootError, IntegrityError):
            return False
        return bool(tree.alive(np.array(before.slots, np.int64)).any())
