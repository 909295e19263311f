"""Attacks on a vault whose root a PKCS #11 token holds: on its holder file, its token, its URI."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pkcs11_help as help_
from facekeep.errors import Denied, ErasurePending, RootError, Unavailable
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.provider import Candidate, Place, RootProvider
from facekeep.keys.tree import open_tree
from facekeep.store.keysdb import KeysStore
from facekeep.vault import Holders, Vault
from vaultlab import Lab, calling, log_entries, matches

VAULT = bytes(range(16))
OLD, NEW = b"o" * 32, b"n" * 32


def mark(root: bytes) -> bytes:
    return root_fingerprint(VAULT, root)


@dataclass
class TokenLab(Lab):
    """A laboratory whose root is held by a token; what is saved as the root is the holder file."""

    @property
    def root(self) -> Path:
        return self.base / "holder"

    def create(self) -> TokenLab:
        help_.set_up(self.base)
        vault = Vault.create(self.path, root=help_.uri(self.base), region=self.region, clock=self.clock)
        assert vault.token is not None
        self.token = vault.token
        vault.close()
        return self

    def save_tokens(self, name: str) -> Path:
        """Copy the directory of tokens, as whoever can read it may."""
        return Path(shutil.copytree(self.base / "tokens", self.base / name))

    def put_back_tokens(self, saved: Path) -> None:
        shutil.rmtree(self.base / "tokens")
        shutil.copytree(saved, self.base / "tokens")
        help_.forget()


@pytest.fixture
def lab(tmp_path: Path) -> TokenLab:
    made = TokenLab(tmp_path).create()
    made.enrol("alice", "bob")
    return made


@pytest.fixture
def provider(tmp_path: Path) -> RootProvider:
    made = help_.provider(tmp_path, VAULT)
    made.provision(OLD)
    return made


def gone(vault: Vault, name: str) -> bool:
    with pytest.raises(Denied):
        matches(vault, name)
    return True


def edit(holder: Path, change: dict[str, object], record: int = 0) -> None:
    """Change fields of one record's sealed root."""
    whole = json.loads(holder.read_text())
    whole["records"][record]["sealed"] |= change
    holder.write_text(json.dumps(whole, separators=(",", ":"), sort_keys=True) + "\n")


def roots(provider: RootProvider) -> list[bytes]:
    return [each.root for each in provider.candidates()]


def opens(keys: Path, vault_id: bytes, found: tuple[Candidate, ...]) -> bool:
    """Whether one of these roots opens a kept keys.db."""
    try:
        store = KeysStore.open(keys, vault_id)
        try:
            open_tree(store, vault_id, found)
        finally:
            store.close()
    except RootError:
        return False
    return True


# -- a whole vault on a token


def test_a_vault_on_a_token(lab: TokenLab) -> None:
    with lab.open() as vault:
        assert matches(vault, "alice")
        vault.shred("alice")
        assert matches(vault, "bob")
        (done,) = [entry for entry in log_entries(vault) if entry["type"] == "destroyed"]
    assert done["receipts"] == [
        {
            "action": action,
            "class": "erasing",
            "limits": ["filesystem_snapshot", "flash_remanence", "token_clone"],
            "scheme": "pkcs11",
        }
        for action in ("promoted", "destroyed")
    ]
    assert len(help_.objects(lab.base)) == 1
    code = (
        "import sys\n"
        "from vaultlab import FakeClock, matches\n"
        "from facekeep.vault import Vault\n"
        "with Vault.open(sys.argv[1], token=sys.argv[2], clock=FakeClock()) as vault:\n"
        "    print(matches(vault, 'bob'))\n"
    )
    assert help_.elsewhere(lab.base, code, str(lab.path), lab.token) == "True\n"
    lab.clean()


def test_creating_a_vault_that_fails_leaves_no_key(tmp_path: Path) -> None:
    help_.set_up(tmp_path)
    uri = help_.uri(tmp_path)
    other = f"pkcs11:token=other?x-file={tmp_path}/other"
    with pytest.raises(RootError, match="is not there"):
        Vault.create(tmp_path / "vault", root=uri, mirrors=[other])
    assert help_.objects(tmp_path) == []
    assert not (tmp_path / "vault").exists()
    assert not (tmp_path / "holder").exists()
    assert not (tmp_path / "other").exists()


def test_every_file_of_the_old_epoch_is_replayed_after_the_keys_destruction(lab: TokenLab) -> None:
    saved = lab.save("before")
    lab.do(lambda vault: vault.shred("alice"))
    lab.put_back(saved)
    with pytest.raises(RootError, match="no root that opens"):
        lab.do(lambda vault: matches(vault, "alice"))


