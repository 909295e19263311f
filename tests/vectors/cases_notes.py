"""Notes, checkpoints, consistency proofs (SPEC §10).

Keys are those of SPEC §10.5 for the slot key 00 01 .. 1f; the log's entries are "entry 0", "entry 1", ...
"""

from __future__ import annotations

from making import Vectors, signed_text

from facekeep.auditlog import proofs
from facekeep.auditlog.signed import Cosigner, LogSigner
from facekeep.formats.checkpoint import EMPTY_ROOT, Checkpoint
from facekeep.formats.note import KeyType, Note, Signature, VerifierKey
from facekeep.formats.tlogproof import ConsistencyProof
from tree_help import grown

TIME_MS = 1_700_000_000_000
LOG = LogSigner(bytes(range(32)), b"\x11" * 16)
OTHER = LogSigner(bytes(range(32)), b"\x22" * 16)
WITNESS = Cosigner("witness.example/w1", bytes(range(1, 33)))
ML_DSA_44 = KeyType.COSIGNATURE_ML_DSA_44
ML_WITNESS = Cosigner("witness.example/w2", bytes(range(2, 34)), ML_DSA_44)
TREE = grown(300)


def checkpoint(size: int, signer: LogSigner = LOG) -> Checkpoint:
    """Return the checkpoint of a size."""
    return Checkpoint(signer.origin, size, TREE.roots[size])


