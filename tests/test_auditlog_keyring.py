"""Who signs a log, entry by entry: restarts and rotations follow from one another, or the log is refused."""

from __future__ import annotations

import pytest

from facekeep.auditlog import rotation as module
from facekeep.auditlog.rotation import Keyring, Rotation
from facekeep.auditlog.signed import Cosigner
from facekeep.errors import IntegrityError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.note import VerifierKey
from tree_help import OTHER_VAULT, signer

Keys = tuple[VerifierKey, ...]
FIRST, SECOND, THIRD = (signer(generation).keys for generation in (1, 2, 3))
FOREIGN = signer(1, OTHER_VAULT).keys
RESTART: JsonObject = {"type": "restart"}
RESTARTED: JsonObject = {"type": "restarted"}
SIGNING: JsonObject = {"type": "signing"}


class Log:
    """A keyring that is told of entries whose signatures were checked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *given: VerifierKey) -> None:
        self.ring = Keyring(signer().origin, given or FIRST)
        self._patch = monkeypatch

    def begin(self, keys: Keys, index: int = 0) -> None:
        self._patch.setattr(module, "check_restart", lambda _: keys)
        self.ring.follow(index, RESTART)

    def rotate(self, index: int, previous: Keys, keys: Keys, generation: int) -> None:
        self._patch.setattr(module, "check", lambda _: Rotation(generation, previous, keys))
        self.ring.follow(index, SIGNING)

    def end(self, index: int = 5) -> None:
        self.ring.follow(index, RESTARTED)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(monkeypatch)


def test_no_key_of_the_log_is_no_start() -> None:
    with pytest.raises(IntegrityError, match="no key is known"):
        Keyring(signer().origin, FOREIGN)


def test_a_witness_of_the_log_s_name_is_no_start() -> None:
    with pytest.raises(IntegrityError, match="no key is known"):
        Keyring(signer().origin, [Cosigner(signer().origin, b"w" * 32).key])


def test_without_entries_the_given_keys_sign(log: Log) -> None:
    assert set(log.ring.keys_at(7)) == set(FIRST)
    assert log.ring.named_at(7) == ()


def test_a_rotation_is_in_force_from_the_next_size_on(log: Log) -> None:
    log.rotate(4, FIRST, SECOND, 2)
    log.rotate(9, SECOND, THIRD, 3)
    named = {size: log.ring.keys_at(size) for size in (0, 4, 5, 9, 10, 99)}
    assert named == {0: FIRST, 4: FIRST, 5: SECOND, 9: SECOND, 10: THIRD, 99: THIRD}


@pytest.mark.parametrize(
    ("previous", "generation"), [(FIRST, 3), (FIRST, 1), (SECOND, 2), (SECOND, 4), (THIRD, 3)]
)
def test_a_second_rotation_that_does_not_follow_is_refused(log: Log, previous: Keys, generation: int) -> None:
    log.rotate(4, FIRST, SECOND, 2)
    with pytest.raises(IntegrityError, match=r"entry 9: its keys do not follow"):
        log.rotate(9, previous, signer(4).keys, generation)


def test_keys_of_another_log_are_refused(log: Log) -> None:
    with pytest.raises(IntegrityError, match="another log"):
        log.begin(FOREIGN)
    with pytest.raises(IntegrityError, match="another log"):
        log.rotate(4, FIRST, FOREIGN, 2)


def test_a_restart_is_signed_by_the_keys_that_are_in_force_at_its_end(log: Log) -> None:
    log.begin(FIRST)
    log.end()
    assert log.ring.keys_at(0) == log.ring.keys_at(99) == FIRST
    log.rotate(8, FIRST, SECOND, 2)
    assert log.ring.keys_at(9) == SECOND


def test_rotations_that_are_adopted_lead_to_who_signed_the_restart(log: Log) -> None:
    log.begin(SECOND)
    log.rotate(1, FIRST, SECOND, 2)
    log.end()
    assert log.ring.keys_at(2) == SECOND
    assert (log.ring.named_at(1), log.ring.named_at(6)) == (FIRST, SECOND)
    log.rotate(9, SECOND, THIRD, 3)
    assert log.ring.keys_at(10) == THIRD


@pytest.mark.parametrize("signed", [FIRST, THIRD])
def test_a_restart_that_others_signed_is_refused_at_its_end(log: Log, signed: Keys) -> None:
    log.begin(signed)
    log.rotate(1, FIRST, SECOND, 2)
    with pytest.raises(IntegrityError, match=r"entry 5: the keys in force did not sign"):
        log.end()


def test_what_was_not_begun_does_not_end(log: Log) -> None:
    with pytest.raises(IntegrityError, match="did not sign the restart"):
        log.end()
    log.rotate(1, FIRST, SECOND, 2)
    with pytest.raises(IntegrityError, match="did not sign the restart"):
        log.end()


def test_a_restart_is_the_first_entry_and_no_other(log: Log) -> None:
    with pytest.raises(IntegrityError, match="entry 3: a restart is the first entry"):
        log.begin(FIRST, index=3)
    with pytest.raises(IntegrityError, match="entry 0: a restart is the first entry"):
        log.end(0)


@pytest.mark.parametrize(
    ("given", "trusted_at"),
    [
        (FIRST, 0),
        (SECOND, 5),
        ((FIRST[0],), 0),
        ((SECOND[1],), 5),
        ((FIRST[0], SECOND[1]), None),
        ((*FIRST, SECOND[0]), 0),
    ],
)
def test_a_generation_is_trusted_for_each_type_that_is_given(
    monkeypatch: pytest.MonkeyPatch, given: Keys, trusted_at: int | None
) -> None:
    log = Log(monkeypatch, *given)
    log.rotate(4, FIRST, SECOND, 2)
    for size in (0, 4, 5, 9):
        if trusted_at is not None and size >= trusted_at:
            assert log.ring.keys_at(size) == (FIRST if size < 5 else SECOND)
        else:
            with pytest.raises(IntegrityError, match="none of those that the log had"):
                log.ring.keys_at(size)
