"""The types that an integrator meets: what public methods take, return, and what that holds."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator

from facekeep.vault import Gallery, Keys, Vault

SURFACES = (Vault, Keys, Gallery)


def public() -> Iterator[tuple[str, Callable[..., object]]]:
    """Every public method and property, by its name."""
    for surface in SURFACES:
        for name, member in inspect.getmembers(surface):
            if not name.startswith("_"):
                method = member.fget if isinstance(member, property) else member
                assert callable(method)
                yield f"{surface.__name__}.{name}", method


def hints(of: object) -> dict[str, object]:
    """Type hints; what JSON may hold is a recursion that ends here."""
    return typing.get_type_hints(of, localns={"JsonValue": object})


def types_of(hint: object, seen: set[type]) -> set[type]:
    """Classes of facekeep in a type, and in the fields of those that have fields."""
    for each in typing.get_args(hint):
        types_of(each, seen)
    origin = typing.get_origin(hint) or hint
    if isinstance(origin, type) and origin.__module__.startswith("facekeep") and origin not in seen:
        seen.add(origin)
        if dataclasses.is_dataclass(origin) or hasattr(origin, "_fields"):
            for each in hints(origin).values():
                types_of(each, seen)
    return seen


def returned() -> set[type]:
    """Classes of facekeep that public methods return, and those in them."""
    seen: set[type] = set()
    for _, method in public():
        types_of(hints(method).get("return"), seen)
    return seen


def named() -> set[type]:
    """Classes of facekeep in public signatures, and those in them."""
    seen: set[type] = set()
    for _, method in public():
        for each in hints(method).values():
            types_of(each, seen)
    return seen
