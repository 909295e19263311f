"""From the URIs in vault.toml to root holders, and what several of them hold together (SPEC §4).

One holder is one URI, with its outer layers before it: ``passphrase:|file:/mnt/keys/staff.root``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from facekeep.errors import FacekeepError, MissingDependency, RootError, StoreError, UsageError
from facekeep.keys.layered import LayeredHolder
from facekeep.keys.layers import Layer, split
from facekeep.keys.provider import Candidate, Place, RootProvider

PROVIDERS: Final = {
    "file": "facekeep.keys.file_provider:FileProvider",
    "lost": "facekeep.keys.lost_holder:LostHolder",
    "openbao": "facekeep.keys.openbao_provider:OpenBaoProvider",
    "pkcs11": "facekeep.keys.pkcs11_provider:Pkcs11Provider",
    "recovery": "facekeep.keys.recovery_holder:RecoveryHolder",
    "tpm2": "facekeep.keys.tpm2_provider:Tpm2Provider",
}

INTERNAL: Final = frozenset({"lost", "recovery"})  # written by facekeep, named by other options than --root

LAYERS: Final = {
    "aws-kms": "facekeep.keys.aws_kms_layer:AwsKmsLayer",
    "keyring": "facekeep.keys.keyring_layer:KeyringLayer",
    "passphrase": "facekeep.keys.passphrase_layer:PassphraseLayer",
}


def provider_from_uri(uri: str, place: Place) -> RootProvider:
    """Return the holder of a URI such as ``file:../staff.root``, its layers before it, outermost first.

    Relative paths start at ``place.base``. Raises UsageError for an unknown scheme or layer, or a
    layer named twice.
    """
    *layers, holder = uri.split("|")
    words = [layer.partition(":")[0] for layer in layers]
    if len(set(words)) != len(words):
        raise UsageError("a layer is named twice before one root holder", next="name each layer once")
    provider = _holder(holder, place)
    for layer in reversed(layers):
        provider = _layered(layer, provider, place)
    return provider


def _layered(uri: str, inner: RootProvider, place: Place) -> RootProvider:
    word, colon, rest = uri.partition(":")
    if not colon or word not in LAYERS:
        known = ", ".join(f"{each}:" for each in sorted(LAYERS))
        raise UsageError(
            f"no layer around a root holder is called {word[:20]!r}",
            next=f"before the | stands one of: {known}",
        )
    head, options = split(rest)
    file = options.pop("file", None)
    module, _, name = LAYERS[word].partition(":")
    found = cast("type[Layer]", getattr(importlib.import_module(module), name))
    layer = found.from_uri(head, options, place)
    try:
        path = None if file is None else place.base / Path(file).expanduser()
    except RuntimeError as error:
        raise UsageError("a layer's file is in an unknown home directory") from error
    return LayeredHolder(layer, inner, place, path)


def _holder(uri: str, place: Place) -> RootProvider:
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in PROVIDERS:
        known = ", ".join(f"{each}:" for each in sorted(PROVIDERS.keys() - INTERNAL))
        raise UsageError(
            f"no root provider has the scheme {scheme[:20]!r}", next=f"use one of these schemes: {known}"
        )
    module, _, name = PROVIDERS[scheme].partition(":")
    found = cast("type[RootProvider]", getattr(importlib.import_module(module), name))
    return found.from_uri(rest, place)


@dataclass(frozen=True, slots=True)
class Asked:
    """What several holders answered: each with the roots it has, or with the error of one that is away."""

    answered: tuple[tuple[RootProvider, tuple[Candidate, ...]], ...]
    away: tuple[tuple[RootProvider, FacekeepError], ...]

    def roots(self) -> tuple[Candidate, ...]:
        """Every root that the holders within reach hold.

        One that is away is passed over: a root of any other opens the vault, and no swap happens without all.
        Raises the error of a holder that is away, as a rule RootError, where none gives a root.
        """
        roots = tuple(each for _, found in self.answered for each in found)
        if not self.away or any(each.root for each in roots):
            return roots
        first = self.away[0][1]
        givers = [each for each, _ in (*self.answered, *self.away) if _gives(each)]
        if len(givers) > 1 and isinstance(first, RootError) and self._away():
            raise self._error("no holder that answers has a root") from first
        raise first

    def settled(self, providers: Iterable[RootProvider], fingerprint: bytes) -> bool:
        """Whether each of these holders answered, with the current root of this name and no other."""
        found = dict(self.answered)
        return all(
            [(root.fingerprint, root.state) for root in found.get(each, ())] == [(fingerprint, "current")]
            for each in providers
        )

    def unopened(self, error: RootError) -> RootError:
        """Return the error of a keys.db that none of the roots opens, naming the holders that are away."""
        return self._error("no root opens keys.db") if self._away() else error

    def _error(self, head: str) -> RootError:
        """Say who is away, and what those that are not have (SPEC §4.1)."""
        away = self._away()
        said = [f"{_named(provider)} is away ({error})" for provider, error in away]
        said += [
            f"{_named(provider)} answers {'with another root, an old one' if found else 'and has no root'}"
            for provider, found in self.answered
            if _gives(provider)
        ]
        names = " and ".join(_named(provider) for provider, _ in away)
        steps = "; ".join(dict.fromkeys(error.next.command for _, error in away))
        return RootError(
            f"{head}: {', '.join(said)}", next=f"bring {names} back ({steps}), then: facekeep keys resume"
        )

    def _away(self) -> list[tuple[RootProvider, FacekeepError]]:
        return [(provider, error) for provider, error in self.away if _gives(provider)]


def _gives(provider: RootProvider) -> bool:
    """Whether a holder could give a root: a recovery key, or one that was given up, never does."""
    return provider.klass != "recovery" and provider.scheme not in INTERNAL


def _named(provider: RootProvider) -> str:
    return f"the {provider.scheme}: holder {provider.identity}"


def ask(providers: Iterable[RootProvider]) -> Asked:
    """Ask each holder once for the roots it has."""
    answered: list[tuple[RootProvider, tuple[Candidate, ...]]] = []
    away: list[tuple[RootProvider, FacekeepError]] = []
    for provider in providers:
        try:
            answered.append((provider, provider.candidates()))
        except (RootError, StoreError, MissingDependency) as error:
            away.append((provider, error))
    return Asked(tuple(answered), tuple(away))


def refusal(providers: Iterable[RootProvider]) -> RootError | None:
    """Return why no holder gives a root, where that shows of each without asking it; else None."""
    found = [each.refusal() for each in providers if _gives(each)]
    return found[0] if found and None not in found else None


def held(providers: Iterable[RootProvider]) -> tuple[Candidate, ...]:
    """Every root that the holders within reach hold; raises as ``Asked.roots``."""
    return ask(providers).roots()
