"""Attacks on roots in a TPM: old disks, edited records, counters made anew, listeners."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from facekeep.errors import Denied, ErasurePending, RootError
from facekeep.formats.canonical import dumps
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.tpm2 import counter_mark, decode_sealed
from facekeep.keys import tpm2_tools
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.provider import Place
from facekeep.keys.tpm2_provider import Tpm2Provider
from facekeep.operations import move
from facekeep.operations.move import Holders
from facekeep.operations.rotation import Why
from facekeep.store.holderfile import HolderFile
from facekeep.vault import Vault
from tpm2_help import VAULT, Tpm, running
from vaultlab import Lab, core, log_entries, matches, reason

OLD, NEW, NEXT = b"o" * 32, b"n" * 32, b"x" * 32


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    with running(tmp_path / "tpm") as found:
        yield found


@pytest.fixture
def provider(tpm: Tpm, tmp_path: Path) -> Tpm2Provider:
    found = tpm.provider(tmp_path)
    found.provision(OLD)
    return found


def mark(root: bytes) -> bytes:
    return root_fingerprint(VAULT, root)


def held(provider: Tpm2Provider) -> dict[bytes, str]:
    return {each.root: each.state for each in provider.candidates()}


def swap(provider: Tpm2Provider, old: bytes, new: bytes) -> None:
    provider.stage(new)
    provider.promote(mark(new))
    provider.drop(mark(old))


def edit(provider: Tpm2Provider, **changed: object) -> None:
    """Change what every record keeps, as somebody who may write the file would."""
    records = [
        HolderRecord(each.fingerprint, each.state, {**each.sealed, **changed})  # type: ignore[dict-item]
        for each in provider.file.read()
    ]
    provider.file.write(records)


# -- old disks


def test_a_rolled_back_holder_file_is_refused_by_the_tpm(provider: Tpm2Provider) -> None:
    saved = provider.file.path.read_bytes()
    swap(provider, OLD, NEW)
    provider.file.path.write_bytes(saved)
    with pytest.raises(
        RootError, match=r"counter is ahead: it stands at 2, this root opened up to 1"
    ) as caught:
        provider.candidates()
    assert "newest copy of the holder file" in caught.value.next
    for call in (provider.read_back, provider.promote):
        with pytest.raises(RootError, match="counter is ahead"):
            call(mark(OLD))


def test_the_file_of_the_middle_of_a_swap_is_refused_after_the_next(provider: Tpm2Provider) -> None:
    provider.stage(NEW)
    saved = provider.file.path.read_bytes()
    provider.promote(mark(NEW))
    provider.drop(mark(OLD))
    swap(provider, NEW, NEXT)
    provider.file.path.write_bytes(saved)
    with pytest.raises(RootError, match="counter is ahead"):
        provider.candidates()


def test_a_root_that_was_staged_and_dropped_stays_dead(provider: Tpm2Provider) -> None:
    provider.stage(NEW)
    saved = provider.file.path.read_bytes()
    provider.drop(mark(NEW))
    provider.file.path.write_bytes(saved)
    for root in (
        OLD,
        NEW,
    ):  # the current root's old seal went with it; its new one is in the newest file only
        with pytest.raises(RootError, match="counter is ahead"):
            provider.read_back(mark(root))


def test_a_loss_of_power_does_not_turn_the_counter_back(provider: Tpm2Provider, tpm: Tpm) -> None:
    saved = provider.file.path.read_bytes()
    swap(provider, OLD, NEW)
    tpm.off()
    tpm.on()
    provider.file.path.write_bytes(saved)
    with pytest.raises(RootError, match="counter is ahead"):
        provider.candidates()


def test_a_counter_made_anew_does_not_go_back(provider: Tpm2Provider, tpm: Tpm, tmp_path: Path) -> None:
    """The owner removes the counter and makes the same again: it goes on above all that ever was."""
    saved = provider.file.path.read_bytes()
    swap(provider, OLD, NEW)
    (tmp_path / "mark").write_bytes(counter_mark(VAULT))
    handle = f"{provider.index:#010x}"
    tpm.run("tpm2_nvundefine", "-C", "o", handle)
    tpm.run(
        *("tpm2_nvdefine", "-Q", "-C", "o", "-s", "8", "-g", "sha256", "-L", str(tmp_path / "mark")),
        *("-a", "nt=counter|authread|authwrite|no_da", handle),
    )
    with pytest.raises(RootError, match="no counter"):
        provider.read_back(mark(NEW))  # it has not counted yet
    tpm.run("tpm2_nvincrement", "-C", handle, handle)
    now = provider.file.path.read_bytes()
    for file, root in ((saved, OLD), (now, NEW)):
        provider.file.path.write_bytes(file)
        with pytest.raises(RootError, match="counter is ahead: it stands at 3"):
            provider.read_back(mark(root))


def test_an_ordinary_index_with_the_old_value_is_no_counter(
    provider: Tpm2Provider, tpm: Tpm, tmp_path: Path
) -> None:
    saved = provider.file.path.read_bytes()
    swap(provider, OLD, NEW)
    (tmp_path / "mark").write_bytes(counter_mark(VAULT))
    (tmp_path / "one").write_bytes((1).to_bytes(8, "big"))
    handle = f"{provider.index:#010x}"
    tpm.run("tpm2_nvundefine", "-C", "o", handle)
    tpm.run(
        *("tpm2_nvdefine", "-Q", "-C", "o", "-s", "8", "-g", "sha256", "-L", str(tmp_path / "mark")),
        *("-a", "authread|authwrite|no_da", handle),
    )
    tpm.run("tpm2_nvwrite", "-C", handle, "-i", str(tmp_path / "one"), handle)
    provider.file.path.write_bytes(saved)
    with pytest.raises(RootError):
        provider.read_back(mark(OLD))
    with pytest.raises(
        RootError, match="not this vault's counter"
    ):  # nothing is called destroyed because of it
        provider.drop(mark(OLD))


def test_a_dropped_root_stays_dead_though_its_counter_was_removed(provider: Tpm2Provider, tpm: Tpm) -> None:
    """It is made anew and taken past the bound before the root is called destroyed."""
    provider.stage(NEW)
    saved = provider.file.path.read_bytes()
    tpm.run("tpm2_nvundefine", "-C", "o", f"{provider.index:#010x}")
    provider.abandon()
    provider.file.path.write_bytes(saved)
    with provider._counting() as seat:
        assert seat.counter.begin() > max(decode_sealed(each.sealed).bound for each in provider.file.read())
    with pytest.raises(RootError, match="counter is ahead"):
        provider.candidates()


def test_somebody_elses_increment_closes_the_vault_and_opens_nothing(
    provider: Tpm2Provider, tpm: Tpm
) -> None:
    """Whoever may use the TPM can do this. It costs the holder, which is what mirrors are for."""
    handle = f"{provider.index:#010x}"
    tpm.run("tpm2_nvincrement", "-C", handle, handle)
    with pytest.raises(RootError, match="counter is ahead") as caught:
        provider.candidates()
    assert "a mirror or the recovery key" in caught.value.next


def test_a_copied_tpm_revives_a_root_as_its_receipt_says(
    provider: Tpm2Provider, tpm: Tpm, tmp_path: Path
) -> None:
    saved = provider.file.path.read_bytes()
    tpm.off()
    shutil.copytree(tpm.state, tmp_path / "copy")
    tpm.on()
    swap(provider, OLD, NEW)
    tpm.off()
    shutil.rmtree(tpm.state)
    shutil.copytree(tmp_path / "copy", tpm.state)
    tpm.on()
    provider.file.path.write_bytes(saved)
    assert held(provider) == {OLD: "current"}
    assert "tpm_state_copy" in provider.limits


# -- edited files


def test_a_raised_bound_opens_nothing(provider: Tpm2Provider) -> None:
    saved = provider.file.path.read_bytes()
    swap(provider, OLD, NEW)
    provider.file.path.write_bytes(saved)
    edit(provider, bound=2)
    with pytest.raises(RootError, match="altered"):
        provider.candidates()


def test_a_lowered_bound_is_found_out(provider: Tpm2Provider) -> None:
    swap(provider, OLD, NEW)
    edit(provider, bound=1)
    with pytest.raises(RootError, match="counter is ahead"):
        provider.promote(mark(NEW))


def test_a_bound_far_ahead_does_not_wear_out_the_counter(provider: Tpm2Provider) -> None:
    edit(provider, bound=2**52)
    for call in (lambda: provider.stage(NEW), lambda: provider.drop(mark(OLD))):
        with pytest.raises(RootError, match="altered"):
            call()
    with provider._counting() as seat:
        assert seat.counter.read() == 1


def test_a_damaged_object_is_named(provider: Tpm2Provider) -> None:
    private = str(provider.file.read()[0].sealed["private"])
    edit(provider, private=private[:-2] + ("00" if private[-2:] != "00" else "01"))
    with pytest.raises(RootError, match="sealed root is damaged"):
        provider.candidates()
    edit(provider, private="zz")
    with pytest.raises(RootError, match="record is damaged"):
        provider.candidates()


def test_an_object_under_another_fingerprint_is_refused(provider: Tpm2Provider) -> None:
    provider.stage(NEW)
    first, second = provider.file.read()
    provider.file.write(
        [
            HolderRecord(first.fingerprint, "current", second.sealed),
            HolderRecord(second.fingerprint, "staged", first.sealed),
        ]
    )
    with pytest.raises(RootError, match="another root than the record names"):
        provider.candidates()


def test_a_dead_record_does_not_hold_up_the_next_swap(provider: Tpm2Provider) -> None:
    """As a crash after the destruction, or somebody who edits the file, leaves it."""
    provider.stage(NEW)
    staged = provider.file.read()[1]
    provider.drop(mark(NEW))
    provider.file.write([*provider.file.read(), staged])
    assert held(provider) == {OLD: "current"}
    assert "counter is ahead" in provider.damage[0]
    swap(provider, OLD, NEXT)
    assert held(provider) == {NEXT: "current"}
    assert provider.damage == ()


# -- who looks and who listens


def test_no_argument_file_or_variable_carries_a_secret(
    tpm: Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = b"secret of the owner"
    tpm.run("tpm2_changeauth", "-c", "owner", owner.decode())
    provider = tpm.provider(tmp_path, ask=lambda *_: owner)
    original: Callable[..., object] = subprocess.run
    looked: list[list[str]] = []

    def run(command: list[str], *, env: Mapping[str, str], **more: object) -> object:
        if command[0].endswith("tpm2_unseal"):
            looked.append(command)
        done = original(command, env=env, **more)
        seen = [*(each.encode() for each in (*command, *env.values()))]
        seen += [
            path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file() and tpm.state not in path.parents
        ]
        seen += [path.read_bytes() for path in tpm2_tools._directory(tpm.tcti).iterdir()]
        for secret in (OLD, NEW, owner):
            for form in (secret, secret.hex().encode()):
                assert not any(form in each for each in seen)
        return done

    monkeypatch.setattr(subprocess, "run", run)
    provider.provision(OLD)
    swap(provider, OLD, NEW)
    monkeypatch.undo()
    assert looked


@dataclass
class Wire:
    """A cable with a listener between tools and TPM: forwards two ports, keeps all that passes."""

    port: int
    passed: bytearray


@contextlib.contextmanager
def listened(tpm: Tpm) -> Iterator[Wire]:
    first, second = two_listeners()
    wire = Wire(int(first.getsockname()[1]), bytearray())
    for listener, port in ((first, tpm.port), (second, tpm.port + 1)):
        threading.Thread(target=accept, args=(listener, port, wire.passed), daemon=True).start()
    try:
        yield wire
    finally:
        for listener in (first, second):
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def two_listeners() -> tuple[socket.socket, socket.socket]:
    while True:
        first = socket.create_server(("127.0.0.1", 0))
        with contextlib.suppress(OSError, OverflowError):
            return first, socket.create_server(("127.0.0.1", int(first.getsockname()[1]) + 1))
        first.close()


def accept(listener: socket.socket, port: int, passed: bytearray) -> None:
    with contextlib.suppress(OSError):
        while True:
            here, _ = listener.accept()
            there = socket.create_connection(("127.0.0.1", port))
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=forward, args=(one, other, passed), daemon=True).start()


def forward(one: socket.socket, other: socket.socket, passed: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            passed.extend(data)
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def test_who_listens_on_the_bus_does_not_see_the_root(tpm: Tpm, tmp_path: Path) -> None:
    with listened(tpm) as wire:
        uri = f"tpm2:tcti=swtpm:host=127.0.0.1,port={wire.port}?file=tpm2.holder"
        provider = provider_from_uri(uri, Place(VAULT, tmp_path))
        provider.provision(OLD)
        provider.stage(NEW)
        assert [each.root for each in provider.candidates()] == [OLD, NEW]
        public = decode_sealed(HolderFile(tmp_path / "tpm2.holder", VAULT, "tpm2").read()[0].sealed).public
        assert public in wire.passed  # it does listen
        assert OLD not in wire.passed
        assert NEW not in wire.passed
    shutil.rmtree(tpm2_tools._directory(f"swtpm:host=127.0.0.1,port={wire.port}"))


# -- a whole vault


class TpmLab(Lab):
    """A vault whose root a TPM holds; ``root`` is the holder file, so ``save`` and ``put_back`` take it."""

    def create_on(self, tpm: Tpm) -> TpmLab:
        with Vault.create(
            self.path, root=tpm.uri(file=str(self.root)), region=self.region, clock=self.clock
        ) as vault:
            assert vault.token is not None
            self.token = vault.token
        return self


def outcome(lab: Lab, name: str) -> str:
    """What a process of its own answers for a person."""

    def ask() -> str:
        with lab.open() as vault:
            try:
                return "match" if matches(vault, name) else "no match"
            except Denied:
                return reason(vault, name)

    return lab.fork(ask).wait()


def test_a_vault_on_a_tpm_enrols_matches_and_erases(tpm: Tpm, tmp_path: Path) -> None:
    lab = TpmLab(tmp_path).create_on(tpm)
    lab.enrol("alice", "bob")
    before = lab.save("before")
    lab.do(lambda vault: vault.shred("alice"))
    destroyed = [entry for entry in lab.do(log_entries) if entry["type"] == "destroyed"]
    assert b'"action":"destroyed","class":"erasing"' in dumps(destroyed[-1])
    assert b'"limits":["tpm_firmware","tpm_state_copy"],"scheme":"tpm2"' in dumps(destroyed[-1])
    assert outcome(lab, "alice") == "subject_unknown"
    assert outcome(lab, "bob") == "match"
    lab.clean()

    lab.put_back(before)  # keys.db, log, data and holder file: the whole disk
    with pytest.raises(RootError, match="counter is ahead"):
        lab.do(lambda vault: vault.shred("bob"))


def test_a_rolled_back_holder_file_with_its_keys_is_refused_by_the_tpm(tpm: Tpm, tmp_path: Path) -> None:
    lab = TpmLab(tmp_path).create_on(tpm)
    lab.enrol("alice", "bob")
    before = lab.save("before")
    lab.do(lambda vault: vault.shred("alice"))
    now = lab.save("now")
    lab.put_back(before, "keys.db")
    shutil.copy2(before / "root.key", lab.root)
    with pytest.raises(RootError, match="counter is ahead"):
        lab.do(Vault.status)
    lab.put_back(now)
    assert outcome(lab, "bob") == "match"


def test_a_vault_on_a_tpm_killed_in_the_middle_of_an_erasure_ends_it(tpm: Tpm, tmp_path: Path) -> None:
    lab = TpmLab(tmp_path).create_on(tpm)
    lab.enrol("alice", "bob")

    def run() -> None:
        original: Callable[..., bytes] = tpm2_tools.Sitting._run

        def killed(bench: tpm2_tools.Sitting, tool: str, *more: object) -> bytes:
            done = original(bench, tool, *more)
            if tool == "tpm2_nvincrement":
                os.kill(os.getpid(), 9)
            return done

        tpm2_tools.Sitting._run = killed  # type: ignore[method-assign,assignment]
        lab.do(lambda vault: vault.shred("alice"))

    lab.fork(run).wait_killed()
    assert outcome(lab, "alice") == "subject_unknown"
    assert outcome(lab, "bob") == "match"
    lab.clean()
    assert tpm.sessions() == 0


def test_a_vault_moves_to_a_tpm_and_waits_for_one_that_is_away(tpm: Tpm, tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    for holders in (
        Holders(root_uri=tpm.uri(file=str(tmp_path / "first"))),
        Holders(
            root_uri=f"file:{lab.root}", mirrors=[tpm.uri(nv="0x01800001", file=str(tmp_path / "second"))]
        ),
    ):
        with lab.open() as vault:
            move.begin(core(vault), vault._session, Why.DRILL, holders)
        lab.do(lambda vault: move.finish(core(vault), vault._session))
    assert not (tmp_path / "first").exists()
    assert tpm.run("tpm2_getcap", "handles-nv-index") == b"- 0x1800001\n"

    tpm.off()
    with lab.open() as vault:
        assert matches(vault, "bob")
        with pytest.raises(ErasurePending, match="cannot be reached"):
            vault.shred("alice")
        assert reason(vault, "alice") == "withdrawn"
    tpm.on()
    assert outcome(lab, "alice") == "subject_unknown"
    assert outcome(lab, "bob") == "match"
    lab.clean()
