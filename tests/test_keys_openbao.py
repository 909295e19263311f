"""The ``openbao:`` holder on a real server: its life, crashes at each step, attacks with kept copies."""

from __future__ import annotations

import base64
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import openbao_help
from facekeep.errors import RootError, VaultExists
from facekeep.formats.canonical import JsonObject
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.openbao_http import Json, Wire
from facekeep.keys.openbao_provider import OpenBaoProvider
from facekeep.keys.provider import Place
from facekeep.keys.sealed_holder import KeyGone
from facekeep.store.holderfile import HolderFile
from openbao_help import MOUNT, Server

FIRST, SECOND, THIRD = b"1" * 32, b"2" * 32, b"3" * 32


@dataclass
class Lab:
    """One vault's holder, and what a new process would make of it."""

    path: Path
    vault_id: bytes
    server: Server
    token: str

    @property
    def name(self) -> str:
        return openbao_help.key_name(self.vault_id)

    def fresh(self) -> OpenBaoProvider:
        """As another process has it."""
        return openbao_help.provider(self.path, self.vault_id, of=self.server, token=self.token)

    def mark(self, root: bytes) -> bytes:
        return root_fingerprint(self.vault_id, root)

    def held(self) -> dict[bytes, str]:
        return {each.root: each.state for each in self.fresh().candidates()}

    def record(self, root: bytes) -> HolderRecord:
        return next(each for each in self.fresh().file.read() if each.fingerprint == self.mark(root))

    def kept(self, root: bytes) -> tuple[JsonObject, bytes]:
        """What somebody who copies the holder file now has of a root."""
        return self.record(root).sealed, self.mark(root)

    def revives(self, kept: tuple[JsonObject, bytes]) -> bool:
        """Whether a kept record opens; asked of the server as its administrator, past the provider too."""
        sealed, mark = kept
        associated = base64.b64encode(self.fresh()._associated(mark)).decode()
        body = {"ciphertext": sealed["ciphertext"], "associated_data": associated}
        by_administrator = self.server.status("POST", f"{MOUNT}/decrypt/{self.name}", body) == 200
        try:
            self.fresh()._unseal(*kept)
        except KeyGone:
            assert not by_administrator
            return False
        assert by_administrator
        return True


def lab_on(server: Server, path: Path) -> Lab:
    vault_id = os.urandom(16)
    path.mkdir(exist_ok=True)
    return Lab(path, vault_id, server, server.token_for(openbao_help.key_name(vault_id)))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return lab_on(openbao_help.server(), tmp_path / "lab")


# -- its life


def test_a_root_is_provisioned_staged_promoted_and_dropped(lab: Lab) -> None:
    holder = lab.fresh()
    holder.provision(FIRST)
    assert lab.held() == {FIRST: "current"}
    assert holder.read_back(lab.mark(FIRST)) == FIRST
    holder.stage(SECOND)
    holder.stage(SECOND)
    assert lab.held() == {FIRST: "current", SECOND: "staged"}
    with pytest.raises(RootError, match="already holds a staged root"):
        holder.stage(THIRD)
    promoted = holder.promote(lab.mark(SECOND))
    assert promoted == lab.fresh().promote(lab.mark(SECOND))
    destroyed = holder.drop(lab.mark(FIRST))
    assert destroyed == lab.fresh().drop(lab.mark(FIRST))
    assert lab.held() == {SECOND: "current"}
    assert promoted.to_json() == {
        "class": "erasing",
        "scheme": "openbao",
        "action": "promoted",
        "limits": ["server_snapshot"],
    }
    assert destroyed.action == "destroyed"
    assert holder.damage == ()


