"""The tpm2: provider on an emulated TPM: its life, its errors, crashes between its steps."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from facekeep.errors import RootError, UsageError, VaultExists
from facekeep.formats.canonical import dumps
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.tpm2 import decode_sealed
from facekeep.keys import tpm2_tools
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.provider import LIMIT_WORDS, Place
from facekeep.keys.tpm2_provider import Tpm2Provider
from facekeep.store.holderfile import HolderFile
from tpm2_help import VAULT, Tpm, running
from vaultlab import Lab

OLD, NEW, NEXT = b"o" * 32, b"n" * 32, b"x" * 32


def mark(root: bytes) -> bytes:
    return root_fingerprint(VAULT, root)


def held(provider: Tpm2Provider) -> dict[bytes, str]:
    return {each.root: each.state for each in provider.candidates()}


def swap(provider: Tpm2Provider, old: bytes, new: bytes) -> None:
    provider.stage(new)
    provider.promote(mark(new))
    provider.drop(mark(old))


def bounds(provider: Tpm2Provider) -> list[int]:
    return [decode_sealed(each.sealed).bound for each in provider.file.read()]


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    with running(tmp_path / "tpm") as found:
        yield found


@pytest.fixture
def provider(tpm: Tpm, tmp_path: Path) -> Tpm2Provider:
    found = tpm.provider(tmp_path)
    found.provision(OLD)
    return found


# -- a holder's life


def test_a_swap_of_roots_leaves_only_the_new_one(provider: Tpm2Provider, tpm: Tpm) -> None:
    assert held(provider) == {OLD: "current"}
    provider.stage(NEW)
    provider.stage(NEW)
    assert held(provider) == {OLD: "current", NEW: "staged"}
    assert provider.read_back(mark(NEW)) == NEW
    first = provider.promote(mark(NEW)), provider.drop(mark(OLD))
    assert held(provider) == {NEW: "current"}
    assert provider.damage == ()
    before = provider.file.path.read_bytes()
    assert (provider.promote(mark(NEW)), provider.drop(mark(OLD))) == first
    assert provider.file.path.read_bytes() == before
    assert [each.action for each in first] == ["promoted", "destroyed"]
    assert tpm.sessions() == 0


def test_the_counter_moves_one_step_for_a_swap(provider: Tpm2Provider) -> None:
    first = bounds(provider)
    swap(provider, OLD, NEW)
    assert bounds(provider) == [first[0] + 1]
    swap(provider, NEW, NEXT)
    assert bounds(provider) == [first[0] + 2]


def test_an_aborted_swap_leaves_the_current_root(provider: Tpm2Provider) -> None:
    provider.stage(NEW)
    receipt = provider.drop(mark(NEW))
    assert held(provider) == {OLD: "current"}
    assert provider.drop(mark(NEW)) == receipt
    swap(provider, OLD, NEXT)
    assert held(provider) == {NEXT: "current"}


def test_a_second_staged_root_is_refused(provider: Tpm2Provider) -> None:
    provider.stage(NEW)
    before = provider.file.path.read_bytes()
    with pytest.raises(RootError, match="already holds a staged root"):
        provider.stage(NEXT)
    assert provider.file.path.read_bytes() == before


def test_a_holder_that_is_given_up_leaves_nothing_in_the_tpm(provider: Tpm2Provider, tpm: Tpm) -> None:
    provider.stage(NEW)
    saved = provider.file.path.read_bytes()
    assert provider.abandon() == provider.abandon()
    assert provider.candidates() == ()
    assert tpm.run("tpm2_getcap", "handles-nv-index") == b""
    provider.file.path.write_bytes(saved)
    with pytest.raises(RootError, match="no counter"):
        provider.candidates()


def test_a_creation_that_failed_is_undone(provider: Tpm2Provider, tpm: Tpm) -> None:
    provider.unprovision()
    assert not provider.file.path.exists()
    assert tpm.run("tpm2_getcap", "handles-nv-index") == b""
    provider.provision(NEW)
    assert held(provider) == {NEW: "current"}


def test_a_failed_provision_removes_file_and_counter(
    tpm: Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = tpm.provider(tmp_path)
    monkeypatch.setattr(provider, "_read", lambda *_: (_ for _ in ()).throw(RootError("it does not read")))
    with pytest.raises(RootError, match="does not read"):
        provider.provision(OLD)
    assert not provider.file.path.exists()
    assert tpm.run("tpm2_getcap", "handles-nv-index") == b""


def test_the_tpm_keeps_the_root_through_a_loss_of_power(provider: Tpm2Provider, tpm: Tpm) -> None:
    swap(provider, OLD, NEW)
    before = bounds(provider)
    tpm.off()
    tpm.on()
    assert held(provider) == {NEW: "current"}
    swap(provider, NEW, NEXT)
    assert bounds(provider) == [before[0] + 1]


def test_two_vaults_on_one_tpm_do_not_touch_each_other(
    provider: Tpm2Provider, tpm: Tpm, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = tpm.provider(tmp_path / "other", b"w" * 16)
    assert other.index != provider.index
    other.provision(NEXT)
    swap(provider, OLD, NEW)
    provider.stage(OLD)
    provider.drop(mark(OLD))
    assert held(other) == {NEXT: "current"}
    assert held(provider) == {NEW: "current"}


def test_a_root_that_is_not_held_is_neither_promoted_nor_read(provider: Tpm2Provider) -> None:
    for call in (provider.promote, provider.read_back):
        with pytest.raises(RootError, match="does not hold"):
            call(mark(NEW))


def test_the_receipt_says_what_it_is_and_its_limits(provider: Tpm2Provider) -> None:
    receipt = dumps(provider.receipt("destroyed").to_json())
    assert receipt == (
        b'{"action":"destroyed","class":"erasing","limits":["tpm_firmware","tpm_state_copy"],"scheme":"tpm2"}'
    )
    assert set(provider.limits) <= LIMIT_WORDS


# -- what is refused, and how it is said


def test_a_uri_of_another_form_is_refused(tmp_path: Path) -> None:
    for uri in ("tpm2:pin=1", "tpm2:tcti=cmd:sh", "tpm2:?file=~nobody-here/x"):
        with pytest.raises(UsageError) as caught:
            provider_from_uri(uri, Place(VAULT, tmp_path))
        assert "nv=" in caught.value.next


def test_an_existing_holder_file_is_not_overwritten(provider: Tpm2Provider) -> None:
    before = provider.file.path.read_bytes()
    with pytest.raises(VaultExists):
        provider.provision(NEW)
    assert provider.file.path.read_bytes() == before
    assert held(provider) == {OLD: "current"}


def test_an_index_of_another_use_is_refused(tpm: Tpm, tmp_path: Path) -> None:
    tpm.run("tpm2_nvdefine", "-Q", "-C", "o", "-s", "8", "-a", "authread|authwrite", "0x01800abc")
    provider = tpm.provider(tmp_path, nv="0x01800abc")
    with pytest.raises(RootError, match="not this vault's counter") as caught:
        provider.provision(OLD)
    assert "nv=" in caught.value.next
    assert not provider.file.path.exists()
    assert b"0x1800ABC" in tpm.run("tpm2_getcap", "handles-nv-index")


def test_the_counter_of_another_vault_is_refused(tpm: Tpm, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tpm.provider(tmp_path / "other", b"w" * 16, nv="0x01800abc")
    other.provision(NEXT)
    with pytest.raises(RootError, match="not this vault's counter"):
        tpm.provider(tmp_path, nv="0x01800abc").provision(OLD)
    assert held(other) == {NEXT: "current"}


def test_a_second_holder_on_one_counter_is_refused(provider: Tpm2Provider, tpm: Tpm, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(RootError, match="this vault's counter already") as caught:
        tpm.provider(tmp_path / "other").provision(OLD)
    assert "tpm2_nvundefine" in caught.value.next
    assert held(provider) == {OLD: "current"}


def test_a_tpm_that_is_away_is_named_and_comes_back(provider: Tpm2Provider, tpm: Tpm) -> None:
    tpm.off()
    for call in (provider.candidates, lambda: provider.stage(NEW), lambda: provider.drop(mark(OLD))):
        with pytest.raises(
            RootError, match=r"swtpm:host=127.0.0.1,port=\d+ cannot be reached: .*refused"
        ) as caught:
            call()
        assert "tcti=" in caught.value.next
    tpm.on()
    assert held(provider) == {OLD: "current"}


def test_a_device_that_is_missing_is_named(provider: Tpm2Provider, tmp_path: Path) -> None:
    tcti = f"device:{tmp_path}/tpmrm9"
    uri = f"tpm2:tcti={tcti}?file={provider.file.path}"
    with pytest.raises(RootError, match=r"tpmrm9 cannot be reached: .*No such file"):
        provider_from_uri(uri, provider.place).candidates()
    shutil.rmtree(tpm2_tools._directory(tcti))


def test_missing_tools_are_named_with_the_install_command(
    provider: Tpm2Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RootError, match="not installed") as caught:
        provider.candidates()
    assert "apt-get install tpm2-tools" in caught.value.next


def test_a_tpm_that_was_cleared_is_told_from_one_that_is_ahead(provider: Tpm2Provider, tpm: Tpm) -> None:
    tpm.run("tpm2_clear", "-c", "p")
    with pytest.raises(RootError, match="another TPM, or this TPM was cleared"):
        provider.candidates()
    with pytest.raises(RootError, match="another TPM, or this TPM was cleared"):
        provider.drop(mark(OLD))
    assert [each.fingerprint for each in provider.file.read()] == [mark(OLD)]


def test_the_owners_authorization_is_asked_for_when_somebody_set_it(tpm: Tpm, tmp_path: Path) -> None:
    tpm.run("tpm2_changeauth", "-c", "owner", "secret of the owner")
    with pytest.raises(RootError, match="there is no tpm-owner") as caught:
        tpm.provider(tmp_path).provision(OLD)
    assert "FACEKEEP_TPM_OWNER_FILE" in caught.value.next
    provider = tpm.provider(tmp_path, ask=lambda *_: b"secret of the owner")
    provider.provision(OLD)
    swap(provider, OLD, NEW)
    assert held(provider) == {NEW: "current"}
    provider.abandon()
    assert tpm.run("tpm2_getcap", "handles-nv-index") == b""


def test_a_wrong_owners_authorization_is_not_tried_again(tpm: Tpm, tmp_path: Path) -> None:
    tpm.run("tpm2_changeauth", "-c", "owner", "secret of the owner")
    provider = tpm.provider(tmp_path, ask=lambda *_: b"wrong")
    with pytest.raises(RootError, match="refuses tpm2_nvdefine"):
        provider.provision(OLD)
    with pytest.raises(RootError, match="refused before"):
        provider.provision(OLD)
    assert b"TPM2_PT_LOCKOUT_COUNTER: 0x0" in tpm.run("tpm2_getcap", "properties-variable")


def test_a_tpm_in_lockout_still_opens_and_erases(provider: Tpm2Provider, tpm: Tpm, tmp_path: Path) -> None:
    lock_out(tpm, tmp_path)
    assert b"inLockout:                 1" in tpm.run("tpm2_getcap", "properties-variable")
    swap(provider, OLD, NEW)
    assert held(provider) == {NEW: "current"}


def lock_out(tpm: Tpm, base: Path) -> None:
    """Guess the secret of another object, which counts, until the TPM takes no more guesses."""
    names = {name: str(base / name) for name in ("p", "pub", "priv", "o", "in")}
    Path(names["in"]).write_bytes(b"of somebody else")
    tpm.run("tpm2_flushcontext", "-t")
    tpm.run("tpm2_createprimary", "-Q", "-C", "o", "-c", names["p"])
    tpm.run("tpm2_flushcontext", "-t")
    tpm.run(
        *("tpm2_create", "-Q", "-C", names["p"], "-i", names["in"], "-p", "right"),
        *("-u", names["pub"], "-r", names["priv"]),
    )
    tpm.run("tpm2_flushcontext", "-t")
    tpm.run("tpm2_load", "-Q", "-C", names["p"], "-u", names["pub"], "-r", names["priv"], "-c", names["o"])
    for _ in range(4):
        tpm.run("tpm2_flushcontext", "-t")
        with contextlib.suppress(Exception):
            tpm.run("tpm2_unseal", "-c", names["o"], "-p", "wrong")
    tpm.run("tpm2_flushcontext", "-t")


def test_a_working_directory_that_others_may_enter_is_refused(provider: Tpm2Provider) -> None:
    directory = tpm2_tools._directory(provider.tcti)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o755)
    with pytest.raises(RootError, match="not a directory of this user alone"):
        provider.candidates()
    directory.chmod(0o700)
    moved = directory.rename(directory.with_name(directory.name + ".moved"))
    directory.symlink_to(moved)
    with pytest.raises(RootError, match="not a directory of this user alone"):
        provider.candidates()
    directory.unlink()
    moved.rename(directory)


def test_a_tpm_that_hangs_in_another_process_is_not_waited_for_for_ever(
    provider: Tpm2Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpm2_tools, "LONGEST_WAIT", 0)
    with (tpm2_tools._directory(provider.tcti) / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RootError, match="another process has had the TPM") as caught:
            provider.candidates()
    assert "hang" in caught.value.next
    assert held(provider) == {OLD: "current"}


def test_nothing_is_left_in_the_working_directory(provider: Tpm2Provider) -> None:
    provider.candidates()
    assert [each.name for each in tpm2_tools._directory(provider.tcti).iterdir()] == ["lock"]


# -- crashes


Events = ("tpm2_nvdefine", "tpm2_nvincrement", "tpm2_nvundefine")


def kill_at(number: int) -> None:
    """Have this process killed after the number-th change of TPM or file, which is before the next."""
    left = itertools.count()

    def around(change: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            if arguments[1] in Events or isinstance(arguments[0], HolderFile):
                done = change(*arguments)
                if next(left) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return done
            return change(*arguments)

        return run

    tpm2_tools.Sitting._run = around(tpm2_tools.Sitting._run)  # type: ignore[method-assign,assignment]
    HolderFile.write = around(HolderFile.write)  # type: ignore[method-assign,assignment]


def killed_at_each_change(base: Path, action: Callable[[], object]) -> Iterator[int]:
    """Do the action in a process that is killed at its n-th change; yields n, until one comes to its end."""
    for number in itertools.count():

        def run(number: int = number) -> bool:
            kill_at(number)
            action()
            return True

        process = Lab(base).fork(run)
        try:
            ended = process.wait()
        except AssertionError:
            ended = False
        if ended:
            return
        yield number


def refused(provider: Tpm2Provider, file: bytes, root: bytes) -> None:
    """Put an older holder file in place: the TPM does not open this root any more."""
    now = provider.file.path.read_bytes()
    provider.file.path.write_bytes(file)
    with pytest.raises(RootError, match="counter is ahead"):
        provider.read_back(mark(root))
    provider.file.path.write_bytes(now)


def roots() -> Iterator[bytes]:
    for number in itertools.count(1):
        yield bytes([number]) * 32


def test_killed_at_each_change_of_a_promotion(provider: Tpm2Provider, tpm: Tpm, tmp_path: Path) -> None:
    fresh, pair = roots(), [OLD, b""]

    def stage() -> bytes:
        pair[1] = next(fresh)
        provider.stage(pair[1])
        return provider.file.path.read_bytes()

    def go_on() -> None:
        provider.promote(mark(pair[1]))
        provider.drop(mark(pair[0]))

    saved, times = stage(), 0
    for _ in killed_at_each_change(tmp_path, go_on):
        assert pair[1] in held(provider)
        go_on()
        assert held(provider) == {pair[1]: "current"}
        assert provider.damage == ()
        refused(provider, saved, pair[0])
        pair[0] = pair[1]
        saved, times = stage(), times + 1
    assert held(provider) == {pair[1]: "current"}
    assert times == 3  # increment, two writes
    assert tpm.sessions() == 0


def test_killed_at_each_change_of_an_aborted_swap(provider: Tpm2Provider, tpm: Tpm, tmp_path: Path) -> None:
    fresh, staged = roots(), [b""]

    def stage() -> bytes:
        staged[0] = next(fresh)
        provider.stage(staged[0])
        return provider.file.path.read_bytes()

    def drop() -> None:
        provider.drop(mark(staged[0]))

    saved, times = stage(), 0
    for number in killed_at_each_change(tmp_path, drop):
        assert held(provider)[OLD] == "current"
        if number % 2:  # as recovery does; or as the next swap does
            provider.promote(mark(OLD))
            drop()
        elif staged[0] in held(provider):
            drop()
        else:
            spare = next(fresh)
            provider.stage(spare)
            provider.drop(mark(spare))
        assert held(provider) == {OLD: "current"}
        assert provider.damage == ()
        refused(provider, saved, staged[0])
        saved, times = stage(), times + 1
    assert held(provider) == {OLD: "current"}
    assert times == 4  # write, two increments, write
    assert tpm.sessions() == 0


def test_killed_at_each_change_of_a_creation(tpm: Tpm, tmp_path: Path) -> None:
    provider = tpm.provider(tmp_path)
    times = 0
    for _ in killed_at_each_change(tmp_path, lambda: provider.provision(OLD)):
        times += 1
        if provider.file.path.exists():
            provider.unprovision()
        assert tpm.run("tpm2_getcap", "handles-nv-index") == b""
    assert held(provider) == {OLD: "current"}
    assert times == 4  # empty file, define, increment, record


def test_killed_at_each_change_of_giving_up(tpm: Tpm, tmp_path: Path) -> None:
    provider = tpm.provider(tmp_path)
    provider.provision(OLD)
    times = 0
    for _ in killed_at_each_change(tmp_path, provider.abandon):
        times += 1
        provider.abandon()
        assert tpm.run("tpm2_getcap", "handles-nv-index") == b""
        provider.unprovision()
        provider.provision(OLD)
    assert provider.candidates() == ()
    assert times == 3  # increment, write, undefine


def test_the_tool_of_a_killed_process_is_waited_for(
    provider: Tpm2Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise both would increment, and the new root would be closed for ever."""
    provider.stage(NEW)
    slow = tmp_path / "slow"
    slow.mkdir()
    tool = slow / "tpm2_nvincrement"
    tool.write_text(f'#!/bin/sh\nkill -9 $PPID\nsleep 0.5\nexec {shutil.which("tpm2_nvincrement")} "$@"\n')
    tool.chmod(0o700)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(slow), prepend=os.pathsep)
        Lab(tmp_path).fork(lambda: provider.promote(mark(NEW))).wait_killed()
    provider.promote(mark(NEW))
    assert held(provider) == {NEW: "current"}


