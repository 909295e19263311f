"""Unmodified Go note and tlog accept what we sign, prove and export, and nothing with a byte altered.

The peer is tests/peers/go/main.go on Debian's golang-go and golang-golang-x-mod-dev. Without them these
tests are skipped, and fail where CI=true.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from auditlog_help import NOW
from facekeep.auditlog import proofs
from facekeep.auditlog.export import export, prune
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.auditlog.merkle import EMPTY_ROOT
from facekeep.auditlog.signed import open_checkpoint
from facekeep.crypto.signing import verify_ed25519
from facekeep.formats import tiles
from facekeep.formats.note import KeyType, Note, Signature, VerifierKey
from tree_help import Grown, TreeLab, altered, grown, refused, signer
from wanting import wanting

SOURCE = Path(__file__).parent / "peers" / "go" / "main.go"
GOPATH = Path("/usr/share/gocode")
MODULE = GOPATH / "src/golang.org/x/mod/sumdb"
LARGE = (65_536, 70_000)
BATCH = 5_000  # proofs in one question


class Peer:
    """The Go program, one JSON line each way."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, op: str, **request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, **request}, default=_coded).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def accepts(self, op: str, **request: object) -> bool:
        answer = self.ask(op, **request)
        return not answer["error"] and not answer["failed"]

    def close(self) -> None:
        self._process.communicate()


def _coded(value: object) -> str:
    assert isinstance(value, bytes)
    return base64.b64encode(value).decode()


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    missing = [
        what
        for what, there in (("golang-go", shutil.which("go")), ("golang-golang-x-mod-dev", MODULE.is_dir()))
        if not there
    ]
    if missing:
        message = f"install {' and '.join(missing)} to run the Go peer"
        wanting(message)
    directory = tmp_path_factory.mktemp("go")
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOCACHE": str(directory / "cache"),
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    program = directory / "peer"
    subprocess.run(["go", "build", "-o", program, SOURCE], env=environment, check=True)
    running = Peer(program)
    yield running
    running.close()


def ed25519_key() -> VerifierKey:
    return signer().keys[0]


def inclusion(tree: Grown, size: int, index: int) -> dict[str, Any]:
    path = proofs.inclusion_proof(tree.at(size), index, size)
    return {"index": index, "hash": tree.leaves[index], "hashes": list(path)}


def consistency(tree: Grown, size: int, old: int) -> dict[str, Any]:
    path = proofs.consistency_proof(tree.at(size), old, size)
    return {"index": old, "hash": tree.roots[old], "hashes": list(path)}


# --- what is accepted ----------------------------------------------------------------------------


def test_go_opens_every_checkpoint_of_0_to_300_entries_and_the_large_ones(peer: Peer) -> None:
    for tree, sizes in ((grown(300), range(301)), (grown(70_000), LARGE)):
        for size in sizes:
            note = tree.signed(size)
            answer = peer.ask("open", keys=[ed25519_key().encode()], note=note)
            assert answer["error"] == ""
            assert answer["text"] == tree.checkpoint(size).encode()
            assert answer["signed"] == 1


def test_go_computes_the_same_root_at_every_size(peer: Peer) -> None:
    tree = grown(70_000)
    roots = [base64.b64decode(root) for root in peer.ask("roots", entries=tree.bodies)["roots"]]
    assert roots == tree.roots[1:]


def test_go_accepts_every_inclusion_proof_of_1_to_300_entries(peer: Peer) -> None:
    tree = grown(300)
    for size in range(1, 301):
        made = [inclusion(tree, size, index) for index in range(size)]
        assert peer.accepts("inclusion", size=size, root=tree.roots[size], proofs=made)


def test_go_accepts_every_consistency_proof_between_1_and_300_entries(peer: Peer) -> None:
    tree = grown(300)
    for size in range(1, 301):
        made = [consistency(tree, size, old) for old in range(1, size + 1)]
        assert peer.accepts("consistency", size=size, root=tree.roots[size], proofs=made)


@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_go_accepts_every_proof_of_the_large_trees(peer: Peer, kind: str, size: int) -> None:
    tree = grown(70_000)
    for start in range(0, size, BATCH):
        made = [
            inclusion(tree, size, at) if kind == "inclusion" else consistency(tree, size, at + 1)
            for at in range(start, min(start + BATCH, size))
        ]
        assert peer.accepts(kind, size=size, root=tree.roots[size], proofs=made)


def test_go_knows_no_proof_from_size_0_and_we_take_only_the_empty_one(peer: Peer) -> None:
    tree = grown(300)
    empty = [{"index": 0, "hash": bytes(32), "hashes": []}]
    assert not peer.accepts("consistency", size=7, root=tree.roots[7], proofs=empty)
    proofs.verify_consistency(0, EMPTY_ROOT, 7, tree.roots[7], ())
    assert refused(proofs.verify_consistency, 0, bytes(32), 7, tree.roots[7], ())
    assert refused(proofs.verify_consistency, 0, EMPTY_ROOT, 7, tree.roots[7], [tree.roots[7]])


