"""What every public call has: arguments held to the types that its signature names, a line in the log."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import logging
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Final, ParamSpec, TypeGuard, TypeVar

from facekeep.errors import Denied, FacekeepError, FormatError, UsageError, WrongType

#: What an operator should hear of: no subject id, no template, no key.
LOG: Final = logging.getLogger("facekeep")
LOG.addHandler(logging.NullHandler())  # an application says where it goes
P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
_MS: Final = timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PATH: Final = re.compile(rb"(?=.{0,4095}\Z)([^/\0]{0,255}/)*[^/\0]{0,255}", re.DOTALL)  # Linux's limits
_ONE: Final = (str, bytes, bytearray, Path, Enum)  # never a list, though some can be walked through
_NUMBERS: Final[dict[object, type]] = {int: numbers.Integral, float: numbers.Real}
_WORDS: Final[dict[object, str]] = {
    str: "text", bool: "True or False", int: "a whole number", float: "a number", Path: "a path",
    types.NoneType: "None",
}  # fmt: skip


@contextlib.contextmanager
def callers(next: str | None = None) -> Iterator[None]:  # noqa: A002 - as in errors
    """Have what does not follow a format be the caller's mistake: UsageError in place of FormatError."""
    try:
        yield
    except FormatError as error:
        raise UsageError(str(error), next=next) from None


def time_ms(name: str, given: datetime | timedelta | None, ms: int | None, now_ms: int = 0) -> int | None:
    """Return the time that callers gave as ``name`` or in ms; None where they gave neither.

    A timedelta counts from ``now_ms``. Raises UsageError for both, and for a datetime without a time zone.
    """
    if given is None:
        return ms
    if ms is not None:
        raise UsageError(f"{name} is given twice", next=f"give it once: {name} as a time, or in ms")
    if isinstance(given, timedelta):
        return now_ms + given // _MS
    if given.utcoffset() is None:
        raise UsageError(
            f"{name} has no time zone", next=f"say which: {name}=datetime(2027, 5, 1, tzinfo=UTC)"
        )
    return (given - _EPOCH) // _MS


def checks_arguments(surface: C) -> C:
    """Have the public methods of a class, and how a data class is made, refuse what is of another type."""
    makes = "__init__" if hasattr(surface, "__dataclass_fields__") else ""
    for name, member in list(vars(surface).items()):
        if name != makes and name.startswith("_"):
            continue
        if isinstance(member, classmethod | staticmethod):
            setattr(surface, name, type(member)(checked(member.__func__)))
        elif inspect.isfunction(member):
            setattr(surface, name, checked(member))
    return surface


def checked(method: Callable[P, R]) -> Callable[P, R]:
    """Have a method raise WrongType, with nothing done, for an argument of another type than it names."""
    signature = inspect.signature(method)
    hints = functools.cache(functools.partial(typing.get_type_hints, method, localns={"JsonValue": object}))

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return method(*args, **kwargs)  # which says so itself
        for name, value in given.items():
            several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            for each in value if several else (value,):
                check(name, each, hints().get(name, object))
        with told(method.__qualname__):
            return method(*args, **kwargs)

    return call


@contextlib.contextmanager
def told(call: str) -> Iterator[None]:
    """Log an error that leaves a public call, once. A caller's mistake may name people: its code alone."""
    try:
        yield
    except FacekeepError as error:
        if not error.logged:
            error.logged = True
            if isinstance(error, Denied):
                LOG.info("%s: denied, decision %s", call, error.decision)
            elif isinstance(error, UsageError):
                LOG.debug("%s: %s", call, error.code)
            else:
                LOG.warning(
                    "%s: %s (%s)", call, str(error), error.code
                )  # a record that is kept keeps no frame
        raise


def check(name: str, value: object, hint: object) -> None:
    """Raise WrongType unless ``value``, which callers call ``name``, is of a type."""
    if fits(value, hint):
        _check_paths(name, value, hint)
        return
    kind, lists = type(value).__name__, any(map(_is_list, _each(hint)))
    if lists and isinstance(value, _ONE):
        raise WrongType(f"{name} takes a list, not one {kind}", next=f"put it in brackets: {name}=[...]")
    if lists and _can_be_walked(value):
        kind = f"{kind} of {', '.join(sorted({type(each).__name__ for each in value}))}"
    raise WrongType(f"{name} takes {_word(hint)}, not {kind}")


def _check_paths(name: str, value: object, hint: object) -> None:
    """Raise UsageError for a path that no file can have: too long, with NUL or half a surrogate pair.

    What may be bytes as well is a photograph, and looked at where it is read.
    """
    kinds = [
        *_each(hint),
        *(each for kind in _each(hint) if _is_list(kind) for each in _each(typing.get_args(kind)[0])),
    ]
    if Path not in kinds or bytes in kinds:
        return
    for each in value if isinstance(value, list | tuple) else (value,):
        try:
            wrong = isinstance(each, str | Path) and not _PATH.fullmatch(os.fsencode(each))
        except UnicodeEncodeError:
            wrong = True
        if wrong:
            raise UsageError(f"{name} is no path that a file can have")


def fits(value: object, hint: object) -> bool:
    """Whether a value is of a type. True for types that only the call itself can judge."""
    kinds = _each(hint)
    return any(_fits(value, kind) for kind in kinds) if len(kinds) > 1 else _fits(value, hint)


def _fits(value: object, hint: object) -> bool:
    kind = typing.get_origin(hint) or hint
    if kind is Callable:
        return callable(value)
    if not isinstance(kind, type) or kind.__module__.split(".")[0] == "numpy":
        return True
    if getattr(kind, "_is_protocol", False):
        return not getattr(kind, "_is_runtime_protocol", False) or isinstance(value, kind)
    if _is_list(hint):
        return _fits_all(value, typing.get_args(hint))
    if kind in _NUMBERS:
        return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool | Enum)
    return isinstance(value, kind)


def _fits_all(values: object, kinds: tuple[object, ...]) -> bool:
    if isinstance(values, (*_ONE, Mapping)) or hasattr(values, "__array__") or not _can_be_walked(values):
        return False
    if not isinstance(values, Sized):
        return True
    first = kinds[0]
    if type(first) is type and first not in _NUMBERS:
        return all(map(isinstance, values, itertools.repeat(first)))  # there may be a million
    return all(fits(each, first) for each in values)


def _can_be_walked(value: object) -> TypeGuard[Iterable[object]]:
    """Whether there is a first to last of it: NumPy's arrays without axes only look so."""
    try:
        iter(value)  # type: ignore[call-overload] # that is the question
    except Exception:  # noqa: BLE001 - an object's own
        return False
    return True


def _each(hint: object) -> tuple[object, ...]:
    """Members of a union, or the type itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_list(hint: object) -> bool:
    kind = typing.get_origin(hint)
    return isinstance(kind, type) and issubclass(kind, Iterable) and kind.__module__ != "numpy"


def _word(hint: object) -> str:
    if len(_each(hint)) > 1:
        return " or ".join(map(_word, _each(hint)))
    if _is_list(hint):
        return f"a list, each {_word(typing.get_args(hint)[0])}"
    return _WORDS.get(hint, getattr(hint, "__name__", "something else"))