@pytest.mark.parametrize(
    "step", ["after stage", "before write", "after write", "before promote", "after promote"]
)
def test_a_process_is_killed_between_the_steps_of_a_swap(lab: TokenLab, step: str) -> None:
    lab.crash(lambda vault: vault.shred("alice"), step)
    help_.forget()
    with lab.open() as vault:
        assert matches(vault, "bob")
        assert gone(vault, "alice")
    assert len(help_.objects(lab.base)) == 1
    lab.clean()


def test_a_token_taken_out_in_the_middle_leaves_the_erasure_pending(lab: TokenLab) -> None:
    (token,) = (lab.base / "tokens").iterdir()
    with lab.open() as vault:
        away = calling("before promote", lambda: token.rename(lab.base / "drawer"))
        with away, pytest.raises(ErasurePending, match="is not there"):
            vault.shred("alice")
        with pytest.raises(RootError, match="is not there"):
            vault.shred("bob")  # nobody holds the key of the log that would announce it, nor answers
        with pytest.raises(Unavailable, match="is not there"):
            matches(vault, "bob")
    (lab.base / "drawer").rename(token)
    assert len(help_.objects(lab.base)) == 2
    with lab.open() as vault:
        assert gone(vault, "alice")
        vault.shred("bob")
        assert gone(vault, "bob")
    assert len(help_.objects(lab.base)) == 1
    lab.clean()


# -- moving between tokens


def labels(lab: TokenLab) -> list[str]:
    return sorted(label.partition("/")[0] for label in help_.objects(lab.base))


def test_a_vault_moves_to_another_token_and_leaves_nothing(lab: TokenLab) -> None:
    help_.make_token("other")
    help_.forget()
    new = help_.uri(lab.base, object="other", x_file=f"{lab.base}/new").replace("vault%20keys", "other")
    with lab.open() as vault:
        vault.keys.move(Holders(root_uri=new))
    assert labels(lab) == ["other"]
    assert not lab.root.exists()
    lab.clean()
    with lab.open() as vault:
        assert matches(vault, "alice")


def test_a_new_holder_on_the_same_token_needs_a_name_of_its_own(lab: TokenLab) -> None:
    """Under the same name each would take the other's keys for leavings, and destroy them."""
    with lab.open() as vault:
        with pytest.raises(RootError, match="already has keys") as caught:
            vault.keys.move(Holders(root_uri=help_.uri(lab.base, x_file=f"{lab.base}/new")))
        assert "object=NAME" in caught.value.next
        assert matches(vault, "alice")
        vault.keys.move(Holders(mirrors=[help_.uri(lab.base, object="two", x_file=f"{lab.base}/new")]))
    assert labels(lab) == ["facekeep", "two"]
    with lab.open() as vault:
        vault.shred("alice")
        assert matches(vault, "bob")
    assert labels(lab) == ["facekeep", "two"]
    lab.clean()
    lab.root.unlink()
    with lab.open() as vault:
        assert matches(vault, "bob")


# -- the limit that receipts name


def test_a_cloned_token_revives_a_root_which_receipts_name_as_token_clone(lab: TokenLab) -> None:
    """A token that is a directory can be copied; with an old keys.db and holder file the copy opens it."""
    saved, clone = lab.save("before"), lab.save_tokens("clone")
    with lab.open() as vault:
        vault_id = bytes.fromhex(vault.vault_id)
        vault.shred("alice")
        receipts = [entry["receipts"] for entry in log_entries(vault) if entry["type"] == "destroyed"]
    assert "token_clone" in str(receipts)
    shutil.copy2(saved / "root.key", lab.root)
    holder = help_.provider(lab.base, vault_id)
    with pytest.raises(RootError, match="no root that opens"):
        holder.candidates()
    lab.put_back_tokens(clone)
    assert opens(saved / "vault" / "keys.db", vault_id, holder.candidates())


# -- the holder file


def test_records_change_places(provider: RootProvider, tmp_path: Path) -> None:
    """Each sealed root under the other's fingerprint: neither opens."""
    provider.stage(NEW)
    whole = json.loads((tmp_path / "holder").read_text())
    first, second = whole["records"]
    first["sealed"], second["sealed"] = second["sealed"], first["sealed"]
    (tmp_path / "holder").write_text(json.dumps(whole, separators=(",", ":"), sort_keys=True) + "\n")
    with pytest.raises(RootError, match="no root that opens"):
        provider.candidates()


def test_a_record_is_moved_to_another_vault(provider: RootProvider, tmp_path: Path) -> None:
    """Under the other vault's id the key has another label, and the associated data another id."""
    assert roots(provider) == [OLD]
    whole = json.loads((tmp_path / "holder").read_text())
    whole["vault"] = bytes(16).hex()
    (tmp_path / "holder").write_text(json.dumps(whole, separators=(",", ":"), sort_keys=True) + "\n")
    with pytest.raises(RootError, match="no root that opens"):
        help_.provider(tmp_path, bytes(16)).candidates()


