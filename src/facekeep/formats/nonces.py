"""Nonces of log entries: 16 random bytes in hexadecimal, each given out once (SPEC §6.2).

They are drawn many at a time: every draw gives up the interpreter lock, which a busy vault's threads then
fight for. They blind an entry's hash and are no nonces of a cipher.
"""

from __future__ import annotations

import os
from typing import Final

_HEX_LEN: Final = 32
_DRAWN: Final = 256
_pool: list[str] = []
os.register_at_fork(after_in_child=_pool.clear)  # or both processes would give out the same ones


def entry_nonce() -> str:
    """Return a fresh nonce."""
    try:
        return _pool.pop()  # atomic: no two threads get the same one
    except IndexError:
        drawn = os.urandom(_HEX_LEN // 2 * _DRAWN).hex()
        _pool.extend(drawn[at : at + _HEX_LEN] for at in range(_HEX_LEN, len(drawn), _HEX_LEN))
        return drawn[:_HEX_LEN]
