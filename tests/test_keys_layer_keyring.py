"""The keyring layer against GNOME's secret service, on a bus and with a keyring of the tests' own."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from facekeep.errors import MissingDependency, RootError
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.layered import LayeredHolder
from facekeep.keys.provider import Place
from facekeep.keys.secrets import Secrets
from keyring_help import lock, login
from keys_help import VAULT

keyring: Any = pytest.importorskip("keyring", reason="facekeep[keyring] is not installed")

ROOT, NEXT = b"r" * 32, b"n" * 32
MARK, NEXT_MARK = root_fingerprint(VAULT, ROOT), root_fingerprint(VAULT, NEXT)
URI = "keyring:?file=h|file:r"


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bus and an unlocked login keyring; this process uses them."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setattr(keyring.core, "_keyring_backend", None)
    with login(home, monkeypatch):
        yield


def held(directory: Path, uri: str = URI) -> LayeredHolder:
    found = provider_from_uri(uri, Place(VAULT, directory, Secrets()))
    assert isinstance(found, LayeredHolder)
    return found


def user(holder: LayeredHolder) -> str:
    key = holder.file.read()[0].sealed["key"]
    assert isinstance(key, dict)
    return f"{VAULT.hex()}-{key['entry']}"


@pytest.mark.usefixtures("service")
def test_the_key_is_in_the_keyring_and_nowhere_else(tmp_path: Path) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    stored = keyring.get_password("facekeep", user(holder))
    assert stored is not None
    assert len(bytes.fromhex(stored)) == 32
    for file in tmp_path.iterdir():
        assert stored.encode() not in file.read_bytes()
        assert bytes.fromhex(stored) not in file.read_bytes()
    holder.stage(NEXT)
    holder.promote(NEXT_MARK)
    holder.drop(MARK)
    assert keyring.get_password("facekeep", user(holder)) == stored  # one entry for the life of the holder
    assert [each.root for each in held(tmp_path).candidates()] == [NEXT]
    name = user(holder)
    holder.unprovision()
    assert keyring.get_password("facekeep", name) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("service")
def test_another_process_of_the_same_login_opens(tmp_path: Path) -> None:
    held(tmp_path).provision(ROOT)
    script = (
        "import sys, pathlib; from facekeep.keys.holders import provider_from_uri;"
        "from facekeep.keys.provider import Place;"
        f"place = Place(bytes.fromhex('{VAULT.hex()}'), pathlib.Path(sys.argv[1]));"
        f"print(provider_from_uri('{URI}', place).candidates()[0].root.decode())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == ROOT.decode()


@pytest.mark.usefixtures("service")
def test_files_without_the_keyring_open_nothing(tmp_path: Path) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    keyring.delete_password("facekeep", user(holder))
    with pytest.raises(RootError, match="has no entry") as caught:
        held(tmp_path).candidates()
    assert user(holder) in str(caught.value)


@pytest.mark.usefixtures("service")
def test_a_key_that_only_this_process_still_knows_seals_no_new_root(tmp_path: Path) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    keyring.delete_password("facekeep", user(holder))
    assert [each.root for each in holder.candidates()] == [ROOT]
    with pytest.raises(RootError, match="has no entry"):
        holder.stage(NEXT)
    assert [each.fingerprint for each in holder.file.read()] == [MARK]
    assert len(holder.inner.candidates()) == 1


@pytest.mark.usefixtures("service")
def test_a_locked_keyring_is_named(tmp_path: Path) -> None:
    held(tmp_path).provision(ROOT)
    lock()
    with pytest.raises(RootError) as caught:
        held(tmp_path).candidates()
    assert "unlock" in caught.value.next


@pytest.mark.usefixtures("service")
def test_two_holders_of_one_vault_have_two_entries(tmp_path: Path) -> None:
    first, second = held(tmp_path), held(tmp_path, "keyring:?file=h2|file:r2")
    first.provision(ROOT)
    second.provision(ROOT)
    assert user(first) != user(second)
    second.unprovision()
    assert [each.root for each in held(tmp_path).candidates()] == [ROOT]


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(
    "key", [{}, {"entry": "00"}, {"entry": "../" + "0" * 13}, {"entry": "0" * 16, "more": 1}]
)
def test_an_altered_entry_is_refused(tmp_path: Path, key: dict[str, str | int]) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    record = holder.file.read()[0]
    holder.file.write([HolderRecord(record.fingerprint, record.state, {**record.sealed, "key": {**key}})])
    with pytest.raises(RootError, match="no root that opens"):
        held(tmp_path).candidates()


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("value", ["", "text", "00" * 31])
def test_an_entry_that_is_no_key_is_named(tmp_path: Path, value: str) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    keyring.set_password("facekeep", user(holder), value)
    with pytest.raises(RootError, match="not a key"):
        held(tmp_path).candidates()


@pytest.mark.usefixtures("service")
def test_an_entry_replaced_by_another_key_opens_nothing(tmp_path: Path) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    keyring.set_password("facekeep", user(holder), "00" * 32)
    with pytest.raises(RootError, match="altered"):
        held(tmp_path).candidates()


# -- keyrings that protect nothing


class PlaintextKeyring:
    """As keyrings.alt has it: a file in clear."""

    stored: ClassVar[dict[tuple[str, str], str]] = {}

    def set_password(self, service: str, username: str, password: str) -> None:
        self.stored[service, username] = password

    def get_password(self, service: str, username: str) -> str | None:
        return self.stored.get((service, username))


def backend_of(module: str) -> type:
    found: type = importlib.import_module(f"keyring.backends.{module}").Keyring
    return found


@pytest.mark.parametrize("kind", ["null", "fail", "plain", "chain"])
def test_a_keyring_that_protects_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    backends: Any = importlib.import_module("keyring.backends.chainer")
    chain = type("Chain", (backends.ChainerBackend,), {"backends": (PlaintextKeyring(),)})
    backend = {
        "null": backend_of("null"),
        "fail": backend_of("fail"),
        "plain": PlaintextKeyring,
        "chain": chain,
    }[kind]()
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend)
    with pytest.raises(RootError, match="none that a login protects") as caught:
        held(tmp_path).provision(ROOT)
    assert "gnome-keyring" in caught.value.next
    assert list(tmp_path.iterdir()) == []
    assert PlaintextKeyring.stored == {}


def test_a_keyring_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(MissingDependency) as caught:
        held(tmp_path).provision(ROOT)
    assert caught.value.next == "pip install 'facekeep[keyring]'"
    assert list(tmp_path.iterdir()) == []