def test_the_holder_file_of_an_old_epoch_is_replayed(provider: RootProvider, tmp_path: Path) -> None:
    kept = (tmp_path / "holder").read_bytes()
    provider.stage(NEW)
    provider.promote(mark(NEW))
    provider.drop(mark(OLD))
    new = (tmp_path / "holder").read_bytes()
    (tmp_path / "holder").write_bytes(kept)
    with pytest.raises(RootError, match="no longer in the token"):
        provider.candidates()
    (tmp_path / "holder").write_bytes(new)
    assert roots(provider) == [NEW]


@pytest.mark.parametrize("how", ["record removed", "ciphertext", "serial", "damaged"])
def test_a_record_is_hidden_from_destruction(provider: RootProvider, tmp_path: Path, how: str) -> None:
    """Whoever keeps the old holder file and has the live one say less must not save the key."""
    kept = (tmp_path / "holder").read_bytes()
    provider.stage(NEW)
    provider.promote(mark(NEW))
    whole = json.loads((tmp_path / "holder").read_text())
    (old,) = [at for at, each in enumerate(whole["records"]) if each["fingerprint"] == mark(OLD).hex()]
    if how == "record removed":
        del whole["records"][old]
        (tmp_path / "holder").write_text(json.dumps(whole, separators=(",", ":"), sort_keys=True) + "\n")
    else:
        edit(tmp_path / "holder", {"more": 1} if how == "damaged" else {how: "00" * 48}, old)
    provider.drop(mark(OLD))
    (tmp_path / "holder").write_bytes(kept)
    with pytest.raises(RootError, match="no longer in the token"):
        provider.candidates()
    assert len(help_.objects(tmp_path)) == 1


def test_a_blank_holder_file_hides_no_key_when_the_holder_is_given_up(
    provider: RootProvider, tmp_path: Path
) -> None:
    kept = (tmp_path / "holder").read_bytes()
    whole = json.loads(kept)
    (tmp_path / "holder").write_text(
        json.dumps(whole | {"records": []}, separators=(",", ":"), sort_keys=True) + "\n"
    )
    provider.abandon()
    (tmp_path / "holder").write_bytes(kept)
    with pytest.raises(RootError, match="no longer in the token"):
        provider.candidates()


@pytest.mark.parametrize(
    "change",
    [
        {"iv": "00" * 12},
        {"iv": "00" * 11},
        {"iv": 7},
        {"iv": "AB" * 12},
        {"ciphertext": "00" * 48},
        {"ciphertext": "00" * 47},
        {"ciphertext": None},
        {"serial": 7},
        {"more": ""},
    ],
)
def test_a_record_is_edited(provider: RootProvider, tmp_path: Path, change: dict[str, object]) -> None:
    edit(tmp_path / "holder", change)
    with pytest.raises(RootError, match="no root that opens"):
        provider.candidates()
    provider.drop(mark(OLD))
    assert help_.objects(tmp_path) == []


def test_a_damaged_record_hides_no_sound_one(provider: RootProvider, tmp_path: Path) -> None:
    provider.stage(NEW)
    edit(tmp_path / "holder", {"iv": "00" * 12}, 0)
    assert len(roots(provider)) == 1
    assert len(provider.damage) == 1


# -- the token


def foreign(tmp_path: Path) -> None:
    """Another token of the same label and PIN takes the place of the true one."""
    (tmp_path / "tokens").rename(tmp_path / "drawer")
    (tmp_path / "tokens").mkdir()
    help_.make_token(help_.LABEL)
    help_.forget()


def test_a_foreign_token_with_the_same_label_destroys_nothing(provider: RootProvider, tmp_path: Path) -> None:
    foreign(tmp_path)
    with pytest.raises(RootError, match="is in the token of serial"):
        provider.candidates()
    with pytest.raises(RootError, match="the key to destroy is in the token of serial"):
        provider.drop(mark(OLD))
    with pytest.raises(RootError, match="the key to destroy is in the token of serial"):
        provider.abandon()
    shutil.rmtree(tmp_path / "tokens")
    (tmp_path / "drawer").rename(tmp_path / "tokens")
    help_.forget()
    assert roots(provider) == [OLD]


def test_a_foreign_token_holds_up_an_erasure(lab: TokenLab) -> None:
    taken = calling("before promote", lambda: foreign(lab.base))
    with lab.open() as vault, taken, pytest.raises(ErasurePending, match="is in the token of serial"):
        vault.shred("alice")
    shutil.rmtree(lab.base / "tokens")
    (lab.base / "drawer").rename(lab.base / "tokens")
    help_.forget()
    with lab.open() as vault:
        assert gone(vault, "alice")
        assert matches(vault, "bob")
    assert len(help_.objects(lab.base)) == 1
    lab.clean()


