"""What a log entry may look like: exact keys, types, ranges and closed lists (SPEC §6.1, §6.2).

``validate`` looks at one entry alone. Rules that need the entries before it are ``auditlog.head.advance``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from facekeep.errors import FormatError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import BRANCH_SLOTS, SLOT_BITS, SYSTEM_SLOTS, check_model_id
from facekeep.formats.matching import BOUNDS, CALIBRATED, MAX_THRESHOLDS
from facekeep.formats.terms import REGIONS, TERMS_LEN
from facekeep.limits import LIMITS

Check: TypeAlias = Callable[[object, str], None]

SAFE: Final = 2**53
VOIDS_PER_ENTRY: Final = 400
INDEX_MASK: Final = (1 << SLOT_BITS) - 1


class Reason(StrEnum):
    """Why a decision went as it did: the closed list of SPEC §6.2."""

    OK = "ok"
    PRINCIPAL_UNKNOWN = "principal_unknown"
    PRINCIPAL_REVOKED = "principal_revoked"
    ROLE = "role"
    SUBJECT_UNKNOWN = "subject_unknown"
    SCOPE = "scope"
    TERMS = "terms"
    NOT_BEFORE = "not_before"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    DESTROYED = "destroyed"
    REGION = "region"
    MODEL = "model"
    CLOCK = "clock"
    INTEGRITY = "integrity"
    UNAVAILABLE = "unavailable"
    POLICY = "policy"
    RATE = "rate"


SCOPES: Final = ("verify", "identify", "evaluate", "train", "share")
GRANT_OPS: Final = ("enroll", "grant", "renew", "reseal", "adopt")
DESTROY_OPS: Final = (
    "shred", "withdraw", "renew", "reseal", "revoke", "expire", "void", "extend", "rotate",
)  # fmt: skip
ROTATIONS: Final = ("root", "tree", "templates", "signing", "move")
LASTING_ROTATIONS: Final = ("templates", "move")  # several operations, until a ``rotated`` entry
ROTATION_REASONS: Final = (
    "scheduled", "compromise", "departure", "migration", "algorithm", "drill", "other",
)  # fmt: skip
PROVIDER_CLASSES: Final = ("erasing", "wrapping", "mirror", "recovery")


def _integer(low: int, high: int = SAFE) -> Check:
    def check(value: object, key: str) -> None:
        if type(value) is not int or not low <= value < high:
            raise FormatError(f"a log entry's {key} is not an integer in its range")

    return check


def _pattern(pattern: str, what: str) -> Check:
    match = re.compile(pattern + r"\Z", re.ASCII).match

    def check(value: object, key: str) -> None:
        if type(value) is not str or not match(value):
            raise FormatError(f"a log entry's {key} is not {what}")

    return check


def _hexed(length: int) -> Check:
    return _pattern(f"[0-9a-f]{{{2 * length}}}", f"{length} bytes of lower-case hex")


def _one_of(*words: str | bool) -> Check:
    allowed = frozenset((type(word), word) for word in words)

    def check(value: object, key: str) -> None:
        if type(value) not in (str, bool) or (type(value), value) not in allowed:
            raise FormatError(f"a log entry's {key} is not in its closed list")

    return check


def _nullable(inner: Check) -> Check:
    def check(value: object, key: str) -> None:
        if value is not None:
            inner(value, key)

    return check


def _array(inner: Check, low: int, high: int, *, rising: bool = False) -> Check:
    """``rising`` wants the elements strictly ascending, hence unique."""

    def check(value: object, key: str) -> None:
        if type(value) is not list or not low <= len(value) <= high:
            raise FormatError(f"a log entry's {key} is not an array of {low} to {high} elements")
        for item in value:
            inner(item, key)
        if rising and any(a >= b for a, b in itertools.pairwise(value)):
            raise FormatError(f"a log entry's {key} are not ascending and unique")

    return check


def _record(fields: Mapping[str, Check]) -> Check:
    names = frozenset(fields)

    def check(value: object, key: str) -> None:
        if type(value) is not dict or value.keys() != names:
            raise FormatError(f"a log entry's {key} does not have exactly its keys")
        for name, inner in fields.items():
            inner(value[name], name)

    return check


def _slot(value: object, key: str) -> None:
    if type(value) is not int or not 0 <= value < SAFE or (value & INDEX_MASK) >= BRANCH_SLOTS:
        raise FormatError(f"a log entry's {key} is not a slot id")


def _model(value: object, key: str) -> None:
    if type(value) is not str:
        raise FormatError(f"a log entry's {key} is not text")
    check_model_id(value)


def _ranges(value: object, key: str) -> None:
    """Ranges lie inside one branch each, ascend and do not touch."""
    if type(value) is not list or len(value) > LIMITS.ranges_per_entry:
        raise FormatError(f"a log entry's {key} is not an array of ranges")
    end = -1
    for item in value:
        if type(item) is not list or len(item) != 2 or type(item[1]) is not int:  # noqa: PLR2004 - a pair
            raise FormatError(f"a log entry's {key} has an element that is not [first, count]")
        _slot(item[0], key)
        if item[1] < 1 or (item[0] & INDEX_MASK) + item[1] > BRANCH_SLOTS or item[0] <= end:
            raise FormatError(f"a log entry's {key} are not ascending, apart and inside a branch")
        end = item[0] + item[1]


def _branch_bound(value: object, key: str) -> None:
    """``[branch, index]``: the slots of a branch below an index."""
    if type(value) is not list or len(value) != 2 or [type(each) for each in value] != [int, int]:  # noqa: PLR2004 - a pair
        raise FormatError(f"a log entry's {key} has an element that is not [branch, index]")
    if not (0 < value[0] < 2**32 and 0 < value[1] <= BRANCH_SLOTS):
        raise FormatError(f"a log entry's {key} is outside the key tree")


def _unique_slots(value: object, key: str) -> None:
    _array(_slot, 0, LIMITS.candidates)(value, key)
    slots = cast("list[int]", value)
    if len(set(slots)) != len(slots):
        raise FormatError(f"a log entry's {key} names a slot twice")


_H16, _H32, _PRINCIPAL = _hexed(16), _hexed(32), _hexed(8)
_WORD = _pattern(r"[a-z][a-z0-9_-]{0,39}", "a word")
_REGION = _one_of(*REGIONS)
_COUNT, _BOOL = _integer(0), _one_of(True, False)  # noqa: FBT003 - the JSON values
_PARTS = _integer(1, 2**32)
_VKEY = _pattern(r"[!-*,-~]{1,255}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{40,1760}={0,2}", "a verifier key")
_SIGNATURE = _pattern(r"(?:[0-9a-f]{128}|[0-9a-f]{4840})", "a signature")  # Ed25519, ML-DSA-44
_CLASS = _one_of(*PROVIDER_CLASSES)

_GRANT = _record(
    {
        "slot": _slot, "grant": _H16, "tag": _H32, "commitment": _H32, "terms": _hexed(TERMS_LEN),
        "model": _model, "from": _nullable(_slot),
    }
)  # fmt: skip
_RECEIPT = _record(
    {"class": _CLASS, "scheme": _WORD, "action": _WORD, "limits": _array(_WORD, 0, 32, rising=True)}
)
_TREE = _record({"root": _H32, "size": _COUNT})
_COMMON: dict[str, Check] = {
    "v": _integer(1, 2), "type": _WORD, "nonce": _H16, "time_ms": _COUNT, "by": _nullable(_PRINCIPAL),
}  # fmt: skip

_FURTHER: dict[str, dict[str, Check]] = {
    "genesis": {
        "vault": _H16, "suite": _integer(1, 2), "epoch": _integer(1), "fingerprint": _H32,
        "provider": _record({"class": _CLASS, "scheme": _WORD}), "settings": _H32,
    },
    "restart": {
        "vault": _H16, "suite": _integer(1, 2), "epoch": _integer(1), "fingerprint": _H32,
        "provider": _record({"class": _CLASS, "scheme": _WORD}), "settings": _H32, "pin": _TREE,
        "seen": _nullable(_TREE), "keys": _array(_VKEY, 2, 2), "signatures": _array(_SIGNATURE, 2, 2),
    },
    "restarted": {
        "closed": _array(_integer(1, 2**32), 0, 120, rising=True), "left": _COUNT,
        "next": _integer(SYSTEM_SLOTS, BRANCH_SLOTS + 1),
    },
    "grant": {
        "op": _one_of(*GRANT_OPS), "part": _PARTS, "parts": _PARTS,
        "grants": _array(_GRANT, 1, LIMITS.grants_per_entry),
    },
    "principal": {
        "principal": _PRINCIPAL, "slot": _slot, "grant": _H16, "commitment": _H32,
        "roles": _array(_WORD, 1, 16, rising=True),
    },
    "granted": {"of": _COUNT},
    "destroy": {
        "op": _one_of(*DESTROY_OPS), "part": _PARTS, "parts": _PARTS, "slots": _ranges,
        "tags": _array(_H32, 0, LIMITS.tags_per_entry, rising=True),
        "voids": _array(_COUNT, 0, VOIDS_PER_ENTRY, rising=True),
    },
    "destroyed": {
        "of": _COUNT, "epoch": _integer(1), "fingerprint": _H32, "previous": _H32,
        "receipts": _array(_RECEIPT, 0, 16),
    },
    "decision": {
        "op": _one_of("verify", "identify"), "allow": _BOOL, "reason": _one_of(*map(str, Reason)),
        "scope": _one_of(*SCOPES), "region": _REGION, "model": _model,
    },
    "settings": {"digest": _H32, "previous": _H32},
    "rotation": {
        "what": _one_of(*ROTATIONS), "reason": _one_of(*ROTATION_REASONS),
        "below": _array(_branch_bound, 0, 120, rising=True), "model": _nullable(_model),
    },
    "rotated": {"of": _COUNT, "left": _COUNT},
    "checkpoint": {"sha256": _H32, "size": _integer(1)},
    "signing": {
        "generation": _integer(2, 2**32), "previous": _array(_VKEY, 2, 2), "keys": _array(_VKEY, 2, 2),
        "signatures": _array(_SIGNATURE, 4, 4),
    },
    "clock": {"high_ms": _COUNT},
    "backup": {"rows": _COUNT, "sha256": _H32, "size": _integer(1)},
    "restore": {
        "sha256": _H32, "rows": _COUNT, "merged": _COUNT, "dead": _COUNT, "present": _COUNT,
        "refused": _COUNT, "missing": _COUNT,
    },
}  # fmt: skip

#: Entry type -> its keys and their checks.
FIELDS: Final[Mapping[str, Mapping[str, Check]]] = MappingProxyType(
    {name: MappingProxyType({**_COMMON, **further}) for name, further in _FURTHER.items()}
)


def _limits(value: object, key: str) -> None:
    """``[model, value_e6, mean_e6]``."""
    if type(value) is not list or len(value) != 3:  # noqa: PLR2004 - a triple
        raise FormatError(f"a log entry's {key} has an element that is not [model, limit, limit for means]")
    _model(value[0], key)
    for each in value[1:]:
        _COUNT(each, key)


def _one_each(value: object, key: str) -> None:
    """Limits by model, one of each."""
    _array(_limits, 0, _MODELS, rising=True)(value, key)
    models = [each[0] for each in cast("list[list[object]]", value)]
    if len(set(models)) != len(models):
        raise FormatError(f"a log entry's {key} name a model twice")


_MODELS: Final = 2 * MAX_THRESHOLDS + len(CALIBRATED)
_MATCHING: Final = _record(
    {
        **{key: _integer(low, high + 1) for key, (low, high) in BOUNDS.items()},
        "scores": _BOOL,
        "search_thresholds": _one_each,
        "thresholds": _one_each,
    }
)

_STATED: Final[Mapping[str, Check]] = {
    "matching": _MATCHING,
    "regions": _array(_REGION, 1, LIMITS.regions + 1, rising=True),
}

#: Entry type -> keys that may be absent, which says something too (SPEC §6.1, §6.2).
OPTIONAL: Final[Mapping[str, Mapping[str, Check]]] = MappingProxyType(
    {
        "genesis": _STATED,
        "restart": _STATED,
        "settings": _STATED,
        "destroy": {"sought": _H16},
        "decision": {
            "tag": _H32, "slot": _slot, "threshold_e6": _COUNT, "result": _one_of("match", "no_match"),
            "count": _COUNT, "set": _H32, "candidates": _unique_slots, "excluded": _COUNT, "omitted": _ranges,
            "mean_e6": _COUNT, "most": _integer(1, LIMITS.candidates + 1), "score": _one_of(True),  # noqa: FBT003 - the JSON value
        },
    }
)  # fmt: skip
_NO_OPTIONS: Final[Mapping[str, Check]] = {}


def validate(entry: object) -> JsonObject:
    """Return the entry if it follows SPEC §6 by itself, or raise FormatError."""
    if type(entry) is not dict or type(entry.get("type")) is not str:
        raise FormatError("a log entry is not an object with a type")
    fields = FIELDS.get(entry["type"])
    if fields is None:
        raise FormatError("a log entry has an unknown type")
    if entry.keys() != fields.keys():
        options = OPTIONAL.get(entry["type"], _NO_OPTIONS)
        given = entry.keys() - fields.keys()
        if not fields.keys() <= entry.keys() or not given <= options.keys():
            raise FormatError(f"a log entry of type {entry['type']} does not have exactly its keys")
        for key in given:
            options[key](entry[key], key)
    for key, check in fields.items():
        check(entry[key], key)
    across = _ACROSS.get(entry["type"])
    if across is not None:
        across(entry)
    return cast("JsonObject", entry)


def _across_parts(entry: Mapping[str, int]) -> None:
    if entry["part"] > entry["parts"]:
        raise FormatError("a log entry's part is greater than its parts")


def _across_grant(entry: Mapping[str, int]) -> None:
    _across_parts(entry)
    grants = cast("list[dict[str, int]]", entry["grants"])
    if len({grant["slot"] for grant in grants}) != len(grants):
        raise FormatError("a log entry's grants name a slot twice")


def _across_destroy(entry: Mapping[str, Any]) -> None:
    _across_parts(entry)
    if entry["op"] == "void" and entry["part"] == 1 and not entry["voids"]:
        raise FormatError("a log entry of op void does not say what it voids")
    named = any(entry[each] for each in ("slots", "tags", "voids")) or entry["parts"] > 1
    if "sought" in entry and (named or entry["op"] not in ("shred", "withdraw")):
        raise FormatError("a log entry that seeks somebody names what it destroys, or is no erasure")


def _across_decision(entry: Mapping[str, Any]) -> None:
    """Hold its keys to op and outcome, and its values to one another (SPEC §6.2)."""
    allow = entry["allow"]
    if allow is not (entry["reason"] == "ok"):
        raise FormatError("a decision's allow and reason do not agree")
    wanted, options = _DECIDED[entry["op"], allow]
    given = entry.keys() - FIELDS["decision"].keys()
    if not wanted <= given <= wanted | options:
        raise FormatError("a decision does not have exactly the keys of its op and outcome")
    if allow and entry["op"] == "identify":
        _across_search(entry)


def _across_search(entry: Mapping[str, Any]) -> None:
    """Hold the values of an allowed search to one another."""
    if (entry["result"] == "match") is not bool(entry["candidates"]):
        raise FormatError("a decision's result and candidates do not agree")
    if entry.get("mean_e6") == entry["threshold_e6"]:
        raise FormatError("a decision's mean_e6 is its threshold_e6, and so does not stand in it")
    if entry.get("most") not in (None, len(entry["candidates"])):
        raise FormatError("a decision was cut at another number than its candidates")


def _across_rotation(entry: Mapping[str, Any]) -> None:
    """Hold what is selected to templates, and each branch to one bound (SPEC §6.1)."""
    if entry["what"] != "templates" and (entry["below"] or entry["model"]):
        raise FormatError("a rotation of no templates selects templates")
    branches = [branch for branch, _ in entry["below"]]
    if len(set(branches)) != len(branches):
        raise FormatError("a rotation names a branch twice")


_NONE: Final[frozenset[str]] = frozenset()
_ANSWERED: Final = frozenset({"threshold_e6", "result"})
#: (op, allow) -> keys that a decision has, and keys that it may have besides (SPEC §6.2).
_DECIDED: Final[Mapping[tuple[str, bool], tuple[frozenset[str], frozenset[str]]]] = {
    ("verify", False): (_NONE, frozenset({"tag", "slot"})),
    ("identify", False): (_NONE, _NONE),
    ("verify", True): (_ANSWERED | {"tag", "slot"}, frozenset({"score"})),
    ("identify", True): (
        _ANSWERED | {"count", "set", "candidates", "excluded", "omitted"},
        frozenset({"mean_e6", "most", "score"}),
    ),
}
_ACROSS: Final[Mapping[str, Callable[..., None]]] = {
    "grant": _across_grant,
    "destroy": _across_destroy,
    "decision": _across_decision,
    "rotation": _across_rotation,
}
