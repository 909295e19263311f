"""What all cases are made with: their files, their lines of the manifest, and the same bytes in every run."""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from unittest import mock

import audit_help
from audit_help import SIGNER, Book
from facekeep.auditlog.merkle import Frontier, leaf_hash
from facekeep.auditlog.signed import LogSigner
from facekeep.crypto.signing import ML_DSA_44_SIGNATURE_LEN, MlDsa44Signer, verify_ml_dsa_44
from facekeep.errors import FormatError, IntegrityError
from facekeep.formats import decisions, entries
from facekeep.formats.canonical import JsonObject
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import Note, Signature, VerifierKey
from facekeep.formats.tiles import WIDTH, decode_bundle
from restart_help import Restarted

HERE = Path(__file__).parent
SUFFIXES = {"proof": "json"}  # of other kinds their own name
PROGRAMS = {".gitattributes", "README.md", "manifest.json", "run.py", "verify.py"}
ED25519, BOTH = "log-ed25519.txt", "log.txt"  # keys of the logs of tests/audit_help.py

T = TypeVar("T")
Log: TypeAlias = Book | list[bytes]


class Vectors:
    """The cases of one run, and the directory that their files are written to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cases: list[dict[str, Any]] = []
        self.given: dict[str, Any] = {}  # what the next cases have unless they say otherwise
        self._written = {"manifest.json"}
        self._once: dict[bytes, str] = {}
        self._bases: list[tuple[str, list[bytes]]] = [("", [])]  # beginnings that many logs have

    def put(self, name: str, data: bytes) -> str:
        """Write a file."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._written.add(name)
        return name

    def once(self, name: str, data: bytes) -> str:
        """Write a file, unless one with these bytes was written so."""
        if data not in self._once:
            self._once[data] = self.put(name, data)
        return self._once[data]

    def keys(self, name: str, keys: Iterable[VerifierKey]) -> str:
        """Write a file of verifier keys."""
        return self.put(name, "".join(f"{key.encode()}\n" for key in keys).encode())

    def case(self, kind: str, name: str, data: bytes, why: str, *steps: str, **more: Any) -> None:  # noqa: ANN401
        """Add a case of one file; it must be refused where its name ends in _fail."""
        file = self.once(f"{kind}/{name}.{SUFFIXES.get(kind, kind)}", data)
        self.add(kind, name, why, *steps, file=file, **more)

    def log(self, name: str, made: Log, why: str, *steps: str, **more: Any) -> None:  # noqa: ANN401
        """Add a whole log, its entries one a line, under a checkpoint of the Ed25519 key or of both.

        ``signer`` signs it, and ``signed`` is the log that the checkpoint is of, where these are others.
        """
        found, signer = bodies(made), more.pop("signer", SIGNER)
        both = more.pop("both", more.get("keys") == BOTH)
        note = signed_log(more.pop("signed", found), signer, both=both)
        base, begun = max(
            (each for each in self._bases if found[: len(each[1])] == each[1]),
            key=lambda each: len(each[1]),
        )
        more |= {"base": self.put(base, lines(begun))} if begun else {}
        file = self.put(f"log/{name}.entries", lines(found[len(begun) :]))
        more["checkpoint"] = self.once(f"log/{name}.checkpoint", note)
        self.add("log", name, why, *steps, file=file, **more)

    def base(self, name: str, made: Log) -> None:
        """Let the logs after this that begin with these entries share a file of them."""
        self._bases.append((f"log/base-{name}.entries", bodies(made)))
        NONCES.begin()

    def tree(self, name: str, made: Log, signer: LogSigner = SIGNER, *, both: bool = True) -> str:
        """Write an export of a log, signed with both keys or with the Ed25519 key alone."""
        with tempfile.TemporaryDirectory() as place:
            audit_help.write_export(Path(place), bodies(made), signer)
            paths = [path for path in Path(place).rglob("*") if path.is_file()]
            files = {str(path.relative_to(place)): path.read_bytes() for path in paths}
        NONCES.begin()
        return self.pack(name, {**files, "checkpoint": signed_log(made, signer, both=both)})

    def pack(self, name: str, files: Mapping[str, bytes | None]) -> str:
        """Write files of an export as one, by their paths; None for one that is not there."""
        coded = {path: _packed(path, data) for path, data in files.items()}
        return self.once(f"{name}.json", json.dumps(coded, indent=0, sort_keys=True).encode() + b"\n")

    def add(self, kind: str, name: str, why: str, *steps: str, **more: Any) -> None:  # noqa: ANN401
        """Add a case to the manifest: ``steps`` are those that it shows, or the one that it breaks."""
        accept = not name.endswith("_fail")
        assert accept or len(steps) < 2, name
        said = why if accept or not steps else f"{why}: {steps[0]}"
        about = {"name": f"{kind}/{name}", "kind": kind, "accept": accept, "steps": list(steps), "why": said}
        self.cases.append({**about, **self.given, **more})
        NONCES.begin()

    def end(self) -> None:
        """Write the manifest, and take away what no case has any more."""
        text = "[\n" + ",\n".join(json.dumps(item, ensure_ascii=True) for item in self.cases) + "\n]\n"
        (self.directory / "manifest.json").write_text(text, "utf-8")
        for path in [path for path in self.directory.rglob("*") if path.is_file()]:
            name = path.relative_to(self.directory)
            program = str(name) in PROGRAMS or name.suffix in (".py", ".pyc")
            if not program and str(name) not in self._written:
                path.unlink()


