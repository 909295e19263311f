"""Changing who holds the root: further mirrors, another provider, a holder given up (SPEC §4.1, §9.1).

Each step is durable before the next: the new holders are tried with a placeholder; the settings name them,
and the old ones as leaving; a swap gives the new holders a fresh root, after which the old ones destroy what
they have, and what is left of them is removed; the settings forget the old ones. Between any two the vault
opens, and ``finish`` goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.answers import Ambiguous
from facekeep.arguments import checks_arguments
from facekeep.errors import FacekeepError, FormatError, UsageError, VaultExists
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.settings import Settings
from facekeep.keys.provider import RootProvider, placeholder
from facekeep.operations.custody import awaiting_swap, holds, open_move, still_leaving
from facekeep.operations.destroy import Destruction, intent
from facekeep.operations.destroy import finish as destroy_finish
from facekeep.operations.estimating import Extent, of_move
from facekeep.operations.health import HolderState, check_reached
from facekeep.operations.health import holders as holders_now
from facekeep.operations.opening import check_distinct, holders_of, leaving_of
from facekeep.operations.recover import recover
from facekeep.operations.rotation import Why, announcement
from facekeep.operations.steps import reached
from facekeep.operations.writing import writing
from facekeep.store import settingsfile


@checks_arguments
@dataclass(frozen=True, slots=True)
class Holders:
    """Who is to hold the root from now on, as URIs; None: as it is. ``lost`` are gone and are not asked."""

    root_uri: str | None = None
    mirrors: Sequence[str] | None = None
    recovery: Sequence[str] | None = None
    lost: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Moved(Ambiguous):
    """What was done: log index of the rotation (None: nothing), who holds the root, who was let go.

    ``finished`` are the log indices of what was pending, such as erasures, and was finished in this opening.
    """

    entry: int | None
    holders: tuple[str, ...]
    left: tuple[str, ...]
    epoch: int
    finished: tuple[int, ...] = ()

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        holders: list[JsonValue] = list(self.holders)
        left: list[JsonValue] = list(self.left)
        return {"entry": self.entry, "epoch": self.epoch, "holders": holders, "left": left, "what": "move"}


@dataclass(frozen=True, slots=True)
class Planned(Ambiguous):
    """What a move would do: who would hold the root and who leave, what would be written, and how long."""

    moved: Moved
    extent: Extent

    def to_json(self) -> JsonObject:
        """Return it as JSON: the keys of both."""
        return self.moved.to_json() | self.extent.to_json()


def holder_states(core: Core, session: Session) -> list[HolderState]:
    """Ask each holder, those that are leaving too, whether it has the root that opens the vault."""
    session.require(Action.STATUS)
    return holders_now(core, core.view())


def plan_move(core: Core, session: Session, holders: Holders) -> Planned:
    """Say what a move would do, and about how long it takes; raises UsageError as the move would."""
    session.require(Action.KEYS)
    new = wanted(core.settings, holders, under_way=open_move(core.view()) is not None)
    joining = len(_joining(core, new))
    moved = Moved(None, new.holders, new.leaving, core.view().tree.epoch)
    if new == core.settings:
        return Planned(moved, Extent("move", 0.0))
    return Planned(moved, of_move(core, len(new.holders), joining))


def wanted(settings: Settings, holders: Holders, *, under_way: bool = False) -> Settings:
    """Return the settings while the move is under way; raises UsageError.

    In a move that was begun before (``under_way``) holders only leave as lost: the others were asked already.
    """
    new = replace(
        settings,
        root_uri=settings.root_uri if holders.root_uri is None else holders.root_uri,
        mirrors=settings.mirrors if holders.mirrors is None else tuple(holders.mirrors),
        recovery=settings.recovery if holders.recovery is None else tuple(holders.recovery),
    )
    unknown = set(holders.lost) - {*settings.holders, *settings.leaving}
    if unknown:
        raise UsageError(
            f"{min(unknown)} is no holder of this vault's root, so it cannot be given up as lost"
        )
    if set(holders.lost) & set(new.holders):
        raise UsageError("a holder is named as lost, and to hold the root from now on")
    gone = [uri for uri in settings.holders if uri not in new.holders]
    if under_way and not set(gone) <= set(holders.lost):
        raise UsageError(
            "while a move is under way a holder leaves only as lost",
            next="run 'facekeep keys resume' first, then move again; nothing was changed",
        )
    leaving = [f"lost:{uri}" if uri in holders.lost else uri for uri in (*settings.leaving, *gone)]
    new = replace(new, leaving=tuple(leaving))
    if not all(uri.isprintable() for uri in (*new.holders, *new.leaving)):
        raise UsageError("the URI of a root holder has unprintable characters")
    try:
        new.check()
    except FormatError as error:
        raise UsageError(str(error)) from None
    return new


def begin(core: Core, session: Session, why: Why, holders: Holders) -> int | None:
    """Take the first two steps; returns the index of the first entry logged, None where nothing would change.

    While a move is under way only what is lost is given up in it, and others named in its place.
    Afterwards ``core`` answers nothing more: open the vault again, and call ``finish``.
    Raises UsageError, VaultExists, RootError with nothing changed.
    """
    with writing(core, session, Action.KEYS):
        take_up(core, session)
        under_way = open_move(core.view()) is not None
        if under_way and not holders.lost:
            raise UsageError(
                "a move was begun and is not finished",
                next="run 'facekeep keys resume' first; a holder of it that is gone for good: --lost URI",
            )
        old, new = core.settings, wanted(core.settings, holders, under_way=under_way)
        if new == old:
            return None
        return _name(core, session, new, [] if under_way else [announcement(core, session, "move", why)])


def amend(core: Core, session: Session, new: Settings) -> None:
    """Name other holders while a move is under way, because some were lost. Then as after ``begin``."""
    try:
        new.check()
    except FormatError as error:
        raise UsageError(str(error)) from None
    with writing(core, session, Action.KEYS):
        _name(core, session, new, [])


def _name(core: Core, session: Session, new: Settings, before: Sequence[JsonObject]) -> int:
    """Try the new holders, then have the settings name them; returns the index of the first entry logged."""
    old = core.settings
    fresh = _joining(core, new)
    with contextlib.ExitStack() as undo:
        for provider in fresh:
            _provision(provider, core.vault_id, [*core.readers, *(x for x in fresh if x is not provider)])
            undo.callback(_unprovision, provider)
        reached("move.provisioned")
        settingsfile.stage(core.path, new)
        reached("move.staged")
        undo.pop_all()  # from here on nobody knows whether the entry is on disk
    first = core.log.append([*before, _settings_entry(core, session, new, old)])[0]
    reached("move.announced")
    settingsfile.promote(core.path)
    reached("move.renamed")
    return first


def finish(core: Core, session: Session) -> Moved:
    """Take the other steps, in a vault opened under the new settings. Afterwards open the vault again.

    Raises ErasurePending while a holder cannot be reached: the vault works meanwhile, and this goes on later.
    """
    with writing(core, session, Action.KEYS):
        take_up(core, session)
        view, old = core.view(), core.settings
        first = open_move(view)
        if first is None:
            return Moved(None, old.holders, (), view.tree.epoch)
        with _under_way():
            return _finish(core, session, first)


@contextlib.contextmanager
def _under_way() -> Iterator[None]:
    """Have an error say how things stand, whatever came in the way."""
    try:
        yield
    except FacekeepError as error:
        error.args = (f"the move was begun and is not finished: {error}",)
        raise


def _finish(core: Core, session: Session, first: int) -> Moved:
    view, old = core.view(), core.settings
    # A holder that was given up after the swap may have the root that it made.
    if awaiting_swap(core, view) or still_leaving(core, view):
        check_reached(core, view)  # rather than announce once more what waits for one of them
        swap = Destruction("rotate", ())
        index = core.log.append(intent(core, session.by, swap))[0]
        reached("move.intended")
        destroy_finish(core, session.by, index, swap)
        recover(core)  # what waited until each holder had a root
    epoch = core.view().tree.epoch
    for provider in core.leaving:  # while the settings name them: nobody would find them later
        _clear(core, provider)
    reached("move.cleared")
    _forget_leaving(core, session, first)
    return Moved(first, old.holders, old.leaving, epoch)


def take_up(core: Core, session: Session) -> None:
    """Announce a move that vault.toml is in the middle of, where a restarted log lacks it (SPEC §6.6).

    The writer lock must be held.
    """
    if core.settings.leaving and open_move(core.view()) is None:
        core.log.append([announcement(core, session, "move", Why.OTHER)])
        recover(core)  # holders that have the root in use were not told from new ones before


def _forget_leaving(core: Core, session: Session, first: int) -> None:
    ended = entries.rotated(first, by=session.by, time_ms=core.clock.now_ms())
    old, new = core.settings, replace(core.settings, leaving=())
    if new == old:
        core.log.append([ended])
    else:
        settingsfile.stage(core.path, new)
        reached("move.forgetting")
        core.log.append([_settings_entry(core, session, new, old), ended])
        reached("move.forgotten")
        settingsfile.promote(core.path)
    reached("move.ended")


def _settings_entry(core: Core, session: Session, new: Settings, old: Settings) -> JsonObject:
    return entries.settings(new.digest(), old.digest(), by=session.by, time_ms=core.clock.now_ms())


def _joining(core: Core, new: Settings) -> list[RootProvider]:
    """Return the holders that are new in ``new``; raises UsageError for what must not be moved to.

    Until the swap the vault opens with a root that some holder has now: it must stay named and within reach.
    """
    everybody, leaving = holders_of(new, core.path, core.secrets), leaving_of(new, core.path, core.secrets)
    check_distinct([*everybody, *leaving])
    named = list(zip(everybody, new.holders, strict=True))
    staying = [each for each, uri in named if uri in core.settings.holders]
    current = core.view().tree.fingerprint
    stands_in = core.leaving[len(core.settings.leaving) :]  # with the recovery key at hand
    if not any(holds(each, current) for each in (*staying, *leaving, *stands_in)):
        raise UsageError(
            "no holder that stays, or leaves without being lost, has the root: nothing would open the vault",
            next="bring back a holder that has the root, and do not name it as lost; nothing was changed",
        )
    return [each for each, uri in named if uri not in core.settings.holders]


def _provision(provider: RootProvider, vault_id: bytes, others: Sequence[RootProvider]) -> None:
    """Try a new holder with the placeholder; one that an interrupted move left with it is taken over.

    What was cut off before is cleared away only where none of ``others`` can keep its keys in the same
    device: an empty file says nothing of whose they are.
    """
    root = placeholder(vault_id)
    mark = root_fingerprint(vault_id, root)
    try:
        provider.provision(root)
    except VaultExists as error:
        marks = [each.fingerprint for each in provider.candidates()]
        if not marks:  # it was cut off before it held anything
            if any(_may_share(provider, each) for each in others):
                raise VaultExists(
                    f"something without a root is at {provider.identity}, and clearing it away could reach "
                    f"the keys of another {provider.inmost.scheme}: holder",
                    next="remove that file if it is left of a move; nothing was changed",
                ) from error
            provider.unprovision()
            provider.provision(root)
        elif marks != [mark]:
            raise VaultExists(
                f"there is a root already at {provider.identity}",
                next="name another place; nothing was changed",
            ) from error


def _may_share(one: RootProvider, other: RootProvider) -> bool:
    """Whether two holders may have keys in one token, TPM or server: their names cannot tell."""
    return one.inmost.scheme == other.inmost.scheme not in {"file", "recovery"}


def _clear(core: Core, provider: RootProvider) -> None:
    """Remove what is left of a holder that destroyed its roots; never what has one, whoever put it there."""
    places = {place for each in core.providers for place in each.places}
    with contextlib.suppress(FacekeepError):
        if places.isdisjoint(provider.places) and not provider.candidates():
            provider.unprovision()


def _unprovision(provider: RootProvider) -> None:
    with contextlib.suppress(FacekeepError):
        provider.unprovision()
