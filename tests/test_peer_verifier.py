"""A verifier in Go, written from docs/spec/log.md alone, and facekeep's say the same of every log and proof.

The peer is tests/peers/go-verifier. Honest logs and bundles are altered, signed again and given to both.
Without Go or Debian's golang-golang-x-crypto-dev these tests are skipped, and fail where CI=true.
FACEKEEP_PEER=full has more of them.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "vectors"))
from run import laid_out, origin
from verify import Given, verify

import audit_help
import proof_help
import tree_help
from audit_help import ALICE, DAY, OPERATOR, SECOND, SERVICE, SIGNER, Book, i, item, v
from facekeep.audit.bundle import DOMAIN
from facekeep.audit.bundle import verify as verify_bundle
from facekeep.audit.consistency import verify_consistency
from facekeep.audit.report import RuleBroken
from facekeep.auditlog import proofs
from facekeep.auditlog.merkle import Frontier, leaf_hash
from facekeep.auditlog.rotation import signing_entry
from facekeep.auditlog.signed import LogSigner
from facekeep.errors import FacekeepError
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.note import Note, Signature
from facekeep.formats.opening import Opening
from restart_help import Restarted, adopted
from shared_help import retold
from wanting import wanting

HERE = Path(__file__).parent
SOURCE = HERE / "peers" / "go-verifier"
VECTORS = HERE / "vectors"
GOPATH = Path("/usr/share/gocode")
MODULE = GOPATH / "src/golang.org/x/crypto"
FULL = os.environ.get("FACEKEEP_PEER") == "full"
LOGS, BUNDLES = (4_500, 1_500) if FULL else (220, 80)
TURNED = LogSigner(b"k" * 32, audit_help.VAULT, 2)
LINE = 3_000  # characters of an entry that are told
MAXIMUM = 2**53 - 1

Entry = dict[str, Any]
Answer = tuple[bool, str, int | None]


class Peer:
    """The Go program, one JSON line each way."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, what: str, **request: object) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, **request}, default=_coded).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        index = answer["index"]
        return answer["ok"], f"{answer['step']} {answer['message']}", None if index < 0 else index

    def close(self) -> None:
        self._process.communicate()


def _coded(value: object) -> str:
    assert isinstance(value, bytes)
    return base64.b64encode(value).decode()


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    needed = (
        ("golang-go", shutil.which("go") is not None),
        ("golang-golang-x-crypto-dev", MODULE.is_dir()),
    )
    missing = [what for what, there in needed if not there]
    if missing:
        wanting(f"install {' and '.join(missing)} to run the Go verifier")
    directory = tmp_path_factory.mktemp("go")
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOCACHE": str(directory / "cache"),
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    program = directory / "verifier"
    sources = sorted(SOURCE.glob("*.go"))
    subprocess.run(["go", "build", "-o", program, *sources], env=environment, check=True)
    running = Peer(program)
    yield running
    running.close()


# --- the published vectors ------------------------------------------------------------------------


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").split("\n") if line]


def asked(peer: Peer, case: dict[str, Any], place: Path) -> Answer:
    """What the peer says of a published case; of watching what it says of consistency, or of the log."""
    names = {
        "file": "file",
        "old": "older",
        "checkpoint": "checkpoint",
        "opening": "opening",
    }
    given: dict[str, Any] = {
        to: (VECTORS / case[name]).read_bytes() for name, to in names.items() if name in case
    }
    given |= {"keys": lines(VECTORS / case["keys"]), "origin": origin(case)}
    data, base = given.pop("file", b""), (VECTORS / case["base"]).read_bytes() if "base" in case else b""
    if "export" in case:
        given["dir"] = str(laid_out(case, place))
    match case["kind"]:
        case "note" | "checkpoint":
            return peer.ask("note", checkpoint=data, **given)
        case "consistency" | "proof":
            return peer.ask(case["kind"], proof=data, **given)
        case "watch" if "state" in case:
            return peer.ask("consistency", older=(VECTORS / case["state"]).read_bytes(), **given)
        case "log":
            given["entries"] = (base + data).split(b"\n")[:-1]
    return peer.ask("log", **given)


STEPPED = ("log", "export", "consistency", "proof")  # kinds whose steps the peer names as the text does


