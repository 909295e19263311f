"""Make the cases of this directory (README.md): python tests/vectors/make.py, once.

Keys are those of SPEC §10.5 for the slot key 00 01 .. 1f; the log's entries are "entry 0", "entry 1", ...
Whole logs are those of tests/audit_help.py and tests/restart_help.py, whose keys stand there.
Run with tests/ on the path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import audit_help
from facekeep.auditlog import proofs
from facekeep.auditlog.merkle import Frontier, leaf_hash
from facekeep.auditlog.rotation import signing_entry
from facekeep.auditlog.signed import Cosigner, LogSigner
from facekeep.formats.checkpoint import EMPTY_ROOT, Checkpoint
from facekeep.formats.note import KeyType, Note, Signature, VerifierKey
from facekeep.formats.tlogproof import ConsistencyProof, InclusionProof
from restart_help import OTHER as STRANGER
from restart_help import Restarted, adopted
from tree_help import grown

HERE = Path(__file__).parent
TIME_MS = 1_700_000_000_000
LOG = LogSigner(bytes(range(32)), b"\x11" * 16)
OTHER = LogSigner(bytes(range(32)), b"\x22" * 16)
WITNESS = Cosigner("witness.example/w1", bytes(range(1, 33)))
TREE = grown(300)
OWN = "made by tests/vectors/make.py"
cases: list[dict[str, Any]] = []


def put(name: str, data: bytes) -> str:
    """Write a file unless it is there: cases do not change."""
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(data)
    return name


def case(kind: str, name: str, data: bytes, why: str, **more: Any) -> None:  # noqa: ANN401
    """Add a case; it must be refused where its name ends in _fail."""
    suffix = "tlog-proof" if kind == "inclusion" else kind
    add(kind, put(f"{kind}/{name}.{suffix}", data), accept=not name.endswith("_fail"), why=why, **more)


def log(
    name: str,
    bodies: list[bytes],
    why: str,
    *,
    signed: list[bytes] | None = None,
    signer: LogSigner = audit_help.SIGNER,
) -> None:
    """Add a whole log under a checkpoint of its vault's keys: of ``signed``, where that is another log."""
    frontier = Frontier()
    for body in signed or bodies:
        frontier.append(leaf_hash(body))
    origin = audit_help.SIGNER.origin
    note = signer.sign(Checkpoint(origin, frontier.size, frontier.root()), audit_help.NOW)
    entries = put(f"log/{name}.entries", b"".join(body + b"\n" for body in bodies))
    given = {"keys": "log.txt", "origin": origin, "checkpoint": put(f"log/{name}.checkpoint", note)}
    add("log", entries, accept=not name.endswith("_fail"), why=why, **given)


def add(kind: str, file: str, **more: Any) -> None:  # noqa: ANN401
    """Add a case to the manifest."""
    found = {
        "kind": kind,
        "file": file,
        "keys": "keys.txt",
        "origin": LOG.origin,
        "accept": None,
        "why": None,
        "provenance": OWN,
        **more,
    }
    cases.append(found)


def checkpoint(size: int, signer: LogSigner = LOG) -> Checkpoint:
    """Return the checkpoint of a size."""
    return Checkpoint(signer.origin, size, TREE.roots[size])


def signed_text(text: str) -> bytes:
    """Sign any text with the Ed25519 key."""
    line = Signature(LOG.origin, LOG.keys[0].key_id, LOG._ed25519.sign(text.encode()))
    return Note(text, (line,)).encode()


