"""What a restarted log takes up: whatever of vault.db and keys.db proves itself (SPEC §6.6)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from facekeep.access.core import FIRST_PRINCIPAL_INDEX, LOG_KEY_SLOT
from facekeep.access.principals import Principal, read_token
from facekeep.access.roles import Action, allowed
from facekeep.auditlog.rules import too_early
from facekeep.auditlog.signed import LogSigner
from facekeep.clock import Clock
from facekeep.consent.consent import subject_tag
from facekeep.crypto.primitives import compare
from facekeep.errors import ClockError, FacekeepError, NotAllowed, RootError, StoreError
from facekeep.formats.ids import (
    BRANCH_SLOTS,
    FANOUT,
    SALT_LEN,
    SLOT_BITS,
    check_subject_id,
    from_hex,
    slot_id,
)
from facekeep.formats.nodes import Kind
from facekeep.formats.settings import Settings
from facekeep.formats.terms import Terms
from facekeep.keys.holders import held
from facekeep.keys.provider import RootProvider
from facekeep.keys.secrets import Secrets
from facekeep.keys.tree import KeyTree, open_tree
from facekeep.operations.auditing import SIGNING_KEY_SLOT
from facekeep.operations.backups import chunks
from facekeep.operations.missing import DATA_FILE, LOST_BOTH
from facekeep.operations.opening import holders_of, leaving_of
from facekeep.sealing.sealer import Sealer
from facekeep.store import vaultdb
from facekeep.store.keysdb import KeysStore, PrincipalRow
from facekeep.store.maskedterms import TermsMask
from facekeep.store.sqlite import Database
from facekeep.store.vaultdb import GrantRow, VaultStore

Progress = Callable[[int, int], None]


class Member(NamedTuple):
    """A principal whose record opens."""

    row: PrincipalRow
    principal: Principal


@dataclass(slots=True)
class Adopted:
    """Slots of the rows that are adopted, by subject tag and scope: the newest of each."""

    newest: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    left: int = 0
    dead: int = 0

    def take(self, row: GrantRow, created_ms: int) -> None:
        """Take up a row that proves itself, in the place of an older one of its subject and scope."""
        place, mine = row.tag + row.terms[1:2], (created_ms, row.slot)
        known = self.newest.get(place)
        self.left += known is not None
        if known is None or known < mine:
            self.newest[place] = mine

    def slots(self) -> set[int]:
        """Slots of what is adopted."""
        return {slot for _, slot in self.newest.values()}


@dataclass(slots=True)
class Remains:
    """What is left of a vault without its log, opened for reading."""

    settings: Settings
    provider: RootProvider
    keys: KeysStore
    tree: KeyTree
    data: VaultStore
    sealer: Sealer
    clock: Clock

    def signer(self, generation: int) -> LogSigner:
        """Return the log's private keys of a generation."""
        return LogSigner(self.tree.slot_key(SIGNING_KEY_SLOT), self.settings.vault_id, generation)


def open_remains(
    stack: contextlib.ExitStack,
    path: Path,
    settings: Settings,
    clock: Clock,
    secrets: Secrets,
    data_file: str = DATA_FILE,
    stand_in: RootProvider | None = None,
) -> Remains:
    """Open keys.db and vault.db, or the file in its place; raises RootError, IntegrityError, ClockError.

    ``stand_in`` gives the root where every holder is lost.
    """
    vault_id = settings.vault_id
    providers = holders_of(settings, path, secrets)
    keys = stack.enter_context(KeysStore.open(path / "keys.db", vault_id))
    readers = (*providers, *leaving_of(settings, path, secrets))
    tree = _tree(keys, settings, readers if stand_in is None else (*readers, stand_in))
    database = Database(path / data_file, "vault", vault_id, vaultdb.MIGRATIONS)
    stack.callback(database.close)
    if too_early(tree.swapped_at_ms, clock.now_ms()):
        raise ClockError("the clock stands before the last root replacement; nothing was done")
    sealer = Sealer.of(vault_id)
    data = VaultStore(database, TermsMask(tree.slot_key(LOG_KEY_SLOT), vault_id))
    return Remains(settings, providers[0], keys, tree, data, sealer, clock)