def test_it_agrees_on_the_published_vectors(peer: Peer, tmp_path: Path) -> None:
    """Where it does not by design, the case says so; so a case that it came to refuse is noticed, too."""
    for number, case in enumerate(json.loads((VECTORS / "manifest.json").read_text("utf-8"))):
        if case.get("restarted"):
            continue  # it knows of no watcher, and of none who accepts a restart
        (place := tmp_path / str(number)).mkdir()
        ok, said, _ = asked(peer, case, place)
        lenient = "go-verifier" in case.get("lenient", ())
        assert ok is (case["accept"] or lenient), (case["name"], said)
        if not ok and case["steps"] and case["kind"] in STEPPED:
            assert [said.split(" ")[0]] == case["steps"], (case["name"], said)


# --- logs, altered and signed again ---------------------------------------------------------------


def encoded(entry: Any) -> bytes:  # noqa: ANN401 - JSON
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def verdict(call: Callable[..., object], *arguments: object, **named: object) -> Answer:
    """What facekeep says."""
    try:
        call(*arguments, **named)
    except RuleBroken as error:
        return False, f"{error.rule} {error}", error.index
    except FacekeepError as error:
        return False, f"? {type(error).__name__} {error}", None
    return True, "", None


def signed(bodies: list[bytes], signer: LogSigner, *, both: bool) -> bytes:
    """Sign a log's checkpoint as its vault would, or with its Ed25519 key alone, which is quicker."""
    frontier = Frontier()
    for body in bodies:
        frontier.append(leaf_hash(body))
    checkpoint = Checkpoint(signer.origin, frontier.size, frontier.root())
    if both:
        return signer.sign(checkpoint, audit_help.NOW)
    text = checkpoint.encode()
    line = Signature(signer.origin, signer.keys[0].key_id, signer._ed25519.sign(text.encode()))
    return Note(text, (line,)).encode()


class Honest:
    """An honest log, its keys and who signs it."""

    def __init__(
        self, entries: list[Entry], signer: LogSigner = SIGNER, first: LogSigner | None = None
    ) -> None:
        self.entries = json.loads(json.dumps(entries))
        self.signer = signer
        self.both = first is not None
        self.keys = (first or signer).keys if self.both else signer.keys[:1]

    def compare(self, peer: Peer, entries: list[Entry]) -> tuple[Answer, Answer]:
        bodies = [encoded(entry) for entry in entries]
        note = signed(bodies, self.signer, both=self.both)
        data = b"\n".join(bodies) + b"\n"
        ours = verdict(verify, Given("log", list(self.keys), self.signer.origin, data, checkpoint=note))
        keys = [key.encode() for key in self.keys]
        return ours, peer.ask("log", keys=keys, origin=self.signer.origin, entries=bodies, checkpoint=note)


def published() -> Honest:
    """The log of SPEC §6.7, under a test key."""
    text = (HERE.parent / "docs/spec/log.md").read_text("utf-8")
    found = [json.loads(line) for line in text.split("```json\n")[1].split("```")[0].splitlines()]
    return Honest(found, LogSigner(b"k" * 32, bytes.fromhex(found[0]["vault"])))


def limited() -> Honest:
    """A log with parts, limits, regions and a brake that is near."""
    book = audit_help.founded()
    book.principal(SECOND, 18, "operator", "service")
    book.entries[0]["regions"] = ["DE", "FR"]
    book.entries[0]["matching"] |= {"asks": 6, "searches": 3, "failures": 2, "pause_s": 30, "longest_s": 50}
    people = [bytes([n]) * 32 for n in range(40, 60)]
    book.grant("enroll", *(item(v(n), tag) for n, tag in enumerate(people)))
    book.grant("enroll", *(item(i(n), tag) for n, tag in enumerate(people)))
    for seconds, match in ((0, False), (1, False), (32, False), (83, True), (83, False)):
        book.verify(v(0), people[0])
        book.entries[-1] |= {"time_ms": book.now + seconds * 1000}
        book.entries[-1]["result"] = "match" if match else "no_match"
    book.now += 83_000
    members = [i(n) for n in range(20)]
    book.identify(*members, candidates=members[:4])
    book.entries[-1]["most"] = 4
    book.identify(*members[3:], candidates=members[4:6], omitted=members[:3], excluded=3)
    book.identify(*members, by=SECOND, candidates=members[:7])
    book.entries[-1] |= {"score": True, "mean_e6": 7}
    book.rotation("templates", below={1: 2})
    book.grant("reseal", item(audit_help.fresh_v(0), people[0], v(0)))
    book.destroy("reseal", v(0))
    changed = {"digest": "55" * 32, "previous": "00" * 32, "matching": audit_help.limits(scores=True, top=2)}
    book.add({**entry_of(book, "checkpoint", size=4, sha256="11" * 32)})
    book.add({**entry_of(book, "settings", **changed), "regions": ["DE", "EU"]})
    book.verify(audit_help.fresh_v(0), people[0], by=SECOND)
    book.entries[-1]["score"] = True
    book.destroy("shred", audit_help.fresh_v(0), i(0), v(1), i(1), tags=people[:2])
    return Honest(book.entries)


