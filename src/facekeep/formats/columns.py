"""Tables of bytes: many byte strings of one width, joined and cut without a Python step for each."""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.uint8]


def each_row(table: Table) -> Iterator[bytes]:
    """Rows of a (n, w) table as byte strings; w > 0."""
    return chain.from_iterable(struct.iter_unpack(f"{table.shape[1]}s", table.reshape(-1).data))


def each_view(table: Table) -> Iterator[memoryview]:
    """Rows of a contiguous (n, w) table as they lie in it: no copy is made of them; w > 0."""
    whole, width = table.reshape(-1).data, table.shape[1]
    return (whole[at : at + width] for at in range(0, len(whole), width))


def side_by_side(count: int, *parts: bytes | Table) -> Table:
    """Table of ``count`` rows of the parts side by side; a byte string stands in every row."""
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (count, len(part)))
        if isinstance(part, bytes)
        else part
        for part in parts
    ]
    return np.concatenate(columns, axis=1)


def be64(numbers: Sequence[int] | npt.NDArray[np.int64]) -> Table:
    """Eight big-endian bytes of each number, uint8 (n, 8)."""
    return np.asarray(numbers, dtype=">u8").view(np.uint8).reshape(-1, 8)


def hexadecimal(table: Table) -> Table:
    """Lower-case hex digits of each row of a (n, w) table, as ASCII: uint8 (n, 2w)."""
    return np.frombuffer(binascii.hexlify(table.tobytes()), np.uint8).reshape(len(table), -1)


def decimal(numbers: npt.NDArray[np.int64]) -> Table | None:
    """Decimal digits of each number, as ASCII, uint8 (n, d); None unless all are positive and as long."""
    low, high = int(numbers.min()), int(numbers.max())
    if low <= 0 or len(str(low)) != len(str(high)):
        return None
    text = "%d" * len(numbers) % tuple(numbers.tolist())
    return np.frombuffer(text.encode("ascii"), np.uint8).reshape(len(numbers), -1)