def test_sessions_of_killed_processes_are_flushed(provider: Tpm2Provider, tpm: Tpm, tmp_path: Path) -> None:
    def run() -> None:
        original = tpm2_tools.Sitting._run

        def killed(
            bench: tpm2_tools.Sitting, tool: str, arguments: Sequence[str], secret: bytes = b""
        ) -> bytes:
            if tool == "tpm2_unseal":
                os.kill(os.getpid(), signal.SIGKILL)
            return original(bench, tool, arguments, secret)

        tpm2_tools.Sitting._run = killed  # type: ignore[method-assign,assignment]
        provider.candidates()

    for _ in range(3):
        Lab(tmp_path).fork(run).wait_killed()
    assert held(provider) == {OLD: "current"}
    assert tpm.sessions() == 0


# -- readers beside a writer


def test_a_reader_whose_file_was_replaced_reads_again(
    provider: Tpm2Provider, tpm: Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = tpm.provider(tmp_path)
    original, waiting = HolderFile.read, [True]

    def read(file: HolderFile) -> tuple[HolderRecord, ...]:
        records = original(file)
        if file is reader.file and waiting:
            waiting.clear()
            swap(provider, OLD, NEW)
        return records

    monkeypatch.setattr(HolderFile, "read", read)
    before = reader.candidates
    assert {each.root for each in before()} == {NEW}


def test_a_reader_always_finds_a_root_while_a_writer_promotes(
    provider: Tpm2Provider, tpm: Tpm, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"

    def read() -> int:
        times = 0
        reader = tpm.provider(tmp_path)
        while times < 2 or not stop.exists():
            assert reader.candidates()
            times += 1
        return times

    reading = Lab(tmp_path).fork(read)
    for old, new in itertools.pairwise([OLD, NEW, NEXT, OLD]):
        swap(provider, old, new)
    provider.stage(NEW)
    provider.drop(mark(NEW))
    stop.touch()
    assert reading.wait() > 1
    assert held(provider) == {OLD: "current"}
