"""What an operator is told when the OpenBao server, the token or the URI is not as it should be."""

from __future__ import annotations

import builtins
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

import openbao_help
from facekeep.errors import MissingDependency, RootError, UsageError
from facekeep.keys import openbao_client, openbao_http
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.openbao_client import Client
from facekeep.keys.openbao_provider import OpenBaoProvider
from facekeep.keys.openbao_uri import Server as Address
from facekeep.keys.openbao_uri import parse
from facekeep.keys.provider import Place
from facekeep.keys.secrets import Secrets

ROOT = b"r" * 32


@pytest.fixture
def vault_id() -> bytes:
    return os.urandom(16)


@pytest.fixture
def holder(tmp_path: Path, vault_id: bytes) -> OpenBaoProvider:
    made = openbao_help.provider(tmp_path, vault_id)
    made.provision(ROOT)
    return made


# -- the URI


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "https://bao",
        "https://bao/",
        "https://bao/transit",
        "https://bao//key",
        "https://bao/transit//key",
        "https://bao/../key",
        "https://bao/transit/.key",
        "https://bao/transit/a key",
        "https://bao/transit/key%2f",
        "https://Bao/transit/key",
        "https://bao:0/transit/key",
        "https://bao:65536/transit/key",
        "https://user@bao/transit/key",
        "https://user:s.token@bao/transit/key",
        "https://bao/transit/key#part",
        "https://bao/transit/key?",
        "https://bao/transit/key?token=s.secret",
        "https://bao/transit/key?file",
        "https://bao/transit/key?file=",
        "https://bao/transit/key?file=a&file=b",
        "https://bao/transit/key?file=%zz",
        "https://bao/transit/key?file=%ff",
        "https://bao/transit/key?file=%00",
        "https://bao/transit/key?namespace=../root",
        "https://bao/transit/key?auth=a//b",
        "https://bao/transit/key\n",
        "ftp://bao/transit/key",
        "http://bao/transit/key",
        "http://10.0.0.1/transit/key",
        "http://127.0.0.1.example.org/transit/key",
        "http://localhost.example.org/transit/key",
        "http://[2001:db8::1]/transit/key",
    ],
)
def test_a_uri_of_another_form_is_refused(tmp_path: Path, rest: str) -> None:
    with pytest.raises(UsageError):
        provider_from_uri(f"openbao:{rest}", Place(bytes(16), tmp_path))


def test_a_uri_is_read_as_the_specification_says(tmp_path: Path) -> None:
    address = parse(
        "https://[2001:db8::1]:8200/a/b/k.1?namespace=x/y&ca=c%20a.pem&file=/h&role=r&auth=m", tmp_path
    )
    assert address.server == Address("https://[2001:db8::1]:8200", tmp_path / "c a.pem", "x/y", "r", "m")
    assert (address.mount, address.key, address.file) == ("a/b", "k.1", Path("/h"))
    plain = parse("https://bao.example.org/transit/", tmp_path)
    assert plain.server == Address("https://bao.example.org")
    assert (plain.mount, plain.key, plain.file) == ("transit", "", None)
    for host in ("127.0.0.1", "[::1]", "localhost"):
        assert parse(f"http://{host}:8200/transit/key", tmp_path).server.base == f"http://{host}:8200"


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the builtin's own names
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        if name == "urllib3":
            raise ImportError(name)
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", absent)
    client = Client(Address("https://bao.example.org"), openbao_help.secrets("t"))
    with pytest.raises(MissingDependency, match=r"pip install 'facekeep\[openbao\]'"):
        client.call("GET", "sys/health")


# -- the state of the real server


def test_a_sealed_server_is_named_and_works_again_when_unsealed(
    holder: OpenBaoProvider, vault_id: bytes
) -> None:
    server = openbao_help.server()
    server.seal()
    try:
        with pytest.raises(RootError, match="is sealed") as caught:
            holder.candidates()
        assert "bao operator unseal" in caught.value.next
        with pytest.raises(RootError, match="is sealed"):
            holder.stage(b"s" * 32)
    finally:
        server.unseal()
    assert [each.root for each in holder.candidates()] == [ROOT]
    assert openbao_help.key_name(vault_id) in holder._key.path


def test_a_server_that_was_never_initialised_is_named(tmp_path: Path) -> None:
    server = openbao_help.Server(tmp_path / "server").start()
    try:
        with pytest.raises(RootError, match="not initialized"):
            openbao_help.provider(tmp_path, bytes(16), of=server, token="t").provision(ROOT)
    finally:
        server.stop()


