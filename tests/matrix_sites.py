"""The vaults of the crash matrix: one for each way to hold a root, on real tokens, TPMs and servers."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import pytest

import layers_help
import openbao_help
import pkcs11_help
import tpm2_help
from facekeep.formats.recoverykey import recovery_uri
from matrix_work import Site
from recovery_help import KEY
from wanting import wanting

T = TypeVar("T")
ALIAS: Final = "alias/matrix"
REGION: Final = "eu-central-1"


class Ground:
    """What sites stand on: a token, a TPM, a server, a keyring, a KMS; each is made when first asked for.

    ``environment`` is what a process needs to reach them.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.environment: dict[str, str] = {}
        self._undo = contextlib.ExitStack()
        self._tpm: tpm2_help.Tpm | None = None
        self._made: set[str] = set()
        self._numbers = itertools.count(1)
        self._guard = threading.RLock()

    def place(self, make: Callable[[Ground, Path], T], at: Path) -> T:
        """Make something here that nobody else changes meanwhile."""
        with self._guard:
            return make(self, at)

    def close(self) -> None:
        self._undo.close()

    def _first(self, what: str) -> bool:
        new = what not in self._made
        self._made.add(what)
        return new

    # -- URIs of holders with files in ``at``; a fresh key, counter or object for each

    def file(self, at: Path, name: str = "staff.root") -> str:
        return f"file:{at / name}"

    def pkcs11(self, at: Path, name: str = "token.holder") -> str:
        """A directory of tokens of its own."""
        pkcs11_help.require()
        tokens = at / "token"
        (tokens / "tokens").mkdir(parents=True)
        pin, config = tokens / "pin", tokens / "softhsm2.conf"
        pin.touch(mode=0o600)
        pin.write_text(f"{pkcs11_help.PIN}\n")
        config.write_text(f"directories.tokendir = {tokens / 'tokens'}\nobjectstore.backend = file\n")
        self.environment["SOFTHSM2_CONF"] = str(config)
        pkcs11_help.make_token(pkcs11_help.LABEL, environment=self.environment)
        return pkcs11_help.uri(tokens, x_file=str(at / name))

    def tpm2(self, at: Path, name: str = "tpm.holder") -> str:
        if self._tpm is None:
            self._tpm = self._undo.enter_context(tpm2_help.running(self.base / "tpm"))
        return self._tpm.uri(nv=f"{0x01810000 + next(self._numbers):#010x}", file=str(at / name))

    def openbao(self, at: Path, name: str = "server.holder") -> str:
        key = f"matrix{next(self._numbers)}"
        token = self.base / f"{key}.token"
        token.touch(mode=0o600)
        token.write_text(openbao_help.server().token_for(key))
        self.environment["FACEKEEP_OPENBAO_TOKEN_FILE"] = str(token)
        self.environment["FACEKEEP_OPENBAO_SERVER"] = openbao_help.server().base
        return openbao_help.uri(key, file=at / name)

    def passphrase(self, at: Path, inner: str, name: str = "passphrase.holder") -> str:
        if self._first("passphrase"):
            file = self.base / "passphrase"
            file.touch(mode=0o600)
            file.write_bytes(layers_help.PASSPHRASE + b"\n")
            self.environment["FACEKEEP_PASSPHRASE_FILE"] = str(file)
        return f"passphrase:?memory={layers_help.MEMORY_MIB}&file={quote(str(at / name))}|{inner}"

    def keyring(self, at: Path, inner: str, name: str = "keyring.holder") -> str:
        if self._first("keyring"):
            pytest.importorskip("keyring", reason="facekeep[keyring] is not installed")
            self.environment |= self._undo.enter_context(_secret_service(self.base / "keyring"))
        return f"keyring:?file={quote(str(at / name))}|{inner}"

    def aws_kms(self, at: Path, inner: str, name: str = "kms.holder") -> str:
        if self._first("kms"):
            self.environment |= self._undo.enter_context(_kms(self.base))
        url = quote(self.environment["MATRIX_KMS"])
        return f"aws-kms:{ALIAS}?region={REGION}&endpoint={url}&file={quote(str(at / name))}|{inner}"