def _packed(path: str, data: bytes | None) -> str | list[str] | None:
    """A file of an export in JSON: base64, or the entries of a bundle that is whole."""
    if data is None:
        return None
    with contextlib.suppress(FormatError):
        if path.startswith("tile/entries/"):
            width = int(path.rpartition(".p/")[2]) if ".p/" in path else WIDTH
            return [entry.decode() for entry in decode_bundle(data, width)]
    return base64.b64encode(data).decode()


def bodies(made: Log) -> list[bytes]:
    """Entries of a log by their bytes."""
    return made.bodies() if isinstance(made, Book) else made


def lines(found: list[bytes]) -> bytes:
    """Entries of a log, one a line."""
    return b"".join(body + b"\n" for body in found)


def checkpoint_of(made: Log, origin: str = SIGNER.origin) -> Checkpoint:
    """Checkpoint of a log."""
    frontier = Frontier()
    for body in bodies(made):
        frontier.append(leaf_hash(body))
    return Checkpoint(origin, frontier.size, frontier.root())


def signed_log(made: Log, signer: LogSigner = SIGNER, *, both: bool) -> bytes:
    """Sign a log's checkpoint with both keys, or with the Ed25519 key alone."""
    checkpoint = checkpoint_of(made)
    if both:
        return signer.sign(checkpoint, audit_help.NOW)
    return signed_text(checkpoint.encode(), signer)


def signed_text(text: str, signer: LogSigner) -> bytes:
    """Sign any text with an Ed25519 key."""
    line = Signature(signer.keys[0].name, signer.keys[0].key_id, signer._ed25519.sign(text.encode()))
    return Note(text, (line,)).encode()


# --- the same bytes in every run -------------------------------------------------------------------


class Nonces:
    """Nonces of entries that are in no book, or signed: counted from the beginning of a log, or of a case."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._count = itertools.count(1 << 127)

    def next(self) -> str:
        return f"{next(self._count):032x}"


NONCES = Nonces()


def add(self: Book, *items: JsonObject) -> int:
    """Number a book's nonces by the places of its entries: logs that begin alike have the same bytes."""
    first = len(self.entries)
    for at, item in enumerate(items, first):
        if "signatures" not in item:
            item["nonce"] = f"{at:032x}"
    self.entries.extend(items)
    return first


def beginning(write: Callable[..., T]) -> Callable[..., T]:
    """Count anew where a log begins."""

    @functools.wraps(write)
    def writing(*arguments: Any, **named: Any) -> T:  # noqa: ANN401
        NONCES.begin()
        return write(*arguments, **named)

    return writing


def earlier(directory: Path) -> list[bytes]:
    """Every ML-DSA-44 signature of the files that are there."""
    paths = sorted(path for path in directory.rglob("*") if path.suffix not in (".py", ".pyc"))
    return list(
        dict.fromkeys(raw for path in paths if path.is_file() for raw in _signatures(path.read_bytes()))
    )


def _signatures(data: bytes) -> Iterator[bytes]:
    """What may be one, in hexadecimal or base64, and in what is itself in base64."""
    for token in re.findall(rb"[A-Za-z0-9+/]{3200,}={0,2}|[0-9a-f]{4840}", data):
        raw = bytes.fromhex(token.decode()) if len(token) == 2 * ML_DSA_44_SIGNATURE_LEN else _decoded(token)
        yield raw[-ML_DSA_44_SIGNATURE_LEN:]
        yield from _signatures(raw)


def _decoded(token: bytes) -> bytes:
    with contextlib.suppress(ValueError):
        return base64.b64decode(token, validate=True)
    return b""


def again(known: list[bytes], sign: Callable[[MlDsa44Signer, bytes], bytes]) -> Callable[..., bytes]:
    """Sign as ``sign`` does, but take a signature that was made before where there is one."""

    @functools.wraps(sign)
    def signing(self: MlDsa44Signer, message: bytes) -> bytes:
        for signature in known:
            with contextlib.suppress(IntegrityError):
                verify_ml_dsa_44(self.public, signature, message)
                return signature
        known.append(sign(self, message))
        return known[-1]

    return signing


@contextlib.contextmanager
def steady(directory: Path) -> Iterator[None]:
    """Count nonces, and repeat the ML-DSA-44 signatures of a directory: they are hedged."""
    sign = again(earlier(directory), MlDsa44Signer.sign)
    with contextlib.ExitStack() as stack:
        for where, name, what in (
            (entries, "nonce_hex", NONCES.next),
            (decisions, "entry_nonce", NONCES.next),
            (Book, "add", add),
            (Book, "genesis", beginning(Book.genesis)),
            (Restarted, "restart", beginning(Restarted.restart)),
            (MlDsa44Signer, "sign", sign),
        ):
            stack.enter_context(mock.patch.object(where, name, what))
        yield