def test_the_server_has_only_versions_that_seal_a_living_root(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    roots = [FIRST, *(bytes([n]) * 32 for n in range(5))]
    for old, new in itertools.pairwise(roots):
        lab.fresh().stage(new)
        lab.fresh().promote(lab.mark(new))
        lab.fresh().drop(lab.mark(old))
        version = str(lab.record(new).sealed["version"])
        key = lab.server.key(lab.name)
        assert list(key["keys"]) == [version]
        assert str(key["min_available_version"]) == version


def test_giving_up_a_creation_leaves_neither_key_nor_file(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().unprovision()
    assert not lab.fresh().file.path.exists()
    assert lab.server.status("GET", f"{MOUNT}/keys/{lab.name}") == 404
    lab.fresh().provision(FIRST)


def test_a_creation_that_fails_half_way_leaves_no_key(lab: Lab) -> None:
    lab.server.api("PUT", f"sys/policies/acl/{lab.name}", {"policy": policy_without(lab, "encrypt")})
    with pytest.raises(RootError, match="denies POST transit/encrypt"):
        lab.fresh().provision(FIRST)
    assert not lab.fresh().file.path.exists()
    assert lab.server.status("GET", f"{MOUNT}/keys/{lab.name}") == 404


def test_a_holder_that_leaves_destroys_everything_and_may_be_told_again(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    kept = [lab.kept(FIRST), lab.kept(SECOND)]
    first = lab.fresh().abandon()
    assert first == lab.fresh().abandon()
    assert lab.fresh().candidates() == ()
    assert lab.server.status("GET", f"{MOUNT}/keys/{lab.name}") == 404
    lab.server.api("POST", f"{MOUNT}/keys/{lab.name}", {"type": "aes256-gcm96"})  # a snapshot's, or another's
    for sealed, mark in kept:
        with pytest.raises(KeyGone):
            lab.fresh()._unseal(sealed, mark)
    lab.fresh().abandon()
    assert lab.server.key(lab.name), "a key that somebody made since is not this holder's to remove"


def test_two_vaults_on_one_server_do_not_disturb_each_other(lab: Lab, tmp_path: Path) -> None:
    other = lab_on(lab.server, tmp_path / "other")
    lab.fresh().provision(FIRST)
    other.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    lab.fresh().promote(lab.mark(SECOND))
    lab.fresh().drop(lab.mark(FIRST))
    assert other.held() == {FIRST: "current"}
    assert lab.server.status("GET", f"{MOUNT}/keys/{lab.name}") == 200
    with pytest.raises(RootError, match="denies"):  # nor may the token of one use the key of the other
        openbao_help.provider(other.path, other.vault_id, of=lab.server, token=lab.token).candidates()


def test_a_key_that_exists_is_never_taken_over(lab: Lab) -> None:
    lab.server.api("POST", f"{MOUNT}/keys/{lab.name}", {"type": "aes256-gcm96"})
    with pytest.raises(VaultExists, match="already a transit key"):
        lab.fresh().provision(FIRST)
    assert lab.server.key(lab.name)["latest_version"] == 1
    assert not lab.fresh().file.path.exists()


def test_a_holder_file_that_exists_keeps_the_key_of_its_vault(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    with pytest.raises(VaultExists):
        lab.fresh().provision(SECOND)
    assert lab.held() == {FIRST: "current"}


def test_the_uri_names_mount_key_file_and_namespace(tmp_path: Path) -> None:
    server = openbao_help.server()
    admin = openbao_help.secrets(server.token)
    server.api("POST", "sys/mounts/keys/of/staff", {"type": "transit"})
    text = openbao_help.uri(of=server, file="h").replace(f"/{MOUNT}/", "/keys/of/staff/the.key")
    holder = provider_from_uri(text, Place(bytes(16), tmp_path, admin))
    holder.provision(FIRST)
    assert (tmp_path / "h").exists()
    assert server.status("GET", "keys/of/staff/keys/the.key") == 200
    missing = text.replace("/keys/of/staff/", "/nowhere/")
    with pytest.raises(RootError, match="no such engine"):
        provider_from_uri(missing, Place(bytes(16), tmp_path, admin)).candidates()
    with pytest.raises(RootError):
        provider_from_uri(f"{text}&namespace=elsewhere", Place(bytes(16), tmp_path, admin)).candidates()


def test_the_key_is_in_the_namespace_that_the_uri_names(tmp_path: Path) -> None:
    server = openbao_help.server()
    server.api("POST", "sys/namespaces/tenant", {})
    admin = Place(bytes(16), tmp_path, openbao_help.secrets(server.token))
    text = openbao_help.uri("root-of-tenant", of=server, file="h", namespace="tenant")
    with pytest.raises(RootError, match="no such engine"):
        provider_from_uri(text, admin).provision(FIRST)
    server.api("POST", f"tenant/sys/mounts/{MOUNT}", {"type": "transit"})
    provider_from_uri(text, admin).provision(FIRST)
    assert server.status("GET", f"tenant/{MOUNT}/keys/root-of-tenant") == 200
    assert server.status("GET", f"{MOUNT}/keys/root-of-tenant") == 404


def test_a_reader_is_not_lost_when_a_writer_seals_anew_and_trims(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    reader = lab.fresh()
    real, writes = reader._unseal, iter([partial(lab.fresh().drop, lab.mark(SECOND))])

    def overtaken(sealed: JsonObject, fingerprint: bytes) -> bytes:
        next(writes, lambda: None)()
        return real(sealed, fingerprint)

    monkeypatch.setattr(reader, "_unseal", overtaken)
    assert [each.root for each in reader.candidates()] == [FIRST]
    assert reader.damage == ()


# -- attacks


def test_attack_a_kept_holder_file_opens_nothing_after_the_swap(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    kept, whole = lab.kept(FIRST), lab.fresh().file.path.read_bytes()
    assert lab.revives(kept)
    lab.fresh().stage(SECOND)
    lab.fresh().promote(lab.mark(SECOND))
    lab.fresh().drop(lab.mark(FIRST))
    assert not lab.revives(kept)
    lab.fresh().file.path.write_bytes(whole)
    with pytest.raises(RootError, match="was trimmed"):
        lab.fresh().candidates()


def test_attack_a_trimmed_version_cannot_be_had_back_by_the_administrator(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    sealed, _ = lab.kept(FIRST)
    lab.fresh().stage(SECOND)
    lab.fresh().promote(lab.mark(SECOND))
    lab.fresh().drop(lab.mark(FIRST))
    path = f"{MOUNT}/keys/{lab.name}"
    assert lab.server.status("POST", f"{path}/trim", {"min_available_version": 1}) == 400
    assert lab.server.status("POST", f"{path}/config", {"min_decryption_version": 1}) == 400
    lab.server.configure(lab.name, exportable=True, allow_plaintext_backup=True)
    exported = lab.server.api("GET", f"{MOUNT}/export/encryption-key/{lab.name}")["data"]["keys"]
    assert str(sealed["version"]) not in exported
    lab.server.api("GET", f"{MOUNT}/backup/{lab.name}")


def test_attack_a_staged_root_that_was_dropped_is_dead_and_the_current_one_lives(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    before, aborted = lab.kept(FIRST), lab.kept(SECOND)
    lab.fresh().drop(lab.mark(SECOND))
    assert lab.held() == {FIRST: "current"}
    assert not lab.revives(aborted)
    assert not lab.revives(before)  # sealed again: what was copied of it before is worthless too
    assert lab.revives(lab.kept(FIRST))


def test_attack_a_record_of_another_vault_is_not_opened(lab: Lab, tmp_path: Path) -> None:
    other = lab_on(lab.server, tmp_path / "other")
    lab.fresh().provision(FIRST)
    other.fresh().provision(SECOND)
    stolen, foreign = lab.record(FIRST).sealed, other.record(SECOND)
    other.fresh().file.write([HolderRecord(foreign.fingerprint, "current", stolen)])
    with pytest.raises(RootError, match="no root that opens"):
        other.fresh().candidates()


@pytest.mark.parametrize(
    "sealed",
    [
        {},
        {"ciphertext": "vault:v2:QQ==", "version": 3},
        {"ciphertext": "vault:v2:QQ==", "version": True},
        {"ciphertext": "vault:v02:QQ==", "version": 2},
        {"ciphertext": "vault:v2:QQ==\n", "version": 2},
        {"ciphertext": 2, "version": 2},
        {"ciphertext": "vault:v2:QQ==", "version": 2, "key": "x"},
        {"ciphertext": "vault:v2:QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD", "version": 2},
    ],
)
def test_attack_an_edited_record_is_reported_and_dropping_it_spares_the_other(
    lab: Lab, sealed: JsonObject
) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    kept = lab.kept(FIRST), lab.kept(SECOND)
    records = [lab.record(FIRST), HolderRecord(lab.mark(SECOND), "staged", sealed)]
    lab.fresh().file.write(records)
    holder = lab.fresh()
    assert [each.root for each in holder.candidates()] == [FIRST]
    assert len(holder.damage) == 1
    lab.fresh().drop(lab.mark(SECOND))
    assert lab.held() == {FIRST: "current"}
    assert not lab.revives(kept[0])
    if not sealed:  # nothing said which version it was: every version but the new one is gone
        assert not lab.revives(kept[1])


def renumbered(lab: Lab, root: bytes, version: int) -> None:
    """Write a record as if its version had been made after the snapshot that the server now is."""
    records = []
    for each in lab.fresh().file.read():
        sealed = each.sealed
        if each.fingerprint == lab.mark(root):
            tail = str(sealed["ciphertext"]).split(":")[2]
            sealed = {"ciphertext": f"vault:v{version}:{tail}", "version": version}
        records.append(HolderRecord(each.fingerprint, each.state, sealed))
    lab.fresh().file.write(records)


def test_a_staged_root_of_after_the_servers_snapshot_is_dropped_for_good(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    renumbered(lab, SECOND, 9)
    assert lab.held() == {FIRST: "current"}
    lab.fresh().drop(lab.mark(SECOND))
    assert lab.held() == {FIRST: "current"}
    assert lab.record(FIRST).sealed["version"] == 10, "no later version can be mistaken for the lost one"


def test_a_version_far_above_all_is_refused_and_nothing_is_trimmed(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    renumbered(lab, SECOND, 9_999)
    with pytest.raises(RootError, match="far older"):
        lab.fresh().drop(lab.mark(SECOND))
    assert lab.held() == {FIRST: "current"}


def test_attack_a_snapshot_of_the_server_revives_a_root_and_the_receipt_says_so(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", storage="raft").start()
    try:
        server.make()
        lab = lab_on(server, tmp_path / "lab")
        lab.fresh().provision(FIRST)
        kept = lab.kept(FIRST)
        server.stop()
        shutil.copytree(server.data, tmp_path / "snapshot")
        server.start().unseal()
        lab.fresh().stage(SECOND)
        lab.fresh().promote(lab.mark(SECOND))
        receipt = lab.fresh().drop(lab.mark(FIRST))
        assert not lab.revives(kept)
        server.stop()
        shutil.rmtree(server.data)
        shutil.copytree(tmp_path / "snapshot", server.data)
        server.start().unseal()
        assert lab.revives(kept)  # which no holder can prevent
        assert receipt.limits == ("server_snapshot",)  # and every receipt says
        with pytest.raises(RootError, match="older than the record"):
            lab.fresh().candidates()
    finally:
        server.stop()


# -- the key's settings


@pytest.mark.parametrize("setting", ["exportable", "allow_plaintext_backup"])
def test_attack_no_root_goes_under_a_key_that_was_made_exportable(lab: Lab, setting: str) -> None:
    lab.fresh().provision(FIRST)
    lab.server.configure(lab.name, **{setting: True})
    with pytest.raises(RootError, match="may be exported"):
        lab.fresh().stage(SECOND)
    assert lab.held() == {FIRST: "current"}  # so that it can be moved to another holder
    holder = lab.fresh()
    holder.candidates()
    assert any("may be exported" in each for each in holder.damage)
    assert holder.abandon().limits == ("exportable_key", "server_snapshot")


def test_a_key_made_exportable_between_stage_and_promote_is_named_in_the_receipts(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    lab.server.configure(lab.name, exportable=True)
    assert lab.fresh().promote(lab.mark(SECOND)).limits == ("exportable_key", "server_snapshot")
    assert lab.fresh().drop(lab.mark(FIRST)).limits == ("exportable_key", "server_snapshot")
    assert lab.held() == {SECOND: "current"}


def test_the_policy_of_the_guide_cannot_make_a_key_exportable(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    bare = Server(lab.path, port=lab.server.port, token=lab.token)
    path = f"{MOUNT}/keys/{lab.name}"
    assert bare.status("POST", f"{path}/config", {"exportable": True}) == 403
    assert bare.status("POST", f"{path}/config", {"allow_plaintext_backup": True}) == 403
    assert bare.status("GET", f"{MOUNT}/export/encryption-key/{lab.name}") == 403
    assert bare.status("GET", f"{MOUNT}/backup/{lab.name}") == 403
    lab.fresh().unprovision()
    assert bare.status("POST", path, {"type": "aes256-gcm96", "exportable": True}) == 403


@pytest.mark.parametrize("kind", [{"type": "chacha20-poly1305"}, {"type": "aes256-gcm96", "derived": True}])
def test_a_key_of_another_kind_is_refused(lab: Lab, kind: dict[str, object]) -> None:
    lab.fresh().provision(FIRST)
    file = lab.fresh().file.path.read_bytes()
    lab.fresh().unprovision()
    lab.server.api("POST", f"{MOUNT}/keys/{lab.name}", kind)
    lab.fresh().file.path.write_bytes(file)
    lab.fresh().file.path.chmod(0o600)
    with pytest.raises(RootError, match="another type"):
        lab.fresh().candidates()


def test_deletion_allowed_is_reported(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.server.configure(lab.name, deletion_allowed=True)
    holder = lab.fresh()
    holder.candidates()
    assert any("may be deleted" in each for each in holder.damage)


def test_versions_the_server_made_by_itself_do_no_harm(lab: Lab) -> None:
    """What ``auto_rotate_period`` does, at the worst moments."""

    def rotate() -> None:
        lab.server.api("POST", f"{MOUNT}/keys/{lab.name}/rotate", {})

    lab.server.api("POST", f"{MOUNT}/keys/other-{lab.name}", {"auto_rotate_period": "1h"})
    lab.fresh().provision(FIRST)
    lab.server.configure(lab.name, auto_rotate_period="1h")
    rotate()
    lab.fresh().stage(SECOND)
    rotate()
    lab.fresh().promote(lab.mark(SECOND))
    rotate()
    kept = lab.kept(FIRST)
    lab.fresh().drop(lab.mark(FIRST))
    rotate()
    assert not lab.revives(kept)
    lab.fresh().stage(THIRD)
    rotate()
    aborted = lab.kept(THIRD)
    lab.fresh().drop(lab.mark(THIRD))
    assert not lab.revives(aborted)
    assert lab.held() == {SECOND: "current"}


def test_a_minimum_raised_by_hand_is_named_with_what_lowers_it(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.server.api("POST", f"{MOUNT}/keys/{lab.name}/rotate", {})
    lab.server.configure(lab.name, min_decryption_version=3)
    with pytest.raises(RootError, match=f"bao write .*{lab.name}/config min_decryption_version=2"):
        lab.fresh().candidates()
    lab.server.configure(lab.name, min_decryption_version=2)
    assert lab.held() == {FIRST: "current"}


def test_attack_a_withheld_root_is_not_trimmed_with_another(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    lab.server.configure(lab.name, min_decryption_version=3)
    with pytest.raises(RootError, match="min_decryption_version=2"):
        lab.fresh().drop(lab.mark(SECOND))
    lab.server.configure(lab.name, min_decryption_version=2)
    assert lab.held() == {FIRST: "current", SECOND: "staged"}


def test_a_soft_deleted_key_is_named_and_nothing_counts_as_destroyed(lab: Lab) -> None:
    lab.fresh().provision(FIRST)
    lab.server.api("DELETE", f"{MOUNT}/keys/{lab.name}/soft-delete")
    with pytest.raises(RootError, match="soft-deleted") as caught:
        lab.fresh().candidates()
    with pytest.raises(RootError, match="soft-deleted"):
        lab.fresh().drop(lab.mark(FIRST))
    lab.server.api("POST", caught.value.next.removeprefix("bao write -f "), {})
    assert lab.held() == {FIRST: "current"}


def test_attack_a_key_that_is_not_there_is_never_called_destroyed(lab: Lab) -> None:
    """Another server in the place of the right one must not receipt an erasure that did not happen."""
    lab.fresh().provision(FIRST)
    lab.server.configure(lab.name, deletion_allowed=True)
    lab.server.api("DELETE", f"{MOUNT}/keys/{lab.name}")
    with pytest.raises(RootError, match="not on the server"):
        lab.fresh().candidates()
    for call in (lab.fresh().abandon, lambda: lab.fresh().drop(lab.mark(FIRST))):
        with pytest.raises(RootError, match="not on the server"):
            call()
    assert len(lab.fresh().file.read()) == 1


def test_a_server_that_does_not_trim_is_not_believed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.fresh().provision(FIRST)
    lab.fresh().stage(SECOND)
    real = Wire.request

    def lazy(self: Wire, method: str, path: str, body: Json | None, token: str) -> tuple[int, Json]:
        return (200, {}) if path.endswith("/trim") else real(self, method, path, body, token)

    monkeypatch.setattr(Wire, "request", lazy)
    with pytest.raises(RootError, match="did not trim"):
        lab.fresh().drop(lab.mark(FIRST))
    assert len(lab.fresh().file.read()) == 2


# -- crashes


class Crashed(BaseException):
    """The process ends here."""


@dataclass
class Faults:
    """Counts writes to the server and to the file; ends the process before or after one of them."""

    at: int = -1
    after: bool = False
    seen: int = 0

    def around(self, act: Callable[[], object]) -> object:
        number, self.seen = self.seen, self.seen + 1
        if number == self.at and not self.after:
            raise Crashed
        result = act()
        if number == self.at:
            raise Crashed
        return result


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    found = Faults()
    request, write = Wire.request, HolderFile.write

    def observed(self: Wire, method: str, path: str, body: Json | None, token: str) -> object:
        return found.around(lambda: request(self, method, path, body, token))

    def written(self: HolderFile, records: tuple[HolderRecord, ...]) -> object:
        return found.around(lambda: write(self, records))

    monkeypatch.setattr(Wire, "request", observed)
    monkeypatch.setattr(HolderFile, "write", written)
    return found


def crash_points(faults: Faults, run: Callable[[], object]) -> int:
    """How many steps an undisturbed run has."""
    faults.at, faults.seen = -1, 0
    run()
    return faults.seen


def crash(faults: Faults, at: int, run: Callable[[], object], *, after: bool) -> None:
    faults.at, faults.after, faults.seen = at, after, 0
    with pytest.raises(Crashed):
        run()
    faults.at = -1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_swap_that_stops_at_any_step_is_finished(faults: Faults, tmp_path: Path, *, after: bool) -> None:
    server = openbao_help.server()

    def swap(lab: Lab) -> None:
        holder = lab.fresh()
        holder.stage(SECOND)
        holder.promote(lab.mark(SECOND))
        holder.drop(lab.mark(FIRST))

    def prepared(name: str) -> Lab:
        lab = lab_on(server, tmp_path / name)
        lab.fresh().provision(FIRST)
        return lab

    clean = prepared("clean")
    steps = crash_points(faults, lambda: swap(clean))
    assert steps > 10
    for at in range(steps):
        lab = prepared(f"{after}-{at}")
        kept = lab.kept(FIRST)
        crash(faults, at, lambda lab=lab: swap(lab), after=after)  # type: ignore[misc] # bound now
        held = lab.held()
        assert set(held) <= {FIRST, SECOND}
        assert held, f"no root is left after step {at}"
        lab.fresh().stage(SECOND) if SECOND not in held else None
        assert lab.fresh().promote(lab.mark(SECOND)).action == "promoted"
        assert lab.fresh().drop(lab.mark(FIRST)).action == "destroyed"
        assert lab.held() == {SECOND: "current"}
        assert not lab.revives(kept)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_staged_root_dies_wherever_its_dropping_stops(
    faults: Faults, tmp_path: Path, *, after: bool
) -> None:
    server = openbao_help.server()

    def prepared(name: str) -> Lab:
        lab = lab_on(server, tmp_path / name)
        lab.fresh().provision(FIRST)
        lab.fresh().stage(SECOND)
        return lab

    clean = prepared("clean")
    steps = crash_points(faults, lambda: clean.fresh().drop(clean.mark(SECOND)))
    assert steps > 10
    for at in range(steps):
        lab = prepared(f"{after}-{at}")
        kept = lab.kept(SECOND)
        crash(faults, at, lambda lab=lab: lab.fresh().drop(lab.mark(SECOND)), after=after)  # type: ignore[misc] # bound now
        assert FIRST in lab.held(), f"the current root is lost at step {at}"
        lab.fresh().drop(lab.mark(SECOND))
        assert lab.held() == {FIRST: "current"}
        assert not lab.revives(kept)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_holder_that_leaves_is_finished_wherever_it_stops(
    faults: Faults, tmp_path: Path, *, after: bool
) -> None:
    server = openbao_help.server()

    def prepared(name: str) -> Lab:
        lab = lab_on(server, tmp_path / name)
        lab.fresh().provision(FIRST)
        return lab

    clean = prepared("clean")
    for at in range(crash_points(faults, lambda: clean.fresh().abandon())):
        lab = prepared(f"{after}-{at}")
        sealed, mark = lab.kept(FIRST)
        crash(faults, at, lambda lab=lab: lab.fresh().abandon(), after=after)  # type: ignore[misc] # bound now
        assert lab.fresh().abandon().action == "destroyed"
        assert lab.fresh().candidates() == ()
        with pytest.raises(KeyGone):
            lab.fresh()._unseal(sealed, mark)


def policy_without(lab: Lab, operation: str) -> str:
    return openbao_help.shipped_policy(lab.name).replace(f"{MOUNT}/{operation}/", f"{MOUNT}/nothing/")
