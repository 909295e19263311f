"""A TPM for tests: swtpm on this machine, its state below a temporary directory; providers on it.

Without swtpm or tpm2-tools the tests are skipped, and fail where CI=true.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from facekeep.keys.holders import provider_from_uri
from facekeep.keys.provider import Place
from facekeep.keys.secrets import Ask, Secrets
from facekeep.keys.tpm2_provider import Tpm2Provider
from facekeep.keys.tpm2_tools import _directory
from wanting import wanting

VAULT = bytes(range(16))
PROGRAMS = {"swtpm": "swtpm", "tpm2_create": "tpm2-tools"}


class Tpm:
    """One emulated TPM that can be turned off and on, and whose state can be copied."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.state.mkdir(parents=True)
        self.state.chmod(0o700)
        self._log = directory / "swtpm.log"
        self.port = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None
        self.on()

    @property
    def tcti(self) -> str:
        return f"swtpm:host=127.0.0.1,port={self.port}"

    def on(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}"),
                    *("--server", f"type=tcp,bindaddr=127.0.0.1,port={self.port}"),
                    *("--ctrl", f"type=tcp,bindaddr=127.0.0.1,port={self.port + 1}"),
                    *("--flags", "not-need-init,startup-clear"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while not _answers(self.port):
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.01)

    def off(self) -> None:
        """Cut its power: what is not in its state is gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def run(self, tool: str, *arguments: str) -> bytes:
        """Run a tool on it, as somebody else on this machine would."""
        return subprocess.run([tool, "-T", self.tcti, *arguments], check=True, capture_output=True).stdout

    def uri(self, *, nv: str = "", file: str = "") -> str:
        """URI of a holder on it."""
        attributes = ";".join([*([f"nv={nv}"] if nv else []), f"tcti={self.tcti}"])
        return f"tpm2:{attributes}" + (f"?file={file}" if file else "")

    def provider(
        self, base: Path, vault_id: bytes = VAULT, *, nv: str = "", ask: Ask | None = None
    ) -> Tpm2Provider:
        """A holder with the file ``base/tpm2.holder``; nothing is provisioned."""
        place = Place(vault_id, base, Secrets(ask))
        found = provider_from_uri(self.uri(nv=nv, file="tpm2.holder"), place)
        assert isinstance(found, Tpm2Provider)
        return found

    def sessions(self) -> int:
        """Sessions that are left in it."""
        said = self.run("tpm2_getcap", "handles-saved-session") + self.run(
            "tpm2_getcap", "handles-loaded-session"
        )
        return said.count(b"0x")


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Tpm]:
    """A TPM below ``directory``, turned off at the end; skips the test where the programs are missing."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        message = f"install {' and '.join(missing)} to test with a TPM"
        wanting(message)
    tpm = Tpm(directory)
    try:
        yield tpm
    finally:
        tpm.off()
        shutil.rmtree(_directory(tpm.tcti))


def _free_ports() -> int:
    """First of two ports in a row that nothing listens on."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
