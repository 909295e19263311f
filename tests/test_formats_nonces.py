"""Nonces of log entries: each is given out once, to whatever thread or process."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from facekeep.formats.nonces import entry_nonce


def test_they_are_16_bytes_and_differ() -> None:
    drawn = [entry_nonce() for _ in range(1_000)]
    assert len(set(drawn)) == 1_000
    assert all(len(bytes.fromhex(each)) == 16 for each in drawn)


def test_threads_get_different_ones() -> None:
    with ThreadPoolExecutor(8) as pool:
        drawn = [
            each
            for part in pool.map(lambda _: [entry_nonce() for _ in range(500)], range(8))
            for each in part
        ]
    assert len(set(drawn)) == len(drawn)


def test_a_forked_process_gets_others() -> None:
    entry_nonce()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(entry_nonce() for _ in range(64)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 64 * 32).decode()
    ours = {entry_nonce() for _ in range(300)}
    assert not ours & {theirs[at : at + 32] for at in range(0, len(theirs), 32)}
    os.close(reading)
    os.close(writing)
