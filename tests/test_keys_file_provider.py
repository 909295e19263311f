from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from facekeep.errors import FacekeepError, FormatError, RootError, StoreError, UsageError, VaultExists
from facekeep.formats.canonical import dumps
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.rootfile import FILE_LEN, SLOT_LEN, SLOTS, RootSlot, SlotState, decode_slot, encode_slot
from facekeep.keys import file_provider
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.holders import INTERNAL, PROVIDERS, provider_from_uri
from facekeep.keys.provider import LIMIT_WORDS, Place

VAULT = bytes(range(16))
OLD, NEW, NEXT = b"o" * 32, b"n" * 32, b"x" * 32


def mark(root: bytes) -> bytes:
    return root_fingerprint(VAULT, root)


@pytest.fixture
def provider(tmp_path: Path) -> FileProvider:
    made = FileProvider(tmp_path / "root.key", VAULT)
    made.provision(OLD)
    return made


def held(provider: FileProvider) -> dict[bytes, str]:
    return {each.root: each.state for each in provider.candidates()}


# -- the life of a root


def test_provision_makes_a_private_file_of_the_specified_size(provider: FileProvider) -> None:
    assert provider.path.stat().st_size == FILE_LEN
    assert provider.path.stat().st_mode & 0o777 == 0o600
    assert held(provider) == {OLD: "current"}


def test_provision_never_overwrites(provider: FileProvider, tmp_path: Path) -> None:
    before = provider.path.read_bytes()
    with pytest.raises(VaultExists):
        provider.provision(NEW)
    assert provider.path.read_bytes() == before
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(VaultExists):
        FileProvider(tmp_path / "dangling", VAULT).provision(NEW)
    assert not (tmp_path / "nowhere").exists()


def test_a_swap_of_roots_leaves_only_the_new_one(provider: FileProvider) -> None:
    provider.stage(NEW)
    assert held(provider) == {OLD: "current", NEW: "staged"}
    assert provider.candidates()[0].root == OLD
    assert provider.read_back(mark(NEW)) == NEW
    promoted, dropped = provider.promote(mark(NEW)), provider.drop(mark(OLD))
    assert held(provider) == {NEW: "current"}
    assert OLD not in provider.path.read_bytes()
    assert provider.damage == ()
    assert (promoted.action, dropped.action) == ("promoted", "destroyed")


def test_promote_and_drop_are_idempotent_and_give_the_receipt_again(provider: FileProvider) -> None:
    provider.stage(NEW)
    provider.stage(NEW)
    first = provider.promote(mark(NEW)), provider.drop(mark(OLD))
    before = provider.path.read_bytes()
    assert (provider.promote(mark(NEW)), provider.drop(mark(OLD))) == first
    assert provider.path.read_bytes() == before


def test_receipts_are_canonical_json_with_words_of_the_closed_list(provider: FileProvider) -> None:
    receipt = provider.drop(mark(NEW)).to_json()
    assert dumps(receipt).startswith(b'{"action":"destroyed","class":"erasing","limits":["copied_file"')
    assert set(provider.limits) <= LIMIT_WORDS
    assert list(provider.limits) == sorted(provider.limits)


def test_a_second_staged_root_is_refused(provider: FileProvider) -> None:
    provider.stage(NEW)
    before = provider.path.read_bytes()
    with pytest.raises(RootError):
        provider.stage(NEXT)
    assert provider.path.read_bytes() == before
    provider.drop(mark(NEW))
    provider.stage(NEXT)
    assert held(provider) == {OLD: "current", NEXT: "staged"}


def test_a_root_that_is_not_held_is_neither_promoted_nor_read(provider: FileProvider) -> None:
    before = provider.path.read_bytes()
    for call in (provider.promote, provider.read_back):
        with pytest.raises(RootError):
            call(mark(NEW))
    provider.drop(mark(NEW))
    assert provider.path.read_bytes() == before