def test_a_library_that_finds_nothing_at_first_saves_no_key(
    provider: RootProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoftHSM finds no object while its directory is away, and says no error."""
    from facekeep.keys import pkcs11_keys  # noqa: PLC0415 - an extra

    true, left = pkcs11_keys._found, [None] * 2

    def found(*given: Any) -> list[Any]:  # noqa: ANN401 - passed on
        if left:
            left.pop()
            return []
        return list(true(*given))

    monkeypatch.setattr(pkcs11_keys, "_found", found)
    provider.drop(mark(OLD))
    assert help_.objects(tmp_path) == []


def test_a_key_planted_under_the_same_name_opens_nothing(provider: RootProvider, tmp_path: Path) -> None:
    """Somebody with the PIN makes a key of the same label and id: it is passed over, and destroyed too."""
    code = (
        "import sys, pkcs11\n"
        "token = next(pkcs11.lib(sys.argv[1]).get_tokens(token_label=sys.argv[2]))\n"
        "with token.open(rw=True, user_pin=sys.argv[3]) as session:\n"
        "    session.generate_key(pkcs11.KeyType.AES, 256, store=True, label=sys.argv[4],\n"
        "        id=bytes.fromhex(sys.argv[5]))\n"
    )
    from facekeep.keys.pkcs11_module import module_path  # noqa: PLC0415 - an extra

    label = f"facekeep/{VAULT.hex()}"
    for _ in range(3):
        help_.elsewhere(
            tmp_path, code, module_path(None), help_.LABEL, help_.PIN, label, mark(OLD)[:16].hex()
        )
    assert help_.objects(tmp_path) == [label] * 4
    assert roots(provider) == [OLD]
    provider.drop(mark(OLD))
    assert help_.objects(tmp_path) == []


def test_a_token_whose_keys_can_be_taken_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoftHSM obeys; a token that would not is one that is asked for less than is looked for."""
    from pkcs11 import Attribute  # noqa: PLC0415 - an extra

    from facekeep.keys import pkcs11_keys  # noqa: PLC0415 - an extra

    made = help_.provider(tmp_path, VAULT)
    monkeypatch.setattr(pkcs11_keys, "_ASKED", pkcs11_keys._ASKED | {Attribute.EXTRACTABLE: True})
    with pytest.raises(RootError, match="does not keep its keys to itself: EXTRACTABLE"):
        made.provision(OLD)
    assert help_.objects(tmp_path) == []


# -- the URI in vault.toml, which is read before it is authenticated


@pytest.mark.parametrize("where", ["outside", "linked"])
def test_a_library_planted_through_vault_toml_is_not_loaded(tmp_path: Path, where: str) -> None:
    help_.set_up(tmp_path)
    from facekeep.keys.pkcs11_module import module_path  # noqa: PLC0415 - an extra

    planted = tmp_path / "libevil.so"
    shutil.copy(module_path(None), planted)
    if where == "linked":
        (tmp_path / "lib.so").symlink_to(planted)
        planted = tmp_path / "lib.so"
    made = provider_from_uri(help_.uri(tmp_path, module_path=str(planted)), Place(VAULT, tmp_path))
    with pytest.raises(RootError, match="is not where the system keeps libraries") as caught:
        made.provision(OLD)
    assert "FACEKEEP_PKCS11_MODULE" in caught.value.next
    assert str(planted) not in Path("/proc/self/maps").read_text()


def test_a_library_that_others_can_write_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    help_.require()
    from facekeep.keys import pkcs11_module  # noqa: PLC0415 - an extra

    monkeypatch.setattr(pkcs11_module, "_TRUSTED", (str(tmp_path),))
    monkeypatch.delenv("FACEKEEP_PKCS11_MODULE", raising=False)
    planted = tmp_path / "lib.so"
    planted.touch()
    planted.chmod(0o664)
    with pytest.raises(RootError, match="others than root can write"):
        pkcs11_module.module_path(str(planted))
    with pytest.raises(RootError, match="No such file"):
        pkcs11_module.module_path(f"{tmp_path}/none.so")
    monkeypatch.setenv("FACEKEEP_PKCS11_MODULE", str(planted))
    assert pkcs11_module.module_path(str(planted)) == str(planted)


def test_the_systems_library_may_be_named(tmp_path: Path) -> None:
    help_.set_up(tmp_path)
    from facekeep.keys.pkcs11_module import module_path  # noqa: PLC0415 - an extra

    assert os.path.realpath(module_path(None)).startswith("/usr/lib")
    made = provider_from_uri(help_.uri(tmp_path, module_path=module_path(None)), Place(VAULT, tmp_path))
    made.provision(OLD)
    assert roots(made) == [OLD]