@contextlib.contextmanager
def _secret_service(home: Path) -> Iterator[Mapping[str, str]]:
    """A bus and an unlocked GNOME keyring; what a process needs to use them."""
    for program in ("dbus-daemon", "gnome-keyring-daemon"):
        if shutil.which(program) is None:
            wanting(f"not installed: {program}")
    home.mkdir()
    names = ("HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME")
    environment = dict.fromkeys(names, str(home))
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address=unix:dir={home}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert bus.stdout is not None
    environment["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().strip()
    daemon = subprocess.Popen(
        ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    daemon.stdin.write(b"login password\n")
    daemon.stdin.close()
    daemon.stdout.readline()  # says where its control socket is once it serves
    try:
        yield environment
    finally:
        for process in (daemon, bus):
            process.terminate()
            process.wait()
        bus.stdout.close()
        daemon.stdout.close()


@contextlib.contextmanager
def _kms(base: Path) -> Iterator[Mapping[str, str]]:
    """moto's KMS on this machine, with the key that the alias names."""
    boto3 = pytest.importorskip("boto3", reason="facekeep[aws] is not installed")
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    threaded.start()
    port = threaded.get_host_and_port()[1]
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(base / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(base / "none"),
        "MATRIX_KMS": f"http://127.0.0.1:{port}",
    }
    client = boto3.client(
        "kms",
        region_name=REGION,
        endpoint_url=environment["MATRIX_KMS"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_alias(AliasName=ALIAS, TargetKeyId=client.create_key()["KeyMetadata"]["KeyId"])
    try:
        yield environment
    finally:
        threaded.stop()


Maker = Callable[[Ground, Path], Site]


def _site(
    ground: Ground,
    at: Path,
    *uris: str,
    useless: tuple[str, ...] = (),
    revealing: tuple[str, ...] = (),
    copies: bool = False,
    recovery: str | None = None,
) -> Site:
    return Site(
        at,
        copies,
        recovery=recovery,
        uris=uris,
        useless=useless,
        revealing=revealing,
        environment=dict(ground.environment),
    )


def _moving(
    start: Maker, target: Callable[[Ground, Path], str]
) -> Callable[[Ground, Path], tuple[Site, str]]:
    """Both ends of a move; the target first, so that the site's processes know how to reach it."""

    def make(ground: Ground, at: Path) -> tuple[Site, str]:
        uri = target(ground, at)
        return start(ground, at), uri

    return make


def _file(ground: Ground, at: Path) -> Site:
    return _site(ground, at, ground.file(at), revealing=("staff.root",))


def _copies(ground: Ground, at: Path) -> Site:
    return _site(ground, at, ground.file(at), revealing=("staff.root",), copies=True)


def _recovery(ground: Ground, at: Path) -> Site:
    sealed = recovery_uri(KEY.public, str(at / "recovery.holder"))
    return _site(ground, at, ground.file(at), revealing=("staff.root", "recovery.holder"), recovery=sealed)


def _two_files(ground: Ground, at: Path) -> Site:
    uris = ground.file(at), ground.file(at, "mirror.root")
    return _site(ground, at, *uris, revealing=("staff.root", "mirror.root"))


def _pkcs11(ground: Ground, at: Path) -> Site:
    return _site(ground, at, ground.pkcs11(at), useless=("token.holder",))


def _tpm2(ground: Ground, at: Path) -> Site:
    return _site(ground, at, ground.tpm2(at), useless=("tpm.holder",))


def _openbao(ground: Ground, at: Path) -> Site:
    return _site(ground, at, ground.openbao(at), useless=("server.holder",))


def _passphrase(ground: Ground, at: Path) -> Site:
    uri = ground.passphrase(at, ground.file(at))
    return _site(ground, at, uri, useless=("passphrase.holder",), revealing=("staff.root",))


def _nested(ground: Ground, at: Path) -> Site:
    uri = ground.keyring(at, ground.aws_kms(at, ground.file(at)))
    return _site(ground, at, uri, useless=("keyring.holder", "kms.holder"), revealing=("staff.root",))


def _file_and_pkcs11(ground: Ground, at: Path) -> Site:
    uris = ground.file(at), ground.pkcs11(at)
    return _site(ground, at, *uris, useless=("token.holder",), revealing=("staff.root",))


def _file_and_tpm2(ground: Ground, at: Path) -> Site:
    uris = ground.file(at), ground.tpm2(at)
    return _site(ground, at, *uris, useless=("tpm.holder",), revealing=("staff.root",))


def _file_and_openbao(ground: Ground, at: Path) -> Site:
    uris = ground.file(at), ground.openbao(at)
    return _site(ground, at, *uris, useless=("server.holder",), revealing=("staff.root",))


#: name in docs/crash-matrix.md -> how it is made
SITES: Final[Mapping[str, Maker]] = {
    "file": _file,
    "file, with copies": _copies,
    "pkcs11": _pkcs11,
    "tpm2": _tpm2,
    "openbao": _openbao,
    "passphrase over file": _passphrase,
    "keyring over aws-kms over file": _nested,
    "file and recovery key": _recovery,
    "file and file": _two_files,
    "file and pkcs11": _file_and_pkcs11,
    "file and tpm2": _file_and_tpm2,
    "file and openbao": _file_and_openbao,
}


@dataclass(frozen=True)
class Move:
    """From one holder to another: makes (a site at the old one, URI of the new one). ``slow``: seconds."""

    make: Callable[[Ground, Path], tuple[Site, str]]
    slow: bool = False


MOVES: Final[Mapping[str, Move]] = {
    "file to pkcs11": Move(_moving(_file, Ground.pkcs11)),
    "pkcs11 to tpm2": Move(_moving(_pkcs11, Ground.tpm2), slow=True),
    "tpm2 to openbao": Move(_moving(_tpm2, Ground.openbao), slow=True),
    "openbao to passphrase over file": Move(
        _moving(_openbao, lambda ground, at: ground.passphrase(at, ground.file(at)))
    ),
}