def spare_bits(data: bytes, end: int) -> bytes:
    """Spell the base64 that ends in one ``=`` at ``end`` another way."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = end - 1
    return data[:at] + alphabet[alphabet.index(data[at]) ^ 1 :][:1] + data[end:]


def notes() -> None:
    """Cases of notes and their signatures."""
    good = LOG.sign(checkpoint(256), TIME_MS)
    note = Note.parse(good)
    first, second = note.signatures
    unknown = Signature("stranger.example", b"\1\2\3\4", b"nothing to believe")
    bad = Signature(first.name, first.key_id, bytes(64))
    ed_only = {"keys": "ed25519.txt"}
    case("note", "both", good, "an Ed25519 line and an ML-DSA-44 line, both keys known")
    case("note", "ed25519_known", good, "the ML-DSA-44 line is of an unknown key and ignored", **ed_only)
    case(
        "note",
        "unknown_lines",
        Note(note.text, (unknown, first, second)).encode(),
        "an unknown signer's line is ignored",
    )
    lines = (*(Signature(f"w{n}.example", bytes(4), b"s" * 2428) for n in range(14)), first, second)
    case("note", "sixteen_lines", Note(note.text, lines).encode(), "sixteen signatures are accepted")
    case(
        "note",
        "cosigned",
        Note(note.text, (first, second, WITNESS.sign(checkpoint(256), TIME_MS))).encode(),
        "a known witness's Ed25519 cosignature",
        keys="witness.txt",
    )
    stale = Note(note.text, (first, second, WITNESS.sign(checkpoint(255), TIME_MS))).encode()
    case(
        "note",
        "cosigned_other_fail",
        stale,
        "the known witness signed another checkpoint",
        lenient=["go"],
        keys="witness.txt",
    )
    case(
        "note",
        "bad_then_good_fail",
        Note(note.text, (bad, first, second)).encode(),
        "a known key's bad signature before its good one",
        **ed_only,
    )
    case(
        "note",
        "good_then_bad_fail",
        Note(note.text, (first, second, bad)).encode(),
        "a known key's bad signature after its good one",
        lenient=["go"],
        **ed_only,
    )
    case(
        "note",
        "ml_dsa_44_stripped_fail",
        Note(note.text, (first,)).encode(),
        "both keys are known, the ML-DSA-44 signature was taken away",
        lenient=["go"],
    )
    case(
        "note",
        "ed25519_stripped_fail",
        Note(note.text, (second,)).encode(),
        "both keys are known, the Ed25519 signature was taken away",
    )
    case(
        "note",
        "only_unknown_fail",
        Note(note.text, (unknown,)).encode(),
        "no signature of a known key",
        **ed_only,
    )
    case(
        "note",
        "other_vault_fail",
        OTHER.sign(checkpoint(256, OTHER), TIME_MS),
        "the checkpoint of another vault, signed by its own keys",
    )
    renamed = Signature(LOG.origin, first.key_id, OTHER._ed25519.sign(note.text.encode()))
    case(
        "note",
        "other_key_fail",
        Note(note.text, (renamed,)).encode(),
        "another vault's key signed under this log's name and key id",
        **ed_only,
    )
    typed = VerifierKey(LOG.origin, KeyType.COSIGNATURE_ED25519, LOG.keys[0].public)
    case(
        "note",
        "other_type_fail",
        Note(note.text, (Signature(typed.name, typed.key_id, first.body),)).encode(),
        "the signature is right, its key id is that of type 0x04",
        **ed_only,
    )
    weak = VerifierKey(LOG.origin, KeyType.ED25519, (1).to_bytes(32, "little"))
    put("small_order.txt", f"{weak.encode()}\n".encode())
    forged = Signature(weak.name, weak.key_id, (1).to_bytes(32, "little") + bytes(32))
    case(
        "note",
        "small_order_key_fail",
        Note(note.text, (forged,)).encode(),
        "an Ed25519 key of small order, S = 0: holds for every text",
        keys="small_order.txt",
        lenient=["go"],
    )
    order = 2**252 + 27742317777372353535851937790883648493
    high = (int.from_bytes(first.body[32:], "little") + order).to_bytes(32, "little")
    case(
        "note",
        "s_not_reduced_fail",
        Note(note.text, (Signature(first.name, first.key_id, first.body[:32] + high),)).encode(),
        "S + L in place of S",
        **ed_only,
    )
    only = Note(note.text, (first,)).encode()
    case(
        "note",
        "base64_spare_bits_fail",
        spare_bits(only, len(only) - 2),
        "the signature's base64 in a second spelling",
        lenient=["go"],
        **ed_only,
    )
    case("note", "crlf_fail", only.replace(b"\n", b"\r\n"), "lines end in CR LF", **ed_only)
    case("note", "trailing_bytes_fail", only + b"x", "a byte after the last newline", **ed_only)
    case("note", "trailing_newline_fail", only + b"\n", "a blank line after the signatures", **ed_only)
    case("note", "no_final_newline_fail", only[:-1], "the last newline is missing", **ed_only)
    case("note", "truncated_fail", only[: len(only) // 2], "half of the note", **ed_only)
    case(
        "note",
        "control_character_fail",
        only.replace(b"\n256\n", b"\n256\x0b\n"),
        "a vertical tab in the text",
        **ed_only,
    )
    case(
        "note",
        "u2028_fail",
        only.replace(b"\n256\n", "\u2028256\n".encode()),
        "U+2028 in place of a newline",
        **ed_only,
    )


def checkpoints() -> None:
    """Cases of texts, each signed as it stands by the log's Ed25519 key."""
    text = checkpoint(256).encode()
    more = {"keys": "ed25519.txt", "lenient": ["go"]}
    case(
        "checkpoint", "size_1", signed_text(checkpoint(1).encode()), "a log of one entry", keys="ed25519.txt"
    )
    empty = Checkpoint(LOG.origin, 0, EMPTY_ROOT).encode()
    case(
        "checkpoint",
        "size_0",
        signed_text(empty),
        "the empty tree: its root is SHA-256 of nothing",
        keys="ed25519.txt",
    )
    zeros = empty.replace(empty.split("\n")[2], "A" * 43 + "=")
    case("checkpoint", "size_0_zeros_fail", signed_text(zeros), "the empty tree with a root of zeros", **more)
    for name, old, new, why in (
        ("leading_zero", "\n256\n", "\n0256\n", "a leading zero"),
        ("plus", "\n256\n", "\n+256\n", "a plus sign"),
        ("underscore", "\n256\n", "\n2_56\n", "an underscore in the number"),
        ("space", "\n256\n", "\n 256\n", "a space before the number"),
        ("other_digits", "\n256\n", "\n\u0662\u0665\u0666\n", "digits of another script"),
        ("two_to_63", "\n256\n", f"\n{2**63}\n", "a size of 2^63"),
        ("negative", "\n256\n", "\n-1\n", "a negative size"),
        (
            "extension",
            "=\n",
            "=\nextension\n",
            "an extension line, which the ML-DSA-44 signature would not cover",
        ),
        ("blank_line", "\n256\n", "\n\n256\n", "a blank line in the text: a note splits at the last one"),
        ("two_lines", "\n256\n", "\n", "no size"),
        ("short_root", "=\n", "\n", "base64 without padding"),
        ("other_origin", "facekeep/1", "facekeep/3", "the origin of another log, signed by this one's key"),
        ("origin_space", "facekeep/", "face keep/", "a space in the origin"),
    ):
        case("checkpoint", f"{name}_fail", signed_text(text.replace(old, new, 1)), why, **more)
    case(
        "checkpoint",
        "root_spare_bits_fail",
        signed_text(spare_bits(text.encode(), len(text) - 2).decode()),
        "the root's base64 in a second spelling",
        **more,
    )


