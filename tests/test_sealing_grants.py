"""Sealing: every field is bound, a permit is needed, and only the gate makes one."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

import facekeep
from facekeep.access.gate import permit_reseal
from facekeep.consent.consent import Consent, Holding, Notice, build_record, subject_tag
from facekeep.crypto import primitives as p
from facekeep.errors import FacekeepError, FormatError, IntegrityError
from facekeep.formats.terms import Scope, Terms
from facekeep.sealing.handles import masked, table
from facekeep.sealing.many import Place, Plain, places, seal_grants
from facekeep.sealing.permit import Permit, mint
from facekeep.sealing.sealer import KIND_RECORD, Sealer, template_bytes, view_templates
from facekeep.store.vaultdb import GrantRow

VAULT = bytes(range(16))
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
SLOT = 2 << 21 | 7
STACK = np.arange(8, dtype=np.float32).reshape(2, 4) + 1
SOURCE = Path(facekeep.__file__).parent


def sealed(sealer: Sealer | None = None, slot: int = SLOT) -> GrantRow:
    consent = Consent((Scope.VERIFY,), Notice(b"n" * 32, "en"), 2_000_000).settled(1_000, "DE")
    holding = Holding("alice", b"s" * 32, 1, "raw:m/1", "l2", 4, 2)
    record, terms = build_record(consent, Scope.VERIFY, holding, 1_000)
    sealer = sealer or Sealer.of(VAULT)
    tag = subject_tag(VAULT, b"s" * 32, b"alice")
    plain = Plain(tag, "raw:m/1", terms, record, template_bytes(STACK))
    return seal_grants(sealer, [place(sealer, slot)], [plain])[0]


def place(sealer: Sealer, slot: int) -> Place:
    return Place(slot, b"g" * 16, *sealer.keys(KEY, slot, b"g" * 16))


def opened(row: GrantRow, key: bytes = KEY, sealer: Sealer | None = None) -> np.ndarray:
    out = bytearray(32)
    sealer = sealer or Sealer.of(VAULT)
    permit = mint(frozenset((row.slot,)))
    sealer.open_templates(permit, sealer.row_key(key, row), row, memoryview(out))
    return view_templates(memoryview(out), 2, 4)


def test_what_was_sealed_is_opened() -> None:
    row = sealed()
    assert (opened(row) == STACK).all()
    record = Sealer.of(VAULT).open_record(KEY, row)
    assert (record["subject"], record["images"], record["v"]) == ("alice", 1, 1)
    assert Terms.unpack(row.terms).count == 2


CHANGES = {
    "slot": SLOT + 1,
    "grant_id": b"h" * 16,
    "tag": b"t" * 32,
    "model": "raw:m/2",
    "commitment": b"c" * 32,
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_of_a_row_is_bound(field: str) -> None:
    row = sealed()._replace(**{field: CHANGES[field]})  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        opened(row)
    with pytest.raises(IntegrityError):
        Sealer.of(VAULT).open_record(KEY, row)


@pytest.mark.parametrize("at", range(0, 88, 3))
def test_every_byte_of_the_terms_is_bound(at: int) -> None:
    row = sealed()
    terms = bytearray(row.terms)
    terms[at] ^= 1
    changed = row._replace(terms=bytes(terms))
    with pytest.raises(IntegrityError):
        opened(changed)
    with pytest.raises(IntegrityError):
        Sealer.of(VAULT).open_record(KEY, changed)


def test_the_record_authenticates_the_sealed_templates() -> None:
    row = sealed()
    with pytest.raises(IntegrityError):
        Sealer.of(VAULT).open_record(KEY, row._replace(templates=sealed().templates))


def test_a_record_sealed_again_with_other_words_under_the_same_terms() -> None:
    """Whoever has the slot's key seals what they like; the terms, which the log has, name the record."""
    row, sealer = sealed(), Sealer.of(VAULT)
    key = sealer.row_key(KEY, row)
    bound = b"".join(
        (
            sealer.prefixes(KIND_RECORD)[1],
            *(row.slot.to_bytes(8, "big"), row.grant_id, row.tag, row.terms),
            *(sealer.model_tail(row.model), p.sha256(row.templates)),
        )
    )
    honest = sealer.record_bytes(key, row)
    assert p.open_sealed(key, row.record, bound) == honest
    lie = honest.replace(b"face matching", b"advertisement")
    assert lie != honest
    assert sealer.open_record(KEY, row._replace(record=p.seal(key, honest, bound)))["subject"] == "alice"
    with pytest.raises(IntegrityError, match="terms name"):
        sealer.open_record(KEY, row._replace(record=p.seal(key, lie, bound)))


def test_the_kinds_of_blob_are_apart() -> None:
    row = sealed()
    with pytest.raises(IntegrityError):
        Sealer.of(VAULT).open_record(KEY, row._replace(record=row.templates))
    with pytest.raises(FacekeepError):
        opened(row._replace(templates=row.record))


def test_another_key_vault_or_slot_opens_nothing() -> None:
    row = sealed()
    for key, sealer in ((OTHER_KEY, Sealer.of(VAULT)), (KEY, Sealer.of(bytes(16)))):
        with pytest.raises(IntegrityError):
            opened(row, key, sealer)
        with pytest.raises(IntegrityError):
            sealer.open_record(key, row)
    with pytest.raises(IntegrityError):
        opened(row, bytes(32))


