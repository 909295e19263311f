"""Terms in vault.db are masked, not sealed: whoever turns them round widens nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekeep.crypto.keystream import Keystream
from facekeep.formats.terms import Scope, Terms
from facekeep.store.maskedterms import TermsMask
from facekeep.store.vaultdb import GrantRow
from facekeep.vault import Vault
from vaultlab import DAY, IDENTIFY, VERIFY, Lab, core, identify, reason, slots


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob", regions=("DE",))
    return lab


def known(vault: Vault, name: str, scope: Scope = VERIFY) -> GrantRow:
    return core(vault).data.by_slots([slots(vault, name)[scope]])[0]


def turn(lab: Lab, slot: int, by: bytes) -> None:
    """Change terms by a difference, which needs no key."""
    masked = lab.sql("vault.db", "SELECT terms FROM grants WHERE slot = ?", (slot,))[0][0]
    put = bytes(one ^ two for one, two in zip(masked, by, strict=True))
    lab.sql("vault.db", "UPDATE grants SET terms = ? WHERE slot = ?", (put, slot))


@pytest.mark.parametrize("field", ["regions", "expires", "not before", "scope", "count"])
def test_known_terms_are_turned_into_wider_ones(lab: Lab, field: str) -> None:
    with lab.open() as vault:
        row = known(vault, "alice")
    at, wider = {
        "regions": (20, b"DEJP"),
        "expires": (12, (2**50).to_bytes(8, "big")),
        "not before": (4, (1).to_bytes(8, "big")),
        "scope": (1, bytes([IDENTIFY])),
        "count": (52, (2).to_bytes(2, "big")),
    }[field]
    edited = row.terms[:at] + wider + row.terms[at + len(wider) :]
    turn(lab, row.slot, bytes(one ^ two for one, two in zip(row.terms, edited, strict=True)))
    lab.clock.ms += 40 * DAY if field == "expires" else 0
    with lab.open() as vault:
        assert core(vault).data.by_slots([row.slot])[0].terms == edited
        assert reason(vault, "alice", region="JP" if field == "regions" else None) != "ok"
        assert reason(vault, "bob") == ("expired" if field == "expires" else "ok")
    assert not lab.check().ok


def test_masked_terms_of_another_row_are_put_in(lab: Lab) -> None:
    with lab.open() as vault:
        one, other = known(vault, "alice", IDENTIFY), known(vault, "bob", IDENTIFY)
        masked = lab.sql("vault.db", "SELECT terms FROM grants WHERE slot = ?", (other.slot,))[0][0]
        lab.sql("vault.db", "UPDATE grants SET terms = ? WHERE slot = ?", (masked, one.slot))
        assert identify(vault, "alice") == []
        assert identify(vault, "bob") == ["bob"]


def test_equal_terms_do_not_look_equal(lab: Lab) -> None:
    rows = lab.sql("vault.db", "SELECT terms FROM grants")
    assert len({masked[:56] for (masked,) in rows}) == 4
    with lab.open() as vault:
        clear = {row.terms[:56] for row in core(vault).data.rows()}
    assert {Terms.unpack(each + bytes(32)).scope for each in clear} == {VERIFY, IDENTIFY}
    assert len(clear) == 2


def test_no_keystream_comes_twice() -> None:
    rng = np.random.default_rng(1)
    starts = rng.integers(0, 256, (1_000, 16), np.uint8)
    stream = Keystream(b"k" * 32)
    blocks = stream.of(starts, 96).reshape(-1, 16)
    assert len(np.unique(blocks, axis=0)) == 6_000
    assert (stream.of(starts[7:8], 88) == stream.of(starts, 88)[7:8]).all()
    assert stream.of(starts[:0], 88).shape == (0, 88)
    assert not (Keystream(b"l" * 32).of(starts, 88) == stream.of(starts, 88)).all(axis=1).any()


def test_what_is_no_row_is_left_as_it_stands() -> None:
    mask = TermsMask(b"k" * 32, b"v" * 16)
    sound = GrantRow(5, b"g" * 16, b"t" * 32, "raw:m/1", b"z" * 88, b"c" * 32, b"", b"")
    rows = [sound, sound._replace(terms=b""), sound._replace(grant_id=b"g"), sound]
    masked = mask.rows(rows)
    assert masked[1:3] == rows[1:3]
    assert masked[0] == masked[3] != sound
    assert mask.rows(masked) == rows
    assert mask.rows([]) == []
