"""Splitting 32 bytes among people: SLIP-39, by Trezor's reference implementation (SPEC §4.7).

One group, no passphrase. A share is 33 words of a list made to be copied by hand; it names its set and how
many are needed, and a wrong word is found by its checksum. Other implementations of SLIP-39 join them too.
The library makes no effort against side channels: it is for a machine that nobody else uses at that moment.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final, cast

from facekeep.errors import MissingDependency, UsageError

MAX_SHARES: Final = 16  # SLIP-39: four bits of member index
MIN_THRESHOLD: Final = 2  # with one, each share is the key itself
SECRET_LEN: Final = 32
WORDS: Final = 33  # of a share of 32 bytes


def split_secret(secret: bytes, shares: int, threshold: int) -> tuple[str, ...]:
    """Return ``shares`` mnemonics of which any ``threshold`` give the 32 bytes back; raises UsageError."""
    if not MIN_THRESHOLD <= threshold <= shares <= MAX_SHARES:
        raise UsageError(
            f"{threshold} of {shares} shares is not possible",
            next=f"split into at most {MAX_SHARES} shares; the threshold is at least {MIN_THRESHOLD} of them",
        )
    groups = _library().generate_mnemonics(1, [(threshold, shares)], secret, iteration_exponent=0)
    return tuple(cast("list[str]", groups[0]))


def join_secret(mnemonics: Sequence[str], names: Sequence[str]) -> bytes:
    """Return the 32 bytes that mnemonics were split from; every one given must belong to them.

    ``names`` say in an error which share it is about. Raises UsageError; no word of a share is ever repeated.
    """
    library = _library()
    parsed = [_parsed(library, text, name) for text, name in zip(mnemonics, names, strict=True)]
    _check_one_set(parsed, names)
    threshold = parsed[0].member_threshold
    if len(parsed) < threshold:
        raise UsageError(
            f"{len(parsed)} of the {threshold} shares that are needed were given",
            next=f"find {threshold - len(parsed)} more of the same set",
        )
    # Windows that overlap: each share takes part in one at least, and all must lead to the same bytes.
    found = {_joined(library, parsed[at : at + threshold]) for at in range(len(parsed) - threshold + 1)}
    first = found.pop()
    if found or len(first) != SECRET_LEN:
        raise _of_another_set()
    return first


def _joined(library: ModuleType, shares: Sequence[Any]) -> bytes:
    try:
        return cast("bytes", library.combine_mnemonics([each.mnemonic() for each in shares]))
    except library.MnemonicError as error:
        raise _of_another_set() from error


def _parsed(library: ModuleType, text: str, name: str) -> Any:  # noqa: ANN401 - the library has no types
    words = text.lower().split()
    try:
        return library.Share.from_mnemonic(" ".join(words))
    except (library.MnemonicError, ValueError):
        pass  # its message repeats words
    if len(words) != WORDS:
        raise UsageError(f"{name} has {len(words)} words where a share has {WORDS}")
    raise UsageError(
        f"{name} is no share: a word is wrong, or two changed places",
        next="compare it with the paper, word by word",
    )


def _check_one_set(parsed: Sequence[Any], names: Sequence[str]) -> None:
    first = parsed[0]
    for (share, name), (other, other_name) in itertools.combinations(zip(parsed, names, strict=True), 2):
        if share.index == other.index and share.group_parameters() == other.group_parameters():
            raise UsageError(f"{name} and {other_name} are the same share")
    for share, name in zip(parsed, names, strict=True):
        if share.group_parameters() != first.group_parameters() or first.group_count != 1:
            raise UsageError(
                f"{name} belongs to another set than {names[0]}",
                next="join shares of one split only: their first two words are the same",
            )


def _of_another_set() -> UsageError:
    return UsageError(
        "the shares do not fit together, though each is whole",
        next="they come from several splits: try the others of each set",
    )


def _library() -> ModuleType:
    try:
        return importlib.import_module("shamir_mnemonic")
    except ImportError:
        raise MissingDependency(
            "splitting a recovery key needs the package shamir-mnemonic",
            next="pip install 'facekeep[recovery]'",
        ) from None