def spare_bits(data: bytes, end: int) -> bytes:
    """Spell the base64 that ends in one ``=`` at ``end`` another way."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = end - 1
    return data[:at] + alphabet[alphabet.index(data[at]) ^ 1 :][:1] + data[end:]


def notes(to: Vectors) -> None:
    """Cases of notes and their signatures."""
    good = LOG.sign(checkpoint(256), TIME_MS)
    note = Note.parse(good)
    first, second = note.signatures
    unknown = Signature("stranger.example", b"\1\2\3\4", b"nothing to believe")
    bad = Signature(first.name, first.key_id, bytes(64))
    ed_only = {"keys": "ed25519.txt"}
    to.case("note", "both", good, "an Ed25519 line and an ML-DSA-44 line, both keys known")
    to.case("note", "ed25519_known", good, "the ML-DSA-44 line is of an unknown key and ignored", **ed_only)
    to.case(
        "note",
        "unknown_lines",
        Note(note.text, (unknown, first, second)).encode(),
        "an unknown signer's line is ignored",
    )
    lines = (*(Signature(f"w{n}.example", bytes(4), b"s" * 64) for n in range(14)), first, second)
    to.case("note", "sixteen_lines", Note(note.text, lines).encode(), "sixteen signatures are accepted")
    to.case(
        "note",
        "cosigned",
        Note(note.text, (first, second, WITNESS.sign(checkpoint(256), TIME_MS))).encode(),
        "a known witness's Ed25519 cosignature",
        keys="witness.txt",
    )
    stale = Note(note.text, (first, second, WITNESS.sign(checkpoint(255), TIME_MS))).encode()
    to.case(
        "note",
        "cosigned_other_fail",
        stale,
        "the known witness signed another checkpoint",
        lenient=["go"],
        keys="witness.txt",
    )
    to.case(
        "note",
        "bad_then_good_fail",
        Note(note.text, (bad, first, second)).encode(),
        "a known key's bad signature before its good one",
        **ed_only,
    )
    to.case(
        "note",
        "good_then_bad_fail",
        Note(note.text, (first, second, bad)).encode(),
        "a known key's bad signature after its good one",
        lenient=["go"],
        **ed_only,
    )
    to.case(
        "note",
        "ml_dsa_44_stripped_fail",
        Note(note.text, (first,)).encode(),
        "both keys are known, the ML-DSA-44 signature was taken away",
        lenient=["go"],
    )
    to.case(
        "note",
        "ed25519_stripped_fail",
        Note(note.text, (second,)).encode(),
        "both keys are known, the Ed25519 signature was taken away",
    )
    to.case(
        "note",
        "only_unknown_fail",
        Note(note.text, (unknown,)).encode(),
        "no signature of a known key",
        **ed_only,
    )
    to.case(
        "note",
        "other_vault_fail",
        OTHER.sign(checkpoint(256, OTHER), TIME_MS),
        "the checkpoint of another vault, signed by its own keys",
    )
    renamed = Signature(LOG.origin, first.key_id, OTHER._ed25519.sign(note.text.encode()))
    to.case(
        "note",
        "other_key_fail",
        Note(note.text, (renamed,)).encode(),
        "another vault's key signed under this log's name and key id",
        **ed_only,
    )
    typed = VerifierKey(LOG.origin, KeyType.COSIGNATURE_ED25519, LOG.keys[0].public)
    to.case(
        "note",
        "other_type_fail",
        Note(note.text, (Signature(typed.name, typed.key_id, first.body),)).encode(),
        "the signature is right, its key id is that of type 0x04",
        **ed_only,
    )
    weak = VerifierKey(LOG.origin, KeyType.ED25519, (1).to_bytes(32, "little"))
    to.keys("small_order.txt", [weak])
    forged = Signature(weak.name, weak.key_id, (1).to_bytes(32, "little") + bytes(32))
    to.case(
        "note",
        "small_order_key_fail",
        Note(note.text, (forged,)).encode(),
        "an Ed25519 key of small order, S = 0: holds for every text",
        keys="small_order.txt",
        lenient=["go"],
    )
    order = 2**252 + 27742317777372353535851937790883648493
    high = (int.from_bytes(first.body[32:], "little") + order).to_bytes(32, "little")
    to.case(
        "note",
        "s_not_reduced_fail",
        Note(note.text, (Signature(first.name, first.key_id, first.body[:32] + high),)).encode(),
        "S + L in place of S",
        **ed_only,
    )
    only = Note(note.text, (first,)).encode()
    to.case(
        "note",
        "base64_spare_bits_fail",
        spare_bits(only, len(only) - 2),
        "the signature's base64 in a second spelling",
        lenient=["go"],
        **ed_only,
    )
    to.case("note", "crlf_fail", only.replace(b"\n", b"\r\n"), "lines end in CR LF", **ed_only)
    to.case("note", "trailing_bytes_fail", only + b"x", "a byte after the last newline", **ed_only)
    to.case("note", "trailing_newline_fail", only + b"\n", "a blank line after the signatures", **ed_only)
    to.case("note", "no_final_newline_fail", only[:-1], "the last newline is missing", **ed_only)
    to.case("note", "truncated_fail", only[: len(only) // 2], "half of the note", **ed_only)
    to.case(
        "note",
        "control_character_fail",
        only.replace(b"\n256\n", b"\n256\x0b\n"),
        "a vertical tab in the text",
        **ed_only,
    )
    to.case(
        "note",
        "u2028_fail",
        only.replace(b"\n256\n", "\u2028256\n".encode()),
        "U+2028 in place of a newline",
        **ed_only,
    )


def cosignatures(to: Vectors) -> None:
    """Cases of a witness with a key of type 0x06; ``cosigned`` has one of type 0x04."""
    good = Note.parse(LOG.sign(checkpoint(256), TIME_MS))
    renamed, line = Cosigner("witness.example/w3", bytes(range(2, 34)), ML_DSA_44), ML_WITNESS.sign
    given = {"keys": to.keys("witness-ml-dsa-44.txt", [LOG.keys[0], WITNESS.key, ML_WITNESS.key])}
    right, other = line(checkpoint(256), TIME_MS), line(checkpoint(255), TIME_MS)
    foreign = renamed.sign(checkpoint(256), TIME_MS)
    for name, lines, why in (
        ("cosigned_ml_dsa_44", (right,), "a known witness's ML-DSA-44 cosignature"),
        ("cosigned_both", (WITNESS.sign(checkpoint(256), TIME_MS), right), "two witnesses, one of each type"),
        ("cosigned_ml_dsa_44_other_fail", (other,), "the known witness signed another checkpoint"),
        ("cosigned_ml_dsa_44_time_fail", (later(right),), "a cosignature with another time than was signed"),
        ("cosigned_ml_dsa_44_renamed_fail", (named(foreign, right),), "it signs for another witness's name"),
        ("cosigned_ml_dsa_44_short_fail", (cut(right),), "a byte of the cosignature is missing"),
    ):
        data = Note(good.text, (*good.signatures[:1], *lines)).encode()
        lenient = ["go"] if name.endswith("short_fail") else ["go", "go-verifier"]
        more = {"lenient": lenient} if name.endswith("_fail") else {}
        to.case("note", name, data, why, **given, **more)


def later(line: Signature) -> Signature:
    """Give a cosignature another time."""
    return Signature(line.name, line.key_id, bytes(7) + b"\1" + line.body[8:])


def named(line: Signature, other: Signature) -> Signature:
    """Give a cosignature the name and key id of another one."""
    return Signature(other.name, other.key_id, line.body)


def cut(line: Signature) -> Signature:
    """Take a byte from a cosignature."""
    return Signature(line.name, line.key_id, line.body[:-1])


def checkpoints(to: Vectors) -> None:
    """Cases of texts, each signed as it stands by the log's Ed25519 key."""
    text = checkpoint(256).encode()
    more = {"keys": "ed25519.txt", "lenient": ["go"]}
    to.case(
        "checkpoint",
        "size_1",
        signed_text(checkpoint(1).encode(), LOG),
        "a log of one entry",
        keys="ed25519.txt",
    )
    empty = Checkpoint(LOG.origin, 0, EMPTY_ROOT).encode()
    to.case(
        "checkpoint",
        "size_0",
        signed_text(empty, LOG),
        "the empty tree: its root is SHA-256 of nothing",
        keys="ed25519.txt",
    )
    zeros = empty.replace(empty.split("\n")[2], "A" * 43 + "=")
    to.case(
        "checkpoint",
        "size_0_zeros_fail",
        signed_text(zeros, LOG),
        "the empty tree with a root of zeros",
        **more,
    )
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
        to.case("checkpoint", f"{name}_fail", signed_text(text.replace(old, new, 1), LOG), why, **more)
    to.case(
        "checkpoint",
        "root_spare_bits_fail",
        signed_text(spare_bits(text.encode(), len(text) - 2).decode(), LOG),
        "the root's base64 in a second spelling",
        **more,
    )


