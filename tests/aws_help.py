"""AWS KMS for tests: credentials of nobody, and a server that refuses."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Final, Self

import pytest

REGION: Final = "eu-central-1"


def nobody(patch: pytest.MonkeyPatch) -> None:
    """Have boto3 find the credentials of nobody: nothing here may reach an account."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        patch.delenv(name, raising=False)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


class Refusing:
    """A server on this machine that answers every call with one error, and counts."""

    def __init__(self, status: int, code: str) -> None:
        calls: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                calls.append(self.headers.get("X-Amz-Target", ""))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.dumps({"__type": code, "message": "arn:aws:iam::123456789012:user/jane"}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.calls = calls
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