def test_terms_must_describe_what_is_sealed() -> None:
    sealer = Sealer.of(VAULT)
    row = sealed()
    for stack, record in ((STACK[:1], b"x"), (STACK, b"another record")):
        plain = Plain(row.tag, row.model, row.terms, record, template_bytes(stack))
        with pytest.raises(FormatError):
            seal_grants(sealer, [place(sealer, SLOT)], [plain])


def test_many_are_sealed_each_in_its_place() -> None:
    sealer = Sealer.of(VAULT)
    keys = [bytes((at,)) * 32 for at in range(1, 41)]
    handles = [bytes((at // 2,)) * 16 for at in range(40)]
    where = places(sealer, range(SLOT, SLOT + 40), keys, handles)
    ids = [each.grant_id for each in where]
    assert len(set(ids)) == 40
    keyed = np.frombuffer(b"".join(keys), np.uint8).reshape(40, 32)
    assert (masked(sealer, range(SLOT, SLOT + 40), keyed, table(ids)) == table(handles)).all()
    consent = Consent((Scope.VERIFY,), Notice(b"n" * 32, "en"), 2_000_000).settled(1_000, "DE")
    plain = []
    for at in range(40):
        stack = np.full((1 + at % 3, 4), at + 1, np.float32)
        model = f"raw:m/{at % 2}"
        holding = Holding(f"person {at}", b"s" * 32, 1, model, "l2", 4, len(stack))
        record, terms = build_record(consent, Scope.VERIFY, holding, 1_000)
        plain.append(Plain(bytes((at,)) * 32, model, terms, record, template_bytes(stack)))
    rows = seal_grants(sealer, where, plain)
    assert len({row.templates[2:14] for row in rows} | {row.record[2:14] for row in rows}) == 80
    for at, (row, key) in enumerate(zip(rows, keys, strict=True)):
        assert row[:5] == (SLOT + at, where[at].grant_id, *plain[at][:3])
        assert sealer.open_record(key, row)["subject"] == f"person {at}"
        out = bytearray(16 * (1 + at % 3))
        permit = mint(frozenset((row.slot,)))
        sealer.open_templates(permit, sealer.row_key(key, row), row, memoryview(out))
        assert set(view_templates(memoryview(out), 1 + at % 3, 4).ravel()) == {at + 1}


def test_a_model_id_that_is_none_of_ours_is_no_associated_data() -> None:
    """Rows come from a file that anybody may have written: a longer id would move what stands before it."""
    assert Sealer.model_tail("m" * 40) == b"\0\x28" + b"m" * 40
    for wrong in ("m" * 41, "m" * 70_000, "modèle"):
        with pytest.raises(IntegrityError, match="model id"):
            Sealer.model_tail(wrong)
        with pytest.raises(IntegrityError):
            opened(sealed()._replace(model=wrong))


def test_no_place_is_given_for_a_destroyed_key() -> None:
    with pytest.raises(IntegrityError, match="destroyed"):
        places(Sealer.of(VAULT), [SLOT, SLOT + 1], [KEY, bytes(32)], [bytes(16), bytes(16)])


def test_principals_are_bound_to_their_slot_and_grant() -> None:
    sealer = Sealer.of(VAULT)
    blob, commitment = sealer.seal_principal(KEY, 16, b"g" * 16, {"id": "x"})
    assert sealer.open_principal(KEY, 16, b"g" * 16, commitment, blob) == {"id": "x"}
    for key, slot, grant, mark in (
        (OTHER_KEY, 16, b"g" * 16, commitment),
        (KEY, 17, b"g" * 16, commitment),
        (KEY, 16, b"h" * 16, commitment),
        (KEY, 16, b"g" * 16, bytes(32)),
    ):
        with pytest.raises(IntegrityError):
            sealer.open_principal(key, slot, grant, mark, blob)


# -- permits


def test_a_permit_covers_its_slots_only() -> None:
    row, sealer, out = sealed(), Sealer.of(VAULT), bytearray(32)
    key = sealer.row_key(KEY, row)
    with pytest.raises(IntegrityError, match="permit"):
        sealer.open_templates(mint(frozenset((SLOT + 1,))), key, row, memoryview(out))
    assert out == bytes(32)
    sealer.open_templates(mint(frozenset((SLOT,))), key, row, memoryview(out))


def test_a_permit_is_not_made_copied_or_pickled_by_others() -> None:
    with pytest.raises(TypeError):
        Permit(frozenset((1,)), object())
    permit = mint(frozenset((1,)))
    for attempt in (lambda: pickle.dumps(permit), lambda: copy.copy(permit), lambda: copy.deepcopy(permit)):
        with pytest.raises(TypeError):
            attempt()
    with pytest.raises(AttributeError):
        permit.slots = frozenset((2,))  # type: ignore[misc]


def names_in(path: Path) -> set[str]:
    """Every name a module imports or mentions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


@pytest.mark.parametrize("name", ["mint", "_MINT"])
def test_only_the_gate_mints_permits(name: str) -> None:
    users = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if name in names_in(path)}
    assert users == ({"access/gate.py"} if name == "mint" else {"sealing/permit.py"})


def test_only_resealing_and_galleries_ask_the_gate_for_more_than_one_decision() -> None:
    """Re-sealing under a logged grant, and the gallery: nothing else gets a permit without ``evaluate``."""
    users = {
        name: {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if name in names_in(path)}
        for name in ("permit_reseal", "permit_gallery")
    }
    assert users["permit_reseal"] - {"access/gate.py"} == {
        "operations/resealing.py",
        "operations/sources.py",
    }
    assert users["permit_gallery"] - {"access/gate.py"} == {"matching/members.py"}
    assert permit_reseal.__doc__ is not None