def test_a_server_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openbao_client, "PAUSES", (0.0, 0.0))
    uri = f"openbao:http://127.0.0.1:{openbao_help.free_port()}/transit/k?file=h"
    holder = provider_from_uri(uri, Place(bytes(16), tmp_path, openbao_help.secrets("t")))
    with pytest.raises(RootError, match="cannot be reached"):
        holder.provision(ROOT)
    assert not (tmp_path / "h").exists()
    with pytest.raises(RootError, match="cannot be reached"):
        provider_from_uri(
            "openbao:https://bao.invalid/transit/k?file=h",
            Place(bytes(16), tmp_path, openbao_help.secrets("t")),
        ).provision(ROOT)


@pytest.mark.parametrize(
    ("operation", "method"),
    [("keys", "GET"), ("keys/NAME/rotate", "POST"), ("encrypt", "POST"), ("decrypt", "POST")],
)
def test_what_the_policy_lacks_is_named(
    holder: OpenBaoProvider, vault_id: bytes, operation: str, method: str
) -> None:
    server, name = openbao_help.server(), openbao_help.key_name(vault_id)
    path = f"{openbao_help.MOUNT}/{operation.replace('NAME', name)}"
    path = path if name in path else f"{path}/{name}"
    policy = openbao_help.shipped_policy(name).replace(f'"{path}"', '"transit/nothing"')
    server.api("PUT", f"sys/policies/acl/{name}", {"policy": policy})
    act = holder.candidates if operation in {"keys", "decrypt"} else partial(holder.stage, b"s" * 32)
    with pytest.raises(RootError, match=f"denies {method} {path}: .* policy") as caught:
        act()
    assert "docs/operator.md" in caught.value.next


@pytest.mark.parametrize("operation", ["config", "trim"])
def test_a_policy_that_cannot_destroy_leaves_the_record(
    holder: OpenBaoProvider, vault_id: bytes, operation: str
) -> None:
    server, name = openbao_help.server(), openbao_help.key_name(vault_id)
    holder.stage(b"s" * 32)
    policy = openbao_help.shipped_policy(name)
    server.api(
        "PUT", f"sys/policies/acl/{name}", {"policy": policy.replace(f"{name}/{operation}", f"{name}/x")}
    )
    first = holder.file.read()[0].fingerprint
    with pytest.raises(RootError, match=f"denies POST .*{operation}"):
        holder.drop(first)
    assert len(holder.file.read()) == 2
    server.api("PUT", f"sys/policies/acl/{name}", {"policy": policy})
    holder.drop(first)
    assert [each.root for each in holder.candidates()] == [b"s" * 32]


# -- tokens


