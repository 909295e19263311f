"""Packed consent terms: 88 bytes, checked a million at a time (SPEC §5.3)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from facekeep.errors import FormatError, ScopeUnknown
from facekeep.limits import LIMITS

TERMS_LEN: Final = 88
VERSION: Final = 1
DIGEST_LEN: Final = 32
_LAYOUT = struct.Struct(">BBHQQ32sHH32s")
_SAFE_MS: Final = 2**53
_SHARED: Final = TERMS_LEN - DIGEST_LEN
_NO_DIGEST: Final = bytes(DIGEST_LEN)

#: How templates are compared; a metric's place here is the number in ``flags``.
METRICS: Final = ("l2", "cosine")

#: Member states of the European Union: a grant for ``EU`` covers processing in each of them.
EU_MEMBERS: Final = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split()  # noqa: SIM905 - one line reads better
)

#: Every region code: ISO 3166-1:2020 alpha-2 as of April 2023, ``EU``, and ``ZZ`` for "not stated".
REGIONS: Final = frozenset(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT
    BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH
    ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT
    HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS
    LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI
    NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG
    SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG
    UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW EU ZZ
    """.split()  # noqa: SIM905 - as in SPEC
)

#: One row of packed terms as a NumPy record, big-endian, 88 bytes.
TERMS_DTYPE = np.dtype(
    [
        ("version", "u1"),
        ("scope", "u1"),
        ("flags", ">u2"),
        ("not_before_ms", ">u8"),
        ("expires_at_ms", ">u8"),
        ("regions", ">u2", (16,)),
        ("count", ">u2"),
        ("dimension", ">u2"),
        ("record_digest", "u1", (32,)),
    ]
)


class Scope(IntEnum):
    """What a grant allows; the number is the branch kind in the key tree (SPEC §3.3)."""

    VERIFY = 2
    IDENTIFY = 3
    EVALUATE = 4
    TRAIN = 5
    SHARE = 6

    @property
    def word(self) -> str:
        """The scope as written in consent records, entries and commands."""
        return self.name.lower()

    @staticmethod
    def from_word(word: str) -> Scope:
        """Scope of its word; raises ScopeUnknown."""
        try:
            return Scope[word.upper()] if word.islower() else Scope(-1)
        except (KeyError, ValueError, AttributeError, TypeError):
            raise ScopeUnknown("a scope is not one of verify, identify, evaluate, train, share") from None


def scopes_of(given: Iterable[Scope | str]) -> tuple[Scope, ...]:
    """Scopes, of which some may be given by their words; raises ScopeUnknown."""
    return tuple(each if isinstance(each, Scope) else Scope.from_word(each) for each in given)


@dataclass(frozen=True, slots=True)
class Terms:
    """Unpacked terms. Times in ms; ``regions`` sorted two-letter codes; what the sealed array is."""

    scope: Scope
    not_before_ms: int
    expires_at_ms: int
    regions: tuple[str, ...]
    count: int
    dimension: int
    record_digest: bytes
    metric: str = "l2"

    @property
    def photographs(self) -> int:
        """Photographs behind the templates: row 0 is their mean where there are several."""
        return max(1, self.count - 1)

    def pack(self) -> bytes:
        """Encode; raises FormatError when a field is out of its range."""
        self._check()
        regions = "".join(self.regions).encode("ascii").ljust(32, b"\0")
        return _LAYOUT.pack(
            VERSION,
            self.scope,
            METRICS.index(self.metric),
            self.not_before_ms,
            self.expires_at_ms,
            regions,
            self.count,
            self.dimension,
            self.record_digest,
        )

    @staticmethod
    def unpack(raw: bytes) -> Terms:
        """Decode strictly; raises FormatError unless it packs to the same bytes."""
        if len(raw) != TERMS_LEN:
            raise FormatError("packed terms are not 88 bytes")
        shared, metric = _unpack_shared(raw[:_SHARED])
        return Terms(*shared, raw[_SHARED:], metric)

    def _check(self) -> None:
        if not 0 <= self.not_before_ms < self.expires_at_ms < _SAFE_MS:
            raise FormatError("terms must expire after they begin")
        check_regions(self.regions)
        if not (1 <= self.count <= LIMITS.templates and 1 <= self.dimension <= LIMITS.dimension):
            raise FormatError("terms name an impossible template shape")
        if self.metric not in METRICS:
            raise FormatError("terms name an unknown metric")
        if len(self.record_digest) != DIGEST_LEN:
            raise FormatError("a record digest is not 32 bytes")


