"""Calls to an OpenBao server with a token: each failure is one RootError that names the server's state.

HashiCorp Vault speaks the same API. docs/adr/0010-openbao-client.md says why this is not a client library.
"""

from __future__ import annotations

import contextlib
import re
import time
from http import HTTPStatus
from typing import Final

from facekeep.errors import RootError
from facekeep.keys.openbao_http import Json, Unreached, Wire
from facekeep.keys.openbao_uri import Server
from facekeep.keys.secrets import Secrets, check_named

TOKEN: Final = "openbao-token"  # noqa: S105 - the secret's name
SERVER_VARIABLE: Final = "FACEKEEP_OPENBAO_SERVER"
SECRET_ID: Final = "openbao-secret-id"  # noqa: S105 - the secret's name
PAUSES: Final = (0.2, 0.8)  # seconds before the second and the third try

_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+\Z")
_POLICY: Final = "give the token the policy of docs/operator.md, section OpenBao"
_UNSEAL: Final = "unseal it: bao operator unseal; then any writing command finishes what is pending"


class Missing(RootError):
    """The server has nothing of that name (404)."""


class Rejected(RootError):
    """The server understood and will not: its state or our values do not allow it (400)."""


class Forbidden(RootError):
    """The token is valid, and its policy does not allow the request (403)."""


class Client:
    """Asks one server, with a token or with what AppRole gives for one. Threads may share it."""

    def __init__(self, server: Server, secrets: Secrets) -> None:
        """Keep what is needed; nothing is connected yet."""
        self._server, self._secrets = server, secrets
        self._wire = Wire(server)
        self._login = ""  # an AppRole's token

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Send a request below ``/v1/``; returns the answer's ``data``, empty where there is none.

        Raises Missing, Rejected, Forbidden or another RootError. A refused token is replaced once, where
        another is to be had. What is asked for MUST bear being asked for twice.
        """
        status, answer = self._send(method, path, body, self._token())
        if status == HTTPStatus.FORBIDDEN and not self._token_is_good():
            self._forget_token()
            status, answer = self._send(method, path, body, self._token())
        return self._data(status, answer, f"{method} {path}")

    # Tokens.

    def _token(self) -> str:
        if not self._server.role:
            return self._secret(TOKEN)
        if not self._login:
            self._login = self._log_in()
        return self._login

    def _log_in(self) -> str:
        """AppRole: a token for the role and its secret id."""
        path = f"auth/{self._server.auth}/login"
        body = {"role_id": self._server.role, "secret_id": self._secret(SECRET_ID)}
        status, answer = self._send("POST", path, body, "")
        if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}:
            self._secrets.refuse(SECRET_ID)
            raise RootError(
                f"the OpenBao server refuses the AppRole login: {_errors(answer)}",
                next=f"put a new secret id where {SECRET_ID} is read from, and check role= and auth=",
            )
        self._data(status, answer, f"POST {path}")
        auth = answer.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not _PRINTABLE.match(token):
            raise RootError("the OpenBao server's answer to the login has no token")
        return token

    def _token_is_good(self) -> bool:
        status, _ = self._send("GET", "auth/token/lookup-self", None, self._token())
        return status != HTTPStatus.FORBIDDEN

    def _forget_token(self) -> None:
        """Have the next request use another token; raises RootError where there is no other."""
        self._login = ""
        if self._server.role:
            return
        self._secrets.refuse(TOKEN)
        try:
            self._secret(TOKEN)
        except RootError as error:
            raise RootError(
                "the OpenBao server refuses the token: it has expired or was revoked",
                next=f"put a new one where {TOKEN} is read from; 'bao token lookup' shows what is left of it",
            ) from error

    def _secret(self, name: str) -> str:
        check_named(SERVER_VARIABLE, self._server.base, name, self._secrets)
        text = self._secrets.get(name, f"the OpenBao server {self._server.base}").decode("latin-1")
        if not _PRINTABLE.match(text):
            raise RootError(f"the {name} has characters that none has")
        return text

    # Answers.

    def _send(self, method: str, path: str, body: Json | None, token: str) -> tuple[int, Json]:
        """Status and answer, after up to three tries while the server may do better later."""
        for pause in PAUSES:
            with contextlib.suppress(Unreached):
                status, answer = self._wire.request(method, path, body, token)
                if status not in _AGAIN or "sealed" in _errors(answer):
                    return status, answer
            time.sleep(pause)
        return self._wire.request(method, path, body, token)

    def _data(self, status: int, answer: Json, what: str) -> Json:
        errors = _errors(answer)
        if status < HTTPStatus.MULTIPLE_CHOICES:
            data = answer.get("data")
            return data if isinstance(data, dict) else {}
        if status == HTTPStatus.BAD_REQUEST:
            raise Rejected(f"the OpenBao server rejects {what}: {errors}")
        if status == HTTPStatus.FORBIDDEN:
            raise Forbidden(
                f"the OpenBao server denies {what}: the token's policy does not allow it", next=_POLICY
            )
        if status == HTTPStatus.NOT_FOUND:
            if errors:
                raise RootError(
                    f"the OpenBao server has no such engine: {errors}",
                    next="check mount and namespace in the URI against 'bao secrets list'",
                )
            raise Missing(f"the OpenBao server has nothing for {what}")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise RootError("the OpenBao server asks for fewer requests", next="try again in a minute")
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise self._unavailable()
        raise RootError(
            f"the OpenBao server fails at {what}: {status} {errors}", next="read the server's log; try again"
        )

    def _unavailable(self) -> RootError:
        with contextlib.suppress(RootError):
            _, seal = self._wire.request("GET", "sys/seal-status", None, "")
            if seal.get("initialized") is False:
                return RootError("the OpenBao server is not initialized", next="bao operator init")
            if seal.get("sealed") is True:
                return RootError("the OpenBao server is sealed", next=_UNSEAL)
        return RootError("the OpenBao server is not available (503)", next="try again in a minute")


def _errors(answer: Json) -> str:
    """Return what the server says is wrong, short and printable."""
    errors = answer.get("errors")
    text = "; ".join(str(each) for each in errors) if isinstance(errors, list) else ""
    return "".join(each if each.isprintable() else " " for each in text)[:200]
