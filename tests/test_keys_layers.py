"""Outer layers over a holder: what they add, and that destroying stays the inner holder's (SPEC §4.6)."""

from __future__ import annotations

import hmac
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facekeep.crypto.passphrase import argon2id
from facekeep.errors import FacekeepError, MissingDependency, RootError, UsageError, VaultExists
from facekeep.formats.canonical import JsonObject
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import EMPTY_PIN, root_fingerprint
from facekeep.keys import passphrase_layer
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.layered import LayeredHolder
from facekeep.keys.layers import About, KeyCache, Layer
from facekeep.keys.passphrase_layer import PassphraseLayer
from facekeep.keys.provider import Action, Candidate, Place, Receipt, RootProvider
from facekeep.keys.secrets import Secrets
from facekeep.keys.swap import Swap
from keys_help import ALL_GIVEN, NOW, VAULT, Lab, verify_slot
from layers_help import PASSPHRASE, SECRETS, provider, uri

ROOT, NEXT = b"r" * 32, b"n" * 32
MARK, NEXT_MARK = root_fingerprint(VAULT, ROOT), root_fingerprint(VAULT, NEXT)


class Fixed(Layer):
    """A layer whose one KEK everybody knows, for ever: whatever is destroyed, it was not this."""

    word: ClassVar[str] = "fixed"

    @classmethod
    def from_uri(cls, head: str, options: Mapping[str, str], place: Place) -> Self:
        del head, options
        return cls(place)

    def begin(self) -> None:
        pass

    def new_key(self, about: About, proven: JsonObject | None) -> tuple[JsonObject, bytes]:
        del proven
        return {}, self.fetch(about, {})

    def fetch(self, about: About, params: JsonObject) -> bytes:
        del about, params
        return b"k" * 32


def place(directory: Path, secrets: Secrets = SECRETS) -> Place:
    return Place(VAULT, directory, secrets)


def knowing() -> Secrets:
    """A source of secrets that has derived nothing and refused nothing yet."""
    return Secrets(lambda _name, _purpose: PASSPHRASE)


def held(directory: Path, root: bytes = ROOT, secrets: Secrets = SECRETS) -> LayeredHolder:
    """A provisioned passphrase layer over a root file."""
    made = provider(directory, VAULT, secrets)
    made.provision(root)
    return made


def fixed(directory: Path, root: bytes = ROOT) -> LayeredHolder:
    made = LayeredHolder(
        Fixed(place(directory)), FileProvider(directory / "f.root", VAULT), place(directory), directory / "f"
    )
    made.provision(root)
    return made


def nested(directory: Path, root: bytes = ROOT) -> LayeredHolder:
    """Two layers, so that the inner holder is one with a holder file of its own."""
    inner = LayeredHolder(
        Fixed(place(directory)), FileProvider(directory / "n.root", VAULT), place(directory), directory / "in"
    )
    made = LayeredHolder(
        PassphraseLayer(place(directory), memory_mib=64), inner, place(directory), directory / "out"
    )
    made.provision(root)
    return made


def edit(holder: LayeredHolder, number: int, change: Callable[[JsonObject], None]) -> None:
    """Edit what one record has sealed, as somebody who may write the file."""
    records = list(holder.file.read())
    sealed = {**records[number].sealed}
    change(sealed)
    records[number] = HolderRecord(records[number].fingerprint, records[number].state, sealed)
    holder.file.write(records)


