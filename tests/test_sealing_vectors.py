"""SPEC §5 byte for byte: computed here from the text alone, printed there, opened by the vault's code."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facekeep.access.principals import token_mark
from facekeep.consent.consent import subject_tag
from facekeep.formats.terms import Scope, Terms
from facekeep.keys.index import SubjectIndex
from facekeep.sealing.handles import Handles, masked, table
from facekeep.sealing.many import places
from facekeep.sealing.permit import mint
from facekeep.sealing.sealer import Sealer, view_templates
from facekeep.store.keysdb import KeysStore
from facekeep.store.maskedterms import TermsMask
from facekeep.store.vaultdb import GrantRow

DOCS = Path(__file__).parent.parent / "docs"


def count_up(first: int, count: int = 32) -> bytes:
    return bytes(range(first, first + count))


VAULT, SLOT, ADMIN = count_up(0, 16), 2 << 21 | 7, 16
SLOT_KEY, HANDLE_KEY, INDEX_KEY, LOG_KEY = map(count_up, (0x10, 0x30, 0x50, 0x70))
SALT, BLIND, NONCE, ENTRY = count_up(0x90), count_up(0xB0), count_up(0xD0, 12), count_up(0xE0, 16)
SECRET, SUBJECT, MODEL = count_up(0x40), b"anna", b"raw:lab/1"
TEMPLATES = bytes.fromhex("0000803f000000c0")  # 1.0 and -2.0
RECORD = BLIND + b'{"subject":"anna","v":1}'
PRINCIPAL = b'{"id":"0001020304050607","v":1}'

EXPECTED = """
handle ffdc212ce25a70c5eaa3a84604410d4b
grant_id 00a68cf70cc5a9f03b82c8129dcd944b
tag b72a1e252a33548b538579754eb7d3f83739cdf39785dec6641e6820ee6c5481
key 0b6ff262fe08d06b4733abc537597a66425986ae0f226e6e58599c92176e2546
commitment 1b84408080fda00776ad6597feabd8c08fcac3eaaae2677028682c0dd2db1783
terms 0102000000000000000003e800000000000007d0444545550000000000000000000000000000000000000000000000000000000000010002ecea195caea4f4ff42bf0fed2cc6d38ba619eac5d157d04871f34fdb917845e0
masked_terms df6af800f3bf3a0ef6c4791f972891b65259df98cf1f15a33467f700440c5f4d3e96b4cc4c176a44de41b36f98b357a666b795029c549f6c1570cc8b3bcfe1778c6d207fbe445b2e9f5c3603e3cb71e0db108c2b6bff04b2
templates 0001d0d1d2d3d4d5d6d7d8d9dadbe1240ccd8925766f94cb73333e0a9eb62458786c6d3be1e5
record 0001d0d1d2d3d4d5d6d7d8d9dadb51953e413d90c018937e8b2e5a1ed0d54bb9e6fbd0981c0cdacadae56012cf7be41e37459684bd2cb26b1d17fdaa7d7bd4e32ee7aa5421fc79241d7c721fad7a6121f35c05de3ed5
principal_id 865855ba67315c3dd0f1d4f533e6681a
principal_key 27a2917b8f9c14b5f88ae9c184f48a715db7a0c6365cc56f41b3189d14f737b9
principal_commitment 15d5c23cc50214cdb777a2301766f7794d2f2a4fd2e4f7c95f651573f02c5c66
principal 0001d0d1d2d3d4d5d6d7d8d9dadb8237f683c8c8a4b39ca9eb2934ee88532261ba9aa8e844f945bb637887ca44f1daa616e4df26218a03181ff3de183b
index_key 67abef82e46f0607472a3035870486a4396b95f9e1d95c5607b234794a3f36cf
index_value 0001d0d1d2d3d4d5d6d7d8d9dadb8412e55d10c7bfa39913cfbdc9b69496afb12f7725d2db9606a620c8cd35311320eb18ff1b31f5c3a90b8119101b8c61
sought d2e33f8c99d1482d5485aaedc895f25f
"""  # noqa: E501


def vectors() -> dict[str, bytes]:
    """Lines of ``name hex``."""
    return {name: bytes.fromhex(value) for name, value in map(str.split, EXPECTED.split("\n")[1:-1])}


# -- the text of SPEC, and nothing of facekeep's


def domain(label: str) -> bytes:
    return b"facekeep/v1/" + label.encode() + b"\0"


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(parts), "sha256")


def kdf(slot: int, grant_id: bytes) -> bytes:
    info = domain("slot-kdf") + b"\0\1" + VAULT + u64(slot) + grant_id
    return hashlib.sha512(b"\0\0\0\1" + SLOT_KEY + info).digest()


def aad(kind: int, slot: int, grant_id: bytes, tag: bytes, terms: bytes, model: bytes) -> bytes:
    head = domain("sealed") + b"\0\1" + bytes([kind]) + VAULT + u64(slot) + grant_id
    return head + tag + terms + len(model).to_bytes(2, "big") + model


def sealed(key: bytes, plain: bytes, bound: bytes) -> bytes:
    return b"\0\1" + NONCE + AESGCM(key).encrypt(NONCE, plain, bound)


def blocks(key: bytes, start: bytes, count: int) -> bytes:
    inputs = b"".join(start[:-1] + bytes([start[-1] ^ at]) for at in range(count))
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(inputs)  # noqa: S305 - one block each


def xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def computed() -> dict[str, bytes]:
    """Every value from the ones before it, by SPEC §2, §5.1 to §5.3 and §5.6 to §5.9."""
    handle = mac(HANDLE_KEY, domain("handle"), VAULT, SUBJECT)[:16]
    info = domain("grant-id") + b"\0\1" + VAULT + u64(SLOT)
    grant = xor(handle, hashlib.sha512(b"\0\0\0\1" + SLOT_KEY + info).digest()[:16])
    tag = hashlib.sha256(domain("subject-tag") + VAULT + SALT + SUBJECT).digest()
    key, commitment = kdf(SLOT, grant)[:32], kdf(SLOT, grant)[32:]
    regions = b"DEEU" + bytes(28)
    shape = b"\0\1" + b"\0\2"
    terms = b"\1\2\0\0" + u64(1_000) + u64(2_000) + regions + shape + hashlib.sha256(RECORD).digest()
    templates = sealed(key, TEMPLATES, aad(1, SLOT, grant, tag, terms, MODEL))
    bound = aad(2, SLOT, grant, tag, terms, MODEL) + hashlib.sha256(templates).digest()
    mark = hashlib.sha256(
        domain("principal-token") + VAULT + u64(ADMIN) + hashlib.sha256(SECRET).digest()
    ).digest()[:16]
    row_key = mac(INDEX_KEY, domain("subject-index"), VAULT, handle)
    seal_key = mac(INDEX_KEY, domain("subject-index-seal"))
    return {
        "handle": handle,
        "grant_id": grant,
        "tag": tag,
        "key": key,
        "commitment": commitment,
        "terms": terms,
        "masked_terms": xor(terms, blocks(mac(LOG_KEY, domain("terms"), VAULT), grant, 6)[:88]),
        "templates": templates,
        "record": sealed(key, RECORD, bound),
        "principal_id": mark,
        "principal_key": kdf(ADMIN, mark)[:32],
        "principal_commitment": kdf(ADMIN, mark)[32:],
        "principal": sealed(kdf(ADMIN, mark)[:32], PRINCIPAL, aad(3, ADMIN, mark, bytes(32), bytes(88), b"")),
        "index_key": row_key,
        "index_value": sealed(seal_key, tag, domain("subject-index") + VAULT + row_key),
        "sought": mac(HANDLE_KEY, domain("sought"), ENTRY, handle)[:16],
    }


def test_the_text_alone_leads_to_the_vectors() -> None:
    assert computed() == vectors()


def test_the_specification_prints_them() -> None:
    text = "\n".join(path.read_text("utf-8") for path in DOCS.rglob("*.md"))
    missing = [line for line in EXPECTED.split("\n")[1:-1] if line not in text]
    assert missing == []


# -- the vault's code


@pytest.fixture
def row() -> GrantRow:
    v = vectors()
    blobs = v["commitment"], v["templates"], v["record"]
    return GrantRow(SLOT, v["grant_id"], v["tag"], MODEL.decode(), v["terms"], *blobs)


def test_keys_handles_and_grant_ids_are_those_of_the_vectors() -> None:
    v, sealer = vectors(), Sealer.of(VAULT)
    handles = Handles(VAULT, HANDLE_KEY)
    assert handles.of(SUBJECT) == v["handle"]
    assert handles.sought(v["handle"], ENTRY) == v["sought"]
    keys = np.frombuffer(SLOT_KEY, np.uint8).reshape(1, 32)
    assert masked(sealer, [SLOT], keys, table([v["handle"]])).tobytes() == v["grant_id"]
    assert sealer.keys(SLOT_KEY, SLOT, v["grant_id"]) == (v["key"], v["commitment"])
    where = places(sealer, [SLOT], [SLOT_KEY], [v["handle"]])
    assert where == [(SLOT, v["grant_id"], v["key"], v["commitment"])]
    assert subject_tag(VAULT, SALT, SUBJECT) == v["tag"]
    assert token_mark(VAULT, ADMIN, hashlib.sha256(SECRET).digest()) == v["principal_id"]


def test_a_grant_of_the_vectors_is_opened(row: GrantRow) -> None:
    sealer, out = Sealer.of(VAULT), bytearray(8)
    assert sealer.open_record(SLOT_KEY, row) == json.loads(RECORD[32:])
    sealer.open_templates(mint(frozenset((SLOT,))), sealer.row_key(SLOT_KEY, row), row, memoryview(out))
    assert view_templates(memoryview(out), 1, 2).tolist() == [[1.0, -2.0]]
    assert Terms.unpack(row.terms) == Terms(
        Scope.VERIFY, 1_000, 2_000, ("DE", "EU"), 1, 2, hashlib.sha256(RECORD).digest()
    )


def test_a_principal_of_the_vectors_is_opened() -> None:
    v, sealer = vectors(), Sealer.of(VAULT)
    opened = sealer.open_principal(
        SLOT_KEY, ADMIN, v["principal_id"], v["principal_commitment"], v["principal"]
    )
    assert opened == json.loads(PRINCIPAL)
    assert sealer.keys(SLOT_KEY, ADMIN, v["principal_id"])[0] == v["principal_key"]


def test_an_index_row_of_the_vectors_is_opened() -> None:
    v = vectors()
    index = SubjectIndex(cast("KeysStore", None), VAULT, INDEX_KEY)
    assert index.hash(v["handle"]) == v["index_key"]
    assert index.open(v["index_key"], v["index_value"]) == v["tag"]


def test_terms_of_the_vectors_are_unmasked(row: GrantRow) -> None:
    v = vectors()
    assert TermsMask(LOG_KEY, VAULT).rows([row._replace(terms=v["masked_terms"])]) == [row]
