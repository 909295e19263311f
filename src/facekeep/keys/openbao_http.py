"""One request to an OpenBao server: TLS verified, no redirect, no proxy, bounded in time and size."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from facekeep.errors import MissingDependency, RootError
from facekeep.keys.openbao_uri import Server

if TYPE_CHECKING:
    import urllib3

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 15.0  # for each part of an answer
LONGEST: Final = 1_048_576  # bytes of an answer

Json: TypeAlias = dict[str, Any]  # an answer; who reads it checks what it takes from it


class Unreached(RootError):
    """No whole answer came from the server; the same request may be sent again."""

    default_next = "start the server or mend the way to it, then try again: facekeep status"


class Wire:
    """Connections to one server. Threads may share it; a forked process makes connections of its own."""

    def __init__(self, server: Server) -> None:
        """Keep what is needed; nothing is connected yet."""
        self._server = server
        self._pool: tuple[int, urllib3.PoolManager] | None = None

    def request(self, method: str, path: str, body: Json | None, token: str) -> tuple[int, Json]:
        """Status and answer of one request below ``/v1/``. Raises Unreached, RootError, MissingDependency."""
        pool = self._connections()
        data = None if body is None else json.dumps(body).encode()
        url = f"{self._server.base}/v1/{path}"
        with self._translated():
            response = pool.request(
                method,
                url,
                body=data,
                headers=self._headers(token),
                preload_content=False,
                retries=False,
                redirect=False,
            )
            raw = response.read(LONGEST + 1, decode_content=False)
            if len(raw) > LONGEST:
                response.close()
                raise RootError("the OpenBao server's answer is longer than any it should give")
            response.release_conn()
        if response.status // 100 == 3:  # noqa: PLR2004 - the class of redirections
            raise RootError(
                "the OpenBao server points to another address, which is not followed",
                next="name the address of the active node in the URI",
            )
        return response.status, self._object(response.status, raw)

    def _headers(self, token: str) -> dict[str, str]:
        headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if token:
            headers["X-Vault-Token"] = token
        if self._server.namespace:
            headers["X-Vault-Namespace"] = self._server.namespace
        return headers

    def _object(self, status: int, raw: bytes) -> Json:
        """Answer as an object; a proxy's page in place of one is an error's text at best."""
        try:
            found = json.loads(raw) if raw else {}
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        if status < HTTPStatus.BAD_REQUEST:
            raise RootError(f"what answers at {self._server.base} is no OpenBao server")
        return {"errors": ["no answer of an OpenBao server"]}

    def _connections(self) -> urllib3.PoolManager:
        """Return connections of this process: one forked that shared a socket would read others' answers."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), self._new_pool()
        return self._pool[1]

    def _new_pool(self) -> urllib3.PoolManager:
        try:
            import urllib3  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingDependency(
                "the openbao: holder needs urllib3: pip install 'facekeep[openbao]'",
                next="pip install 'facekeep[openbao]'",
            ) from error
        return urllib3.PoolManager(
            ssl_context=self._tls(),
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        )

    def _tls(self) -> ssl.SSLContext:
        """Context that verifies certificate and name: against the CA of the URI, or those of the system."""
        try:
            return ssl.create_default_context(cafile=self._server.ca)
        except OSError as error:  # ssl.SSLError is one
            raise RootError(
                f"the CA file {self._server.ca} cannot be used: {error.strerror or error}",
                next="name a PEM file with the server's CA in the URI: ca=FILE",
            ) from error

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import urllib3  # noqa: PLC0415 - an extra

        try:
            yield
        except urllib3.exceptions.SSLError as error:
            raise RootError(
                f"the OpenBao server {self._server.base} is not the one it should be, by TLS: {error}",
                next="name its CA in the URI (ca=FILE), and the host as its certificate does",
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            slow = isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError))
            if slow and not isinstance(error, urllib3.exceptions.NewConnectionError):  # which counts as one
                raise Unreached(f"the OpenBao server {self._server.base} does not answer in time") from error
            what = type(error).__name__
            raise Unreached(f"the OpenBao server {self._server.base} cannot be reached ({what})") from error