def parameters(sealed: JsonObject) -> JsonObject:
    found = sealed["key"]
    assert isinstance(found, dict)
    return found


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Memory (KiB) of each derivation from now on."""
    costs: list[int] = []

    def derive(passphrase: bytes, salt: bytes, *, iterations: int, lanes: int, memory_kib: int) -> bytes:
        costs.append(memory_kib)
        return argon2id(passphrase, salt, iterations=iterations, lanes=lanes, memory_kib=memory_kib)

    monkeypatch.setattr(passphrase_layer, "argon2id", derive)
    return costs


# -- what a layered holder is


@pytest.mark.parametrize("make", [held, fixed, nested])
def test_a_layered_holder_holds_as_any_other(tmp_path: Path, make: Callable[[Path], LayeredHolder]) -> None:
    holder = make(tmp_path)
    assert [(each.fingerprint, each.state, each.root) for each in holder.candidates()] == [
        (MARK, "current", ROOT)
    ]
    with pytest.raises(VaultExists):
        holder.provision(ROOT)
    holder.stage(NEXT)
    holder.stage(NEXT)
    assert holder.read_back(NEXT_MARK) == NEXT
    assert holder.promote(NEXT_MARK) == holder.promote(NEXT_MARK)
    assert holder.drop(MARK) == holder.drop(MARK)
    assert [(each.fingerprint, each.state, each.root) for each in holder.candidates()] == [
        (NEXT_MARK, "current", NEXT)
    ]
    assert len(holder.inner.candidates()) == 1
    assert holder.damage == ()
    holder.unprovision()
    assert list(tmp_path.iterdir()) == []


def test_class_and_limits_are_those_of_the_holder_that_destroys(tmp_path: Path) -> None:
    holder = nested(tmp_path)
    assert holder.scheme == "passphrase-fixed-file"
    assert holder.layers == ("passphrase", "fixed")
    assert (holder.klass, holder.limits) == (FileProvider.klass, FileProvider.limits)
    assert holder.layer.klass == "wrapping"
    assert FileProvider(tmp_path / "x", VAULT).layers == ()
    assert holder.receipt("destroyed").to_json() == {
        "class": "erasing",
        "scheme": "passphrase-fixed-file",
        "action": "destroyed",
        "limits": list(FileProvider.limits),
    }


def test_neither_file_holds_the_root(tmp_path: Path) -> None:
    holder = held(tmp_path)
    share = holder.inner.candidates()[0].root
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert ROOT not in content
        assert ROOT.hex().encode() not in content
        assert PASSPHRASE not in content
    assert share not in holder.file.path.read_bytes()
    assert share.hex() not in holder.file.path.read_text()


def test_a_record_has_the_bytes_of_the_specification(tmp_path: Path) -> None:
    """SPEC §4.6, followed with other code than ours."""
    holder = fixed(tmp_path)
    document = json.loads(holder.file.path.read_bytes())
    assert document["scheme"] == "fixed-file"
    sealed = document["records"][0]["sealed"]
    assert sealed.keys() == {"blob", "key", "layer", "share"}
    share = holder.inner.candidates()[0].root
    assert bytes.fromhex(sealed["share"]) == root_fingerprint(VAULT, share)
    domain = b"facekeep/v1/root-layer\0"
    key = hmac.new(b"k" * 32, domain + VAULT + share, "sha256").digest()
    aad = domain + b"\0\1" + VAULT + MARK + bytes.fromhex(sealed["share"]) + b"\0\5fixed" + b"\0\2{}"
    blob = bytes.fromhex(sealed["blob"])
    assert blob[:2] == b"\0\1"
    assert AESGCM(key).decrypt(blob[2:14], blob[14:], aad) == ROOT


@pytest.mark.parametrize(
    "wrong",
    [
        "|file:a",
        "passphrase:|",
        "passphrase:||file:a",
        "passphrase:|file:a|",
        "passphrase|file:a",
        "passphrase:",
        "passphrase:|passphrase:|file:a",
        "passphrase:|keyring:|passphrase:?secret=b|file:a",
        "file:a|passphrase:",
        "file:a|file:b",
        "unknown:|file:a",
        "passphrase:|unknown:a",
        "passphrase:words|file:a",
        "passphrase:?memory=63|file:a",
        "passphrase:?memory=1025|file:a",
        "passphrase:?memory=064|file:a",
        "passphrase:?memory=|file:a",
        "passphrase:?secret=A|file:a",
        "passphrase:?memory=64&memory=64|file:a",
        "passphrase:?cost=64|file:a",
        "passphrase:?file=%00|file:a",
        "passphrase:?file=%ff|file:a",
        "passphrase:?file=~nobody-of-that-name/x|file:a",
        "passphrase:?|file:a",
        "keyring:service|file:a",
        "keyring:?memory=64|file:a",
        "aws-kms:|file:a",
        "aws-kms:?region=eu-central-1|file:a",
        "aws-kms:a b|file:a",
        "aws-kms:alias/a?region=EU|file:a",
        "aws-kms:alias/a?endpoint=http://example.com|file:a",
        "aws-kms:alias/a?endpoint=http://localhost.example|file:a",
        "aws-kms:alias/a?endpoint=x|file:a",
        "aws-kms:alias/a?profile=b|file:a",
    ],
)
def test_a_uri_with_a_mistake_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        provider_from_uri(wrong, place(tmp_path))
    assert caught.value.next
    assert list(tmp_path.iterdir()) == []


def test_the_layers_stand_outermost_first(tmp_path: Path) -> None:
    found = provider_from_uri(
        "aws-kms:alias/a?region=eu-central-1|keyring:|passphrase:|file:a", place(tmp_path)
    )
    assert isinstance(found, LayeredHolder)
    assert found.layers == ("aws-kms", "keyring", "passphrase")
    assert found.scheme == "aws-kms-keyring-passphrase-file"
    assert found.file.path.name == f"{VAULT.hex()}.{found.scheme}"
    relative = provider_from_uri("passphrase:?file=keys%2Fa%7Cb|file:a", place(tmp_path))
    assert isinstance(relative, LayeredHolder)
    assert relative.file.path == tmp_path / "keys" / "a|b"


def test_a_layer_goes_before_a_holder_that_destroys(tmp_path: Path) -> None:
    class Offline(FileProvider):
        scheme = "offline"
        klass = "recovery"

    with pytest.raises(UsageError, match="cannot stand before"):
        LayeredHolder(Fixed(place(tmp_path)), Offline(tmp_path / "a", VAULT), place(tmp_path), tmp_path / "b")


def test_a_failed_beginning_leaves_nothing(tmp_path: Path) -> None:
    FileProvider(tmp_path / "staff.root", VAULT).provision(b"x" * 32)
    before = (tmp_path / "staff.root").read_bytes()
    with pytest.raises(VaultExists):
        held(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["staff.root"]
    assert (tmp_path / "staff.root").read_bytes() == before


def test_a_beginning_that_fails_after_the_share_undoes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RootError("away")

    monkeypatch.setattr(LayeredHolder, "_read", failing)
    with pytest.raises(RootError, match="away"):
        held(tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- erasing


@pytest.mark.parametrize("make", [held, fixed, nested])
def test_a_kept_record_and_the_passphrase_open_nothing_after_the_inner_drop(
    tmp_path: Path, make: Callable[[Path], LayeredHolder]
) -> None:
    holder = make(tmp_path)
    kept = holder.file.path.read_bytes()
    holder.stage(NEXT)
    both = holder.file.path.read_bytes()
    holder.promote(NEXT_MARK)
    holder.drop(MARK)
    holder.file.path.write_bytes(kept)
    with pytest.raises(RootError, match="no root that opens"):
        holder.candidates()
    with pytest.raises(RootError):
        holder.read_back(MARK)
    holder.file.path.write_bytes(both)  # the one whose share lives is usable beside it
    assert [each.root for each in holder.candidates()] == [NEXT]
    assert len(holder.damage) == 1


def test_a_record_edited_before_the_drop_saves_no_share(tmp_path: Path) -> None:
    """The old record is made to name another share, so that the drop would miss the real one."""
    holder = nested(tmp_path)
    old = holder.inner.candidates()[0]
    holder.stage(NEXT)
    holder.promote(NEXT_MARK)
    holder.inner.stage(old.root)  # as a holder would have it that destroys nothing at promotion
    assert old.fingerprint in marks(holder.inner)
    position = [each.fingerprint for each in holder.file.read()].index(MARK)
    edit(holder, position, lambda sealed: sealed.update(share="00" * 32))
    holder.drop(MARK)
    assert old.fingerprint not in marks(holder.inner)


def test_a_record_taken_away_before_the_drop_saves_no_share(tmp_path: Path) -> None:
    holder = fixed(tmp_path)
    old = holder.inner.candidates()[0]
    holder.stage(NEXT)
    holder.promote(NEXT_MARK)
    holder.inner.stage(old.root)  # as a holder would have it that destroys nothing at promotion
    holder.file.write([each for each in holder.file.read() if each.fingerprint != MARK])
    holder.drop(MARK)
    assert old.fingerprint not in marks(holder.inner)


def test_an_old_holder_file_never_has_the_current_share_destroyed(tmp_path: Path) -> None:
    holder = fixed(tmp_path)
    kept = holder.file.path.read_bytes()
    holder.stage(NEXT)
    holder.promote(NEXT_MARK)
    holder.drop(MARK)
    current = holder.file.path.read_bytes()
    holder.file.path.write_bytes(kept)
    for attempt in (lambda: holder.stage(b"z" * 32), lambda: holder.drop(b"z" * 32)):
        with pytest.raises(RootError, match="old copy"):
            attempt()
    holder.file.path.write_bytes(current)
    assert [each.root for each in holder.candidates()] == [NEXT]


def test_giving_the_holder_up_destroys_every_share(tmp_path: Path) -> None:
    holder = nested(tmp_path)
    holder.stage(NEXT)
    edit(holder, 0, lambda sealed: sealed.update(share="no share"))
    kept = holder.file.path.read_bytes()
    assert holder.abandon() == holder.abandon()
    assert holder.inner.candidates() == ()
    holder.file.path.write_bytes(kept)
    with pytest.raises(RootError):
        holder.candidates()


def marks(inner: RootProvider) -> set[bytes]:
    return {each.fingerprint for each in inner.candidates()}


def test_a_share_that_was_staged_for_nothing_makes_room(tmp_path: Path) -> None:
    holder = held(tmp_path)
    holder.inner.stage(b"s" * 32)  # killed before the record was written
    holder.stage(NEXT)
    assert [each.root for each in holder.candidates()] == [ROOT, NEXT]
    assert len(holder.inner.candidates()) == 2


def test_a_lost_inner_holder_is_named_and_nobody_is_asked(tmp_path: Path) -> None:
    holder = held(tmp_path)
    (tmp_path / "staff.root").unlink()
    asked: list[str] = []
    again = provider(tmp_path, VAULT, Secrets(lambda name, _: asked.append(name)))
    with pytest.raises(RootError, match=r"staff\.root is missing"):
        again.candidates()
    with pytest.raises(RootError, match=r"staff\.root is missing"):
        holder.drop(MARK)
    assert holder.file.read()
    assert asked == []


def test_a_swap_between_the_reading_of_the_two_files_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process swaps after this one has read the holder file and before it asks for the share."""
    holder, other = held(tmp_path), provider(tmp_path, VAULT)
    real, waiting = holder.inner.candidates, [1]

    def late() -> tuple[Candidate, ...]:
        if waiting:
            waiting.clear()
            other.stage(NEXT)
            other.promote(NEXT_MARK)
            other.drop(MARK)
        return real()

    monkeypatch.setattr(holder.inner, "candidates", late)
    assert [each.root for each in holder.candidates()] == [NEXT]
    assert waiting == []


