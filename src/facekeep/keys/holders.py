"""From the URIs in vault.toml to root holders, and what several of them hold together (SPEC.md §4).

One holder is one URI, with its outer layers before it: ``passphrase:|file:/mnt/keys/staff.root``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
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
        known = ", ".join(f"{each}:" for each in sorted(PROVIDERS))
        raise UsageError(
            f"no root provider has the scheme {scheme[:20]!r}", next=f"use one of these schemes: {known}"
        )
    module, _, name = PROVIDERS[scheme].partition(":")
    found = cast("type[RootProvider]", getattr(importlib.import_module(module), name))
    return found.from_uri(rest, place)


def held(providers: Iterable[RootProvider]) -> tuple[Candidate, ...]:
    """Every root that the holders within reach hold.

    One that is away is passed over: a root of any other opens the vault, and no swap happens without all.
    Raises the first holder's error, as a rule RootError, where none is within reach.
    """
    found: list[Candidate] = []
    away: list[FacekeepError] = []
    reached = False
    for provider in providers:
        try:
            found += provider.candidates()
        except (RootError, StoreError, MissingDependency) as error:
            away.append(error)
        else:
            reached = True
    if away and not (reached and any(each.root for each in found)):
        raise away[0]
    return tuple(found)
