"""Running the commands of tpm2-tools (SPEC §4.4; docs/adr/0009-tpm2-tools.md).

Secrets pass through pipes and anonymous memory, never through an argument, a file or the environment. What
the tools must find in files (public parts, saved contexts) lies in a directory of mode 0700, one for each
user and transport. Its lock is held during a sitting, and by the tools themselves: after a kill -9 the next
sitting waits for the tool that still runs, then clears what was left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from facekeep.errors import RootError
from facekeep.files import open_lock, unlock
from facekeep.keys.secrets import Secrets, check_named
from facekeep.store.sqlite import translated

OWNER: Final = "tpm-owner"  # the secret's name, where somebody has set the owner's authorization
TCTI_VARIABLE: Final = "FACEKEEP_TPM2_TCTI"
POLICY: Final = 0x126
POLICY_FAIL: Final = 0x09D
NO_HANDLE: Final = 0x08B
NOT_WRITTEN: Final = 0x14A
AUTH_FAIL: Final = (0x08E, 0x0A2)

_FLUSH: Final = {0x902: "-t", 0x903: "-l"}  # no room for objects, for sessions: what to flush
_SECONDS: Final = 120  # a tool that takes longer is ended; the slowest TPMs make a key in some 20 s
LONGEST_WAIT: Final = 300  # seconds for another's sitting; only a TPM that hangs takes as long
_POLL: Final = 0.005  # seconds between two tries for a lock
_HUNG: Final = f"another process has had the TPM for {LONGEST_WAIT} s"
_LOCK: Final = "lock"
_SESSION: Final = ".session"
_SYSTEMS_TPM: Final = re.compile(
    r"device:/dev/tpm(?:rm)?[0-9]{1,3}\Z|tabrmd:?\Z"
)  # which no vault.toml can feign
_CODE: Final = re.compile(rb"^ERROR: \w+\(0x([0-9A-Fa-f]{1,8})\) - (.{1,200})", re.MULTILINE)
_TCTI: Final = re.compile(rb"^(?:WARNING|ERROR):tcti:[^ ]+\(\) (.{1,200})", re.MULTILINE)
_NO_TCTI: Final = b"ERROR: Could not load tcti"
_INSTALL: Final = "install them: apt-get install tpm2-tools"
_REACH: Final = (
    "see that the TPM is there; this user needs access (group tss); tcti= in a new holder's URI names another"
)
# What a TPM says and a person can do something about. Codes: TPM 2.0 part 2 §6.6.
_NEXT: Final = {
    0x100: "start the TPM (tpm2_startup -c), which the firmware does at boot",
    0x101: "restart the machine; a TPM that still fails is defective: use a mirror or the recovery key",
    0x14B: "free an NV index that nothing uses (tpm2_getcap handles-nv-index, tpm2_nvundefine)",
    0x905: "another program has left its sessions in the TPM: restart it, or the machine",
    0x920: "the TPM limits how often it writes: try again in a minute",
    0x921: "the TPM is in lockout: wait for it to end, or end it with tpm2_dictionarylockout --clear-lockout",
    0x923: "the TPM cannot write now: try again in a minute",
}


class TpmError(RootError):
    """What a TPM answers instead of success; ``answer`` is its code, without parameter or session."""

    def __init__(self, message: str, answer: int) -> None:
        """Keep the code, and the next step where there is a known one."""
        super().__init__(message, next=_NEXT.get(answer))
        self.answer = answer


class Sitting:
    """Some commands one after the other, with the files between them; made by ``sitting``."""

    def __init__(self, tcti: str, directory: Path, held: Sequence[int], secrets: Secrets) -> None:
        """``held``: descriptors that the tools hold too. ``secrets`` has the owner's authorization."""
        self.directory = directory
        self._tcti, self._held, self._secrets = tcti, tuple(held), secrets
        self._owner_needed = False

    def write(self, name: str, data: bytes) -> str:
        """Put what is no secret into a file for a tool; returns its path."""
        path = self.directory / name
        with translated(str(path)):
            path.write_bytes(data)
        return str(path)

    def read(self, name: str) -> bytes:
        """Read what a tool has written."""
        with translated(str(self.directory / name)):
            return (self.directory / name).read_bytes()

    def path(self, name: str) -> str:
        """Path for a file that a tool is to write."""
        return str(self.directory / name)

    @contextlib.contextmanager
    def session(self, *kind: str) -> Iterator[str]:
        """Start a session salted with the key in ``kind``; yields its path, and flushes it from the TPM."""
        path = self.path("tools" + _SESSION)
        self.run("tpm2_startauthsession", "-Q", *kind, "-S", path)
        try:
            yield path
        finally:
            self._flush_session(Path(path))

    def run(self, tool: str, *arguments: str, secret: bytes = b"") -> bytes:
        """Run a tool, ``secret`` on its standard input; returns its output. Raises TpmError, RootError.

        Without a resource manager a TPM soon has no room for objects or sessions that ended tools left in it:
        they are flushed, and the tool, whose command was not carried out, runs again.
        """
        try:
            return self._run(tool, arguments, secret)
        except TpmError as error:
            if error.answer not in _FLUSH:
                raise
            self._run("tpm2_flushcontext", (_FLUSH[error.answer],))
        return self._run(tool, arguments, secret)

    def run_as_owner(self, tool: str, *arguments: str) -> bytes:
        """Run a tool that needs the owner's authorization, which is empty unless somebody has set it."""
        if not self._owner_needed:
            try:
                return self.run(tool, *arguments)
            except TpmError as error:
                if error.answer not in AUTH_FAIL:
                    raise
            self._owner_needed = True
        if not _SYSTEMS_TPM.match(self._tcti):
            check_named(TCTI_VARIABLE, self._tcti, OWNER, self._secrets)
        with _memory(self._secrets.get(OWNER, f"the owner of the TPM at {self._tcti}")) as path:
            try:
                return self.run(tool, "-P", f"file:{path}", *arguments)
            except TpmError as error:
                if error.answer in AUTH_FAIL:
                    self._secrets.refuse(OWNER)
                raise

    def _run(self, tool: str, arguments: Sequence[str], secret: bytes = b"") -> bytes:
        program = shutil.which(tool)
        if program is None:
            raise RootError(f"the TPM's tools are not installed: there is no {tool}", next=_INSTALL)
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and every argument is ours
                [program, "-T", self._tcti, *arguments],
                input=secret,
                capture_output=True,
                pass_fds=(*self._held, *_descriptors(arguments)),
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RootError(f"the TPM did not answer {tool} within {_SECONDS} s", next=_REACH) from None
        except OSError as error:
            raise RootError(f"{program}: {error.strerror or error}", next=_INSTALL) from error
        if done.returncode != 0:
            raise self._failure(tool, done.stderr)
        return done.stdout

    def _failure(self, tool: str, said: bytes) -> RootError:
        """Find out what a tool complains of."""
        reason = _TCTI.search(said)
        code = _CODE.findall(said)
        if _NO_TCTI in said or (code and int(code[-1][0], 16) >> 16):
            why = _text(reason[1]) if reason else "no such transport" if _NO_TCTI in said else "no answer"
            return RootError(f"the TPM at {self._tcti} cannot be reached: {why}", next=_REACH)
        if code:
            answer = int(code[-1][0], 16)
            message = f"the TPM refuses {tool}: {_text(code[-1][1])} ({answer:#x})"
            return TpmError(message, answer & 0xBF if answer & 0x80 else answer)
        last = said.strip().split(b"\n")[0]
        return RootError(f"{tool} failed: {_text(last[:200]) or 'it says nothing'}")

    def flush(self) -> None:
        """Flush the sessions left in the TPM, whose files are there, and remove every file."""
        for path in self.directory.glob(f"*{_SESSION}"):
            self._flush_session(path)
        with translated(str(self.directory)):
            for path in self.directory.iterdir():
                if path.name != _LOCK:
                    path.unlink()

    def _flush_session(self, path: Path) -> None:
        """Flush a session, since a TPM has room for few; one that is gone is no error."""
        with contextlib.suppress(RootError):
            self._run("tpm2_flushcontext", (str(path),))
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def sitting(tcti: str, secrets: Secrets, held: Sequence[int] = ()) -> Iterator[Sitting]:
    """Have the TPM at ``tcti`` for some commands; others of this user wait. ``held``: see ``Sitting``."""
    directory = _directory(tcti)
    with translated(str(directory)):
        lock = open_lock(directory / _LOCK)
    try:
        take(lock)
        bench = Sitting(tcti, directory, (lock, *held), secrets)
        bench.flush()  # what a killed process left
        try:
            yield bench
        finally:
            bench.flush()
    finally:
        unlock(lock)


def take(descriptor: int) -> None:
    """Lock a file, as long as nobody else has had it for too long; raises RootError."""
    deadline = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RootError(
                    _HUNG, next="end the tpm2_ programs that hang, or restart the machine"
                ) from None
            time.sleep(_POLL)
        else:
            return


def _directory(tcti: str) -> Path:
    digest = hashlib.sha256(tcti.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"facekeep-tpm2-{os.geteuid()}-{digest}"
    with translated(str(path)):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise RootError(
            f"{path} is not a directory of this user alone",
            next="remove it, or set TMPDIR to another directory",
        )
    return path


@contextlib.contextmanager
def _memory(secret: bytes) -> Iterator[str]:
    """Path under which a tool finds ``secret``: anonymous memory, since the tools seek in what they read."""
    descriptor = os.memfd_create("facekeep", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, secret)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _descriptors(arguments: Sequence[str]) -> Iterator[int]:
    for each in arguments:
        if each.startswith("file:/proc/self/fd/"):
            yield int(each.rpartition("/")[2])


def _text(raw: bytes) -> str:
    """One printable line of a tool's message."""
    text = raw.decode("utf-8", "replace").strip()
    return "".join(each if each.isprintable() else "?" for each in text)