def test_without_a_file_the_holder_file_is_in_the_users_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    provider_from_uri("passphrase:?memory=64|file:a", place(tmp_path)).provision(ROOT)
    assert (tmp_path / "data" / "facekeep" / f"{VAULT.hex()}.passphrase-file").is_file()
    with pytest.raises(VaultExists):  # another holder of the same layers needs a file of its own
        provider_from_uri("passphrase:?memory=64|file:b", place(tmp_path)).provision(ROOT)
    assert not (tmp_path / "b").exists()


# -- the crash matrix of a swap


class Cut(Exception):
    """The power is cut."""


class Wire:
    """Calls that change something durably, each of which may be the last: before it or after it."""

    def __init__(self, patch: pytest.MonkeyPatch, holder: LayeredHolder) -> None:
        self.calls: list[str] = []
        self.cut_at: tuple[int, str] | None = None
        for target, names in ((holder.inner, ("stage", "promote", "drop")), (holder.file, ("write",))):
            for name in names:
                patch.setattr(
                    target, name, self._wired(f"{type(target).__name__}.{name}", getattr(target, name))
                )

    def _wired(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            number = len(self.calls)
            self.calls.append(name)
            if self.cut_at == (number, "before"):
                raise Cut
            result = real(*arguments)
            if self.cut_at == (number, "after"):
                raise Cut
            return result

        return call


@pytest.mark.parametrize("make", [held, fixed, nested])
def test_a_swap_cut_anywhere_is_finished_and_revives_nobody(
    tmp_path: Path, make: Callable[[Path, bytes], LayeredHolder]
) -> None:
    def cut(directory: Path, at: tuple[int, str] | None) -> tuple[list[str], bool]:
        """(durable calls, whether the swap was cut) of one shred in a new laboratory."""
        lab = Lab(directory)
        holder = make(directory, lab.root())
        living, old_tree = lab.tree.slot_key(verify_slot(6)), lab.tree
        old = holder.file.path.read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            wire = Wire(patch, holder)
            wire.cut_at = at
            swap = Swap(
                lab.store, lab.tree, [holder], [verify_slot(5)], pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN
            )
            was_cut = False
            try:
                swap.run()
            except Cut:
                was_cut = True
        lab.provider = holder  # type: ignore[assignment] # recovery takes any holder
        tree = lab.recover()
        assert tree.slot_key(verify_slot(6)) == living
        assert [each.state for each in holder.candidates()] == ["current"]
        lab.tree = tree
        tree = lab.shred(verify_slot(5), verify_slot(7))  # what was cut holds nothing up
        assert tree.slot_key(verify_slot(6)) == living
        assert [each.fingerprint for each in holder.candidates()] == [tree.fingerprint]
        assert len(holder.file.read()) == len(holder.inner.candidates()) == 1
        holder.file.path.write_bytes(old)
        with pytest.raises(RootError):
            holder.read_back(old_tree.fingerprint)
        return wire.calls, was_cut

    (tmp_path / "whole").mkdir()
    calls, was_cut = cut(tmp_path / "whole", None)
    assert not was_cut
    assert len(calls) >= 6
    for number in range(len(calls)):
        for when in ("before", "after"):
            directory = tmp_path / f"{number}-{when}"
            directory.mkdir()
            assert cut(directory, (number, when))[1], (number, when)
            shutil.rmtree(directory)


# -- passphrases


def test_a_swap_derives_nothing_that_was_derived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held(tmp_path)
    costs = counted(monkeypatch)
    secrets = knowing()
    holder = provider(tmp_path, VAULT, secrets)
    holder.candidates()
    assert costs == [64 * 1024]
    holder.stage(NEXT)
    holder.promote(NEXT_MARK)
    holder.drop(MARK)
    assert [each.root for each in provider(tmp_path, VAULT, secrets).candidates()] == [NEXT]
    assert len(costs) == 1
    provider(tmp_path, VAULT, knowing()).candidates()
    assert len(costs) == 2


def test_a_wrong_passphrase_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held(tmp_path)
    costs = counted(monkeypatch)
    holder = provider(tmp_path, VAULT, Secrets(lambda _name, _purpose: b"another passphrase"))
    with pytest.raises(RootError, match="passphrase is wrong") as caught:
        holder.candidates()
    assert "passphrase" in caught.value.next
    with pytest.raises(RootError, match="not tried again"):
        holder.candidates()
    assert len(costs) == 1


def test_the_right_passphrase_after_a_wrong_one_opens(tmp_path: Path) -> None:
    held(tmp_path)
    said = iter([b"another passphrase", PASSPHRASE])
    holder = provider(tmp_path, VAULT, Secrets(lambda _name, _purpose: next(said)))
    with pytest.raises(RootError):
        holder.candidates()
    assert [each.root for each in holder.candidates()] == [ROOT]


@pytest.mark.parametrize("short", [b"fourteen chars", "ä".encode() * 14])
def test_a_short_passphrase_begins_nothing(tmp_path: Path, short: bytes) -> None:
    with pytest.raises(UsageError, match="fewer than 15"):
        held(tmp_path, secrets=Secrets(lambda _name, _purpose: short))
    assert list(tmp_path.iterdir()) == []


LOWERED: list[JsonObject] = [
    {"memory_kib": 8},
    {"memory_kib": 64 * 1024 - 1},
    {"memory_kib": 64 * 1024, "iterations": 2},
    {"lanes": 1},
    {"lanes": True},
    {"iterations": 3, "memory_kib": True},
    {"salt": "00" * 15},
    {"salt": ""},
    {"more": 1},
]
HUGE: list[JsonObject] = [{"memory_kib": 1024 * 1024 + 1}, {"iterations": 17}, {"memory_kib": 2**52}]


@pytest.mark.parametrize("change", LOWERED + HUGE)
def test_lowered_or_huge_parameters_are_refused_before_anything_is_derived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: JsonObject
) -> None:
    holder = held(tmp_path)
    costs = counted(monkeypatch)
    edit(holder, 0, lambda sealed: sealed.update(key={**parameters(sealed), **change}))
    asked: list[str] = []
    again = provider(tmp_path, VAULT, Secrets(lambda name, _: asked.append(name)))
    with pytest.raises(RootError, match="no root that opens"):
        again.candidates()
    assert (costs, asked) == ([], [])


