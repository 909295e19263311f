"""What the ledger keeps of time: gaps are seen over any number of entries, and few entries are kept."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.auditlog.history import HEARTBEAT_MS, Gap, History, Keeper, stamp
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject

HOUR = 3_600_000
BY = "00" * 8


def granted(ms: int) -> bytes:
    """An entry of a type that is not kept for its own sake."""
    return entries.encode(entries.granted(1, by=BY, time_ms=ms))


def expiry(ms: int) -> bytes:
    return entries.encode(entries.destroy_entries("expire", [2**21], by=BY, time_ms=ms)[0])


def clock(ms: int, high: int) -> bytes:
    return entries.encode(entries.clock(high, by=BY, time_ms=ms))


def told(bodies: list[bytes], cuts: frozenset[int] = frozenset()) -> tuple[History, int]:
    """History of these entries, read in stretches that end at the cuts; and how many were kept."""
    history, keeper = History(), Keeper()
    count = 0
    for at, body in enumerate(bodies):
        kept = keeper.pick(body)
        if at in cuts:
            kept += keeper.last()
            keeper = Keeper(stamp(body)[0])
        history.add(kept)
        count += len(kept)
    history.seen_ms = keeper.seen_ms
    return history, count


def test_the_time_of_every_type_of_entry_is_read() -> None:
    bodies: list[JsonObject] = [
        entries.rotation("root", "drill", by=BY, time_ms=7),
        entries.backup(rows=1, sha256=bytes(32), size=1, by=BY, time_ms=7),
        *entries.destroy_entries("void", [5], voids=[3, 4], by=None, time_ms=7),
        entries.settings(bytes(32), bytes(32), by=BY, time_ms=7),
    ]
    assert [stamp(entries.encode(each))[0] for each in bodies] == [7] * 4
    kinds = [stamp(entries.encode(each))[1] for each in bodies]
    assert kinds == [b"rotation", b"backup", b"destroy", b"settings"]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 200 * HOUR), min_size=1, max_size=60),
    st.frozensets(st.integers(0, 59)),
    st.integers(48, 720),
)
def test_exactly_the_true_gaps_are_found(steps: list[int], cuts: frozenset[int], limit: int) -> None:
    times = [sum(steps[: at + 1]) for at in range(len(steps))]
    history, _ = told([granted(ms) for ms in times], cuts)
    pairs = [(a, b) for a, b in itertools.pairwise(times) if b - a > limit * HOUR]
    assert history.gap(limit * HOUR, times[-1]) == (Gap(*pairs[-1]) if pairs else None)
    assert history.seen_ms == times[-1]
    assert history.began_ms == times[0]


def test_of_many_entries_few_are_kept() -> None:
    _, kept = told([granted(at * HOUR // 10) for at in range(10 * 240)])
    assert kept <= 2 * 10 + 2
    assert HEARTBEAT_MS < 48 * HOUR  # the shortest gap that can be asked for


def test_an_expiry_after_a_gap_says_that_a_person_looked() -> None:
    day = 24 * HOUR
    before = [granted(0), granted(9 * day)]
    assert told(before)[0].gap(72 * HOUR, 9 * day) == Gap(0, 9 * day)
    assert told([*before, expiry(9 * day)])[0].gap(72 * HOUR, 9 * day) is None
    assert told([granted(0), expiry(9 * day)])[0].gap(72 * HOUR, 9 * day) is None
    assert told([*before, expiry(9 * day)])[0].gap(72 * HOUR, 13 * day) == Gap(9 * day, 13 * day)


def test_a_clock_that_was_set_back_is_a_gap() -> None:
    history, _ = told([granted(9 * HOUR), clock(HOUR, 9 * HOUR), granted(2 * HOUR)])
    assert history.gap(72 * HOUR, 2 * HOUR) == Gap(9 * HOUR, HOUR)


def test_what_was_done_last_is_the_last_of_its_type() -> None:
    first = entries.encode(entries.rotation("tree", "drill", by=BY, time_ms=1))
    second = entries.encode(entries.rotation("tree", "scheduled", by=BY, time_ms=5))
    published = [
        entries.encode(entries.checkpoint(sha256=bytes(32), size=at, by=BY, time_ms=at)) for at in (2, 3)
    ]
    history, _ = told([first, *published, second, granted(9)])
    assert history.rotated == {"tree": 5}
    newest = history.newest("checkpoint")
    assert newest is not None
    assert newest["size"] == 3
    assert history.newest("backup") is None
