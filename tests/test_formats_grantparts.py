"""Grant entries built as text are those of the builders that ``entries`` checks and encodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditlog_help import BRANCH, BY, NOW
from facekeep.errors import FormatError
from facekeep.formats import entries
from facekeep.formats.grantparts import Columns, Element, grant_columns, grant_parts

TOP = 2**53 - 2**21
ELEMENTS = st.builds(
    Element,
    st.integers(BRANCH, BRANCH + 1_000_000) | st.integers(TOP, TOP + 1_000),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=88, max_size=88),
    st.from_regex(r"[a-z0-9._:/-]{1,40}", fullmatch=True),
    st.none() | st.integers(BRANCH, BRANCH + 1_000_000),
)
GOOD = Element(BRANCH, b"g" * 16, b"t" * 32, b"c" * 32, b"z" * 88, "raw:m/1", None)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(ELEMENTS, min_size=1, max_size=40, unique_by=lambda each: each.slot),
    st.sampled_from(entries.GRANT_OPS),
    st.sampled_from([None, BY]),
    st.integers(0, 2**53 - 1),
)
def test_they_are_the_same_bytes(elements: list[Element], op: str, by: str | None, time_ms: int) -> None:
    nonces = [f"{at:032x}" for at in range(3)]
    items = [
        entries.grant_item(
            slot=each.slot,
            grant=each.grant_id,
            tag=each.tag,
            commitment=each.commitment,
            terms=each.terms,
            model=each.model,
            source=each.source,
        )
        for each in elements
    ]
    expected = entries.grant_entries(op, items, by=by, time_ms=time_ms, nonces=nonces)
    parts = grant_parts(op, elements, by=by, time_ms=time_ms, nonces=nonces)
    assert [part.body for part in parts] == [entries.encode(entry) for entry in expected]
    for part, entry in zip(parts, expected, strict=True):
        assert entries.slots_of(part.facts) == entries.slots_of(entry)
        assert part.facts | {"grants": None} == {key: entry[key] for key in part.facts} | {"grants": None}


def test_nonces_are_random() -> None:
    parts = grant_parts("enroll", [GOOD._replace(slot=BRANCH + at) for at in range(40)], by=BY, time_ms=NOW)
    assert len({entries.parse(part.body)["nonce"] for part in parts}) == 3
    assert grant_parts("enroll", [], by=BY, time_ms=NOW) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"slot": -1},
        {"slot": 2**53},
        {"slot": BRANCH + 1_728_000},
        {"source": 2**53},
        {"grant_id": b"g" * 15},
        {"tag": b"t" * 33},
        {"commitment": b""},
        {"terms": b"z" * 87},
        {"grant_id": b"g" * 17, "tag": b"t" * 31},
        {"model": 'm"'},
        {"model": "m" * 41},
    ],
)
def test_what_no_entry_may_hold_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        grant_parts("enroll", [GOOD._replace(**wrong)], by=BY, time_ms=NOW)


@pytest.mark.parametrize(
    ("op", "by", "time_ms"), [("seal", BY, NOW), ("enroll", "x", NOW), ("enroll", BY, 2**53)]
)
def test_a_wrong_frame_is_refused(op: str, by: str, time_ms: int) -> None:
    with pytest.raises(FormatError):
        grant_parts(op, [GOOD], by=by, time_ms=time_ms)


def columns(elements: list[Element]) -> Columns:
    heads = b"".join(each.grant_id + each.tag + each.terms + each.commitment for each in elements)
    return Columns(
        np.array([each.slot for each in elements], np.int64),
        np.array([each.source for each in elements], np.int64),
        np.frombuffer(heads, np.uint8).reshape(len(elements), -1),
        [each.model for each in elements],
    )


@settings(deadline=None, max_examples=50)
@given(
    st.lists(ELEMENTS, min_size=1, max_size=40, unique_by=lambda each: each.slot),
    st.integers(BRANCH, BRANCH + 10_000) | st.just(9_999_999),
    st.booleans(),
)
def test_columns_are_the_same_bytes(elements: list[Element], source: int, alike: bool) -> None:
    """Of one model and as many digits they are a table, else made one by one."""
    elements = [
        each._replace(source=source + at, model="raw:m/1" if alike else each.model)
        for at, each in enumerate(elements)
    ]
    nonces = [f"{at:032x}" for at in range(3)]
    expected = grant_parts("reseal", elements, by=BY, time_ms=NOW, nonces=nonces)
    assert grant_columns("reseal", columns(elements), by=BY, time_ms=NOW, nonces=nonces) == expected


@pytest.mark.parametrize(
    "bad",
    [
        GOOD._replace(slot=-1, source=BRANCH),
        GOOD._replace(slot=2**53, source=BRANCH),
        GOOD._replace(source=-1),
        GOOD._replace(source=2**53),
        GOOD._replace(source=BRANCH, terms=b"z" * 87),
        GOOD._replace(source=BRANCH, model="a model"),
    ],
)
def test_columns_are_checked(bad: Element) -> None:
    with pytest.raises(FormatError):
        grant_columns("reseal", columns([bad]), by=BY, time_ms=NOW)