def inclusions() -> None:
    """Cases of inclusion proofs."""
    note = Note.parse(LOG.sign(checkpoint(300), TIME_MS))
    path = proofs.inclusion_proof(TREE.at(300), 33, 300)
    good = InclusionProof(33, path, note).encode()
    entry = {"entry": put("entry-33.bin", TREE.bodies[33])}
    case("inclusion", "good", good, "entry 33 of 300", **entry)
    case(
        "inclusion",
        "extra",
        InclusionProof(33, path, note, b"extra data").encode(),
        "extra data change nothing",
        **entry,
    )
    one = Note.parse(LOG.sign(checkpoint(1), TIME_MS))
    case(
        "inclusion",
        "size_1",
        InclusionProof(0, (), one).encode(),
        "a tree of one entry has no hashes",
        entry=put("entry-0.bin", TREE.bodies[0]),
    )
    case("inclusion", "other_entry_fail", good, "the entry is another one", entry="entry-0.bin")
    case(
        "inclusion",
        "extra_leaf_data_fail",
        good,
        "a newline after the entry",
        entry=put("entry-33-newline.bin", TREE.bodies[33] + b"\n"),
    )
    case(
        "inclusion",
        "other_index_fail",
        InclusionProof(34, path, note).encode(),
        "the index is another one",
        **entry,
    )
    case(
        "inclusion",
        "other_size_fail",
        InclusionProof(33, path, Note.parse(LOG.sign(checkpoint(299), TIME_MS))).encode(),
        "the proof is for 300 entries, the checkpoint of 299",
        **entry,
    )
    case(
        "inclusion",
        "hash_missing_fail",
        InclusionProof(33, path[:-1], note).encode(),
        "the last hash is missing",
        **entry,
    )
    case(
        "inclusion",
        "hash_more_fail",
        InclusionProof(33, (*path, bytes(32)), note).encode(),
        "a hash too many",
        **entry,
    )
    case(
        "inclusion",
        "hashes_swapped_fail",
        InclusionProof(33, (path[1], path[0], *path[2:]), note).encode(),
        "two hashes are swapped",
        **entry,
    )
    wrong = bytes([path[2][0] ^ 1]) + path[2][1:]
    case(
        "inclusion",
        "hash_altered_fail",
        InclusionProof(33, (*path[:2], wrong, *path[3:]), note).encode(),
        "one bit of a hash is altered",
        **entry,
    )
    case(
        "inclusion",
        "leading_zero_fail",
        good.replace(b"index 33", b"index 033"),
        "a leading zero in the index",
        **entry,
    )
    case("inclusion", "crlf_fail", good.replace(b"\n", b"\r\n"), "lines end in CR LF", **entry)
    case("inclusion", "trailing_bytes_fail", good + b"x", "a byte after the checkpoint", **entry)
    case(
        "inclusion",
        "hash_spare_bits_fail",
        spare_bits(good, good.index(b"=\n")),
        "a hash's base64 in a second spelling",
        **entry,
    )
    case(
        "inclusion",
        "index_at_size_fail",
        good.replace(b"index 33", b"index 300"),
        "the index is the size",
        **entry,
    )
    case("inclusion", "version_fail", good.replace(b"@v1", b"@v2"), "another version", **entry)
    unsigned = Note(note.text, (Signature("stranger.example", bytes(4), b"x"),))
    case(
        "inclusion",
        "unsigned_fail",
        InclusionProof(33, path, unsigned).encode(),
        "no known key signed the checkpoint",
        **entry,
    )
    case(
        "inclusion",
        "other_vault_fail",
        InclusionProof(33, path, Note.parse(OTHER.sign(checkpoint(300, OTHER), TIME_MS))).encode(),
        "the same tree, signed by another vault",
        **entry,
    )