def entry_of(book: Book, kind: str, **more: object) -> Entry:
    """An entry of the operator."""
    common = {"by": OPERATOR, "nonce": "ab" * 16, "time_ms": book.now, "type": kind, "v": 1}
    return {**common, **more}


def begun_anew() -> Honest:
    book: Restarted = adopted()
    book.end()
    book.destroy("extend")
    book.verify(v(3), ALICE)
    book.grant("enroll", item(audit_help.fresh_v(3), audit_help.CAROL))
    book.destroy("shred", v(3), tags=[ALICE])
    return Honest(book.entries, SIGNER, SIGNER)


def turned() -> Honest:
    book = audit_help.founded()
    book.rotation("signing")
    book.add(signing_entry(SIGNER, TURNED, by=OPERATOR, time_ms=book.now))
    book.grant("enroll", item(v(0), ALICE))
    book.verify(v(0), ALICE)
    return Honest(book.entries, TURNED, SIGNER)


def honest() -> dict[str, Honest]:
    return {
        "story": Honest(audit_help.story().book.entries),
        "limited": limited(),
        "published": published(),
        "restarted": begun_anew(),
        "signing": turned(),
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    """Every place in an entry, of leaves and of what holds them."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key)
        yield from places(each, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:  # noqa: ANN401 - JSON
    for key in path:
        value = value[key]
    return value


WORDS = {
    "reason": ("ok", "rate", "policy", "scope", "nonsense"),
    "op": ("enroll", "grant", "renew", "reseal", "adopt", "shred", "withdraw", "revoke", "expire", "void",
           "extend", "rotate", "verify", "identify"),
    "what": ("root", "tree", "templates", "signing", "move"),
    "region": ("DE", "FR", "US", "EU", "ZZ", "XX", "de"),
    "scope": ("verify", "identify", "evaluate", "train", "share"),
    "roles": ("auditor", "dpo", "operator", "registrar", "service", "chief"),
    "class": ("erasing", "wrapping", "mirror", "recovery", "paper"),
    "type": ("genesis", "grant", "granted", "destroy", "decision", "clock", "backup", "settings"),
}  # fmt: skip
NUMBERS = (-1, 1, -2, 2, 16, -5000, 5000, -5001, 5001, -DAY, DAY, 2**21, -(2**21), 3660 * DAY)


def altered(rng: random.Random, path: tuple[Any, ...], value: Any, log: list[Entry]) -> Any:  # noqa: ANN401, PLR0911
    """Another value for a place: a neighbour, nothing, the greatest, or that of another entry."""
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    if rng.random() < 0.3:
        others = [at(entry, path) for entry in log if _has(entry, path)]
        if others:
            return copy.deepcopy(rng.choice(others))
    if rng.random() < 0.06:
        return rng.choice((None, 0, "", [], {}, True, MAXIMUM + 1, -1, "é"))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((0, MAXIMUM, *(value + by for by in NUMBERS)))
    if isinstance(value, list):
        return _relisted(rng, value)
    if key == "terms" and isinstance(value, str) and len(value) == 176:
        return reterm(rng, value)
    if key in WORDS:
        return rng.choice(WORDS[key])
    if isinstance(value, str) and value:
        spot = rng.randrange(len(value))
        other = rng.choice("0123456789abcdef")
        return rng.choice((value[:spot] + other + value[spot + 1 :], value[:-2], value + "00", None))
    return rng.choice((0, 1, "DE", "ab" * 32, "ab" * 8, v(0), i(0), [], False))


def _has(entry: Entry, path: tuple[Any, ...]) -> bool:
    try:
        at(entry, path)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _relisted(rng: random.Random, value: list[Any]) -> list[Any]:
    found = copy.deepcopy(value)
    what = rng.randrange(4)
    if what == 0 and found:
        found.pop(rng.randrange(len(found)))
    elif what == 1 and found:
        found.insert(rng.randrange(len(found) + 1), rng.choice(found))
    elif what == 2 and len(found) > 1:
        found[0], found[-1] = found[-1], found[0]
    else:
        found.append(rng.choice((v(0), i(1), [v(0), 1], [i(3), 2], "ab" * 32, "service", 3, [1, 5], "EU")))
    return found


def reterm(rng: random.Random, packed: str) -> str:
    """Change one field of packed terms (SPEC §5.3)."""
    raw = bytearray.fromhex(packed)
    start, length = rng.choice(
        ((0, 1), (1, 1), (2, 2), (4, 8), (12, 8), (20, 2), (22, 2), (52, 2), (54, 2), (56, 1))
    )
    old = int.from_bytes(raw[start : start + length], "big")
    new = (old + rng.choice((1, -1, 2, DAY, -DAY, 3660 * DAY, 3600 * DAY))) % 256**length
    if length == 2 and start in (20, 22):
        new = int.from_bytes(rng.choice((b"DE", b"EU", b"FR", b"ZZ", b"XX", b"\0\0", b"US")), "big")
    raw[start : start + length] = rng.choice((new, new, 0, 256**length - 1)).to_bytes(length, "big")
    return raw.hex()


def renumbered(log: list[Entry], spot: int, by: int) -> None:
    """Let references follow entries that move."""
    for entry in log:
        if isinstance(entry.get("of"), int) and entry["of"] >= spot:
            entry["of"] += by
        if isinstance(entry.get("voids"), list):
            entry["voids"] = [n + by if isinstance(n, int) and n >= spot else n for n in entry["voids"]]


def rechained(log: list[Entry]) -> None:
    """Let epochs and fingerprints be one chain again."""
    epoch, last = log[0].get("epoch", 1), log[0].get("fingerprint")
    for entry in log:
        if entry.get("type") == "destroyed" and isinstance(epoch, int):
            epoch += 1
            entry["epoch"], entry["previous"] = epoch, last
            last = entry["fingerprint"] = f"{epoch:064x}"


def invented(rng: random.Random, log: list[Entry], spot: int) -> list[Entry]:  # noqa: C901
    """An operation that somebody might add, of values from the log."""
    before = log[:spot]
    now = before[-1]["time_ms"] + rng.choice((0, 0, 0, 1000, -5000, -5001, DAY, 40 * DAY))
    grants = [g for entry in before if entry["type"] == "grant" for g in entry["grants"]]
    by = rng.choice((OPERATOR, OPERATOR, SERVICE, SECOND, None, log[-1].get("by")))
    common = {"by": by, "nonce": f"{rng.getrandbits(128):032x}", "time_ms": now, "v": 1}
    slots = sorted({g["slot"] for g in rng.sample(grants, min(len(grants), rng.randrange(4)))})
    tags = sorted({g["tag"] for g in rng.sample(grants, min(len(grants), rng.randrange(3)))})
    if rng.random() < 0.5 and tags:
        slots = sorted({g["slot"] for g in grants if g["tag"] in tags})
    if rng.random() < 0.1:
        slots = rng.choice(([16], [17], [3], [18], [v(99)]))
    kind = rng.choice(
        ("destroy", "destroy", "grant", "grant", "same", "same", "principal", "rotation", "clock")
    )
    if kind == "destroy":
        op = rng.choice((*WORDS["op"][5:12], "renew", "reseal"))
        first = {**common, "type": "destroy", "op": op, "part": 1, "parts": 1, "slots": [[s, 1] for s in slots],  # noqa: E501
                 "tags": tags if op == "shred" or rng.random() < 0.1 else [], "voids": []}  # fmt: skip
        opens = [n for n, entry in enumerate(before) if entry["type"] in ("grant", "principal")]
        if op == "void" and opens:
            first["voids"] = [rng.choice(opens)]
        done = {**common, "type": "destroyed", "of": spot, "epoch": 2, "fingerprint": "", "previous": "",
                "receipts": [dict(audit_help.RECEIPT)]}  # fmt: skip
        done["by"] = rng.choice((*[by] * 9, None))
        return [first, done][: rng.choice((1, 2, 2, 2))]
    if kind == "grant" and grants:
        made = copy.deepcopy(rng.choice(grants))
        old = made["slot"]
        made["slot"] = rng.choice((v(200), i(200), audit_help.fresh_v(200), audit_help.fresh_i(200), old))
        made["from"] = rng.choice((None, old, rng.choice(grants)["slot"]))
        if rng.random() < 0.4:
            made["terms"] = reterm(rng, made["terms"])
        if rng.random() < 0.2:
            made["tag"] = rng.choice(("77" * 32, rng.choice(grants)["tag"]))
        op = rng.choice(WORDS["op"][:5])
        first = {**common, "type": "grant", "op": op, "part": 1, "parts": 1, "grants": [made]}
        done = {**common, "type": "granted", "of": spot}
        after: list[Entry] = []
        if rng.random() < 0.5:
            end = "renew" if op == "renew" else "reseal"
            after = [{**common, "type": "destroy", "op": end, "part": 1, "parts": 1, "slots": [[old, 1]],
                      "tags": [], "voids": []}]  # fmt: skip
        return [first, done, *after][: rng.choice((1, 2, 3, 3))]
    if kind == "principal":
        first = {**common, "type": "principal", "principal": rng.choice((OPERATOR, SECOND, "ee" * 8)),
                 "slot": rng.choice((17, 19, 20, 300)), "grant": "12" * 16, "commitment": "34" * 32,
                 "roles": [rng.choice(WORDS["roles"])]}  # fmt: skip
        return [first, {**common, "type": "granted", "of": spot}]
    if kind == "rotation":
        what = rng.choice(WORDS["what"])
        first = {
            **common,
            "type": "rotation",
            "what": what,
            "reason": "drill",
            "below": [],
            "model": None,
        }
        if what == "templates":
            first |= {"below": [[1, 3], [2, 2]], "model": rng.choice((None, audit_help.MODEL, "raw:other"))}
        return [first, {**common, "type": "rotated", "of": spot, "left": rng.randrange(4)}]
    if kind == "clock":
        high = max(entry["time_ms"] for entry in before)
        lower = high - rng.choice((5000, 5001, DAY))
        return [{**common, "time_ms": lower, "type": "clock", "high_ms": high}]
    made = copy.deepcopy(rng.choice(log))
    made["time_ms"] = now
    return [made]


def mutated(rng: random.Random, honest_log: list[Entry]) -> list[Entry]:  # noqa: C901
    """Alter one or two entries of a log."""
    log = copy.deepcopy(honest_log)
    for _ in range(rng.choice((1, 1, 1, 2))):
        spot = rng.randrange(len(log))
        what = rng.random()
        if what < 0.5:
            path = rng.choice(list(places(log[spot])))
            if rng.random() < 0.05:
                del at(log[spot], path[:-1])[path[-1]]
            else:
                at(log[spot], path[:-1])[path[-1]] = altered(rng, path, at(log[spot], path), log)
        elif what < 0.58:
            log.pop(spot)
            if log and rng.random() < 0.8:
                renumbered(log, spot + 1, -1)
        elif what < 0.66:
            other = rng.randrange(len(log))
            log[spot], log[other] = log[other], log[spot]
        elif what < 0.7:
            log = log[:spot] or log
        elif spot and all("time_ms" in entry and "type" in entry for entry in log):
            try:
                new = invented(rng, log, spot)
            except (KeyError, TypeError):  # an entry that was altered before
                continue
            renumbered(log, spot, len(new))
            log[spot:spot] = new
        if rng.random() < 0.7:
            rechained(log)
    return log


def disagreement(ours: Answer, theirs: Answer) -> bool:
    """Whether they differ.

    R15 is broken by a completion and by what follows it: either entry may be named. At L1 none need be, and a
    `signing` entry that leads nowhere may be refused there or where it stands.
    """
    if "ML-DSA-44 signature" in ours[1]:  # nothing that the peer can see
        return False
    if ours[1].startswith("L1 "):
        return theirs[0]
    apart = abs((ours[2] or 0) - (theirs[2] or 0))
    if not ours[0] and not theirs[0] and apart == 1 and "R15" in (ours[1][:3], theirs[1][:3]):
        return False
    if apart == 1 and ours[1][:3] == theirs[1][:3] == "R35":  # R15, in an adoption
        return False
    return ours[0] is not theirs[0] or (not ours[0] and ours[2] != theirs[2])


def test_it_accepts_the_honest_logs(peer: Peer) -> None:
    for name, log in honest().items():
        ours, theirs = log.compare(peer, log.entries)
        assert ours[0], (name, ours)
        assert theirs[0], (name, theirs)


def test_they_say_the_same_of_altered_logs_that_are_signed_again(peer: Peer) -> None:
    rng = random.Random(int(os.environ.get("FACEKEEP_PEER_SEED", "10")))
    logs = honest()
    weights = {"story": 5, "limited": 5, "published": 2, "restarted": 3, "signing": 1}
    found, accepted = [], 0
    for _ in range(LOGS):
        name = rng.choices(list(weights), list(weights.values()))[0]
        entries = mutated(rng, logs[name].entries)
        ours, theirs = logs[name].compare(peer, entries)
        accepted += ours[0]
        if disagreement(ours, theirs):
            found.append((name, ours, theirs, difference(logs[name].entries, entries)))
    report("logs", LOGS, accepted, found)


def difference(old: list[Entry], new: list[Entry]) -> list[str]:
    """What is new, entry by entry."""
    before = {encoded(entry) for entry in old}
    return [f"{n}: {encoded(entry).decode()}" for n, entry in enumerate(new) if encoded(entry) not in before]


def report(what: str, count: int, accepted: int, found: list[Any]) -> None:
    lines_of = [f"{what}: {count} altered, {accepted} accepted, {len(found)} disagreements"]
    for name, ours, theirs, changed in found[:400]:
        lines_of.append(f"{name}: facekeep {ours}, peer {theirs}")
        lines_of.extend(f"    {line[:LINE]}" for line in changed[:6])
    assert not found, "\n".join(lines_of)


# --- shredding proofs, altered and signed again ----------------------------------------------------


class Case:
    """A bundle over a log: what it is about and which entries it has."""

    def __init__(self, log: Honest, tag: str, erasure: int, scopes: tuple[str, ...] = ()) -> None:
        self.log, self.tag, self.erasure, self.scopes = log, tag, erasure, scopes
        self.keep = kept(log.entries, tag, erasure, scopes)

    def bundle(self, entries: list[Entry], keep: list[int]) -> dict[str, Any]:
        """Everything but the signatures."""
        signer = self.log.signer
        grown = tree_help.Grown(encoded(entry) for entry in entries)
        tree = grown.at(grown.size)
        held = [
            {
                "index": n,
                "entry": entries[n],
                "proof": [_coded(each) for each in proofs.inclusion_proof(tree, n, grown.size)],
            }
            for n in keep
        ]
        said = json.loads(proof_help.forge(proof_help.story(), scopes=self.scopes))
        if entries[0].get("type") == "restart":
            said["not_proved"] = sorted([*said["not_proved"], "before_restart"])
        note = signed([encoded(entry) for entry in entries], signer, both=False).decode()
        own = {"tag": self.tag, "erasure": self.erasure, "scopes": list(self.scopes), "entries": held}
        return {**said, **own, "checkpoint": note, "vault": signer.origin.removeprefix("facekeep/")}


def resigned(bundle: dict[str, Any], signer: LogSigner) -> bytes:
    """Sign a bundle with the Ed25519 key; nobody is given the other one."""
    signatures = bundle.get("signatures")
    unsigned = {key: value for key, value in bundle.items() if key != "signatures"}
    if isinstance(unsigned.get("entries"), list):
        unsigned["entries"] = [each.get("index") for each in unsigned["entries"] if isinstance(each, dict)]
    message = DOMAIN + encoded(unsigned)
    if isinstance(signatures, list) and signatures:
        signatures = [_coded(signer._ed25519.sign(message)), *signatures[1:]]
        bundle = {**bundle, "signatures": signatures}
    return encoded(bundle)


def kept(log: list[Entry], tag: str, erasure: int, scopes: tuple[str, ...]) -> list[int]:
    """The entries of a bundle (SPEC §12.1)."""
    numbers = {"verify": 2, "identify": 3, "evaluate": 4, "train": 5, "share": 6}
    meant = {numbers[scope] for scope in scopes} or set(numbers.values())
    grants = [
        (n, g) for n, entry in enumerate(log[:erasure]) if entry["type"] == "grant" for g in entry["grants"]
    ]
    own = [(n, g) for n, g in grants if g["tag"] == tag and int(g["terms"][2:4], 16) in meant]
    slots = {g["slot"] for _, g in own}
    found, operations = {0, *(n for n, _ in own)}, set()
    for n, entry in enumerate(log):
        if entry["type"] == "destroy":
            named = any(first <= slot < first + count for first, count in entry["slots"] for slot in slots)
            if named or tag in entry["tags"]:
                operations.add(n - entry["part"] + 1)
                found.add(n)
        if entry["type"] == "destroyed" and entry["of"] in operations:
            found.add(n)
    done = next(entry for entry in log if entry["type"] == "destroyed" and entry["of"] == erasure)
    shown = (n for n, entry in enumerate(log) if entry.get("fingerprint") == done["previous"])
    return sorted(found | {next(shown)})


def bundles() -> list[Case]:
    """Of each honest log every erasure, and every withdrawal whose scopes were ended before."""
    made = Honest(proof_help.story(), tree_help.signer())
    found = [Case(made, proof_help.TAG.hex(), proof_help.ERASURE)]
    for log in honest().values():
        owners = {
            g["slot"]: (g["tag"], int(g["terms"][2:4], 16))
            for entry in log.entries
            if entry["type"] == "grant"
            for g in entry["grants"]
        }
        for n, entry in enumerate(log.entries):
            if entry["type"] != "destroy" or "sought" in entry or entry["part"] > 1:
                continue
            if not any(done["type"] == "destroyed" and done["of"] == n for done in log.entries):
                continue
            if entry["op"] == "shred":
                found.extend(Case(log, tag, n) for tag in entry["tags"])
            elif entry["op"] == "withdraw":
                named = [owners[first + k] for first, count in entry["slots"] for k in range(count)]
                words = {2: "verify", 3: "identify", 4: "evaluate", 5: "train", 6: "share"}
                found.append(Case(log, named[0][0], n, tuple(sorted({words[scope] for _, scope in named}))))
    return found


def judged(peer: Peer, data: bytes, case: Case, opening: bytes | None) -> tuple[Answer, Answer]:
    keys = case.log.signer.keys[:1]

    def ours() -> None:
        verify_bundle(data, keys, opening=None if opening is None else Opening.parse(opening))

    more = {} if opening is None else {"opening": opening}
    return verdict(ours), peer.ask("proof", proof=data, keys=[key.encode() for key in keys], **more)


def test_it_accepts_the_honest_bundles(peer: Peer) -> None:
    found = bundles()
    assert len(found) > 6
    for case in found:
        data = resigned(case.bundle(case.log.entries, case.keep), case.log.signer)
        ours, theirs = judged(peer, data, case, None)
        assert ours[0], (case.erasure, ours)
        assert theirs[0], (case.erasure, theirs)


def altered_bundle(rng: random.Random, case: Case) -> dict[str, Any]:
    """Alter the log under a bundle, which of its entries the bundle has, or what else it says."""
    entries, keep = copy.deepcopy(case.log.entries), list(case.keep)
    what = rng.random()
    if what < 0.45:
        n = rng.choice(keep)
        path = rng.choice(list(places(entries[n])))
        at(entries[n], path[:-1])[path[-1]] = altered(rng, path, at(entries[n], path), entries)
    elif what < 0.65:
        how = rng.randrange(4)
        if how == 0:
            keep.remove(rng.choice(keep))
        elif how == 1:
            keep.append(rng.choice(keep))
        else:
            keep.append(rng.randrange(len(entries)))
        if rng.random() < 0.9:
            keep.sort()
    bundle = case.bundle(entries, keep)
    if what >= 0.65:
        path = rng.choice([p for p in places(bundle) if "entry" not in p and p[0] != "signatures"])
        others = [other.bundle(other.log.entries, other.keep) for other in rng.sample(BUNDLES_MADE, 3)]
        at(bundle, path[:-1])[path[-1]] = altered(rng, path, at(bundle, path), others)
    return bundle


BUNDLES_MADE: list[Case] = bundles()
OPENED = {"subject": "ada", "salt": proof_help.SALT.hex(), "tag": proof_help.TAG.hex(), "more": 1.5}


def test_they_say_the_same_of_altered_bundles_that_are_signed_again(peer: Peer) -> None:
    rng = random.Random(int(os.environ.get("FACEKEEP_PEER_SEED", "12")))
    found, accepted = [], 0
    for _ in range(BUNDLES):
        case = BUNDLES_MADE[0] if rng.random() < 0.2 else rng.choice(BUNDLES_MADE)
        bundle = (
            altered_bundle(rng, case) if rng.random() < 0.95 else case.bundle(case.log.entries, case.keep)
        )
        opening: bytes | None = None
        if case is BUNDLES_MADE[0] and rng.random() < 0.5:
            said: dict[str, Any] = copy.deepcopy(OPENED)
            path = rng.choice(list(places(said)))
            if rng.random() < 0.5:
                said[path[0]] = altered(rng, path, said[path[0]], [])
            opening = json.dumps(said).encode()
        ours, theirs = judged(peer, resigned(bundle, case.log.signer), case, opening)
        accepted += ours[0]
        if ours[1].startswith("P4 ") and theirs[1].startswith("P1 "):  # the form of what a restart has
            continue
        if "ML-DSA-44 signature" in ours[1]:  # nothing that the peer can see
            continue
        if ours[0] is not theirs[0] or ours[1].split(" ")[0] not in ("?", theirs[1].split(" ")[0]):
            honest_one = case.bundle(case.log.entries, case.keep)
            changed = [
                f"{path}: {encoded(at(bundle, path)).decode()}"
                for path in places(bundle)
                if path[0] not in ("signatures", "checkpoint") and not _has_same(honest_one, bundle, path)
            ]
            found.append((f"erasure {case.erasure}", ours, theirs, [str(opening), *changed[-6:]]))
    report("bundles", BUNDLES, accepted, found)


def _has_same(old: Any, new: Any, path: tuple[Any, ...]) -> bool:  # noqa: ANN401 - JSON
    return _has(old, path) and bool(at(old, path) == at(new, path))


# --- consistency, and whole exports ----------------------------------------------------------------


def test_they_say_the_same_of_consistency_proofs(peer: Peer) -> None:
    """Every size to every other, with a hash altered, missing, too many, and another ``old``."""
    signer = tree_help.signer()
    grown = tree_help.grown(300)
    notes = {size: signed_ed25519(grown.checkpoint(size), signer) for size in (1, 2, 7, 8, 200, 256, 300)}
    keys = signer.keys[:1]
    for old, new in ((a, b) for a in notes for b in notes):
        hashes = proofs.consistency_proof(grown.at(new), old, new) if old <= new else [bytes(32)]
        for given in (
            list(hashes),
            [bytes(32), *hashes],
            [*hashes, bytes(32)],
            list(hashes)[1:],
            list(hashes)[:-1],
        ):
            for said in (old, old + 1):
                head = f"old {said}\n" + "".join(f"{_coded(each)}\n" for each in given)
                data = head.encode() + b"\n" + notes[new]
                ours = verdict(verify_consistency, notes[old], data, keys)
                theirs = peer.ask(
                    "consistency", older=notes[old], proof=data, keys=[key.encode() for key in keys]
                )
                assert ours[0] is theirs[0], (old, new, said, ours, theirs)
                assert ours[1].split(" ")[0] == theirs[1].split(" ")[0], (old, new, said, ours, theirs)


def signed_ed25519(checkpoint: Checkpoint, signer: LogSigner) -> bytes:
    text = checkpoint.encode()
    line = Signature(signer.origin, signer.keys[0].key_id, signer._ed25519.sign(text.encode()))
    return Note(text, (line,)).encode()


def test_it_judges_the_shared_cases(peer: Peer, shared_data: Path, tmp_path: Path) -> None:
    for case in sorted((shared_data.parent / "cases/audit").iterdir()):
        told = retold(tmp_path / case.name, case)
        given: dict[str, Any] = {"dir": str(told.export), "keys": [key.encode() for key in told.keys]}
        asked_of = [peer.ask("log", **given)]
        if told.older is not None:
            asked_of.append(peer.ask("consistency", older=told.older, **given))
        assert all(each[0] is told.good for each in asked_of), (case.name, asked_of)


def test_the_opening_leads_to_the_tag_for_both(peer: Peer) -> None:
    data, keys = proof_help.forge(proof_help.story()), list(proof_help.KEYS)
    opening = {"subject": "ada", "salt": proof_help.SALT.hex(), "tag": proof_help.TAG.hex(), "more": 1.5}
    for changed in ({}, {"subject": "bob"}, {"salt": "00" * 32}):
        ok, said, _ = peer.ask(
            "proof",
            proof=data,
            keys=[key.encode() for key in keys],
            opening=encoded(opening | changed),
        )
        assert ok is (not changed), said
        assert ok or said.startswith("P12 ")