def test_parameters_lowered_to_what_is_accepted_do_not_open(tmp_path: Path) -> None:
    holder = LayeredHolder(
        PassphraseLayer(place(tmp_path), memory_mib=65),
        FileProvider(tmp_path / "a", VAULT),
        place(tmp_path),
        tmp_path / "b",
    )
    holder.provision(ROOT)
    edit(holder, 0, lambda sealed: sealed.update(key={**parameters(sealed), "memory_kib": 64 * 1024}))
    secrets = knowing()
    again = LayeredHolder(
        PassphraseLayer(place(tmp_path, secrets)), holder.inner, place(tmp_path, secrets), tmp_path / "b"
    )
    with pytest.raises(RootError, match="altered"):
        again.candidates()


def test_a_new_cost_takes_a_new_salt(tmp_path: Path) -> None:
    holder = held(tmp_path)
    again = LayeredHolder(
        PassphraseLayer(place(tmp_path), memory_mib=65), holder.inner, place(tmp_path), holder.file.path
    )
    again.candidates()
    again.stage(NEXT)
    first, second = (parameters(each.sealed) for each in again.file.read())
    assert (first["memory_kib"], second["memory_kib"]) == (64 * 1024, 65 * 1024)
    assert first["salt"] != second["salt"]
    assert [each.root for each in again.candidates()] == [ROOT, NEXT]