def consistencies() -> None:
    """Cases of consistency proofs."""
    note = Note.parse(LOG.sign(checkpoint(300), TIME_MS))
    olds = {
        size: put(f"old-{size}.checkpoint", LOG.sign(checkpoint(size), TIME_MS))
        for size in (0, 199, 200, 300)
    }
    path = proofs.consistency_proof(TREE.at(300), 200, 300)
    good = ConsistencyProof(200, path, note).encode()
    case("consistency", "good", good, "from 200 entries to 300", old=olds[200])
    case(
        "consistency",
        "same_size",
        ConsistencyProof(300, (), note).encode(),
        "two checkpoints of one size and root",
        old=olds[300],
    )
    case(
        "consistency",
        "from_0",
        ConsistencyProof(0, (), note).encode(),
        "every tree continues the empty one",
        old=olds[0],
    )
    case(
        "consistency",
        "from_0_with_hashes_fail",
        ConsistencyProof(0, path, note).encode(),
        "from size 0 the proof is empty",
        old=olds[0],
    )
    case("consistency", "other_old_fail", good, "the older checkpoint is of 199 entries", old=olds[199])
    fork = type(TREE)([*TREE.bodies[:100], b"another", *TREE.bodies[101:]])
    forked = Note.parse(LOG.sign(Checkpoint(LOG.origin, 300, fork.roots[300]), TIME_MS))
    regrown = ConsistencyProof(200, proofs.consistency_proof(fork.at(300), 200, 300), forked).encode()
    case(
        "consistency",
        "fork_fail",
        regrown,
        "the log was truncated at 100 and grown again, under the same key",
        old=olds[200],
    )
    case(
        "consistency",
        "fork_same_size_fail",
        ConsistencyProof(300, (), forked).encode(),
        "two checkpoints of one size with other roots",
        old=olds[300],
    )
    shrunk = Note.parse(LOG.sign(checkpoint(199), TIME_MS))
    case(
        "consistency",
        "shrunk_fail",
        good[: good.index(b"\n\n") + 2] + shrunk.encode(),
        "the newer checkpoint is the smaller one",
        old=olds[200],
    )
    case(
        "consistency",
        "hash_missing_fail",
        ConsistencyProof(200, path[1:], note).encode(),
        "the first hash is missing",
        old=olds[200],
    )
    case(
        "consistency",
        "hash_more_fail",
        ConsistencyProof(200, (*path, bytes(32)), note).encode(),
        "a hash too many",
        old=olds[200],
    )
    case(
        "consistency",
        "leading_zero_fail",
        good.replace(b"old 200", b"old 0200"),
        "a leading zero",
        old=olds[200],
    )


