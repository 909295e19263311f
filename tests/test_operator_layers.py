"""The operator guide's section on outer layers, typed; each of its messages, met and mended."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aws_help
import keyring_help
from cli_help import Cli
from facekeep.access.tokens import find_token
from facekeep.errors import ErasurePending, RootError
from facekeep.keys.aws_kms_layer import ATTEMPTS, _context
from facekeep.keys.layered import LayeredHolder
from facekeep.keys.layers import About
from facekeep.keys.provider import Receipt
from facekeep.keys.secrets import Secrets
from facekeep.store import settingsfile
from facekeep.vault import Vault
from guide_help import Row, Typist, commands, frames, mends, row, text_of, types
from wanting import wanting

AMISS = "What it says when something is amiss"
LOOK = "facekeep status"
PASSPHRASE = "four words that nobody says"
ENDLESS = b"inf"


@pytest.fixture
def typist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typist:
    for name in ("FACEKEEP_PASSPHRASE_FILE", "PYTHON_KEYRING_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    return Typist(Cli(tmp_path, monkeypatch, made=False), monkeypatch)


def refused(typist: Typist, start: str, line: str = LOOK, code: int = 31) -> tuple[Row, str]:
    """Type what is refused with a message of the guide: its row, and what was printed."""
    found = row(AMISS, start)
    said = typist.fails(line, code=code)
    found.check(said)
    return found, said


def works(typist: Typist, layer: str) -> None:
    assert f"{layer}-file (wrapping over erasing), current" in typist.type(LOOK)


def holder(typist: Typist) -> Path:
    (found,) = (typist.home / "data/facekeep").glob("*-file")
    return found


# -- a passphrase


def with_file(typist: Typist) -> str:
    """Type how a service gets its passphrase; returns the line that writes it."""
    folder, file, edit, export = commands("A passphrase")
    typist.type(folder)
    typist.type(file)
    typist.edit(edit, PASSPHRASE)
    typist.type(export)
    return edit


@types("Outer layers", "A passphrase")
@mends(
    AMISS, "there is no passphrase", "the passphrase is wrong", "the holder file", "the … holder has no root"
)
def test_a_passphrase(typist: Typist) -> None:
    (init,) = commands("Outer layers")
    said = typist.type(init, answers=[PASSPHRASE, PASSPHRASE])
    assert PASSPHRASE not in said
    assert "current" in typist.type(LOOK, answers=[PASSPHRASE])
    found, _ = refused(typist, "there is no passphrase")
    edit = with_file(typist)
    assert "`FACEKEEP_PASSPHRASE_FILE`" in found.remedy
    works(typist, "passphrase")

    typist.edit(edit, "another passphrase")
    refused(typist, "the passphrase is wrong")
    typist.edit(edit, PASSPHRASE)
    works(typist, "passphrase")

    old = holder(typist).read_bytes()
    typist.type("facekeep keys rotate root --reason drill")
    shutil.move(holder(typist), "aside")
    _, said = refused(typist, "the holder file")
    assert "put it back at the path that vault.toml names" in said
    assert f"{settings(typist).vault_id.hex()}.passphrase-file" in said
    shutil.move("aside", typist.home / f"data/facekeep/{settings(typist).vault_id.hex()}.passphrase-file")
    works(typist, "passphrase")

    current = holder(typist).read_bytes()
    holder(typist).write_bytes(old)
    refused(typist, "the … holder has no root")
    holder(typist).write_bytes(current)
    works(typist, "passphrase")
    typist.type(commands("Mirrors and copies")[0])
    holder(typist).write_bytes(old)
    assert "file (erasing), mirror, current" in typist.type(LOOK)


def settings(typist: Typist) -> Any:  # noqa: ANN401 - as vault.toml has them
    return settingsfile.read(typist.home / "staff.vault")


def opened(typist: Typist, secrets: Secrets) -> Vault:
    """The vault in a process that goes on, as a service has it."""
    token = find_token(None, settings(typist).vault_id.hex())
    return Vault.open(typist.home / "staff.vault", token=token, secrets=secrets)


@mends(AMISS, "the passphrase … was refused before", "… does not name the share")
def test_a_passphrase_in_a_process_that_goes_on(typist: Typist) -> None:
    edit = with_file(typist)
    typist.type(commands("Outer layers")[0].replace("passphrase:|", "passphrase:?memory=64|"))
    typist.cli.enroll("ada", "ada")
    secrets = Secrets()
    typist.edit(edit, "another passphrase")
    for start in ("the passphrase is wrong", "the passphrase … was refused before"):
        with pytest.raises(RootError) as caught:
            opened(typist, secrets)
        row(AMISS, start).check(str(caught.value))
    typist.edit(edit, PASSPHRASE)

    kept = {"old": holder(typist).read_bytes()}
    drop = LayeredHolder.drop

    def between(self: LayeredHolder, fingerprint: bytes) -> Receipt:
        """Put the file of before in the place of the one that was just written."""
        kept["current"] = holder(typist).read_bytes()
        holder(typist).write_bytes(kept["old"])
        return drop(self, fingerprint)

    with opened(typist, secrets) as vault:
        with typist.patch.context() as patch:
            patch.setattr(LayeredHolder, "drop", between)
            with pytest.raises(ErasurePending) as waits:
                vault.shred("ada")
        row(AMISS, "… does not name the share").check(str(waits.value))
        holder(typist).write_bytes(kept["current"])
    assert "nothing is pending" in typist.type("facekeep keys resume")
    assert typist.cli.subjects() == {}
    works(typist, "passphrase")


# -- the keyring


@pytest.fixture
def login(
    typist: Typist, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Typist, keyring_help.Login]]:
    """Somebody who is logged in; facekeep in processes of its own, since the keyring package remembers."""
    if importlib.util.find_spec("keyring") is None:
        wanting("facekeep[keyring] is not installed")
    typist.processes = True
    with keyring_help.login(tmp_path_factory.mktemp("login"), typist.patch) as found:
        yield typist, found


@types("The keyring of the operating system")
@mends(AMISS, "the keyring refuses", "the keyring in use", "the keyring has no entry")
def test_the_keyring(login: tuple[Typist, keyring_help.Login]) -> None:
    typist, daemon = login
    typist.follow("The keyring of the operating system")
    works(typist, "keyring")
    keyring_help.lock()
    refused(typist, "the keyring refuses")
    daemon.off()
    daemon.on()
    works(typist, "keyring")

    with typist.patch.context() as patch:
        patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
        refused(typist, "the keyring in use")
    works(typist, "keyring")

    typist.type(f"{TOOL} get >kept")
    typist.type(f"{TOOL} delete")
    _, said = refused(typist, "the keyring has no entry")
    assert f"the keyring has no entry {settings(typist).vault_id.hex()}-" in said
    typist.type(f"{TOOL} set <kept")
    works(typist, "keyring")


TOOL = """python -c '
import json, sys, keyring
from pathlib import Path
(file,) = Path("data/facekeep").glob("*-file")
name = file.read_bytes()
entry = json.loads(name[name.index(b"{"):])["records"][0]["sealed"]["key"]["entry"]
user = file.name.split(".")[0] + "-" + entry
match sys.argv[1]:
    case "get": print(keyring.get_password("facekeep", user))
    case "set": keyring.set_password("facekeep", user, sys.stdin.read().strip())
    case "delete": keyring.delete_password("facekeep", user)