def write_tiles(directory: Path, tree: Grown, old: int, new: int) -> None:
    files = {tile.path: b"".join(tree.tile(tile)) for tile in tiles.tiles_between(old, new)}
    for bundle in tiles.bundles_between(old, new):
        start = bundle.n * tiles.WIDTH
        files[bundle.path] = tiles.encode_bundle(tree.bodies[start : start + bundle.width])
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)


def test_go_authenticates_the_tiles_of_1_to_300_entries_written_one_by_one(
    peer: Peer, tmp_path: Path
) -> None:
    tree = grown(300)
    for size in range(1, 301):
        write_tiles(tmp_path, tree, size - 1, size)
        indexes = sorted({0, size // 2, size - 1})
        answer = peer.ask("tiles", dir=str(tmp_path), size=size, root=tree.roots[size], indexes=indexes)
        assert answer["error"] == "", size


def test_go_authenticates_exports_of_a_real_log(peer: Peer, tmp_path: Path) -> None:
    lab, out = TreeLab(tmp_path), tmp_path / "out"
    request: dict[str, Any] = {}
    for size in (1, 2, 255, 256, 257, 300, *LARGE):
        lab.fill(size)
        root = export(out, lab.checkpoints, time_ms=NOW).checkpoint.root
        indexes = sorted({*range(0, size, tiles.WIDTH), size // 3, size - 1})  # in every tile and bundle
        request = {"dir": str(out), "size": size, "root": root, "indexes": indexes}
        assert peer.ask("tiles", **request)["error"] == "", size
        key = lab.checkpoints.keys(lab.checkpoints.snapshot())[0].encode()
        note = (out / "checkpoint").read_bytes()
        assert peer.ask("open", keys=[key], note=note)["error"] == ""
    assert sorted(path.name for path in (out / "tile").iterdir()) == ["0", "1", "2", "entries"]
    assert (out / "tile/1/001.p/17").stat().st_size == 17 * 32
    assert (out / "tile/2/000.p/1").stat().st_size == 32
    assert (out / "tile/0/273.p/112").stat().st_size == 112 * 32
    assert prune(out)
    assert peer.accepts("tiles", **request)


def test_we_open_what_go_signed(peer: Peer) -> None:
    text = grown(300).checkpoint(77, "go.example/log").encode()
    answer = peer.ask("sign", name="go.example/log", note=text.encode())
    note, key = base64.b64decode(answer["note"]), VerifierKey.parse(answer["key"])
    assert open_checkpoint(note, [key]).checkpoint.size == 77
    for data in altered(note):
        assert refused(open_checkpoint, data, [key])


# --- what is refused -----------------------------------------------------------------------------


def ed25519_only(note: bytes) -> Note:
    parsed = Note.parse(note)
    return Note(parsed.text, parsed.signatures[:1])


def test_no_altered_byte_of_a_checkpoint_is_accepted(peer: Peer) -> None:
    """Go reads the first line only, whose base64 it takes in four spellings: its bytes are altered, too."""
    key = ed25519_key()
    note = ed25519_only(grown(300).signed(256))
    assert peer.accepts("open", keys=[key.encode()], note=note.encode())
    for data in altered(note.text.encode()):
        whole = data + note.encode()[len(data) :]
        assert not peer.accepts("open", keys=[key.encode()], note=whole)
        assert refused(open_checkpoint, whole, [key])
        assert refused(verify_ed25519, key.public, note.signatures[0].body, data)
    line = note.signatures[0]
    for body in altered(line.key_id + line.body):
        changed = Note(note.text, (Signature(line.name, body[:4], body[4:]),)).encode()
        assert not peer.accepts("open", keys=[key.encode()], note=changed)
        assert refused(open_checkpoint, changed, [key])


@pytest.mark.parametrize("alter", ["crlf", "trailing", "leading zero", "extension", "blank", "no newline"])
def test_an_altered_form_is_refused_even_when_it_is_signed_text(peer: Peer, alter: str) -> None:
    key, note = ed25519_key(), ed25519_only(grown(300).signed(256)).encode()
    changed = {
        "crlf": note.replace(b"\n", b"\r\n"),
        "trailing": note + b"x",
        "leading zero": note.replace(b"\n256\n", b"\n0256\n"),
        "extension": note.replace(b"\n\n", b"\nmore\n\n"),
        "blank": note.replace(b"\n\n", b"\n\n\n"),
        "no newline": note[:-1],
    }[alter]
    assert changed != note
    assert not peer.accepts("open", keys=[key.encode()], note=changed)
    assert refused(open_checkpoint, changed, [key])


def test_go_takes_a_second_spelling_of_base64_and_we_do_not(peer: Peer) -> None:
    key, note = ed25519_key(), ed25519_only(grown(300).signed(256)).encode()
    assert note.endswith(b"=\n")
    last = note[-3:-2]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(last) ^ 1 :][:1]
    second = note[:-3] + other + note[-2:]
    assert peer.accepts("open", keys=[key.encode()], note=second)
    assert refused(open_checkpoint, second, [key])


def test_go_cannot_load_our_ml_dsa_key_and_ignores_its_line(peer: Peer) -> None:
    key = signer().keys[1]
    assert key.type is KeyType.COSIGNATURE_ML_DSA_44
    assert not peer.accepts("open", keys=[key.encode()], note=grown(300).signed(9))


def check_inclusion(size: int, root: bytes, made: dict[str, Any]) -> None:
    proofs.verify_inclusion(made["hash"], made["index"], size, made["hashes"], root)


def check_consistency(size: int, root: bytes, made: dict[str, Any]) -> None:
    proofs.verify_consistency(made["index"], made["hash"], size, root, made["hashes"])


def changes(made: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Every byte of a proof altered, a hash more, a hash less, two swapped, another index."""
    hashes = made["hashes"]
    yield from ({**made, "hash": data} for data in altered(made["hash"]))
    for at, item in enumerate(hashes):
        yield from ({**made, "hashes": [*hashes[:at], data, *hashes[at + 1 :]]} for data in altered(item))
    yield {**made, "hashes": [*hashes, bytes(32)]}
    yield {**made, "hashes": [bytes(32), *hashes]}
    if hashes:
        yield {**made, "hashes": hashes[1:]}
        yield {**made, "hashes": hashes[:-1]}
    if len(hashes) > 1:
        yield {**made, "hashes": [hashes[1], hashes[0], *hashes[2:]]}
    yield from ({**made, "index": index} for index in (made["index"] - 1, made["index"] + 1, size + 1))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 256, 300, 65_536, 70_000])
@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_no_altered_proof_is_accepted(peer: Peer, kind: str, size: int) -> None:
    tree = grown(70_000)
    make, check = (inclusion, check_inclusion) if kind == "inclusion" else (consistency, check_consistency)
    root = tree.roots[size]
    for at in sorted({1, 2, size // 3, size // 2, size - 1, size}):
        if not 1 <= at <= size:
            continue
        made = make(tree, size, at - 1 if kind == "inclusion" else at)
        check(size, root, made)
        wrong = list(changes(made, size))
        answer = peer.ask(kind, size=size, root=root, proofs=wrong)
        assert answer["failed"] == list(range(len(wrong)))
        assert all(refused(check, size, root, each) for each in wrong)
        for data in altered(root):
            assert peer.ask(kind, size=size, root=data, proofs=[made])["failed"] == [0]
            assert refused(check, size, data, made)


@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_a_proof_for_another_size_is_refused(peer: Peer, kind: str) -> None:
    tree = grown(300)
    make, check = (inclusion, check_inclusion) if kind == "inclusion" else (consistency, check_consistency)
    for size, other in ((300, 299), (299, 300), (256, 257), (257, 256), (128, 64)):
        made = make(tree, size, 33)
        assert peer.ask(kind, size=other, root=tree.roots[other], proofs=[made])["failed"] == [0]
        assert refused(check, other, tree.roots[other], made)


def test_no_altered_byte_of_a_tile_or_bundle_is_accepted(peer: Peer, tmp_path: Path) -> None:
    tree, size = grown(300), 259
    write_tiles(tmp_path, tree, 0, size)
    request: dict[str, Any] = {"dir": str(tmp_path), "size": size, "root": tree.roots[size], "indexes": [3]}
    assert peer.accepts("tiles", **request)
    checkpoint = tree.checkpoint(size)
    files: Sequence[Path] = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert len(files) == 5
    for path in files:
        good = path.read_bytes()
        for data in (*altered(good, 1 + len(good) // 600), good[:-1], good + b"\0"):
            path.write_bytes(data)
            assert not peer.accepts("tiles", **request), path
            assert refused(read_all, tmp_path, checkpoint), path
        path.write_bytes(good)
    assert peer.accepts("tiles", **request)


def read_all(directory: Path, checkpoint: Any) -> None:  # noqa: ANN401 - as ``refused`` calls it
    for _ in ExportedTree(ExportDirectory(directory), checkpoint).entries():
        pass


def test_go_agrees_on_the_published_notes_and_checkpoints(peer: Peer) -> None:
    """Where it does not by design, the case says so; so a case that Go came to refuse is noticed, too."""
    vectors = Path(__file__).parent / "vectors"
    cases = json.loads((vectors / "manifest.json").read_text("utf-8"))
    seen = 0
    for case in cases:
        if case["kind"] not in ("note", "checkpoint"):
            continue
        keys = [
            VerifierKey.parse(line)
            for line in (vectors / case["keys"]).read_text("utf-8").split("\n")
            if line
        ]
        answer = peer.ask(
            "open",
            keys=[key.encode() for key in keys if key.type is KeyType.ED25519],
            note=(vectors / case["file"]).read_bytes(),
        )
        assert (answer["error"] == "") is (case["accept"] or "go" in case.get("lenient", ())), case["file"]
        seen += 1
    assert seen > 40
