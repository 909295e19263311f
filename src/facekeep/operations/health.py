"""Whether everybody is there whom a swap needs: root holders and live copies."""

from __future__ import annotations

from dataclasses import dataclass

from facekeep.access.core import Core, View
from facekeep.answers import Ambiguous
from facekeep.errors import ErasurePending, FacekeepError
from facekeep.formats.canonical import JsonObject
from facekeep.keys.provider import RootProvider
from facekeep.operations.custody import still_leaving


@dataclass(frozen=True, slots=True)
class HolderState(Ambiguous):
    """One holder. ``state``: current, stale (it lacks the root that opens) or away; ``trouble`` says why.

    ``role``: first, mirror, recovery or leaving. One that is current can have trouble: something is damaged.
    """

    uri: str
    scheme: str
    klass: str
    layers: tuple[str, ...]
    limits: tuple[str, ...]
    role: str
    state: str
    trouble: tuple[str, ...]
    next: str = ""

    def to_json(self) -> JsonObject:
        """Return it as JSON."""
        return {
            "class": self.klass,
            "layers": list(self.layers),
            "limits": list(self.limits),
            "role": self.role,
            "scheme": self.scheme,
            "state": self.state,
            "trouble": list(self.trouble),
            "uri": self.uri,
        }


def holders(core: Core, view: View) -> list[HolderState]:
    """Ask each holder, those that are leaving too, whether it has the root that opens the vault."""
    settings = core.settings
    named = [
        ("first", (settings.root_uri,)),
        ("mirror", settings.mirrors),
        ("recovery", settings.recovery),
        ("leaving", settings.leaving),
    ]
    places = [(role, uri) for role, uris in named for uri in uris]
    leaving = still_leaving(core, view)
    return [
        _emptied(each, uri) if role == "leaving" and each not in leaving else _state(view, each, uri, role)
        for (role, uri), each in zip(places, core.readers, strict=False)  # a root in memory has no place
    ]


def _state(view: View, provider: RootProvider, uri: str, role: str) -> HolderState:
    trouble: tuple[str, ...] = ()
    try:
        marks = {each.fingerprint for each in provider.candidates()}
    except FacekeepError as error:
        state, trouble, step = "away", (str(error),), error.next.command
    else:
        state = "current" if view.tree.fingerprint in marks else "stale"
        trouble = provider.damage
        step = "facekeep check --scrub, which gives it that root"
    return _told(provider, uri, role, state, trouble, step)


def _emptied(provider: RootProvider, uri: str) -> HolderState:
    """State of a leaving holder that destroyed what it had: nothing but its file is left, if that is."""
    return _told(
        provider, uri, "leaving", "stale", (), "facekeep keys resume, which removes what is left of it"
    )


def _told(
    provider: RootProvider, uri: str, role: str, state: str, trouble: tuple[str, ...], step: str
) -> HolderState:
    limits = provider.receipt("destroyed").limits
    return HolderState(
        uri, provider.scheme, provider.klass, provider.layers, limits, role, state, trouble, step
    )


def check_reached(core: Core, view: View) -> None:
    """Raise ErasurePending where a holder of the root, or who is to be one, is away."""
    for each in holders(core, view):
        if each.state == "away" and each.role != "leaving":
            raise ErasurePending(f"a root holder cannot be reached: {each.trouble[0]}", next=each.next)


def check_ready(core: Core, view: View) -> None:
    """Raise ErasurePending where a swap could not be finished now: nothing is announced then."""
    for each in holders(core, view):
        if each.state == "away":
            raise ErasurePending(f"a root holder cannot be reached: {each.trouble[0]}", next=each.next)
    copies = [(each.path, each.state) for each in core.keys.copies_state()]
    copies += [(each.path, each.state) for each in core.log.copies_state()]
    for path, state in copies:
        if state != "current":
            raise ErasurePending(f"the live copy {path} is {state}")
    if view.head.operations:
        raise ErasurePending("an operation is pending, and is finished first")
