"""The recovery holder among others in a swap, and what an attacker does to its file (SPEC §4.7)."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from facekeep.errors import ErasurePending, FormatError, RootError, UsageError, VaultExists
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import EMPTY_PIN, root_fingerprint
from facekeep.formats.recoverykey import SealedRoot, recovery_uri
from facekeep.keys.holders import held, provider_from_uri
from facekeep.keys.memory_holder import MemoryHolder
from facekeep.keys.provider import Candidate, Place
from facekeep.keys.recovery_holder import RecoveryHolder
from facekeep.keys.recovery_key import RecoveryKey, seal_root
from facekeep.keys.settle import settle
from facekeep.keys.swap import Swap
from facekeep.keys.tree import open_tree
from facekeep.store.keysdb import KeysStore
from keys_help import ALL_GIVEN, NOW, VAULT, Lab, candidate, verify_slot
from recovery_help import KEY, OTHER

OTHER_VAULT = bytes(16)

# Sealed by the first version: whoever keeps such a record for years must still open it.
OLD_ROOT = b"R" * 32
OLD_BOX = (
    "en1KUF09PrgoKZ9JqCOg8Gs2AoflUhxHLhHfNEg7STLbQR+2LZAjsf2xMhcaRO1ID3OqLYelbwyRiabUE7350bgmLM+37uKc"
    "qCFra9gjMyy+g7N556bOcT0bYIFem7ImM+B44zLZ+o4RvFYlTw1VCOI6fPKlKJ3vmdDQGiBSdvWT9UEMjRvIJGSbUCAR9IJl"
    "erI/Ho2Js8mBIrT4AC8JoZB+fG/7FgtoUmCdoic/ehEwT9ls7wGcPywsEPXNx3ZpoQK8Q20Lm+wwbwh0IxfXjIygTqDyjKhP"
    "GAn/GNuLriyugneztK9G4gbkwYxf//LXi+fITlPqfhh+bqXtd/gbxhjuQT00zDbqQgykboDMVESwMWFRUW6Dm7mBAsW7Cxe0"
    "uUWm8YKuK1lqfnVfd04M64t0udEZ1qXkMnVy0BMy0s8uAQbji8xcl+3pFFSQbylcqAz71+uadaT+kLxeIpioi55U5mq1nGRu"
    "8AhtOM+ZZMXJ3Mq9SGgB68z3bzBDxo4LuLY/hpjxQE9kQlWJo6ZTvl8bOIzZqlsWuVK7+2zdanIQbMlKzGcVWVOTVCHBwNFp"
    "zcgyPN+pbwLcc3ehWTFzWMGY9jKPiG/Yh2RxqkGjaveZu82xKlopbu55A1RK35TNSMbkRjCTPio9IhB6UOPTCCgR69hmnqaP"
    "nnz6IjLBcR/HHFS7v+Q0Bd9vBszUKLYNrjs6ue0rQg4on5617HTRe0+wBQ9Dn4mnuzT7Fw2MAXsF8JKxmN1RbbHcgpz62j+9"
    "VgIAhz83Ti6Uol2+D5zH3zzzDsZ0BV1aHSVh4Oa+ycF/PprEH3nLO2D4wszPJzWn+2LpPrEKTb6yIXsgtdRmnI2CCidUONLn"
    "DFYOoXEm1NHn1Ja6cNTnQK7Otwz2OyAyJkcv7O2/6YdyKNE72qwFy0kM27QEZV4VLBwNJCyAQNWgOp6pxr4AkMy3OLEiHtYC"
    "X9bxVoFiW3x6g2S+TwEuFUHhfyOdA4GqpNdwCU6t1+ZrTmn/UV4E86BwQi/eOmZ7EvsswkcXxOH4mNoibb98fk097OSvl/ix"
    "A8Nfp4s7rP1U9InFJQLknuRqKqn1hRllePF8L8Hrn79fPGNtuRCCG04gi+CHQ05R7hunSSI7FruYdNOquAvIh78t/EDF0OqF"
    "X6r0AgSqrlgx8kOc2BdElrM9OyUhdqxMofsCJPwB74P4nvFtRH3YgYKT6HIND2DFFFb/yQJZSXnzC1HqoyM7OKwrkCsDRCMI"
    "+uOmAGOrqBmq/iHoQ2qrUiMN/GV4c16yhd52cE5LpzjJrN+vAka0MLrgw235BVVmHCnkJvGJfY6HFXAc0cLjKfbS15tx38GV"
    "Wyn7RmnhOOdiRJSeuIrMlAtMy5LayXJHWumaA6zhMNNv29kctdeUoBcvze+AdDQWd4cYRlWbjt7CMmIiz+hwFjOHfnYr2hWg"
    "f/BSOmUoXe4i93V5RYaTQqz996Hwa9m9vCuYAsTZHR1DXYR0/emNGViOz+EZDWZCX2h7GD0ygZAqMeZvDlIkOt/eWruFvlbK"
    "Cp0fzQR+sREij38V9NOQHw=="
)


def holder(directory: Path, key: RecoveryKey = KEY, vault_id: bytes = VAULT) -> RecoveryHolder:
    found = provider_from_uri(recovery_uri(key.public, "r"), Place(vault_id, directory))
    assert isinstance(found, RecoveryHolder)
    return found


class Keys(Lab):
    """A key tree whose root a file and a recovery key hold."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.recovery = holder(directory)
        self.recovery.provision(self.root())

    def both(self, *slots: int) -> Swap:
        providers = [self.provider, self.recovery]
        return Swap(self.store, self.tree, providers, slots, pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def forge(found: RecoveryHolder, **changed: object) -> None:
    """Alter the current record as somebody who may write the file would."""
    first, *others = found.file.read()
    sealed = {**first.sealed, **changed}
    found.file.write([replace(first, sealed=sealed), *others])  # type: ignore[arg-type] # wrong types too


# -- among the holders


def test_a_recovery_key_holds_each_root_and_gives_none_back(keys: Keys) -> None:
    root = keys.root()
    (found,) = keys.recovery.candidates()
    assert found == Candidate(root_fingerprint(VAULT, root), "current", b"")
    with pytest.raises(RootError, match="offline"):
        keys.recovery.read_back(found.fingerprint)
    assert keys.recovery.recover(KEY) == (replace(found, root=root),)
    assert root not in keys.recovery.file.path.read_bytes()


def test_after_a_swap_only_the_new_root_is_sealed(keys: Keys) -> None:
    old = keys.root()
    tree, receipts = keys.both(verify_slot(1)).run()
    (found,) = keys.recovery.recover(KEY)
    assert found.fingerprint == tree.fingerprint
    assert found.state == "current"
    assert found.root != old
    assert [(each.klass, each.action, each.limits) for each in receipts if each.scheme == "recovery"] == [
        ("recovery", "promoted", ("offline_key",)),
        ("recovery", "destroyed", ("offline_key",)),
    ]


def test_a_swap_waits_for_the_recovery_file(keys: Keys) -> None:
    before, away = keys.root(), keys.directory / "away"
    keys.recovery.file.path.rename(away)
    with pytest.raises(ErasurePending, match="missing"):
        keys.both(verify_slot(1)).run()
    assert open_tree(keys.store, VAULT, held([keys.provider, keys.recovery]))[1].root == before
    away.rename(keys.recovery.file.path)
    tree, _ = keys.both(verify_slot(1)).run()
    assert not tree.alive([verify_slot(1)]).any()


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff" * 100, None])
def test_a_damaged_recovery_file_keeps_no_vault_closed(keys: Keys, content: bytes | None) -> None:
    if content is None:
        keys.recovery.file.path.unlink()
        keys.recovery.file.path.mkdir()
    else:
        keys.recovery.file.path.write_bytes(content)
    roots = held([keys.recovery, keys.provider])
    assert open_tree(keys.store, VAULT, roots)[1].root == keys.root()
    with pytest.raises(ErasurePending):
        keys.both(verify_slot(1)).run()


def test_a_recovery_key_alone_opens_no_vault(keys: Keys) -> None:
    keys.root_path.unlink()
    with pytest.raises(RootError, match="missing"):
        held([keys.provider, keys.recovery])
    with pytest.raises(RootError, match="no root opens"):
        open_tree(keys.store, VAULT, held([keys.recovery]))


@pytest.mark.parametrize("step", ["stage", "write", "verify"])
def test_an_interrupted_swap_is_settled_with_the_recovery_key(keys: Keys, step: str) -> None:
    swap = keys.both(verify_slot(1))
    for name in ("stage", "write", "verify")[: ("stage", "write", "verify").index(step) + 1]:
        getattr(swap, name)()
    keys.store.close()
    keys.store = KeysStore.open(keys.path, VAULT, ())
    again = holder(keys.directory)
    keys.tree, winner = open_tree(keys.store, VAULT, held([keys.provider, again]))
    settle(keys.store, winner, [keys.provider, again])
    (found,) = again.recover(KEY)
    assert (found.root, found.state) == (winner.root, "current")
    assert open_tree(keys.store, VAULT, [found])[0].epoch == (1 if step == "stage" else 2)


def test_provisioning_overwrites_nothing(keys: Keys) -> None:
    with pytest.raises(VaultExists):
        holder(keys.directory).provision(keys.root())
    keys.recovery.unprovision()
    assert not keys.recovery.file.path.exists()


def test_staging_twice_is_no_error_and_a_second_root_is(keys: Keys) -> None:
    keys.recovery.stage(b"n" * 32)
    before = keys.recovery.file.path.read_bytes()
    keys.recovery.stage(b"n" * 32)
    assert keys.recovery.file.path.read_bytes() == before
    with pytest.raises(RootError, match="already holds a staged root"):
        keys.recovery.stage(b"m" * 32)


def test_an_abandoned_holder_keeps_nothing(keys: Keys) -> None:
    forge(keys.recovery, key=OTHER.mark.hex())
    assert keys.recovery.abandon().action == "destroyed"
    assert keys.recovery.file.read() == ()
    assert keys.recovery.abandon().action == "destroyed"


def test_without_a_path_the_file_is_in_the_vaults_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = recovery_uri(KEY.public)
    found = provider_from_uri(uri, Place(VAULT, tmp_path, directory=tmp_path / "v"))
    assert isinstance(found, RecoveryHolder)
    assert found.file.path == tmp_path / "v" / f"recovery-{KEY.mark.hex()[:16]}"
    assert found.identity == str(found.file.path.resolve())
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    other = provider_from_uri(uri, Place(VAULT, tmp_path))
    assert other.identity == str((tmp_path / "facekeep" / f"{VAULT.hex()}.recovery").resolve())


# -- attacks on the file


def test_an_old_recovery_file_opens_an_old_tree_and_what_was_erased_since(keys: Keys) -> None:
    """The documented weakening: if this ever fails, its words in init, status and proofs are wrong."""
    slot = verify_slot(1)
    key = keys.tree.slot_key(slot)
    shutil.copy(keys.recovery.file.path, keys.directory / "old-r")
    old_keys = keys.save("old.db")
    keys.tree, _ = keys.both(slot).run()
    assert not keys.tree.alive([slot]).any()
    shutil.copy(keys.directory / "old-r", keys.recovery.file.path)
    roots = keys.recovery.recover(KEY)
    old = KeysStore.open(old_keys, VAULT, ())
    assert open_tree(old, VAULT, roots)[0].slot_key(slot) == key
    old.close()
    with pytest.raises(RootError, match="no root opens"):  # and the present tree it does not open
        open_tree(keys.store, VAULT, roots)


def test_an_old_recovery_file_without_the_private_key_opens_nothing(keys: Keys) -> None:
    shutil.copy(keys.recovery.file.path, keys.directory / "old-r")
    old_keys = keys.save("old.db")
    keys.tree, _ = keys.both(verify_slot(1)).run()
    shutil.copy(keys.directory / "old-r", keys.recovery.file.path)
    old = KeysStore.open(old_keys, VAULT, ())
    with pytest.raises(RootError):
        open_tree(old, VAULT, [*keys.recovery.candidates(), *keys.provider.candidates()])
    old.close()


def test_a_root_is_never_sealed_to_a_key_that_stands_in_the_file(keys: Keys) -> None:
    """An attacker seals a root of theirs to their own key, which the file names; vault.toml has ours."""
    theirs = seal_root(OTHER.public, VAULT, b"t" * 32)
    mark = root_fingerprint(VAULT, b"t" * 32)
    keys.recovery.file.write([HolderRecord(mark, "current", theirs.to_json())])
    assert keys.recovery.candidates() == ()
    assert "another key" in keys.recovery.damage[0]
    tree, _ = keys.both(verify_slot(1)).run()
    (record,) = keys.recovery.file.read()
    assert record.fingerprint == tree.fingerprint
    assert SealedRoot.from_json(record.sealed).mark == KEY.mark
    with pytest.raises(RootError, match="not the vault's recovery key"):
        keys.recovery.recover(OTHER)
    assert keys.recovery.recover(KEY)[0].root == keys.provider.read_back(tree.fingerprint)


def test_a_staged_record_that_was_altered_is_seen_before_keys_db_is_written(keys: Keys) -> None:
    swap = keys.both(verify_slot(1))
    swap.stage()
    current, staged = keys.recovery.file.read()
    other = replace(staged, sealed=current.sealed)
    keys.recovery.file.write([current, other])
    with pytest.raises(ErasurePending, match="altered"):
        swap.write()
    assert open_tree(keys.store, VAULT, held([keys.provider]))[0].epoch == 1


def test_a_record_that_was_altered_before_promotion_is_sealed_again(keys: Keys) -> None:
    swap = keys.both(verify_slot(1))
    swap.stage()
    swap.write()
    swap.verify()
    current, staged = keys.recovery.file.read()
    box = {**staged.sealed, "box": current.sealed["box"]}
    keys.recovery.file.write([current, replace(staged, sealed=box)])
    swap.promote()
    tree, winner = open_tree(keys.store, VAULT, held([keys.provider]))
    assert keys.recovery.recover(KEY)[0].root == winner.root
    assert tree.epoch == 2


def test_a_record_of_another_vault_is_refused(tmp_path: Path) -> None:
    root = os.urandom(32)
    theirs = holder(tmp_path, vault_id=OTHER_VAULT)
    theirs.provision(root)
    with pytest.raises(RootError, match="another vault"):
        holder(tmp_path).candidates()
    (record,) = theirs.file.read()
    mine = holder(tmp_path)
    mine.file.write([replace(record, fingerprint=root_fingerprint(VAULT, root))])
    with pytest.raises(RootError, match="another vault or root"):
        mine.recover(KEY)


def test_swapped_records_open_nothing(keys: Keys) -> None:
    keys.recovery.stage(b"n" * 32)
    one, two = keys.recovery.file.read()
    keys.recovery.file.write([replace(one, sealed=two.sealed), replace(two, sealed=one.sealed)])
    with pytest.raises(RootError, match="another vault or root"):
        keys.recovery.recover(KEY)
    with pytest.raises(RootError, match="altered"):
        keys.recovery.check(keys.root())


def test_a_box_that_holds_another_root_than_its_record_names_is_refused(keys: Keys) -> None:
    """Whoever knows the public key can seal anything; what does not have the fingerprint is no root."""
    mark = keys.tree.fingerprint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facekeep.keys.recovery_key.root_fingerprint", lambda *_: mark)
        forged = seal_root(KEY.public, VAULT, b"x" * 32)
    keys.recovery.file.write([HolderRecord(mark, "current", forged.to_json())])
    with pytest.raises(RootError, match="another root"):
        keys.recovery.recover(KEY)


def test_a_wrong_private_key_is_told_and_opens_nothing(keys: Keys) -> None:
    with pytest.raises(RootError, match=OTHER.mark.hex()[:16]) as caught:
        keys.recovery.recover(OTHER)
    assert KEY.mark.hex()[:16] in caught.value.next
    sealed = SealedRoot.from_json(keys.recovery.file.read()[0].sealed)
    with pytest.raises(RootError, match="another recovery key"):
        OTHER.open(sealed, VAULT, keys.tree.fingerprint)
    with pytest.raises(RootError, match="altered"):
        OTHER.open(replace(sealed, mark=OTHER.mark), VAULT, keys.tree.fingerprint)


def test_an_empty_recovery_file_is_told(keys: Keys) -> None:
    keys.recovery.file.write(())
    with pytest.raises(RootError, match="no root is sealed"):
        keys.recovery.recover(KEY)


def test_a_private_file_with_another_seed_is_refused() -> None:
    text = KEY.private_text().replace("seed: AAEC", "seed: AAED")
    with pytest.raises(FormatError, match="damaged"):
        RecoveryKey.decode(text.encode())
    assert RecoveryKey.decode(KEY.private_text().encode()) == KEY


def test_a_record_of_the_first_version_opens() -> None:
    mark = root_fingerprint(VAULT, OLD_ROOT)
    sealed = SealedRoot.from_json(
        {
            "box": OLD_BOX,
            "check": "a9700ab9d214c95945f037fbd67dc841f1500969a7a575f33f1584f701b13d22",
            "key": KEY.mark.hex(),
        }
    )
    assert KEY.open(sealed, VAULT, mark) == OLD_ROOT
    assert KEY.mark.hex() == "9b7a9b41a55bd52f33cc1f17a6e0cadcfc090e17e9c5a8197907d231eb1781e8"


# -- the stand-in


def test_a_recovered_root_in_memory_is_read_and_takes_part_in_no_swap(keys: Keys) -> None:
    standing = MemoryHolder(VAULT, keys.root())
    assert open_tree(keys.store, VAULT, held([standing]))[1].root == keys.root()
    swap = Swap(
        keys.store, keys.tree, [standing], [verify_slot(1)], pin=EMPTY_PIN, now_ms=NOW, alloc=ALL_GIVEN
    )
    with pytest.raises(ErasurePending, match="only read"):
        swap.run()
    with pytest.raises(ErasurePending, match="only read"):
        settle(keys.store, candidate(keys.root()), [standing])
    for refused in (standing.provision, standing.stage, standing.drop):
        with pytest.raises(RootError):
            refused(b"n" * 32)
    assert standing.read_back(keys.tree.fingerprint) == keys.root()
    with pytest.raises(RootError):
        standing.read_back(b"n" * 32)
    assert standing.abandon().to_json() == {
        "class": "recovery",
        "scheme": "memory",
        "action": "lost",
        "limits": ["holder_lost"],
    }
    assert standing.candidates() == ()
    with pytest.raises(RootError):
        standing.read_back(keys.tree.fingerprint)
    standing.unprovision()
    assert standing.damage == ()
    assert standing.identity == "memory:"
    with pytest.raises(UsageError):
        MemoryHolder.from_uri("", Place(VAULT, keys.directory))
