"""Edwards25519 in plain Python, to make the corner cases that no honest signer makes; only for tests.

Formulas of RFC 8032 §5.1. The classes of cases are those of Chalkias, Garillot and Nikolaenko,
"Taming the Many EdDSAs" (SSR 2020), table 5; the vectors are our own.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

P: Final = 2**255 - 19
L: Final = 2**252 + 27742317777372353535851937790883648493
D: Final = -121665 * pow(121666, -1, P) % P


class Point(NamedTuple):
    x: int
    y: int


NEUTRAL: Final = Point(0, 1)


def add(a: Point, b: Point) -> Point:
    product = D * a.x * b.x * a.y * b.y
    return Point(
        (a.x * b.y + b.x * a.y) * pow(1 + product, -1, P) % P,
        (a.y * b.y + a.x * b.x) * pow(1 - product, -1, P) % P,
    )


def multiply(scalar: int, point: Point) -> Point:
    result = NEUTRAL
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def negate(point: Point) -> Point:
    return Point(-point.x % P, point.y)


def recover(y: int, sign: int) -> Point | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square or (x == 0 and sign):
        return None
    return Point(-x % P if x & 1 != sign else x, y)


def encode(point: Point) -> bytes:
    return (point.y | (point.x & 1) << 255).to_bytes(32, "little")


def base() -> Point:
    found = recover(4 * pow(5, -1, P) % P, 0)
    assert found is not None
    return found


def torsion() -> list[Point]:
    """Return the eight points of small order: [L] of anything lies among them."""
    y = 2
    while True:
        point = recover(y, 0)
        if point is not None:
            small = multiply(L, point)
            found = [multiply(k, small) for k in range(8)]
            if len(set(found)) == 8:
                return found
        y += 1


def challenge(r: bytes, public: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + public + message).digest(), "little") % L


def sign(secret: int, public: Point, message: bytes, *, r_torsion: Point = NEUTRAL, nonce: int = 7) -> bytes:
    """Sign with a given public key (perhaps with torsion in it) and perhaps torsion in R."""
    r = encode(add(multiply(nonce, base()), r_torsion))
    s = (nonce + challenge(r, encode(public), message) * secret) % L
    return r + s.to_bytes(32, "little")


def satisfied(public: Point, signature: bytes, message: bytes, *, cofactor: int) -> bool:
    """Whether the verification equation holds, with the cofactor 8 or without it (1)."""
    r = int.from_bytes(signature[:32], "little")
    point = recover((r & (2**255 - 1)) % P, r >> 255)
    assert point is not None
    s = int.from_bytes(signature[32:], "little")
    k = challenge(signature[:32], encode(public), message)
    right = add(point, multiply(k, public))
    return multiply(cofactor * s, base()) == multiply(cofactor, right)