'"""


# -- AWS KMS


class Account:
    """A KMS and an IAM on this machine, which know who may do what."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer  # noqa: PLC0415 - may be missing

        self._make = ThreadedMotoServer
        self._port = 0
        self.on()
        self.administrator = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def on(self) -> None:
        self._server = self._make("127.0.0.1", self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def off(self) -> None:
        self._server.stop()

    def client(self, name: str) -> Any:  # noqa: ANN401 - boto3's
        import boto3  # noqa: PLC0415 - an extra

        session = boto3.session.Session(region_name=aws_help.REGION, **self.administrator)
        return session.client(name, endpoint_url=self.url)

    def enforce(self, after: bytes) -> None:
        """Have policies count after so many calls."""
        self._tell("reset-auth", after)

    def forget(self) -> None:
        """Forget keys and users."""
        self.enforce(ENDLESS)
        self._tell("reset", b"")

    def _tell(self, what: str, data: bytes) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port)) as connection:
            connection.request("POST", f"/moto-api/{what}", data)
            assert connection.getresponse().status == 200

    def user(self, patch: pytest.MonkeyPatch) -> None:
        """Make a user for facekeep, who is allowed nothing yet; its credentials are in the environment."""
        iam = self.client("iam")
        iam.create_user(UserName="facekeep")
        key = iam.create_access_key(UserName="facekeep")["AccessKey"]
        patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])

    def allow(self, *actions: str) -> None:
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.enforce(ENDLESS)
        self.client("iam").put_user_policy(UserName="facekeep", PolicyName="kms", PolicyDocument=policy)
        self.enforce(b"0")


@pytest.fixture
def account(typist: Typist) -> Iterator[Account]:
    """An account with the key that alias/facekeep names; boto3 finds it where it looks for AWS."""
    try:
        found = Account()
    except ImportError:
        wanting("boto3 or moto[kms,server] is not installed")
    aws_help.nobody(typist.patch)
    typist.patch.setenv("AWS_ENDPOINT_URL", found.url)
    kms = found.client("kms")
    kms.create_alias(AliasName="alias/facekeep", TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    try:
        yield found
    finally:
        found.forget()
        found.off()


def without(typist: Typist, status: int, code: str, start: str) -> int:
    """Meet a KMS that answers so, moto's knows no such answer; returns how often it was asked."""
    with aws_help.Refusing(status, code) as server, typist.patch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        refused(typist, start)
        calls = len(server.calls)
    works(typist, "aws-kms")
    return calls


