"""Primitives against other implementations of the same standards, and what they refuse."""

from __future__ import annotations

import hashlib
import hmac
import threading

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.auditlog.setdigest import SetDigest
from facekeep.crypto import memory, sethash
from facekeep.crypto import primitives as p
from facekeep.crypto.memory import LockedBuffer, Scratch
from facekeep.errors import FormatError, IntegrityError

KEY = bytes(range(32))
KEYS = st.binary(min_size=32, max_size=32).filter(any)


@settings(deadline=None)
@given(KEYS, st.binary(max_size=200))
def test_the_slot_kdf_is_that_of_sp_800_56c(key: bytes, info: bytes) -> None:
    expected = ConcatKDFHash(hashes.SHA512(), 64, info).derive(key)
    assert p.slot_kdf(key, info) == (expected[:32], expected[32:])


def test_a_destroyed_key_is_never_used() -> None:
    with pytest.raises(IntegrityError):
        p.slot_kdf(bytes(32), b"x")
    with pytest.raises(IntegrityError):
        p.expand_node(b"x", bytes(32))


@settings(deadline=None)
@given(KEYS, st.binary(max_size=100), st.binary(max_size=300))
def test_a_sealed_blob_opens_with_its_key_and_associated_data_only(
    key: bytes, aad: bytes, plain: bytes
) -> None:
    blob = p.seal(key, plain, aad)
    assert len(blob) == len(plain) + p.BLOB_OVERHEAD
    assert blob[:2] == b"\0\1"
    assert AESGCM(key).decrypt(blob[2:14], blob[14:], aad) == plain
    assert p.open_sealed(key, blob, aad) == plain
    out = memoryview(bytearray(len(plain)))
    p.open_into(key, blob, aad, out)
    assert bytes(out) == plain
    for wrong_key, wrong_aad in ((bytes([key[0] ^ 1]) + key[1:], aad), (key, aad + b"\0")):
        with pytest.raises(IntegrityError):
            p.open_sealed(wrong_key, blob, wrong_aad)
        with pytest.raises(IntegrityError):
            p.open_into(wrong_key, blob, wrong_aad, out)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_changed_blob_does_not_open(plain: bytes, data: st.DataObject) -> None:
    blob = p.seal(KEY, plain, b"aad")
    at = data.draw(st.integers(0, len(blob) - 1))
    changed = blob[:at] + bytes([blob[at] ^ data.draw(st.integers(1, 255))]) + blob[at + 1 :]
    for wrong in (changed, blob[:at], blob + b"\0"):
        with pytest.raises(IntegrityError):
            p.open_sealed(KEY, wrong, b"aad")
        with pytest.raises(IntegrityError):
            p.open_into(KEY, wrong, b"aad", memoryview(bytearray(len(plain))))


def test_a_failed_opening_leaves_no_plaintext() -> None:
    blob = p.seal(KEY, b"secret secret secret", b"aad")
    out = bytearray(20)
    with pytest.raises(IntegrityError):
        p.open_into(KEY, blob[:-1] + bytes([blob[-1] ^ 1]), b"aad", memoryview(out))
    assert b"secret" not in out


@pytest.mark.parametrize("size", [0, 19, 21, 100])
def test_the_buffer_must_fit(size: int) -> None:
    blob = p.seal(KEY, b"secret secret secret", b"")
    with pytest.raises(FormatError):
        p.open_into(KEY, blob, b"", memoryview(bytearray(size)))


@pytest.mark.parametrize("blob", [b"", b"\0", b"\0\1", b"\0\1" + bytes(27), b"\0\2" + bytes(40), bytes(60)])
def test_what_is_no_blob_is_refused(blob: bytes) -> None:
    with pytest.raises(IntegrityError):
        p.open_sealed(KEY, blob, b"")


def test_nonces_are_not_repeated() -> None:
    assert len({p.seal(KEY, b"", b"")[2:14] for _ in range(2_000)}) == 2_000


def test_hashes_are_those_of_the_standard_library() -> None:
    assert p.sha256(b"a", b"b") == hashlib.sha256(b"ab").digest()
    expected = hmac.new(KEY, b"ab", hashlib.sha256).digest()
    keyed = p.Mac(KEY)
    assert p.mac(KEY, b"a", b"b") == keyed(b"a", b"b") == keyed(b"ab") == expected
    assert p.expand_node(b"info", KEY) == hashlib.shake_256(b"info" + KEY).digest(3_840)
    assert p.domain("slot-kdf") == b"facekeep/v1/slot-kdf\0"