@pytest.mark.parametrize("part", ["blob", "share", "key", "layer"])
def test_parts_of_one_record_open_nothing_in_another(tmp_path: Path, part: str) -> None:
    holder = held(tmp_path)
    again = LayeredHolder(
        PassphraseLayer(place(tmp_path), memory_mib=65), holder.inner, place(tmp_path), holder.file.path
    )
    again.stage(NEXT)  # nothing was proven: another salt
    donor = again.file.read()[0].sealed[part] if part != "layer" else "keyring"
    edit(again, 1, lambda sealed: sealed.update({part: donor}))
    with pytest.raises(RootError):
        provider(tmp_path, VAULT, knowing()).read_back(NEXT_MARK)
    assert provider(tmp_path, VAULT, knowing()).read_back(MARK) == ROOT


def test_an_altered_record_does_not_cast_doubt_on_a_passphrase_that_opened(tmp_path: Path) -> None:
    holder = held(tmp_path)
    holder.candidates()
    holder.stage(NEXT)
    edit(holder, 1, lambda sealed: sealed.update(blob="00" * 62))
    assert [each.root for each in holder.candidates()] == [ROOT]
    assert "altered" in holder.damage[0]
    holder.stage(NEXT)  # what does not open makes room
    assert [each.root for each in holder.candidates()] == [ROOT, NEXT]