@types("AWS KMS")
@mends(
    AMISS,
    "AWS KMS denied the use of the key",
    "AWS KMS says that the key is disabled",
    "AWS KMS answers too many requests",
    "AWS KMS cannot be reached",
)
def test_aws_kms(typist: Typist, account: Account) -> None:
    pip, init = commands("AWS KMS")
    typist.type(pip)
    account.user(typist.patch)
    account.allow("kms:DescribeKey")
    typist.fails(init)  # moto refuses too, in other words than KMS
    found = row(AMISS, "AWS KMS denied the use of the key")
    allowed = ("kms:GenerateDataKey", "kms:Decrypt")
    assert found.remedy == f"allow `{allowed[0]}` and `{allowed[1]}`"
    for each in allowed:
        account.allow(each)
        typist.fails(init)
    account.allow(*allowed)
    typist.type(init)
    works(typist, "aws-kms")
    without(typist, 400, "AccessDeniedException", found.message)

    without(typist, 400, "DisabledException", "AWS KMS says that the key is disabled")
    assert without(typist, 400, "ThrottlingException", "AWS KMS answers too many requests") == ATTEMPTS
    assert "three attempts" in row(AMISS, "AWS KMS answers too many requests").remedy

    account.enforce(ENDLESS)
    account.off()
    refused(typist, "AWS KMS cannot be reached")
    account.on()
    works(typist, "aws-kms")
    typist.type(commands("Mirrors and copies")[0])
    account.off()
    assert "file (erasing), mirror, current" in typist.type(LOOK)
    account.on()
    works(typist, "aws-kms")


@mends(AMISS, "AWS KMS says that the key is disabled or awaits deletion")
def test_a_kms_key_that_awaits_deletion(typist: Typist, account: Account) -> None:
    typist.type(commands("AWS KMS")[1])
    kms = account.client("kms")
    key = kms.describe_key(KeyId="alias/facekeep")["KeyMetadata"]["KeyId"]
    kms.schedule_key_deletion(KeyId=key)
    without(typist, 400, "KMSInvalidStateException", "AWS KMS says that the key is disabled or awaits")
    kms.cancel_key_deletion(KeyId=key)
    kms.enable_key(KeyId=key)
    works(typist, "aws-kms")


def test_the_condition_names_what_kms_is_told() -> None:
    ((kind, text),) = frames("AWS KMS")
    assert kind == "json"
    ((key, value),) = json.loads(f"{{{text}}}")["Condition"]["StringEquals"].items()
    told = _context(About(bytes(16), bytes(32), bytes(32)))
    assert value == "VAULT-ID"
    assert told[key.removeprefix("kms:EncryptionContext:")] == bytes(16).hex()
    assert "`kms:GenerateDataKey` and `kms:Decrypt` on it and nothing else" in text_of("AWS KMS")