def test_zero_and_short_roots_are_refused(provider: FileProvider, tmp_path: Path) -> None:
    for root in (bytes(32), b"short"):
        with pytest.raises(FormatError):
            provider.stage(root)
        with pytest.raises(FormatError):
            FileProvider(tmp_path / "other", VAULT).provision(root)
    assert not (tmp_path / "other").exists()


# -- what is refused


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RootError, match="missing") as caught:
        FileProvider(tmp_path / "nothing", VAULT).candidates()
    assert "put the root file back" in caught.value.next


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_a_file_others_can_reach_is_refused_with_the_command_that_mends_it(
    provider: FileProvider, mode: int
) -> None:
    provider.path.chmod(mode)
    for call in (provider.candidates, lambda: provider.stage(NEW), lambda: provider.drop(mark(OLD))):
        with pytest.raises(RootError) as caught:
            call()
        assert caught.value.next == f"chmod 600 '{provider.path}'"


def test_a_file_of_another_user_is_refused_unless_root(
    provider: FileProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = provider.path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(RootError, match="another user"):
        provider.candidates()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert held(provider) == {OLD: "current"}


def test_symlinks_and_what_is_not_a_file_are_refused(provider: FileProvider, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(provider.path)
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "dir", "fifo"):
        other = FileProvider(tmp_path / name, VAULT)
        for call in (other.candidates, lambda other=other: other.stage(NEW)):
            with pytest.raises(RootError):
                call()


def test_a_root_file_of_another_vault_is_refused(provider: FileProvider) -> None:
    other = FileProvider(provider.path, b"another vault id")
    before = provider.path.read_bytes()
    for call in (other.candidates, lambda: other.stage(NEW), lambda: other.drop(mark(OLD))):
        with pytest.raises(RootError, match="another vault"):
            call()
    assert provider.path.read_bytes() == before


def test_one_unreadable_slot_is_reported_and_the_other_serves(provider: FileProvider) -> None:
    provider.stage(NEW)
    raw = bytearray(provider.path.read_bytes())
    raw[30] ^= 1
    provider.path.write_bytes(raw)
    assert held(provider) == {NEW: "staged"}
    assert len(provider.damage) == 1
    assert "slot 0" in provider.damage[0]
    provider.promote(mark(NEW))
    assert held(provider) == {NEW: "current"}
    assert not provider.damage


@pytest.mark.parametrize("content", [b"", b"x" * FILE_LEN, bytes(FILE_LEN), b"FKROOT1\n"])
def test_both_slots_unreadable_is_an_error_and_nothing_is_written(
    provider: FileProvider, content: bytes
) -> None:
    provider.path.write_bytes(content)
    for call in (provider.candidates, lambda: provider.stage(NEW), lambda: provider.drop(mark(OLD))):
        with pytest.raises(RootError):
            call()
    assert provider.path.read_bytes() == content


def test_a_truncated_file_still_gives_its_whole_slot(provider: FileProvider) -> None:
    provider.path.write_bytes(provider.path.read_bytes()[:5000])
    assert held(provider) == {OLD: "current"}
    provider.stage(NEW)
    assert held(provider) == {OLD: "current", NEW: "staged"}


def failing(error: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    return call


@pytest.mark.parametrize("name", ["pwrite", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_full_and_read_only_disks_are_store_errors(
    provider: FileProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    monkeypatch.setattr(os, name, failing(code))
    with pytest.raises(StoreError):
        provider.stage(NEW)
    with pytest.raises(StoreError):
        FileProvider(tmp_path / "other", VAULT).provision(NEW)
    assert not (tmp_path / "other").exists()


def test_a_read_only_file_system_is_a_store_error(
    provider: FileProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", failing(errno.EROFS))
    with pytest.raises(StoreError):
        provider.stage(NEW)
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    with pytest.raises(RootError):
        provider.candidates()


def test_a_slot_that_the_disk_cannot_read_is_a_store_error_and_no_empty_slot(
    provider: FileProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read over both slots comes back short where the second one fails: it must not pass for a spare."""
    provider.stage(NEW)
    before = provider.path.read_bytes()
    real = os.pread

    def failing(descriptor: int, length: int, at: int) -> bytes:
        if at >= SLOT_LEN:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, min(length, SLOT_LEN - at), at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", failing)
        for call in (provider.candidates, lambda: provider.promote(mark(NEW)), lambda: provider.stage(NEXT)):
            with pytest.raises(StoreError, match="error"):
                call()
    assert provider.path.read_bytes() == before
    assert held(provider) == {OLD: "current", NEW: "staged"}


def test_a_short_write_is_a_full_disk(provider: FileProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_: 7)
    with pytest.raises(StoreError):
        provider.stage(NEW)


def test_a_disk_that_forgets_is_noticed_at_staging(
    provider: FileProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", lambda _, data, __: len(data))
    with pytest.raises(StoreError, match="does not keep"):
        provider.stage(NEW)


# -- the crash matrix: every system call of every method, lost or done, whole or torn


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours may run on it but ``finally``."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, how: str) -> Iterator[None]:
    """Stop at the ``number``-th pwrite or fsync: before it, after it, or in the midst of a write."""
    count = 0
    write, sync = os.pwrite, os.fsync

    def is_it() -> bool:
        nonlocal count
        count += 1
        return count == number

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if not is_it():
            return write(descriptor, data, offset)
        if how == "torn":
            write(descriptor, data[:100], offset)
        if how == "after":
            write(descriptor, data, offset)
        raise Killed

    def fsync(descriptor: int) -> None:
        if not is_it() or how == "after":
            sync(descriptor)
        if count == number:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        patch.setattr(os, "fsync", fsync)
        yield


Action = Callable[[FileProvider], object]


def prepared(path: Path, name: str) -> FileProvider:
    provider = FileProvider(path, VAULT)
    provider.provision(OLD)
    if name != "stage":
        provider.stage(NEW)
    return provider


@pytest.mark.parametrize("how", ["before", "after", "torn"])
@pytest.mark.parametrize(
    ("name", "action", "needed", "calls"),
    [
        ("stage", lambda each: each.stage(NEW), OLD, 2),
        ("drop staged", lambda each: each.drop(mark(NEW)), OLD, 2),
        ("promote", lambda each: each.promote(mark(NEW)), NEW, 2),
        ("drop old", lambda each: each.drop(mark(OLD)), NEW, 2),
    ],
)
def test_crash_matrix_no_stop_loses_the_needed_root(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    name: str,
    action: Action,
    needed: bytes,
    calls: int,
) -> None:
    for number in range(1, calls + 1):
        provider = prepared(tmp_path / f"root-{number}", name)
        with killed_at(monkeypatch, number, how), pytest.raises(Killed):
            action(provider)
        after = FileProvider(provider.path, VAULT)
        assert needed in held(after), f"stopped {how} call {number}"
        recover(after, needed)
    provider = prepared(tmp_path / "whole", name)
    with killed_at(monkeypatch, calls + 1, how):
        action(provider)


def recover(provider: FileProvider, needed: bytes) -> None:
    """What the swap's recovery does; then a whole further swap must go through."""
    provider.promote(mark(needed))
    for each in provider.candidates():
        if each.root != needed:
            provider.drop(each.fingerprint)
    assert held(provider) == {needed: "current"}
    assert provider.damage == ()
    slots = sorted((decode_slot(part) for part in slots_of(provider.path)), key=lambda slot: slot.state)
    assert slots[1].state is SlotState.CURRENT
    assert slots[0].state is SlotState.EMPTY or (slots[0].state, slots[0].root) == (SlotState.STAGED, needed)
    provider.stage(NEXT)
    provider.promote(mark(NEXT))
    provider.drop(mark(needed))
    assert held(provider) == {NEXT: "current"}


def slots_of(path: Path) -> list[bytes]:
    raw = path.read_bytes()
    return [raw[:SLOT_LEN], raw[SLOT_LEN:]]


@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_crash_during_provision_leaves_nothing_or_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for number in range(1, 5):
        provider = FileProvider(tmp_path / f"root-{number}", VAULT)
        with killed_at(monkeypatch, number, how), pytest.raises(Killed):
            provider.provision(OLD)
        assert not provider.path.exists()


def test_the_erased_slot_was_overwritten_in_place_and_synced(
    provider: FileProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, bytes]] = []
    real_write, real_sync = os.pwrite, os.fsync

    def write(descriptor: int, data: bytes, offset: int) -> int:
        calls.append(("pwrite", data))
        return real_write(descriptor, data, offset)

    def sync(descriptor: int) -> None:
        calls.append(("fsync", b""))
        real_sync(descriptor)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fsync", sync)
    provider.drop(mark(OLD))
    assert [name for name, _ in calls] == ["pwrite", "fsync"]
    assert calls[0][1] == encode_slot(RootSlot(VAULT, SlotState.EMPTY))


@pytest.mark.parametrize("offset", range(0, FILE_LEN, 61))
def test_bit_flips_give_our_errors_only_and_never_another_root(provider: FileProvider, offset: int) -> None:
    provider.stage(NEW)
    raw = bytearray(provider.path.read_bytes())
    raw[offset] ^= 0x10
    provider.path.write_bytes(raw)
    try:
        found = held(provider)
    except FacekeepError:
        return
    assert set(found) <= {OLD, NEW}


# -- URIs


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:root.key", "BASE/root.key"),
        ("file:../root.key", "BASE/../root.key"),
        ("file:/abs/root.key", "/abs/root.key"),
        ("file:///abs/root.key", "/abs/root.key"),
        ("file:~/root.key", "HOME/root.key"),
        ("file://~/root.key", "HOME/root.key"),
    ],
)
def test_file_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, path: str) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    found = provider_from_uri(uri, Place(VAULT, tmp_path))
    assert isinstance(found, FileProvider)
    assert found.path == Path(path.replace("BASE", str(tmp_path)).replace("HOME", "/somebody"))


@pytest.mark.parametrize(
    "uri", ["file:", "file://", "file://host/root.key", "file:a\0b", "file:~nobody-here/x"]
)
def test_file_uris_without_a_usable_path(tmp_path: Path, uri: str) -> None:
    with pytest.raises(UsageError):
        provider_from_uri(uri, Place(VAULT, tmp_path))


@pytest.mark.parametrize("uri", ["", "root.key", "ftp:x", "FILE:x", ":x"])
def test_unknown_schemes_list_the_known_ones(tmp_path: Path, uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        provider_from_uri(uri, Place(VAULT, tmp_path))
    assert caught.value.next == "use one of these schemes: file:, openbao:, pkcs11:, tpm2:"
    assert set(PROVIDERS) - INTERNAL == {"file", "openbao", "pkcs11", "tpm2"}


def test_every_scheme_in_the_table_has_a_class_of_that_scheme() -> None:
    for scheme, where in PROVIDERS.items():
        module, name = where.split(":")
        assert getattr(importlib.import_module(module), name).scheme == scheme
    assert file_provider.FileProvider.klass == "erasing"


def test_the_root_before_is_in_neither_slot_after_a_promotion(tmp_path: Path) -> None:
    """Both slots hold the current root between two swaps; both are overwritten by the next."""
    provider = prepared(tmp_path / "root", "promote")
    provider.promote(mark(NEW))
    assert OLD not in provider.path.read_bytes()
    assert provider.path.read_bytes().count(NEW) == SLOTS
    provider.stage(NEXT)
    assert held(provider) == {NEW: "current", NEXT: "staged"}
    provider.promote(mark(NEXT))
    assert NEW not in provider.path.read_bytes()
    provider.drop(mark(NEXT))
    assert held(provider) == {}
    assert NEXT not in provider.path.read_bytes()