def test_two_layers_may_have_two_passphrases(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(name: str, _purpose: str) -> bytes:
        asked.append(name)
        return PASSPHRASE + name.encode()

    where = Place(VAULT, tmp_path, Secrets(ask))
    for name, secret in (("a", "passphrase"), ("b", "passphrase-b")):
        holder = provider_from_uri(
            f"passphrase:?memory=64&secret={secret}&file={name}.holder|file:{name}.root", where
        )
        holder.provision(ROOT)
    assert asked == ["passphrase", "passphrase-b"]


def test_memory_that_is_not_there_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, **_: object) -> None:
            raise MemoryError

    monkeypatch.setattr("facekeep.crypto.passphrase.Argon2id", Full)
    with pytest.raises(MissingDependency, match="64 MiB"):
        argon2id(b"", b"s" * 16, iterations=3, lanes=4, memory_kib=65536)


def test_argon2id_is_that_of_rfc_9106() -> None:
    """Another implementation, libsodium's, which knows one lane."""
    from nacl.pwhash import argon2id as sodium  # noqa: PLC0415 - the peer

    theirs = sodium.kdf(32, PASSPHRASE, b"s" * 16, opslimit=3, memlimit=64 * 2**20)
    assert argon2id(PASSPHRASE, b"s" * 16, iterations=3, lanes=1, memory_kib=65536) == theirs