def test_a_refused_token_is_named_and_a_new_one_is_taken_up(
    holder: OpenBaoProvider, vault_id: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, name = openbao_help.server(), openbao_help.key_name(vault_id)
    file = tmp_path / "token"
    file.write_text(old := server.token_for(name))
    file.chmod(0o600)
    monkeypatch.setenv("FACEKEEP_OPENBAO_TOKEN_FILE", str(file))
    monkeypatch.setenv("FACEKEEP_OPENBAO_SERVER", server.base)
    uri = openbao_help.uri(file=holder.file.path)
    service = provider_from_uri(uri, Place(vault_id, tmp_path))
    assert [each.root for each in service.candidates()] == [ROOT]
    server.api("POST", "auth/token/revoke", {"token": old})
    with pytest.raises(RootError, match="refuses the token: it has expired or was revoked") as caught:
        service.candidates()
    assert "openbao-token" in caught.value.next
    assert old not in f"{caught.value} {caught.value.next}"
    file.write_text(server.token_for(name))
    assert [each.root for each in service.candidates()] == [ROOT]
    last = file.read_text()
    file.write_text(server.token_for(name))
    server.api("POST", "auth/token/revoke", {"token": last})
    assert [each.root for each in service.candidates()] == [ROOT], "the new one is found without an error"


def test_a_token_that_expires_is_told_from_a_policy(
    holder: OpenBaoProvider, vault_id: bytes, tmp_path: Path
) -> None:
    server, name = openbao_help.server(), openbao_help.key_name(vault_id)
    token = server.token_for(name, ttl="1s", explicit_max_ttl="1s")
    short = openbao_help.provider(tmp_path, vault_id, token=token)
    while server.status("POST", "auth/token/lookup", {"token": token}) == 200:
        time.sleep(0.1)
    with pytest.raises(RootError, match="expired or was revoked"):
        short.candidates()
    assert holder.candidates()


@pytest.mark.parametrize("token", [b"s.abc def", b"s.abc\r\nX-Vault-Token: other", b"\xff\xfe"])
def test_a_token_that_would_break_the_request_is_refused(token: bytes) -> None:
    client = Client(Address("http://127.0.0.1:1"), Secrets(lambda _name, _purpose: token))
    with pytest.raises(RootError, match="characters that none has"):
        client.call("GET", "sys/health")


def test_no_token_at_all_is_named() -> None:
    client = Client(Address("http://127.0.0.1:1"), Secrets())
    with pytest.raises(RootError, match="there is no openbao-token") as caught:
        client.call("GET", "sys/health")
    assert "FACEKEEP_OPENBAO_TOKEN_FILE" in caught.value.next


def test_an_app_role_logs_in_and_again_when_its_token_is_gone(
    holder: OpenBaoProvider, vault_id: bytes, tmp_path: Path
) -> None:
    server, name = openbao_help.server(), openbao_help.key_name(vault_id)
    server.status("POST", "sys/auth/approle", {"type": "approle"})
    server.api(
        "POST", f"auth/approle/role/{name}", {"token_policies": [name], "token_no_default_policy": True}
    )
    role = server.api("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
    secret = server.api("POST", f"auth/approle/role/{name}/secret-id", {})["data"]
    asked: list[str] = []

    def ask(wanted: str, _purpose: str) -> bytes | None:
        asked.append(wanted)
        return str(secret["secret_id"]).encode()

    uri = openbao_help.uri(file=holder.file.path, role=role)
    service = provider_from_uri(uri, Place(vault_id, tmp_path, Secrets(ask)))
    assert [each.root for each in service.candidates()] == [ROOT]
    assert isinstance(service, OpenBaoProvider)
    server.api("POST", "auth/token/revoke", {"token": service._key._client._login})
    assert [each.root for each in service.candidates()] == [ROOT]
    assert asked == ["openbao-secret-id"]
    server.api("POST", f"auth/approle/role/{name}/secret-id/destroy", {"secret_id": secret["secret_id"]})
    other = provider_from_uri(uri, Place(vault_id, tmp_path, Secrets(ask)))
    with pytest.raises(RootError, match="refuses the AppRole login"):
        other.candidates()


# -- TLS


def test_tls_with_the_right_ca_works_and_any_other_is_refused(
    holder: OpenBaoProvider, vault_id: bytes, tmp_path: Path
) -> None:
    server, name = openbao_help.server(), openbao_help.key_name(vault_id)
    place = Place(vault_id, tmp_path, openbao_help.secrets(server.token_for(name)))
    file = holder.file.path
    right = openbao_help.uri(tls=True, file=file, ca=server.directory / "ca.pem")
    assert [each.root for each in provider_from_uri(right, place).candidates()] == [ROOT]
    openbao_help.make_certificate(tmp_path)
    foreign = openbao_help.uri(tls=True, file=file, ca=tmp_path / "ca.pem")
    other_name = right.replace("127.0.0.1", "localhost")
    for uri in (foreign, other_name, openbao_help.uri(tls=True, file=file)):
        with pytest.raises(RootError, match="by TLS"):
            provider_from_uri(uri, place).candidates()
    missing = openbao_help.uri(tls=True, file=file, ca=tmp_path / "none.pem")
    with pytest.raises(RootError, match="CA file"):
        provider_from_uri(missing, place).candidates()


# -- a server that misbehaves


class Quiet(ThreadingHTTPServer):
    """A client that gives up is no news."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Scripted:
    """Answers requests one after the other, the last one for ever; counts them."""

    def __init__(self, answers: Sequence[tuple[int, bytes]]) -> None:
        self.answers = list(answers)
        self.paths: list[str] = []
        self.tokens: list[str | None] = []
        self.before: Callable[[], object] = lambda: None
        self.location = "http://127.0.0.1:1/elsewhere"
        script = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                script.before()
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                script.paths.append(self.path)
                script.tokens.append(self.headers.get("X-Vault-Token"))
                status, body = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                if status == 0:
                    return  # hangs up
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", script.location)
                self.send_header("Retry-After", "3600")
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def client(self) -> Client:
        return Client(Address(f"http://127.0.0.1:{self.http.server_port}"), openbao_help.secrets("s.token"))

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Scripted]]:
    monkeypatch.setattr(openbao_client, "PAUSES", (0.0, 0.0))
    made: list[Scripted] = []
    yield made
    for each in made:
        each.close()


def errors(*texts: str) -> bytes:
    return json.dumps({"errors": texts}).encode()


GOOD = (200, b'{"data": {"a": 1}}')


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_three_times(scripted: list[Scripted], status: int) -> None:
    scripted.append(server := Scripted([(status, errors("for a moment"))] * 2 + [GOOD]))
    assert server.client().call("GET", "x") == {"a": 1}
    assert server.paths == ["/v1/x"] * 3


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (0, b"", "cannot be reached"),
        (429, errors("slow down"), "fewer requests"),
        (500, errors("disk\nfull"), "fails at GET x: 500 disk full"),
        (502, b"<html>Bad gateway</html>", "502 no answer of an OpenBao server"),
        (503, errors("Vault is standby"), "not available"),
        (418, errors(), "418"),
        (307, b"", "points to another address"),
        (301, b"", "points to another address"),
        (200, b"<html>A portal</html>", "no OpenBao server"),
        (200, b"[" * 100_000, "no OpenBao server"),
        (200, b"[1]", "no OpenBao server"),
        (200, b" " * (openbao_http.LONGEST + 1), "longer than any"),
        (400, errors("no"), "rejects GET x: no"),
        (404, errors(), "has nothing for GET x"),
        (404, errors("no handler"), "no such engine: no handler"),
    ],
)
def test_an_answer_that_helps_nobody_is_one_clear_error(
    scripted: list[Scripted], status: int, body: bytes, said: str
) -> None:
    scripted.append(server := Scripted([(status, body)]))
    with pytest.raises(RootError, match=said) as caught:
        server.client().call("GET", "x")
    assert "\n" not in f"{caught.value}{caught.value.next}"
    assert len(server.paths) <= 4
    assert "/elsewhere" not in server.paths


def test_a_server_that_says_nothing_is_given_up(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openbao_http, "READ_SECONDS", 0.05)
    scripted.append(server := Scripted([GOOD]))
    done = threading.Event()
    server.before = lambda: done.wait(30)
    try:
        with pytest.raises(RootError, match="does not answer in time"):
            server.client().call("GET", "x")
    finally:
        done.set()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "aes256-gcm96", "derived": False},
        {"type": "aes256-gcm96", "derived": False, "latest_version": True},
        {"type": "aes256-gcm96", "derived": False, "latest_version": -1},
        {"type": "aes256-gcm96", "derived": False, "latest_version": "2"},
    ],
)
def test_a_key_whose_state_is_not_told_is_refused(
    scripted: list[Scripted], tmp_path: Path, data: dict[str, object]
) -> None:
    scripted.append(server := Scripted([(200, json.dumps({"data": data}).encode())]))
    uri = f"openbao:http://127.0.0.1:{server.http.server_port}/transit/k?file=h"
    holder = provider_from_uri(uri, Place(bytes(16), tmp_path, openbao_help.secrets("t")))
    assert isinstance(holder, OpenBaoProvider)
    with pytest.raises(RootError):
        holder._key.state()


def test_attack_a_redirect_does_not_get_the_token(scripted: list[Scripted]) -> None:
    scripted.append(thief := Scripted([GOOD]))
    scripted.append(server := Scripted([(307, b"")]))
    server.location = f"http://127.0.0.1:{thief.http.server_port}/v1/x"
    with pytest.raises(RootError):
        server.client().call("GET", "x")
    assert server.tokens == ["s.token"]
    assert thief.tokens == []


def test_attack_a_proxy_of_the_environment_does_not_get_the_token(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.append(thief := Scripted([GOOD]))
    scripted.append(server := Scripted([GOOD]))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{thief.http.server_port}")
    server.client().call("GET", "x")
    assert thief.paths == []


def test_a_forked_process_has_connections_of_its_own(holder: OpenBaoProvider) -> None:
    """Two processes on one socket would read each other's answers: another root than was asked for."""
    holder.candidates()
    inherited = holder._key._client._wire._pool
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            same = [each.root for each in holder.candidates()] == [ROOT]
            own = holder._key._client._wire._pool is not inherited
            os.write(writer, b"y" if same and own else b"n")
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    assert os.read(reader, 1) == b"y"
    os.close(reader)
    assert holder._key._client._wire._pool is inherited