def logs() -> None:
    """Cases of whole logs."""
    story = audit_help.story()
    bodies = story.book.bodies()
    log("story", bodies, "every kind of entry that a vault writes but signing and restart")
    altered = [body.replace(b'"sha256":"00', b'"sha256":"01') for body in bodies]
    log(
        "byte_changed_fail", altered, "entries were altered under a checkpoint that stands: L3", signed=bodies
    )
    late = story.doctored(lambda found: found.insert(story.at["withdraw"] + 2, found[story.at["verify"]]))
    log("decision_after_withdrawal_fail", late, "a decision on a grant that was withdrawn: R22")
    book = audit_help.founded()
    book.grant("enroll", audit_help.item(audit_help.v(0), audit_help.ALICE))
    book.rotation("templates", below={1: 1})
    book.grant("reseal", audit_help.item(audit_help.v(1), audit_help.ALICE, audit_help.v(0)))
    book.destroy("reseal", audit_help.v(0))
    log("resealed_in_old_branch_fail", book.bodies(), "templates re-sealed in the branch they were in: R32")
    unfollowed = audit_help.founded()
    unfollowed.rotation("root")
    log(
        "rotation_unfollowed_fail",
        unfollowed.bodies(),
        "the log ends with a rotation that does not follow: R31",
    )
    restarts()
    signings()


def signings() -> None:
    """Cases of logs whose keys were rotated (SPEC §10.8), under the first keys of the log."""
    second = LogSigner(b"k" * 32, audit_help.VAULT, 2)
    new = LogSigner(b"o" * 32, audit_help.VAULT, 2)
    log("signing", turned(audit_help.SIGNER, second), "the keys were rotated, and lead on", signer=second)
    for name, each in (
        ("ed25519", crossed(audit_help.SIGNER, STRANGER)),
        ("ml_dsa_44", crossed(STRANGER, audit_help.SIGNER)),
    ):
        why = "of the keys that are rotated away one is known and one is not: L1"
        log(f"signing_half_known_{name}_fail", turned(each, new), why, signer=new)
    old = turned(audit_help.SIGNER, second)
    log("signing_old_keys_fail", old, "keys sign that were rotated away: R10")


def crossed(ed25519: LogSigner, ml_dsa_44: LogSigner) -> LogSigner:
    """Return the keys of two signers, one of each."""
    made = LogSigner(b"o" * 32, audit_help.VAULT)
    made._ed25519, made._ml_dsa_44 = ed25519._ed25519, ml_dsa_44._ml_dsa_44
    made.keys = (ed25519.keys[0], ml_dsa_44.keys[1])
    return made


def turned(old: LogSigner, new: LogSigner) -> list[bytes]:
    """Return a log with one rotation of its keys."""
    book = audit_help.founded()
    book.rotation("signing")
    book.add(signing_entry(old, new, by=audit_help.OPERATOR, time_ms=book.now))
    return book.bodies()


def ended(book: Restarted) -> Restarted:
    """End the adoption."""
    book.end()
    return book


def restarts() -> None:
    """Cases of logs that were begun anew (SPEC §6.6)."""
    book = ended(adopted())
    book.destroy("extend")
    book.verify(audit_help.v(3), audit_help.ALICE)
    book.destroy("shred", audit_help.v(3), tags=[audit_help.ALICE])
    log("restarted", book.bodies(), "a log begun anew: restart, adoption, restarted, and on")
    book = ended(adopted())
    book.entries[0]["pin"]["size"] = 2
    log("restart_altered_fail", book.bodies(), "the restart names another pin than was signed: R35")
    book = Restarted()
    book.restart(signer=STRANGER)
    book.adopt_people()
    log("restart_other_keys_fail", ended(book).bodies(), "keys signed the restart that nobody trusts: R35")
    book = adopted()
    book.verify(audit_help.v(3), audit_help.ALICE)
    log("restart_smuggled_fail", ended(book).bodies(), "a decision stands inside the adoption: R35")
    book = adopted()
    book.end(2, 9)
    log("restart_branch_open_fail", book.bodies(), "a branch that has grants is not closed: R35")
    book = adopted()
    book.announce_principal(audit_help.SECOND, 18, "service", by=None)
    log("restart_unordered_fail", book.bodies(), "a principal is adopted after the grants: R35")
    log("restart_unended_fail", adopted().bodies(), "the adoption has no end: R35")


def main() -> None:
    """Write everything."""
    both = "".join(f"{key.encode()}\n" for key in LOG.keys)
    put("keys.txt", both.encode())
    put("ed25519.txt", f"{LOG.keys[0].encode()}\n".encode())
    put("witness.txt", f"{both}{WITNESS.key.encode()}\n".encode())
    notes()
    checkpoints()
    inclusions()
    consistencies()
    put("log.txt", "".join(f"{key.encode()}\n" for key in audit_help.SIGNER.keys).encode())
    logs()
    text = "[\n" + ",\n".join(json.dumps(item, ensure_ascii=True) for item in cases) + "\n]\n"
    (HERE / "manifest.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