def _tree(keys: KeysStore, settings: Settings, readers: Sequence[RootProvider]) -> KeyTree:
    try:
        return open_tree(keys, settings.vault_id, held(readers))[0]
    except (RootError, StoreError) as error:
        way = f"with the recovery key: {LOST_BOTH}" if settings.recovery else "there is no way without one"
        raise type(error)(
            str(error), next=f"{error.next.command}; where every holder is lost, {way}"
        ) from error


def members_of(remains: Remains) -> Iterator[Member]:
    """Yield the principals whose slots live and whose records open."""
    for row in remains.keys.principal_list((FIRST_PRINCIPAL_INDEX, BRANCH_SLOTS)):
        with contextlib.suppress(FacekeepError):
            key = remains.tree.slot_key(row.slot)
            record = remains.sealer.open_principal(key, row.slot, row.grant_id, row.commitment, row.sealed)
            principal = Principal.from_record(record)
            if principal.id == row.principal:
                yield Member(row, principal)


def restorer(members: list[Member], token: str, *, keys: bool = False) -> str:
    """Return the id of the token's principal, who must be allowed to restore, and ``keys`` where asked."""
    wanted = {Action.RESTORE, Action.KEYS} if keys else {Action.RESTORE}
    identity, token_hash = read_token(token)
    for member in members:
        principal = member.principal
        if principal.id == identity and compare(principal.token_hash, token_hash):
            if not wanted <= allowed(principal.roles):
                raise NotAllowed("only an operator may restart a lost log")
            return identity.hex()
    raise NotAllowed("the token's principal is unknown or revoked in this vault")


def judge(remains: Remains, progress: Progress | None) -> Adopted:
    """Open the record of every row whose slot lives."""
    adopted = Adopted()
    kinds = {branch: int(kind) for _, branch, kind in remains.tree.branches()}
    done, total = 0, remains.data.count()
    for chunk in chunks(remains.data.rows()):
        keys, alive = remains.tree.slot_keys(np.array([row.slot for row in chunk], np.int64))
        for row, key, lives in zip(chunk, keys, alive.tolist(), strict=True):
            if not lives:
                adopted.dead += 1
                continue
            created_ms = _proves_itself(remains, row, key.tobytes(), kinds.get(row.slot >> SLOT_BITS))
            if created_ms is None:
                adopted.left += 1
            else:
                adopted.take(row, created_ms)
        done += len(chunk)
        if progress is not None:
            progress(done, total)
    return adopted


def _proves_itself(remains: Remains, row: GrantRow, key: bytes, kind: int | None) -> int | None:
    """When a row's consent record was made, ms; None where the row does not open, or is not what it says."""
    try:
        record = remains.sealer.open_record(key, row)
        salt = from_hex(record.get("salt"), SALT_LEN, "a salt")
        subject = check_subject_id(str(record["subject"]))
        tag = subject_tag(remains.settings.vault_id, salt, subject)
        fits = tag == row.tag and int(Terms.unpack(row.terms).scope) == kind
    except (FacekeepError, KeyError):
        return None
    return cast("int", record["created_at_ms"]) if fits else None


def closed_branches(tree: KeyTree) -> list[int]:
    """Return the branches of grants: nobody knows how far one was given out, so all of it is closed."""
    return [branch for _, branch, kind in tree.branches() if kind is not Kind.SYSTEM]


def next_principal(tree: KeyTree, members: list[Member]) -> int:
    """Return an index of branch 0 above every slot of it that was ever given out.

    A principal's slot that is dead, or whose making was interrupted, is not far above the others.
    """
    alive = tree.alive(np.arange(slot_id(0, 0), slot_id(0, 0) + BRANCH_SLOTS, dtype=np.int64))
    dead: list[int] = np.flatnonzero(~alive)[-1:].tolist()
    last = max(FIRST_PRINCIPAL_INDEX, *(each.row.slot for each in members), *dead)
    return min((last // FANOUT + 2) * FANOUT, BRANCH_SLOTS)