def test_no_label_is_the_beginning_of_another() -> None:
    labels = [
        "sealed",
        "slot-kdf",
        "set",
        "set-element",
        "subject-index",
        "subject-index-seal",
        "subject-tag",
    ]
    domains = [p.domain(label) for label in labels]
    assert not [(a, b) for a in domains for b in domains if a != b and b.startswith(a)]


def test_cryptography_itself_refuses_what_we_rely_on_it_to_refuse() -> None:
    with pytest.raises(InvalidTag):
        AESGCM(KEY).decrypt(bytes(12), bytes(16), b"")


# -- set digests


def slow_digest(items: list[tuple[int, bytes]]) -> bytes:
    """LtHash16 as SPEC §6.4 writes it, with Python's integers."""
    total = [0] * 1_024
    for slot, grant in items:
        raw = hashlib.shake_128(b"facekeep/v1/set-element\0" + slot.to_bytes(8, "big") + grant).digest(2_048)
        for at in range(1_024):
            total[at] = (total[at] + int.from_bytes(raw[2 * at : 2 * at + 2], "little")) % 65_536
    summed = b"".join(each.to_bytes(2, "little") for each in total)
    return hashlib.sha256(b"facekeep/v1/set\0" + summed).digest()


ITEMS = st.lists(
    st.tuples(st.integers(0, 2**53 - 1), st.binary(min_size=16, max_size=16)), unique=True, max_size=6
)


@settings(deadline=None)
@given(ITEMS, st.randoms())
def test_a_set_digest_is_that_of_the_specification_in_any_order(
    items: list[tuple[int, bytes]], chance: object
) -> None:
    digest = SetDigest()
    shuffled = sorted(items, key=lambda item: hashlib.sha256(repr((item, chance)).encode()).digest())
    digest.add_many([slot for slot, _ in shuffled], [grant for _, grant in shuffled])
    assert digest.digest() == slow_digest(items)
    for slot, grant in items:
        digest.remove(slot, grant)
    assert digest.digest() == SetDigest().digest() == slow_digest([])


def test_every_member_counts() -> None:
    one = SetDigest()
    one.add(1, bytes(16))
    other = one.copy()
    other.add(2, bytes(16))
    assert len({one.digest(), other.digest(), SetDigest().digest()}) == 3
    assert sethash.set_element(1, bytes(16)).dtype == np.dtype("<u2")


# -- locked memory


def test_a_locked_buffer_is_zeroed_when_it_is_wiped_and_closed() -> None:
    with LockedBuffer(100) as buffer:
        assert bytes(buffer.view) == bytes(100)
        view = buffer.view
        view[:] = b"x" * 100
        assert buffer.usable
        buffer.wipe()
        assert bytes(view) == bytes(100)
        view[:] = b"y" * 100
    assert buffer.closed
    assert not buffer.usable
    assert bytes(view) == bytes(100)
    buffer.close()
    buffer.wipe()


def test_an_empty_locked_buffer() -> None:
    with LockedBuffer(0) as buffer:
        assert len(buffer.view) == 0


def test_memory_that_is_not_locked_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        @staticmethod
        def mlock(*_: object) -> int:
            return -1

        @staticmethod
        def munlock(*_: object) -> int:
            return -1

    monkeypatch.setattr(memory, "_refused", threading.Event())
    assert memory.is_locked()
    with monkeypatch.context() as refusing:
        refusing.setattr(memory, "_libc", Refusing)
        for _ in range(3):
            with memory.LockedBuffer(64) as buffer:
                assert not buffer.locked
    assert not memory.is_locked()
    told = [each for each in caplog.records if each.name == "facekeep"]
    assert [each.levelname for each in told] == ["WARNING"]
    for line in ("ulimit -l", "LimitMEMLOCK", "--ulimit memlock"):
        assert line in told[0].getMessage()


def test_a_threads_scratch_grows_is_its_own_and_is_made_anew_where_it_cannot_be_used() -> None:
    scratch, seen = Scratch(), []
    first = scratch.take(100)
    assert (len(first), bytes(first)) == (100, bytes(100))
    first[:] = b"x" * 100
    assert scratch.take(4096)[:100] == first  # the same memory
    large = scratch.take(4097)
    assert (len(large), bytes(large)) == (4097, bytes(4097))
    assert len(scratch.take(8)) == 8
    thread = threading.Thread(target=lambda: seen.append(bytes(scratch.take(100))))
    large[:] = b"y" * 4097
    thread.start()
    thread.join()
    assert seen == [bytes(100)]
    assert scratch._buffer is not None
    del first, large
    scratch._buffer.close()
    assert bytes(scratch.take(4097)) == bytes(4097)
