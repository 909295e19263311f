"""What a result is worth in an ``if``: no answer is true only because it is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from facekeep.errors import WrongType

T = TypeVar("T")

# mypy sees no method here, so that its own checks (comparison-overlap, truthy-bool) find the mistakes first.


class Answer:
    """An answer that defines ``bool()``. It is equal to itself only, and ``== False`` raises WrongType."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __eq__(self, other: object) -> bool:
            """Identity; raises WrongType for True, False and numbers, which it would never be equal to."""
            if isinstance(other, int) or hasattr(other, "dtype"):
                name = type(self).__name__
                raise WrongType(f"a {name} is not compared with {other}", next=f"write bool() of the {name}")
            return self is other

        __hash__ = object.__hash__


class Ambiguous:
    """A result that says several things: ``bool()`` of it raises WrongType and names them."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __bool__(self) -> bool:
            """Raise WrongType."""
            kind = type(self)
            raise WrongType(
                f"a {kind.__name__} is neither true nor false",
                next=f"look at what it says: {', '.join(kind.__dataclass_fields__)}",
            )


class Listing(Iterator[T]):
    """What is read one by one; whether there is anything shows only then, so ``bool()`` raises WrongType."""

    def __init__(self, items: Iterator[T]) -> None:
        """Nothing is read yet."""
        self._items = items

    def __next__(self) -> T:
        """Return the next one."""
        return next(self._items)

    if not TYPE_CHECKING:

        def __bool__(self) -> bool:
            """Raise WrongType."""
            raise WrongType(
                "a listing is neither true nor false before it is read", next="write list() of it"
            )
