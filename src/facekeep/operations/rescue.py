"""A vault whose root holders are all lost: the recovery key opens it for a new one (SPEC §4.7)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.clock import Clock
from facekeep.errors import FacekeepError
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.provider import RootProvider
from facekeep.keys.recovery_key import RecoveryKey
from facekeep.keys.secrets import Secrets
from facekeep.operations import move, recovering
from facekeep.operations.custody import open_move, still_leaving
from facekeep.operations.opening import default_root_uri, open_core, place_of
from facekeep.operations.restart import check_restarted
from facekeep.operations.rotation import Why
from facekeep.operations.steps import reached


@dataclass(frozen=True, slots=True)
class Rescued:
    """What was done: the root's new holder, the holders given up as lost, the epoch now."""

    root_uri: str
    lost: tuple[str, ...]
    epoch: int

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        lost: list[JsonValue] = list(self.lost)
        return {"epoch": self.epoch, "lost": lost, "root": self.root_uri}


def rescue(
    path: Path,
    key: RecoveryKey,
    token: str,
    clock: Clock,
    secrets: Secrets,
    *,
    root_uri: str | None = None,
    why: Why = Why.OTHER,
) -> Rescued:
    """Give a vault a new root holder, every other being lost, and a fresh root at once.

    May be called again after any interruption. Raises UsageError where a holder still opens the vault,
    RootError where the recovery key does not, ErasurePending while the recovery file cannot be written.
    """
    standing = recovering.stand_in(path, key, secrets)
    with contextlib.closing(open_core(path, clock, secrets, stand_in=standing)) as core:
        session = Session(core, token)
        session.require(Action.KEYS)
        _begin(core, session, why, root_uri)
    reached("rescue.begun")
    with contextlib.closing(open_core(path, clock, secrets, stand_in=standing)) as core:
        done = move.finish(core, Session(core, token))
        lost = tuple(uri.removeprefix("lost:") for uri in done.left)
        return Rescued(core.settings.root_uri, lost, done.epoch)


def go_on(
    path: Path, key: RecoveryKey, token: str, clock: Clock, secrets: Secrets, root_uri: str | None
) -> None:
    """Rescue a vault whose lost log was begun anew (SPEC §6.6), unless a holder opens it.

    Raises UsageError where the log is another one, and as ``rescue``.
    """
    standing = recovering.stand_in(path, key, secrets)
    with contextlib.closing(open_core(path, clock, secrets, stand_in=standing)) as core:
        check_restarted(core, Session(core, token))
        under_way = open_move(core.view()) is not None
        alive = _alive(core)
    if under_way or not alive:
        rescue(path, key, token, clock, secrets, root_uri=root_uri)


def _begin(core: Core, session: Session, why: Why, root_uri: str | None) -> None:
    """Name the new holder in the settings and the others as lost, unless a call before this one has."""
    if open_move(core.view()) is not None or core.settings.leaving:
        _take_over(core, session, root_uri)  # ``finish`` announces a move that a restarted log lacks
        return
    recovering.refuse_alive(_alive(core))
    gone = (core.settings.root_uri, *core.settings.mirrors)
    uri = _new_uri(core, root_uri, gone)
    move.begin(core, session, why, move.Holders(root_uri=uri, mirrors=(), lost=gone))


def _take_over(core: Core, session: Session, root_uri: str | None) -> None:
    """Go on with a move that was under way; what cannot be reached any more is given up in it."""
    old = core.settings
    gone = tuple(uri for uri in (old.root_uri, *old.mirrors) if not _reachable(core, uri))
    still = {
        each.identity for each in still_leaving(core, core.view())
    }  # others have destroyed what they had
    named = zip(old.leaving, core.leaving, strict=False)  # the root in memory stands behind them
    leaving = tuple(
        uri if each.identity not in still or _reachable(core, uri) else f"lost:{uri}" for uri, each in named
    )
    kept = tuple(uri for uri in old.mirrors if uri not in gone)
    first = old.root_uri if old.root_uri not in gone else _new_uri(core, root_uri, gone)
    lost = tuple(f"lost:{uri}" for uri in gone)
    new = replace(old, root_uri=first, mirrors=kept, leaving=leaving + lost)
    if new != old:
        move.amend(core, session, new)


def _reachable(core: Core, uri: str) -> bool:
    try:
        provider_from_uri(uri, place_of(core.settings, core.path, core.secrets)).candidates()
    except FacekeepError:
        return False
    return True


def _new_uri(core: Core, root_uri: str | None, gone: Sequence[str]) -> str:
    uri = root_uri or _fresh_uri(core)
    recovering.check_other(uri, gone)
    return uri


def _alive(core: Core) -> list[RootProvider]:
    return recovering.alive(core.settings, core.path, core.secrets, core.view().tree.fingerprint)


def _fresh_uri(core: Core) -> str:
    """Return a place that is not a lost holder's, the same one each time this is tried."""
    uri = default_root_uri(core.path, core.vault_id)
    if uri not in core.settings.holders:
        return uri
    return f"{uri.removesuffix('.root')}-{core.view().tree.fingerprint.hex()[:8]}.root"
