from __future__ import annotations

import stat
from pathlib import Path

import pytest

from facekeep.errors import FormatError, RootError, VaultExists
from facekeep.formats.canonical import JsonObject, dumps
from facekeep.formats.holderfile import MAX_RECORDS, HolderRecord, decode_holder, encode_holder
from facekeep.keys.file_provider import FileProvider
from facekeep.keys.holders import held
from facekeep.keys.secrets import Secrets
from facekeep.store.holderfile import HolderFile

VAULT = bytes(range(16))
RECORD = HolderRecord(b"f" * 32, "current", {"key": "k1"})
OTHER = HolderRecord(b"g" * 32, "staged", {"key": "k2"})


def document(**changed: object) -> bytes:
    whole: JsonObject = {
        "format": 1,
        "records": [{"fingerprint": "66" * 32, "sealed": {"key": "k1"}, "state": "current"}],
        "scheme": "pkcs11",
        "vault": VAULT.hex(),
    }
    return dumps({**whole, **changed}) + b"\n"  # type: ignore[dict-item] # wrong types are the point


def test_a_holder_file_is_read_as_it_was_written() -> None:
    data = encode_holder(VAULT, "pkcs11", [RECORD, OTHER])
    assert decode_holder(data) == (VAULT, "pkcs11", (RECORD, OTHER))
    assert encode_holder(VAULT, "pkcs11", [RECORD]) == document()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}\n",
        document()[:-1],
        document() + b"\n",
        b" " + document(),
        document(format=2),
        document(format=True),
        document(more=1),
        document(records={}),
        document(records=[{}]),
        document(records=[{"fingerprint": "66" * 32, "sealed": {}, "state": "old"}]),
        document(records=[{"fingerprint": "66" * 31, "sealed": {}, "state": "staged"}]),
        document(records=[{"fingerprint": "66" * 32, "sealed": "x", "state": "staged"}]),
        document(records=[{"fingerprint": "66" * 32, "sealed": {}, "state": "staged"}] * 2),
        document(
            records=[
                {"fingerprint": f"{n:064x}", "sealed": {}, "state": "staged"} for n in range(MAX_RECORDS + 1)
            ]
        ),
        document(scheme="PKCS"),
        document(scheme=1),
        document(vault="00"),
    ],
)
def test_a_holder_file_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_holder(data)


def test_the_file_is_private_and_replaced_whole(tmp_path: Path) -> None:
    file = HolderFile(tmp_path / "deep" / "h", VAULT, "pkcs11")
    file.create()
    with pytest.raises(VaultExists):
        file.create()
    before = file.path.stat().st_ino
    file.write([OTHER, RECORD])
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.path.stat().st_ino != before
    assert file.read() == (RECORD, OTHER)
    assert [each.name for each in file.path.parent.iterdir()] == ["h"]
    file.remove()
    file.remove()
    with pytest.raises(RootError, match="missing"):
        file.read()


def test_the_file_of_another_vault_or_scheme_is_refused(tmp_path: Path) -> None:
    HolderFile(tmp_path / "h", VAULT, "pkcs11").create()
    with pytest.raises(RootError, match="another vault"):
        HolderFile(tmp_path / "h", bytes(16), "pkcs11").read()
    with pytest.raises(RootError, match="pkcs11"):
        HolderFile(tmp_path / "h", VAULT, "tpm2").read()


def test_a_link_or_a_directory_is_no_holder_file(tmp_path: Path) -> None:
    HolderFile(tmp_path / "h", VAULT, "pkcs11").create()
    (tmp_path / "link").symlink_to(tmp_path / "h")
    (tmp_path / "dir").mkdir()
    for name in ("link", "dir"):
        with pytest.raises(RootError):
            HolderFile(tmp_path / name, VAULT, "pkcs11").read()


# -- several holders


def test_a_holder_that_is_away_hides_no_other(tmp_path: Path) -> None:
    here, away = FileProvider(tmp_path / "a", VAULT), FileProvider(tmp_path / "b", VAULT)
    here.provision(b"r" * 32)
    assert [each.root for each in held([away, here])] == [b"r" * 32]
    with pytest.raises(RootError, match="missing"):
        held([away])


# -- secrets


def test_a_secret_comes_from_its_file_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pin"
    file.write_bytes(b"1234\n")
    file.chmod(0o600)
    monkeypatch.setenv("FACEKEEP_PIN_FILE", str(file))
    secrets = Secrets()
    assert secrets.get("pin", "the token") == b"1234"
    file.unlink()
    assert secrets.get("pin", "the token") == b"1234"


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pin"
    file.write_bytes(b"1234\n")
    file.chmod(0o644)
    monkeypatch.setenv("FACEKEEP_PIN_FILE", str(file))
    with pytest.raises(RootError) as caught:
        Secrets().get("pin", "the token")
    assert caught.value.next.startswith("chmod 600")


def test_systemd_credentials_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "facekeep-openbao-token").write_bytes(b"t")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Secrets().get("openbao-token", "the server") == b"t"
    with pytest.raises(RootError, match="there is no pin"):
        Secrets().get("pin", "the token")


def test_a_refused_secret_is_never_tried_again() -> None:
    said = iter([b"wrong", b"wrong", b"right"])
    secrets = Secrets(lambda _name, _purpose: next(said))
    assert secrets.get("pin", "the token") == b"wrong"
    secrets.refuse("pin")
    with pytest.raises(RootError, match="not tried again"):
        secrets.get("pin", "the token")
    assert secrets.get("pin", "the token") == b"right"


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 5000])
def test_a_secret_file_without_a_secret_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "pin").write_bytes(content)
    (tmp_path / "pin").chmod(0o600)
    monkeypatch.setenv("FACEKEEP_PIN_FILE", str(tmp_path / "pin"))
    with pytest.raises(RootError, match="empty or longer"):
        Secrets().get("pin", "the token")
