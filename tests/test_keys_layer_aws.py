"""The AWS KMS layer: against moto's KMS, and against servers that refuse, fail or are not there."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aws_help import REGION, Refusing, nobody
from facekeep.errors import MissingDependency, RootError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.aws_kms_layer import ATTEMPTS, AwsKmsLayer
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.layered import LayeredHolder
from facekeep.keys.layers import About
from facekeep.keys.provider import Place
from facekeep.keys.sealed_holder import KeyGone
from facekeep.keys.secrets import Secrets
from keys_help import VAULT

boto3 = pytest.importorskip("boto3", reason="facekeep[aws] is not installed")
moto = pytest.importorskip("moto")

ROOT, NEXT = b"r" * 32, b"n" * 32
MARK, NEXT_MARK = root_fingerprint(VAULT, ROOT), root_fingerprint(VAULT, NEXT)
TAIL = "&file=h|file:r"
ALIAS = f"aws-kms:alias/facekeep?region={REGION}{TAIL}"


@pytest.fixture(autouse=True)
def credentials(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of nobody: nothing here may reach an account."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    nobody(monkeypatch)


@pytest.fixture
def kms() -> Iterator[Any]:
    """A KMS with the key that alias/facekeep names."""
    with moto.mock_aws():
        client = boto3.client("kms", region_name=REGION)
        key = client.create_key()["KeyMetadata"]["KeyId"]
        client.create_alias(AliasName="alias/facekeep", TargetKeyId=key)
        yield client


def held(directory: Path, uri: str = ALIAS) -> LayeredHolder:
    found = provider_from_uri(uri, Place(VAULT, directory, Secrets()))
    assert isinstance(found, LayeredHolder)
    return found


def parameters(holder: LayeredHolder, number: int = 0) -> JsonObject:
    found = holder.file.read()[number].sealed["key"]
    assert isinstance(found, dict)
    return found


def with_key(holder: LayeredHolder, number: int, key: JsonObject) -> None:
    records = list(holder.file.read())
    sealed: JsonObject = {**records[number].sealed, "key": key}
    records[number] = HolderRecord(records[number].fingerprint, records[number].state, sealed)
    holder.file.write(records)


def test_a_swap_through_kms(kms: Any, tmp_path: Path) -> None:  # noqa: ANN401 - boto3's
    holder = held(tmp_path)
    holder.provision(ROOT)
    holder.stage(NEXT)
    assert [each.root for each in held(tmp_path).candidates()] == [ROOT, NEXT]
    assert parameters(holder, 0) != parameters(holder, 1)
    holder.promote(NEXT_MARK)
    holder.drop(MARK)
    assert [each.root for each in held(tmp_path).candidates()] == [NEXT]
    assert holder.scheme == "aws-kms-file"
    wrapped = bytes.fromhex(str(parameters(holder)["wrapped"]))
    context = {"facekeep:vault": VAULT.hex(), "facekeep:root": NEXT_MARK.hex()}
    key = kms.decrypt(CiphertextBlob=wrapped, EncryptionContext=context)["Plaintext"]
    for file in tmp_path.iterdir():
        assert key not in file.read_bytes()
        assert key.hex().encode() not in file.read_bytes()


@pytest.mark.usefixtures("kms")
def test_a_kept_record_and_the_kms_key_open_nothing_after_the_inner_drop(tmp_path: Path) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    kept = holder.file.path.read_bytes()
    holder.stage(NEXT)
    holder.promote(NEXT_MARK)
    holder.drop(MARK)
    holder.file.path.write_bytes(kept)
    with pytest.raises(RootError, match="no root that opens"):
        held(tmp_path).candidates()


@pytest.mark.usefixtures("kms")
def test_the_kms_context_of_another_vault_or_root_is_refused(tmp_path: Path) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    share = bytes.fromhex(str(holder.file.read()[0].sealed["share"]))
    layer = holder.layer
    assert layer.fetch(About(VAULT, MARK, share), parameters(holder))
    for about in (About(bytes(16), MARK, share), About(VAULT, NEXT_MARK, share)):
        with pytest.raises(KeyGone, match="not wrapped for this vault"):
            layer.fetch(about, parameters(holder))


@pytest.mark.usefixtures("kms")
@pytest.mark.parametrize("fresh", [True, False])
def test_a_wrapped_key_of_one_record_opens_nothing_in_another(tmp_path: Path, fresh: bool) -> None:
    """Also where the process still knows the key of the first."""
    holder = held(tmp_path)
    holder.provision(ROOT)
    holder.stage(NEXT)
    holder.candidates()
    with_key(holder, 1, parameters(holder, 0))
    found = held(tmp_path) if fresh else holder
    assert [each.root for each in found.candidates()] == [ROOT]
    with pytest.raises(RootError):
        found.read_back(NEXT_MARK)


def test_the_key_is_pinned(kms: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """A record that names another key, be it one that would unwrap for us, is refused."""
    other = kms.create_key()["KeyMetadata"]
    own = kms.describe_key(KeyId="alias/facekeep")["KeyMetadata"]
    uri = f"aws-kms:{own['KeyId']}?region={REGION}{TAIL}"
    holder = held(tmp_path, uri)
    holder.provision(ROOT)
    with_key(holder, 0, {**parameters(holder), "key": other["Arn"]})
    with pytest.raises(RootError, match=r"another KMS key than vault\.toml names"):
        held(tmp_path, uri).candidates()
    with_key(holder, 0, {**parameters(holder), "key": own["Arn"]})
    assert [each.root for each in held(tmp_path, uri).candidates()] == [ROOT]
    assert [each.root for each in held(tmp_path, uri.replace(own["KeyId"], own["Arn"])).candidates()] == [
        ROOT
    ]


def test_an_alias_that_moves_to_a_new_key_leaves_old_records_readable(kms: Any, tmp_path: Path) -> None:  # noqa: ANN401
    holder = held(tmp_path)
    holder.provision(ROOT)
    new = kms.create_key()["KeyMetadata"]
    kms.update_alias(AliasName="alias/facekeep", TargetKeyId=new["KeyId"])
    again = held(tmp_path)
    assert [each.root for each in again.candidates()] == [ROOT]
    again.stage(NEXT)
    assert parameters(again, 1)["key"] == new["Arn"]


@pytest.mark.usefixtures("kms")
@pytest.mark.parametrize(
    "change",
    [
        {"key": "alias/facekeep"},
        {"key": "arn:aws:iam::123456789012:role/x"},
        {"key": 1},
        {"wrapped": ""},
        {"wrapped": "zz"},
        {"wrapped": "0"},
        {"wrapped": "00" * 6145},
        {"more": 1},
    ],
)
def test_parameters_of_another_form_are_refused(tmp_path: Path, change: JsonObject) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    with_key(holder, 0, {**parameters(holder), **change})
    with pytest.raises(RootError, match="SPEC"):
        held(tmp_path).candidates()


@pytest.mark.usefixtures("kms")
def test_an_unknown_key_begins_nothing(tmp_path: Path) -> None:
    with pytest.raises(RootError, match="knows no such key"):
        held(tmp_path, ALIAS.replace("facekeep", "other")).provision(ROOT)
    assert list(tmp_path.iterdir()) == []


# -- servers that refuse


def at(server: Refusing) -> str:
    return f"{ALIAS.removesuffix(TAIL)}&endpoint={server.url}{TAIL}"


@pytest.mark.parametrize(
    ("status", "code", "said", "calls"),
    [
        (400, "AccessDeniedException", "denied", 1),
        (400, "DisabledException", "disabled", 1),
        (400, "KMSInvalidStateException", "awaits deletion", 1),
        (400, "NotFoundException", "no such key", 1),
        (400, "UnrecognizedClientException", "does not know the credentials", 1),
        (400, "ExpiredTokenException", "expired", 1),
        (400, "ThrottlingException", "too many requests", ATTEMPTS),
        (500, "KeyUnavailableException", "unavailable", ATTEMPTS),
        (500, "KMSInternalException", "KMSInternalException", ATTEMPTS),
        (400, "SomethingNew", "SomethingNew", 1),
    ],
)
def test_what_kms_refuses_is_told_and_retried_within_bounds(
    tmp_path: Path, status: int, code: str, said: str, calls: int
) -> None:
    with Refusing(status, code) as server:
        with pytest.raises(RootError, match=said) as caught:
            held(tmp_path, at(server)).provision(ROOT)
        assert len(server.calls) == calls
    assert "jane" not in str(caught.value) + caught.value.next
    assert caught.value.next
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("kms")
def test_a_refusal_at_opening_or_staging_changes_nothing(tmp_path: Path) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with Refusing(400, "AccessDeniedException") as server:
        moto.core.models.botocore_stubber.enabled = False  # let this call go out to 127.0.0.1
        try:
            denied = held(tmp_path, at(server))
            with pytest.raises(RootError, match="denied"):
                denied.candidates()
            with pytest.raises(RootError, match="denied"):
                denied.stage(NEXT)
        finally:
            moto.core.models.botocore_stubber.enabled = True
        assert server.calls == ["TrentService.Decrypt", "TrentService.GenerateDataKey"]
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
    assert [each.root for each in held(tmp_path).candidates()] == [ROOT]


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take the port
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RootError, match="cannot be reached"):
            held(tmp_path, f"aws-kms:alias/a?region={REGION}&endpoint={endpoint}{TAIL}").provision(ROOT)


def test_missing_credentials_region_and_package_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RootError, match="no AWS region"):
        held(tmp_path, "aws-kms:alias/a?file=h|file:r").provision(ROOT)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RootError, match="no AWS credentials"):
        held(tmp_path).provision(ROOT)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingDependency) as caught:
        held(tmp_path).provision(ROOT)
    assert caught.value.next == "pip install 'facekeep[aws]'"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("kms")
def test_an_answer_under_another_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = held(tmp_path)
    holder.provision(ROOT)
    real = AwsKmsLayer._call

    def lying(self: AwsKmsLayer, name: str, **arguments: object) -> dict[str, Any]:
        return {**real(self, name, **arguments), "KeyId": "arn:aws:kms:eu-central-1:123456789012:key/other"}

    monkeypatch.setattr(AwsKmsLayer, "_call", lying)
    with pytest.raises(RootError, match="another key than it was asked for"):
        held(tmp_path).candidates()