# -- keys in memory


def test_keys_in_memory_are_few_and_zeroed() -> None:
    cache = KeyCache()
    for number in range(40):
        cache.put(bytes([number]), bytes([number]) * 32)
    kept = list(cache._keys.values())
    assert len(kept) == 16
    fetched: list[int] = []

    def fetch() -> bytes:
        fetched.append(1)
        return b"n" * 32

    assert cache.get(bytes([39]), fetch) == bytes([39]) * 32
    assert cache.get(bytes([0]), fetch) == b"n" * 32
    assert len(fetched) == 1
    cache.drop(bytes([39]))
    assert kept[-1].closed


def test_a_forked_process_derives_anew(tmp_path: Path) -> None:
    holder = held(tmp_path)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:  # pragma: no cover - the child
        ok = False
        try:
            ok = [each.root for each in holder.candidates()] == [ROOT]
        except FacekeepError:
            ok = False
        os.write(write, b"1" if ok else b"0")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.close(write)


def test_the_uri_of_the_help_is_read(tmp_path: Path) -> None:
    assert provider_from_uri(uri(tmp_path), place(tmp_path)).scheme == "passphrase-file"


def test_a_provisioning_that_was_cut_off_is_undone_and_begun_again(tmp_path: Path) -> None:
    holder = provider(tmp_path, VAULT)
    holder.file.create()  # and then it was killed
    with pytest.raises(VaultExists):
        holder.provision(ROOT)
    holder.unprovision()
    assert list(tmp_path.iterdir()) == []
    holder.provision(ROOT)
    assert [each.root for each in holder.candidates()] == [ROOT]


def test_undoing_a_provisioning_that_was_cut_off_leaves_what_another_holds(tmp_path: Path) -> None:
    """The file behind the layer is the root in use: nothing says that it is this holder's."""
    holder = provider(tmp_path, VAULT)
    holder.inner.provision(ROOT)
    holder.file.create()
    holder.unprovision()
    assert [each.root for each in holder.inner.candidates()] == [ROOT]
    with pytest.raises(VaultExists):
        holder.provision(NEXT)
    assert [each.root for each in holder.inner.candidates()] == [ROOT]


def test_a_receipt_names_all_limits_of_the_holder_within(tmp_path: Path) -> None:
    class Soft(FileProvider):
        """A holder that finds out about its limits, as a token does."""

        def receipt(self, action: Action) -> Receipt:
            return replace(super().receipt(action), limits=("copied_file", "token_clone"))

    here = place(tmp_path)
    made = LayeredHolder(Fixed(here), Soft(tmp_path / "root", VAULT), here, tmp_path / "f")
    assert made.receipt("destroyed").limits == ("copied_file", "token_clone")
    assert made.receipt("destroyed").scheme == "fixed-file"
