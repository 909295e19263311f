"""Shares of a recovery key (SLIP-39): what joins, and what an accident or an attacker may bring along."""

from __future__ import annotations

import itertools
import sys

import pytest

from facekeep.crypto.shares import MAX_SHARES, WORDS, join_secret, split_secret
from facekeep.errors import MissingDependency, UsageError

SECRET = bytes(range(32))
NAMES = [f"share-{at}" for at in range(1, MAX_SHARES + 1)]

# The official vectors of SLIP-39, "Basic sharing 2-of-3 (256 bits)", passphrase TREZOR: see the test of it.
VECTOR = [
    (
        "humidity disease academic always aluminum jewelry energy woman receiver strategy amuse duckling "
        "lying evidence network walnut tactics forget hairy rebound impulse brother survive clothes "
        "stadium mailman rival ocean reward venture always armed unwrap"
    ),
    (
        "humidity disease academic agency actress jacket gross physics cylinder solution fake mortgage "
        "benefit public busy prepare sharp friar change work slow purchase ruler again tricycle involve "
        "viral wireless mixture anatomy desert cargo upgrade"
    ),
]


def test_any_threshold_of_the_shares_gives_the_secret_back() -> None:
    shares = split_secret(SECRET, 5, 3)
    assert all(len(each.split()) == WORDS for each in shares)
    for count in (3, 4, 5):
        for some in itertools.combinations(shares, count):
            assert join_secret(some, NAMES[:count]) == SECRET


def test_capitals_and_line_breaks_of_a_copy_by_hand_do_not_matter() -> None:
    one, two = split_secret(SECRET, 2, 2)
    assert join_secret([one.upper().replace(" ", "\n"), f"  {two}  "], NAMES[:2]) == SECRET


def test_the_words_are_those_of_slip_39() -> None:
    """The standard's own vector joins; its secret is under a passphrase, which ours never has."""
    joined = join_secret(VECTOR, NAMES[:2])
    library = sys.modules["shamir_mnemonic"]
    assert len(joined) == 32
    assert (
        library.combine_mnemonics(VECTOR, b"TREZOR").hex()
        == "c938b319067687e990e05e0da0ecce1278f75ff58d9853f19dcaeed5de104aae"
    )


@pytest.mark.parametrize(("shares", "threshold"), [(3, 1), (1, 1), (2, 3), (17, 2), (0, 0), (3, -1)])
def test_a_split_that_protects_nothing_or_is_impossible_is_refused(shares: int, threshold: int) -> None:
    with pytest.raises(UsageError, match="not possible"):
        split_secret(SECRET, shares, threshold)


def test_too_few_shares_give_nothing() -> None:
    shares = split_secret(SECRET, 5, 3)
    with pytest.raises(UsageError, match="2 of the 3") as caught:
        join_secret(shares[:2], NAMES[:2])
    assert "1 more" in caught.value.next


def test_a_share_of_another_set_is_named() -> None:
    mine, theirs = split_secret(SECRET, 3, 2), split_secret(bytes(32), 3, 2)
    with pytest.raises(UsageError, match="share-2 belongs to another set than share-1"):
        join_secret([mine[0], theirs[1]], NAMES[:2])


def test_a_share_that_only_claims_to_be_of_the_set_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two splits may by chance, or on purpose, have one identifier: the digest inside tells them apart."""
    shamir = pytest.importorskip("shamir_mnemonic.shamir")
    monkeypatch.setattr(shamir, "_random_identifier", lambda: 7)
    mine, theirs = split_secret(SECRET, 4, 2), split_secret(bytes(32), 4, 2)
    for given in (
        [mine[0], theirs[1]],
        [mine[0], mine[1], theirs[2]],
        [theirs[0], mine[1], mine[2], mine[3]],
    ):
        with pytest.raises(UsageError, match="do not fit together"):
            join_secret(given, NAMES[: len(given)])


def test_a_flipped_word_is_found_and_never_repeated() -> None:
    one, two = split_secret(SECRET, 2, 2)
    words = one.split()
    changed = [*words[:9], "academic" if words[9] != "academic" else "acid", *words[10:]]
    swapped = [*words[:9], words[10], words[9], *words[11:]] if words[9] != words[10] else changed
    unknown = [*words[:9], "hunter2", *words[10:]]
    for bad in (changed, swapped, unknown):
        with pytest.raises(UsageError, match="share-1 is no share") as caught:
            join_secret([" ".join(bad), two], NAMES[:2])
        assert not set(bad[4:]) & set(str(caught.value).split())
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


def test_a_word_too_few_is_counted() -> None:
    one, two = split_secret(SECRET, 2, 2)
    with pytest.raises(UsageError, match="share-1 has 32 words where a share has 33"):
        join_secret([one.rpartition(" ")[0], two], NAMES[:2])


def test_one_share_given_twice_is_told() -> None:
    one, _ = split_secret(SECRET, 2, 2)
    with pytest.raises(UsageError, match="share-1 and share-2 are the same share"):
        join_secret([one, one], NAMES[:2])


def test_a_share_of_a_split_in_groups_is_refused() -> None:
    library = pytest.importorskip("shamir_mnemonic")
    groups = library.generate_mnemonics(2, [(2, 2), (2, 2)], SECRET)
    with pytest.raises(UsageError, match="another set"):
        join_secret(groups[0], NAMES[:2])


def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shamir_mnemonic", None)
    with pytest.raises(MissingDependency) as caught:
        split_secret(SECRET, 3, 2)
    assert caught.value.next == "pip install 'facekeep[recovery]'"