def signed(size: int, signer: LogSigner = LOG) -> Note:
    """A checkpoint under the Ed25519 key alone, which is shorter."""
    return Note.parse(signed_text(checkpoint(size, signer).encode(), signer))


def consistencies(to: Vectors) -> None:
    """Cases of consistency proofs."""
    note = signed(300)
    olds = {size: to.put(f"old-{size}.checkpoint", signed(size).encode()) for size in (0, 199, 200, 300)}
    path = proofs.consistency_proof(TREE.at(300), 200, 300)
    good = ConsistencyProof(200, path, note).encode()
    both = ConsistencyProof(200, path, Note.parse(LOG.sign(checkpoint(300), TIME_MS))).encode()
    older = to.put("old-200-both.checkpoint", LOG.sign(checkpoint(200), TIME_MS))
    to.case(
        "consistency", "both", both, "both keys signed", "C1", "C2", "C3", "C4", old=older, keys="keys.txt"
    )
    to.case("consistency", "good", good, "from 200 entries to 300", "C1", "C2", "C3", "C4", old=olds[200])
    to.case(
        "consistency",
        "same_size",
        ConsistencyProof(300, (), note).encode(),
        "two checkpoints of one size and root",
        "C3",
        "C4",
        old=olds[300],
    )
    to.case(
        "consistency",
        "from_0",
        ConsistencyProof(0, (), note).encode(),
        "every tree continues the empty one",
        "C3",
        "C4",
        old=olds[0],
    )
    to.case(
        "consistency",
        "from_0_with_hashes_fail",
        ConsistencyProof(0, path, note).encode(),
        "from size 0 the proof is empty",
        "C4",
        old=olds[0],
    )
    to.case(
        "consistency", "other_old_fail", good, "the older checkpoint is of 199 entries", "C3", old=olds[199]
    )
    fork = type(TREE)([*TREE.bodies[:100], b"another", *TREE.bodies[101:]])
    forked = Note.parse(signed_text(Checkpoint(LOG.origin, 300, fork.roots[300]).encode(), LOG))
    regrown = ConsistencyProof(200, proofs.consistency_proof(fork.at(300), 200, 300), forked).encode()
    to.case(
        "consistency",
        "fork_fail",
        regrown,
        "the log was truncated at 100 and grown again, under the same key",
        "C4",
        old=olds[200],
    )
    to.case(
        "consistency",
        "fork_same_size_fail",
        ConsistencyProof(300, (), forked).encode(),
        "two checkpoints of one size with other roots",
        "C4",
        old=olds[300],
    )
    shrunk = signed(199)
    to.case(
        "consistency",
        "shrunk_fail",
        good[: good.index(b"\n\n") + 2] + shrunk.encode(),
        "the newer checkpoint is the smaller one",
        "C2",
        old=olds[200],
    )
    to.case(
        "consistency",
        "hash_missing_fail",
        ConsistencyProof(200, path[1:], note).encode(),
        "the first hash is missing",
        "C4",
        old=olds[200],
    )
    to.case(
        "consistency",
        "hash_more_fail",
        ConsistencyProof(200, (*path, bytes(32)), note).encode(),
        "a hash too many",
        "C4",
        old=olds[200],
    )
    to.case(
        "consistency",
        "leading_zero_fail",
        good.replace(b"old 200", b"old 0200"),
        "a leading zero",
        "C2",
        old=olds[200],
    )


def everything(to: Vectors) -> None:
    """Add all cases of this page."""
    to.given = {"keys": to.keys("keys.txt", LOG.keys)}
    to.keys("ed25519.txt", LOG.keys[:1])
    to.keys("witness.txt", [*LOG.keys, WITNESS.key])
    for each in (notes, cosignatures, checkpoints):
        each(to)
    to.given["keys"] = "ed25519.txt"
    consistencies(to)