@lru_cache(maxsize=1024)
def _unpack_shared(shared: bytes) -> tuple[tuple[Scope, int, int, tuple[str, ...], int, int], str]:
    """Decode all but the digest, the metric apart: the same for everybody who consented to a notice."""
    version, scope, flags, start, end, packed, count, dimension, _ = _LAYOUT.unpack(shared + _NO_DIGEST)
    if version != VERSION or flags >= len(METRICS):
        raise FormatError("packed terms have an unknown version or flags")
    try:
        names = packed.rstrip(b"\0").decode("ascii")
        kind = Scope(scope)
    except ValueError:
        raise FormatError("packed terms have an unknown scope or region") from None
    regions = tuple(names[at : at + 2] for at in range(0, len(names), 2))
    terms = Terms(kind, start, end, regions, count, dimension, _NO_DIGEST, METRICS[flags])
    if terms.pack() != shared + _NO_DIGEST:
        raise FormatError("packed terms are not canonical")
    return (kind, start, end, regions, count, dimension), terms.metric


@lru_cache(maxsize=256)
def check_regions(regions: tuple[str, ...]) -> None:
    """Raise FormatError unless 1 to 16 region codes, sorted and unique."""
    if not 1 <= len(regions) <= LIMITS.regions or list(regions) != sorted(set(regions)):
        raise FormatError("regions must be 1 to 16 codes, sorted and unique")
    if not REGIONS.issuperset(regions):
        raise FormatError("a region is no country's code in ISO 3166-1 (two capital letters), nor EU, nor ZZ")


def region_number(code: str) -> int:
    """Region code as the u16 that stands in packed terms."""
    check_regions((code,))
    return int.from_bytes(code.encode("ascii"), "big")


@lru_cache(maxsize=256)
def _shared_part(
    scope: Scope,
    start_ms: int,
    end_ms: int,
    regions: tuple[str, ...],
    count: int,
    dimension: int,
    metric: str,
) -> bytes:
    return Terms(scope, start_ms, end_ms, regions, count, dimension, _NO_DIGEST, metric).pack()[:_SHARED]


def pack_terms(
    scope: Scope,
    start_ms: int,
    end_ms: int,
    regions: tuple[str, ...],
    count: int,
    dimension: int,
    record_digest: bytes,
    metric: str,
) -> bytes:
    """``Terms(...).pack()`` for many subjects who share everything but the digest."""
    return _shared_part(scope, start_ms, end_ms, regions, count, dimension, metric) + record_digest


def expires_at(packed: bytes) -> int:
    """Expiry in packed terms, ms."""
    return int.from_bytes(packed[12:20], "big")


@lru_cache(maxsize=256)
def covering_regions(region: str) -> frozenset[str]:
    """Region codes of which any one in a grant allows processing in ``region``."""
    return frozenset((region, "EU") if region in EU_MEMBERS else (region,))


def valid_now(terms: npt.NDArray[np.void], scope: Scope, region: str, now_ms: int) -> npt.NDArray[np.bool_]:
    """Mask of shape (n,): rows whose scope, window and region allow use now. ``terms`` has TERMS_DTYPE."""
    codes = [region_number(code) for code in covering_regions(region)]
    return np.asarray(
        (terms["version"] == VERSION)
        & (terms["flags"] < len(METRICS))
        & (terms["scope"] == scope)
        & (terms["not_before_ms"] <= now_ms)
        & (terms["expires_at_ms"] > now_ms)
        & np.isin(terms["regions"], codes).any(axis=1)
    )


def is_shaped(terms: npt.NDArray[np.void], dimension: int, metric: str) -> npt.NDArray[np.bool_]:
    """Mask of shape (n,): rows of templates of that dimension and metric. ``terms`` has TERMS_DTYPE."""
    return np.asarray((terms["dimension"] == dimension) & (terms["flags"] == METRICS.index(metric)))
