"""Every entry type: what the builders make is accepted, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from auditlog_help import BRANCH, BY, NOW, decision, destroyed, genesis, granted, item
from facekeep.errors import FormatError
from facekeep.formats import canonical, entries
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.ids import from_ranges
from facekeep.limits import LIMITS


def identify(*, reason: str = "ok") -> JsonObject:
    ok = reason == "ok"
    return entries.decision_identify(
        by=BY,
        time_ms=NOW,
        reason=reason,
        scope="identify",
        region="DE",
        model="dlib/1",
        threshold_e6=300_000 if ok else None,
        count=3 if ok else None,
        set_digest=b"d" * 32 if ok else None,
        candidates=[BRANCH + 1, BRANCH] if ok else None,
        excluded=1 if ok else None,
        omitted=[BRANCH + 5] if ok else None,
    )


def examples() -> dict[str, JsonObject]:
    return {
        "genesis": genesis(),
        "grant": entries.grant_entries("grant", [item(BRANCH), item(BRANCH + 1, BRANCH)], by=BY, time_ms=NOW)[
            0
        ],
        "principal": entries.principal(
            principal=BY,
            slot=16,
            grant=b"g" * 16,
            commitment=b"c" * 32,
            roles=["verifier", "admin"],
            by=None,
            time_ms=NOW,
        ),
        "granted": granted(1),
        "destroy": entries.destroy_entries(
            "void", [BRANCH, BRANCH + 1, BRANCH + 9], tags=[b"t" * 32], voids=[1], by=BY, time_ms=NOW
        )[0],
        "destroyed": destroyed(4),
        "decision": decision(),
        "denial": decision(reason="expired"),
        "identify": identify(),
        "identify-denied": identify(reason="role"),
        "settings": entries.settings(b"n" * 32, b"o" * 32, by=BY, time_ms=NOW),
        "clock": entries.clock(NOW + 9_000, by=BY, time_ms=NOW),
        "backup": entries.backup(rows=4, sha256=b"h" * 32, size=7, by=BY, time_ms=NOW),
        "restore": entries.restore(
            sha256=b"h" * 32,
            rows=9,
            merged=4,
            dead=3,
            present=2,
            refused=0,
            missing=1,
            by=BY,
            time_ms=NOW,
        ),
    }


@pytest.mark.parametrize("name", examples())
def test_what_is_built_is_parsed_again(name: str) -> None:
    entry = examples()[name]
    data = entries.encode(entry)
    assert data == rfc8785.dumps(entry)
    assert entries.parse(data) == entry


@pytest.mark.parametrize("name", examples())
def test_every_key_is_needed_and_no_other_is_taken(name: str) -> None:
    entry = examples()[name]
    for key in entry.keys() - ({"tag", "slot"} if name == "denial" else set()):
        with pytest.raises(FormatError):
            entries.validate({other: value for other, value in entry.items() if other != key})
    with pytest.raises(FormatError):
        entries.validate(entry | {"note": "free text"})


@pytest.mark.parametrize("name", examples())
def test_no_value_of_another_type_is_taken(name: str) -> None:
    entry = examples()[name]
    others: list[Any] = [1.0, -1, "X", "", [-1], {}, 2**53, [[1, 1, 1]], True]
    for key, value in entry.items():
        for wrong in others:
            if wrong == value and type(wrong) is type(value):
                continue
            if wrong is True and key == "allow":
                continue
            with pytest.raises(FormatError):
                entries.validate(entry | {key: wrong})


def spoilt(name: str, change: Callable[[Any], object]) -> JsonObject:
    entry = copy.deepcopy(examples()[name])
    change(entry)
    return entry


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("grant", lambda e: e.update(part=2)),
        ("grant", lambda e: e.update(part=0)),
        ("grant", lambda e: e.update(op="shred")),
        ("grant", lambda e: e.update(grants=[])),
        ("grant", lambda e: e["grants"].append(e["grants"][0])),
        ("grant", lambda e: e["grants"][0].update(subject="Ada")),
        ("grant", lambda e: e["grants"][0].update(model="DLIB")),
        ("grant", lambda e: e["grants"][0].update(slot=BRANCH + 1_728_000)),
        ("grant", lambda e: e.update(grants=e["grants"] * 71)),
        ("principal", lambda e: e.update(roles=["verifier", "admin"])),
        ("principal", lambda e: e.update(roles=["admin", "admin"])),
        ("principal", lambda e: e.update(roles=[])),
        ("destroy", lambda e: e.update(voids=[])),
        ("destroy", lambda e: e.update(voids=[2, 1])),
        ("destroy", lambda e: e.update(slots=[[BRANCH, 0]])),
        ("destroy", lambda e: e.update(slots=[[BRANCH, 1], [BRANCH + 1, 1]])),
        ("destroy", lambda e: e.update(slots=[[BRANCH + 2, 1], [BRANCH, 1]])),
        ("destroy", lambda e: e.update(slots=[[BRANCH, 1_728_001]])),
        ("destroy", lambda e: e.update(slots=[[BRANCH, True]])),
        ("destroy", lambda e: e.update(tags=["T" * 64])),
        ("destroy", lambda e: e.update(op="erase")),
        ("destroyed", lambda e: e["receipts"][0].update(limits=["free text here"])),
        ("destroyed", lambda e: e["receipts"][0].update(limits=["b", "a"])),
        ("destroyed", lambda e: e["receipts"][0].update({"class": "perfect"})),
        ("destroyed", lambda e: e.update(epoch=0)),
        ("decision", lambda e: e.update(allow=False)),
        ("decision", lambda e: e.update(reason="because")),
        ("decision", lambda e: e.update(slot=None)),
        ("decision", lambda e: e.update(result=None)),
        ("decision", lambda e: e.update(count=1)),
        ("decision", lambda e: e.update(region="eu")),
        ("decision", lambda e: e.update(region="EU\n")),
        ("denial", lambda e: e.update(result="match")),
        ("denial", lambda e: e.update(threshold_e6=1)),
        ("identify", lambda e: e.update(tag="0" * 64)),
        ("identify", lambda e: e.update(candidates=[])),
        ("identify", lambda e: e.update(result="no_match")),
        ("identify", lambda e: e.update(candidates=[BRANCH, BRANCH])),
        ("identify", lambda e: e.update(count=None)),
        ("identify-denied", lambda e: e.update(excluded=0)),
        ("genesis", lambda e: e.update(suite=2)),
        ("genesis", lambda e: e.update(type="Genesis")),
        ("backup", lambda e: e.update(v=2)),
        ("backup", lambda e: e.update(v=True)),
        ("backup", lambda e: e.update(nonce="0" * 31)),
        ("backup", lambda e: e.update(nonce="０" * 32)),  # noqa: RUF001 - digits of another script
    ],
)
def test_broken_entries_are_refused(name: str, change: Callable[[Any], object]) -> None:
    with pytest.raises(FormatError):
        entries.validate(spoilt(name, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data.replace(b'"v":1', b'"v":1.0'),
        lambda data: data.replace(b'"v":1', b'"v":1,"v":1'),
        lambda data: data.replace(b"granted", rb"gr\u0061nted"),
        lambda data: data.replace(b'"of":1', b'"of":01'),
        lambda data: data.replace(b'"of":1', b'"of":NaN'),
        lambda data: data.replace(b'"of":1', b'"of":' + b"9" * 5000),
        lambda data: data[:-1],
        lambda _data: b"",
        lambda _data: b"\xff",
        lambda _data: b"[]",
        lambda _data: b"[" * 60_000,
        lambda data: data + b" " * 65_536,
    ],
)
def test_bytes_that_are_not_canonical_are_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FormatError):
        entries.parse(change(entries.encode(granted(1))))


def test_utf16_is_refused() -> None:
    with pytest.raises(FormatError):
        entries.parse(entries.encode(granted(1)).decode().encode("utf-16"))


@given(st.binary(max_size=80))
def test_the_parser_raises_nothing_but_its_own_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        entries.parse(data)


def test_the_longest_grants_fit_an_entry() -> None:
    top = 2**53 - 2**21
    grants = [
        entries.grant_item(
            slot=top + at,
            grant=b"g" * 16,
            tag=b"t" * 32,
            commitment=b"c" * 32,
            terms=b"z" * 88,
            model="m" * 40,
            source=top,
        )
        for at in range(500)
    ]
    parts = entries.grant_entries("reseal", grants, by=BY, time_ms=2**53 - 1)
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    assert sum(len(entries.slots_of(part)) for part in parts) == 500
    for part in parts:
        assert entries.parse(entries.encode(part)) == part


def test_the_longest_destruction_fits_its_entries() -> None:
    top = 2**53 - 2**21
    slots = [top + 2 * at for at in range(2500)]
    tags = [number.to_bytes(32, "big") for number in range(1000)]
    parts = entries.destroy_entries(
        "void", slots, tags=tags, voids=range(10**15, 10**15 + 900), by=BY, time_ms=NOW
    )
    assert len(parts) == 10
    assert len(entries.encode(parts[0])) < 20_000  # a shredding proof carries whole entries
    ranges = [each for part in parts for each in cast("list[list[int]]", part["slots"])]
    assert from_ranges(ranges) == slots
    for key, expected in (
        ("tags", [tag.hex() for tag in tags]),
        ("voids", list(range(10**15, 10**15 + 900))),
    ):
        assert [each for part in parts for each in part[key]] == expected  # type: ignore[union-attr]
    for part in parts:
        assert entries.parse(entries.encode(part)) == part


def test_no_grants_are_no_entries_but_a_destruction_may_name_nothing() -> None:
    assert entries.grant_entries("grant", [], by=BY, time_ms=NOW) == []
    (entry,) = entries.destroy_entries("extend", by=BY, time_ms=NOW)
    assert entry["slots"] == []


def test_ranges_are_taken_as_they_are() -> None:
    (entry,) = entries.destroy_entries("rotate", ranges=[(BRANCH, 1_000_000)], by=BY, time_ms=NOW)
    assert entry["slots"] == [[BRANCH, 1_000_000]]
    assert entries.validate(entry)


def test_an_entry_over_the_limit_is_refused() -> None:
    with pytest.raises(FormatError, match="65,535"):
        entries.parse(b'{"by":"' + b"0" * LIMITS.entry_bytes)
    assert LIMITS.entry_bytes == 65_535


def test_a_grant_entry_of_more_than_sixteen_is_refused() -> None:
    longest: JsonObject = {"model": "m" * 40, "from": 2**53 - 2**21}
    grants: list[JsonValue] = [item(2**53 - 2**21 + at) | longest for at in range(17)]
    huge = entries.grant_entries("grant", [item(BRANCH)], by=BY, time_ms=NOW)[0] | {"grants": grants}
    with pytest.raises(FormatError, match="1 to 16"):
        entries.encode(huge)
    with pytest.raises(FormatError, match="1 to 16"):
        entries.parse(canonical.encode_trusted(huge))
    assert len(entries.encode(huge | {"grants": grants[:16]})) < 8_192


@pytest.mark.parametrize("name", examples())
def test_opened_slots_are_read_without_parsing(name: str) -> None:
    entry = examples()[name]
    assert entries.slots_in(entries.encode(entry)) == entries.slots_of(entry)
    assert bool(entries.slots_of(entry)) is (name in {"grant", "principal"})


@pytest.mark.parametrize("make", [decision, identify])
@pytest.mark.parametrize("reason", ["ok", "expired"])
def test_decisions_are_read_without_parsing(make: Callable[..., JsonObject], reason: str) -> None:
    body = entries.decision_body(make(reason=reason))
    assert entries.decision_time_ms(body) == NOW
    assert entries.decision_allow(body) is (reason == "ok")
    assert entries.is_decision(body)
    assert not entries.is_decision(entries.encode(granted(1)))
    with pytest.raises(FormatError):
        entries.decision_time_ms(entries.encode(granted(1)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "eu"},
        {"region": "EU "},
        {"model": "Modèle"},
        {"scope": "all"},
        {"reason": "none"},
        {"by": "me"},
        {"tag": b"t" * 31},
        {"slot": -1},
        {"slot": 2**53},
        {"slot": BRANCH + 1_728_000},
        {"threshold_e6": 0.36},
        {"threshold_e6": -1},
        {"time_ms": 1.5},
        {"time_ms": -1},
        {"match": None},
        {"nonce": "x"},
    ],
)
def test_a_caller_cannot_put_a_malformed_decision_into_the_log(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "by": BY, "time_ms": NOW, "reason": "ok", "scope": "verify", "region": "EU", "model": "dlib/1",
        "threshold_e6": 1, "tag": b"t" * 32, "slot": BRANCH, "match": False,
    }  # fmt: skip
    assert entries.parse(entries.decision_body(entries.decision_verify(**good)))
    for _ in range(2):  # the second time its words are known
        with pytest.raises(FormatError):
            entries.decision_verify(**good | wrong)


def test_the_reasons_are_the_closed_list_of_the_specification() -> None:
    assert sorted(entries.Reason) == sorted(
        [
            "ok",
            "principal_unknown",
            "principal_revoked",
            "role",
            "subject_unknown",
            "scope",
            "terms",
            "not_before",
            "expired",
            "withdrawn",
            "destroyed",
            "region",
            "model",
            "clock",
            "integrity",
            "unavailable",
            "policy",
            "rate",
        ]
    )
    assert entries.decision_verify(
        by=None,
        time_ms=NOW,
        reason=entries.Reason.SUBJECT_UNKNOWN,
        scope="verify",
        region="ZZ",
        model="m",
    )
