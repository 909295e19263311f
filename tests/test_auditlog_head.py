"""The head's canonical form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from auditlog_help import BRANCH, NOW, destroy, genesis, grants
from facekeep.auditlog.head import Head
from facekeep.auditlog.merkle import leaf_hash
from facekeep.auditlog.rules import advance
from facekeep.errors import FormatError
from facekeep.formats import canonical, entries
from facekeep.limits import LIMITS


def head() -> Head:
    now = Head.empty(b"0" * 32)
    for entry in [genesis(), *grants(*range(BRANCH, BRANCH + LIMITS.grants_per_entry + 1)), *destroy(BRANCH)]:
        now = advance(now, entry, leaf_hash(entries.encode(entry)), b"c" * 32)
    return now


def test_a_head_comes_back() -> None:
    original = head()
    assert Head.decode(original.encode()) == original
    assert [tuple(each) for each in original.open] == [(1, 2, "grant", "enroll"), (3, 1, "destroy", "shred")]
    assert original.alloc == {0: 16, 2: LIMITS.grants_per_entry + 1}
    assert original.high_ms == NOW
    assert (original.size, original.control_seq, original.epoch, original.whole) == (4, 4, 1, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(v=2),
        lambda h: h.update(v=True),
        lambda h: h.pop("epoch"),
        lambda h: h.update(extra=1),
        lambda h: h.update(size=-1),
        lambda h: h.update(size=True),
        lambda h: h.update(size=5),
        lambda h: h.update(control_seq=5),
        lambda h: h.update(high_ms="1"),
        lambda h: h.update(frontier=[]),
        lambda h: h.update(frontier="0" * 64),
        lambda h: h["frontier"].append("0" * 64),
        lambda h: h.update(chain="0" * 63),
        lambda h: h.update(open={}),
        lambda h: h["open"].reverse(),
        lambda h: h["open"].append([3, 1, "destroy", "shred"]),
        lambda h: h["open"].append([4, 1, "destroy", "shred"]),
        lambda h: h["open"][0].__setitem__(1, 0),
        lambda h: h["open"][0].__setitem__(2, "backup"),
        lambda h: h["open"][0].__setitem__(3, "shred"),
        lambda h: h["open"][0].pop(),
        lambda h: h["open"][0].__setitem__(0, "1"),
        lambda h: h.update(alloc=[]),
        lambda h: h["alloc"].update({"02": 3}),
        lambda h: h["alloc"].update({"x": 3}),
        lambda h: h["alloc"].update({"4294967296": 3}),
        lambda h: h["alloc"].update({"2": 0}),
        lambda h: h["alloc"].update({"2": 1_728_001}),
        lambda h: h.update(settings=None),
        lambda h: h.update(fingerprint="F" * 64),
    ],
)
def test_a_head_out_of_form_is_refused(change: Callable[[Any], object]) -> None:
    value = json.loads(head().encode())
    change(value)
    with pytest.raises(FormatError):
        Head.decode(canonical.encode_trusted(value))


def test_a_head_that_is_not_canonical_is_refused() -> None:
    with pytest.raises(FormatError):
        Head.decode(head().encode() + b" ")
